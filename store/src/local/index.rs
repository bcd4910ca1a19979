//! The index: an embedded, ordered, transactional table store (redb), and the reads of it.

use super::rows::{
    BucketRow, BucketV2, FileId, Instant, ObjectRow, ObjectV2, PartRow, PartV2, UPLOAD_ID, UploadRow,
    UploadV2, VersionId, VersionRow, decode, document_key, object_key, parse_version_key, part_key,
    upload_key, version_key, versions_key,
};
use crate::engine::{BucketInfo, ObjectInfo, ObjectRef, UploadInfo, Version, Versioning};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub(super) type Bytes = &'static [u8];

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const BUCKETS: TableDefinition<'_, &str, Bytes> = TableDefinition::new("buckets");
pub(super) const OBJECTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("objects");
/// Versions that are not the ones in [`OBJECTS`], and delete markers. What is read without naming a version is in
/// [`OBJECTS`] alone, so keeping versions costs reads nothing.
pub(super) const VERSIONS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("versions");
/// Documents of buckets.
pub(super) const DOCUMENTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("documents");
/// Access keys beside the root key.
pub(super) const KEYS: TableDefinition<'_, &str, Bytes> = TableDefinition::new("keys");
pub(super) const UPLOADS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("uploads");
pub(super) const PARTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("parts");
/// Data files and how many extents refer to each.
pub(super) const FILES: TableDefinition<'_, u128, u32> = TableDefinition::new("files");

/// Objects and bytes of all versions of a bucket.
pub(super) const USAGE: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("usage");

/// The key in [`META`] of the format's version.
pub(super) const FORMAT: &str = "format";
/// The newest format that this code reads, and the one it writes.
pub(super) const FORMAT_VERSION: u64 = 3;
pub(super) const TOTAL_OBJECTS: &str = "objects";
pub(super) const TOTAL_BYTES: &str = "bytes";
/// Which master key the store was sealed with.
pub(super) const MASTER_KEY: &str = "master key";

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the index failed")]
    Index(#[source] Box<redb::Error>),
    #[error("a row of the index cannot be read; it was damaged, or written by another version")]
    Row(#[from] postcard::Error),
    #[error("the index is closed, as the disk failed and it could not be opened anew since")]
    Closed,
}

macro_rules! fault_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Index(Box::new(error.into()))
            }
        }
    )*};
}
fault_from!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);

impl Fault {
    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        let Self::Index(error) = self else { return false };
        matches!(&**error, redb::Error::Io(error) if is_full(error))
    }
}

/// Whether an error says that there is no room on the disk.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

pub(super) type Outcome<T> = Result<T, Fault>;

/// The opened index.
pub(super) struct Index {
    /// `None` while it cannot be opened ([`Index::reopen`]).
    database: RwLock<Option<Database>>,
    objects: AtomicU64,
    bytes: AtomicU64,
    /// Whether any bucket keeps versions, or did; else reads need not ask theirs.
    has_versions: AtomicBool,
}

impl Index {
    pub fn new(database: Database, objects: u64, bytes: u64) -> Self {
        Self {
            database: RwLock::new(Some(database)),
            objects: AtomicU64::new(objects),
            bytes: AtomicU64::new(bytes),
            has_versions: AtomicBool::new(false),
        }
    }

    /// Objects and bytes stored.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.objects.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }

    pub fn set_totals(&self, objects: u64, bytes: u64) {
        self.objects.store(objects, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// To be called before a bucket begins to keep versions, and at the start.
    pub fn set_has_versions(&self) {
        self.has_versions.store(true, Ordering::Release);
    }

    /// What is said of a version: one without a name is told of only where there are versions.
    pub fn info(&self, bucket: &str, row: &ObjectV2) -> Outcome<ObjectInfo> {
        let mut info = row.to_info();
        let may_tell = || self.has_versions.load(Ordering::Acquire);
        let tells = !row.version.is_null
            || (may_tell()
                && self
                    .bucket(bucket)?
                    .is_some_and(|found| found.versioning != Versioning::Never));
        info.version = info.version.filter(|_| tells);
        Ok(info)
    }

    pub fn read(&self) -> Outcome<ReadTransaction> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(Fault::Closed)?.begin_read()?)
    }

    pub fn write(&self) -> Outcome<WriteTransaction> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(Fault::Closed)?.begin_write()?)
    }

    /// Closes the index, whose disk failed, and puts what `open` finds in its place: redb refuses everything after a failure.
    /// Who wants to read waits meanwhile; who is reading fails.
    pub fn reopen<E: From<Fault>>(&self, open: impl FnOnce() -> Result<Database, E>) -> Result<(), E> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // In this order: the file cannot be opened twice.
        drop(database.take());
        let opened = open()?;
        let (objects, bytes) = totals_in(&opened)?;
        self.set_totals(objects, bytes);
        *database = Some(opened);
        Ok(())
    }

    pub fn probe(&self) -> Outcome<()> {
        self.read()?.open_table(META)?.get(FORMAT)?;
        Ok(())
    }

    pub fn bucket(&self, name: &str) -> Outcome<Option<BucketInfo>> {
        let table = self.read()?.open_table(BUCKETS)?;
        let Some(row) = table.get(name)? else {
            return Ok(None);
        };
        Ok(Some(bucket_info(name, row.value())?))
    }

    /// All access keys that are kept.
    pub fn keys(&self) -> Outcome<Vec<(String, Vec<u8>)>> {
        let table = self.read()?.open_table(KEYS)?;
        let mut keys = Vec::new();
        for entry in table.range::<&str>(..)? {
            let (key, row) = entry?;
            keys.push((key.value().to_owned(), row.value().to_vec()));
        }
        Ok(keys)
    }

    pub fn master_key_id(&self) -> Outcome<Option<u64>> {
        let table = self.read()?.open_table(META)?;
        Ok(table.get(MASTER_KEY)?.map(|row| row.value()))
    }

    /// Objects and bytes of all versions, of each bucket that has any.
    pub fn usage(&self) -> Outcome<HashMap<String, (u64, u64)>> {
        let table = self.read()?.open_table(USAGE)?;
        let mut usage = HashMap::new();
        for entry in table.range::<&str>(..)? {
            let (bucket, row) = entry?;
            usage.insert(bucket.value().to_owned(), row.value());
        }
        Ok(usage)
    }

    pub fn buckets(&self) -> Outcome<Vec<BucketInfo>> {
        let table = self.read()?.open_table(BUCKETS)?;
        let mut buckets = Vec::new();
        for row in table.iter()? {
            let (name, row) = row?;
            buckets.push(bucket_info(name.value(), row.value())?);
        }
        Ok(buckets)
    }

    /// The version that is meant.
    pub fn object(&self, object: &ObjectRef) -> Outcome<Option<ObjectV2>> {
        let read = self.read()?;
        let current = current_in(&read.open_table(OBJECTS)?, object)?;
        if object.version.is_none() {
            return Ok(current);
        }
        let found = found_in(current, &read.open_table(VERSIONS)?, object)?;
        Ok(found.map(|(row, _)| row))
    }

    /// The delete marker that is meant, and when it was made.
    pub fn marker(&self, object: &ObjectRef) -> Outcome<Option<(Version, Instant)>> {
        marker_in(&self.read()?.open_table(VERSIONS)?, object)
    }

    pub fn document(&self, bucket: &str, name: &str) -> Outcome<Option<Vec<u8>>> {
        let table = self.read()?.open_table(DOCUMENTS)?;
        let found = table.get(document_key(bucket, name).as_slice())?;
        Ok(found.map(|document| document.value().to_vec()))
    }

    pub fn upload(&self, object: &ObjectRef, id: &str) -> Outcome<Option<UploadV2>> {
        upload_in(&self.read()?.open_table(UPLOADS)?, object, id)
    }

    pub fn parts(&self, upload: &str) -> Outcome<Vec<(u16, PartV2)>> {
        let table = self.read()?.open_table(PARTS)?;
        parts_in(&table, upload)
    }

    pub fn uploads(&self, bucket: &str) -> Outcome<Vec<UploadInfo>> {
        let table = self.read()?.open_table(UPLOADS)?;
        let first = object_key(bucket, "");
        let mut uploads = Vec::new();
        for row in table.range(first.as_slice()..)? {
            let (key, row) = row?;
            let Some(rest) = key.value().strip_prefix(first.as_slice()) else {
                break;
            };
            let Some(end) = rest.len().checked_sub(UPLOAD_ID + 1) else {
                continue;
            };
            let row: UploadV2 = decode::<UploadRow>(row.value())?.into();
            uploads.push(UploadInfo {
                key: String::from_utf8_lossy(&rest[..end]).into_owned(),
                id: String::from_utf8_lossy(&rest[end + 1..]).into_owned(),
                started: row.started.to_time(),
                checksum: row.checksum(),
            });
        }
        // Rows are ordered by key, NUL, id; a key that holds control characters could differ in order from that.
        uploads.sort_by(|a, b| (&a.key, a.started).cmp(&(&b.key, b.started)));
        Ok(uploads)
    }

    pub fn is_referenced(&self, file: FileId) -> Outcome<bool> {
        Ok(self.read()?.open_table(FILES)?.get(file.0)?.is_some())
    }
}

fn totals_in(database: &Database) -> Outcome<(u64, u64)> {
    let meta = database.begin_read().map_err(Fault::from)?.open_table(META)?;
    let row = |key: &str| Ok::<_, Fault>(meta.get(key)?.map_or(0, |value| value.value()));
    Ok((row(TOTAL_OBJECTS)?, row(TOTAL_BYTES)?))
}

pub(super) fn parts_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    upload: &str,
) -> Outcome<Vec<(u16, PartV2)>> {
    let (first, last) = (part_key(upload, 0), part_key(upload, u16::MAX));
    let mut parts = Vec::new();
    for row in table.range(first.as_slice()..=last.as_slice())? {
        let (key, row) = row?;
        if let Some(number) = key.value().last_chunk::<2>() {
            let part = decode::<PartRow>(row.value())?;
            parts.push((u16::from_be_bytes(*number), part.into()));
        }
    }
    Ok(parts)
}

pub(super) fn upload_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
    id: &str,
) -> Outcome<Option<UploadV2>> {
    if id.len() != UPLOAD_ID {
        return Ok(None);
    }
    let key = upload_key(&object.bucket, &object.key, id);
    let Some(row) = table.get(key.as_slice())? else {
        return Ok(None);
    };
    Ok(Some(decode::<UploadRow>(row.value())?.into()))
}

/// What is read without naming a version.
pub(super) fn current_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
) -> Outcome<Option<ObjectV2>> {
    let Some(row) = table.get(object_key(&object.bucket, &object.key).as_slice())? else {
        return Ok(None);
    };
    Ok(Some(decode::<ObjectRow>(row.value())?.into()))
}

/// The version that is meant, and whether it is the `current` one.
pub(super) fn found_in(
    current: Option<ObjectV2>,
    versions: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
) -> Outcome<Option<(ObjectV2, bool)>> {
    let Some(version) = object.version else {
        return Ok(current.map(|row| (row, true)));
    };
    if let Some(row) = current.filter(|row| row.version.is(version)) {
        return Ok(Some((row, true)));
    }
    Ok(match version_in(versions, object, version)? {
        Some((_, VersionRow::Object(row))) => Some(((*row).into(), false)),
        _ => None,
    })
}

/// The delete marker that is meant, and when it was made.
pub(super) fn marker_in(
    versions: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
) -> Outcome<Option<(Version, Instant)>> {
    let found = match object.version {
        Some(version) => version_in(versions, object, version)?,
        None => newest_in(versions, object)?,
    };
    Ok(match found {
        Some((id, VersionRow::Marker { modified, .. })) => Some((id.to_version(), modified)),
        _ => None,
    })
}

/// The newest of the versions that are not current.
pub(super) fn newest_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
) -> Outcome<Option<(VersionId, VersionRow)>> {
    first_in(table, object, |_| true)
}

/// A version that is not the current one.
pub(super) fn version_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
    version: Version,
) -> Outcome<Option<(VersionId, VersionRow)>> {
    let Version::Id(number) = version else {
        return first_in(table, object, |id| id.is_null);
    };
    let Some(row) = table.get(version_key(&object.bucket, &object.key, number).as_slice())? else {
        return Ok(None);
    };
    let row = decode::<VersionRow>(row.value())?;
    let id = id_of(number, &row);
    Ok((!id.is_null).then_some((id, row)))
}

fn first_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    object: &ObjectRef,
    wanted: impl Fn(VersionId) -> bool,
) -> Outcome<Option<(VersionId, VersionRow)>> {
    let first = versions_key(&object.bucket, &object.key);
    for row in table.range(first.as_slice()..)? {
        let (key, row) = row?;
        if !key.value().starts_with(&first) {
            break;
        }
        let Some((_, number)) = parse_version_key(&object.bucket, key.value()) else {
            break;
        };
        let row = decode::<VersionRow>(row.value())?;
        let id = id_of(number, &row);
        if wanted(id) {
            return Ok(Some((id, row)));
        }
    }
    Ok(None)
}

/// What a version is called whose row this is.
pub(super) fn id_of(number: u128, row: &VersionRow) -> VersionId {
    let is_null = match row {
        VersionRow::Object(row) => match &**row {
            ObjectRow::V1(_) => true,
            ObjectRow::V2(row) => row.version.is_null,
        },
        VersionRow::Marker { is_null, .. } => *is_null,
    };
    VersionId { number, is_null }
}

fn bucket_info(name: &str, row: &[u8]) -> Outcome<BucketInfo> {
    let row: BucketV2 = decode::<BucketRow>(row)?.into();
    Ok(BucketInfo {
        name: name.to_owned(),
        created: row.created.to_time(),
        versioning: row.versioning.into(),
        lock: row
            .lock()
            .map(|default| default.map(|(mode, period)| (mode.into(), period.into()))),
        quota: row.quota(),
    })
}
