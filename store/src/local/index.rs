//! The index: an embedded, ordered, transactional table store (redb), and the reads of it.

use super::rows::{
    BucketRow, FileId, ObjectRow, ObjectV1, PartRow, PartV1, UPLOAD_ID, UploadRow, decode, object_key,
    part_key, upload_key,
};
use crate::engine::{BucketInfo, ObjectRef, UploadInfo};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) type Bytes = &'static [u8];

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const BUCKETS: TableDefinition<'_, &str, Bytes> = TableDefinition::new("buckets");
pub(super) const OBJECTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("objects");
pub(super) const UPLOADS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("uploads");
pub(super) const PARTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("parts");
/// Data files and how many extents refer to each.
pub(super) const FILES: TableDefinition<'_, u128, u32> = TableDefinition::new("files");

/// The key in [`META`] of the format's version.
pub(super) const FORMAT: &str = "format";
/// The newest format that this code reads, and the one it writes.
pub(super) const FORMAT_VERSION: u64 = 1;
pub(super) const TOTAL_OBJECTS: &str = "objects";
pub(super) const TOTAL_BYTES: &str = "bytes";

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the index failed")]
    Index(#[source] Box<redb::Error>),
    #[error("a row of the index cannot be read; it was damaged, or written by another version")]
    Row(#[from] postcard::Error),
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
    redb::CommitError
);

impl Fault {
    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        let Self::Index(error) = self else { return false };
        matches!(&**error, redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull)
    }
}

pub(super) type Outcome<T> = Result<T, Fault>;

/// The opened index.
pub(super) struct Index {
    pub database: Database,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl Index {
    pub fn new(database: Database, objects: u64, bytes: u64) -> Self {
        Self {
            database,
            objects: AtomicU64::new(objects),
            bytes: AtomicU64::new(bytes),
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

    pub fn read(&self) -> Outcome<ReadTransaction> {
        Ok(self.database.begin_read()?)
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

    pub fn buckets(&self) -> Outcome<Vec<BucketInfo>> {
        let table = self.read()?.open_table(BUCKETS)?;
        let mut buckets = Vec::new();
        for row in table.iter()? {
            let (name, row) = row?;
            buckets.push(bucket_info(name.value(), row.value())?);
        }
        Ok(buckets)
    }

    pub fn object(&self, object: &ObjectRef) -> Outcome<Option<ObjectV1>> {
        let table = self.read()?.open_table(OBJECTS)?;
        let Some(row) = table.get(object_key(&object.bucket, &object.key).as_slice())? else {
            return Ok(None);
        };
        let ObjectRow::V1(row) = decode(row.value())?;
        Ok(Some(row))
    }

    pub fn has_upload(&self, object: &ObjectRef, id: &str) -> Outcome<bool> {
        let table = self.read()?.open_table(UPLOADS)?;
        let key = upload_key(&object.bucket, &object.key, id);
        Ok(id.len() == UPLOAD_ID && table.get(key.as_slice())?.is_some())
    }

    pub fn parts(&self, upload: &str) -> Outcome<Vec<(u16, PartV1)>> {
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
            let UploadRow::V1 { started, .. } = decode(row.value())?;
            uploads.push(UploadInfo {
                key: String::from_utf8_lossy(&rest[..end]).into_owned(),
                id: String::from_utf8_lossy(&rest[end + 1..]).into_owned(),
                started: started.to_time(),
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

pub(super) fn parts_in(
    table: &impl ReadableTable<Bytes, Bytes>,
    upload: &str,
) -> Outcome<Vec<(u16, PartV1)>> {
    let (first, last) = (part_key(upload, 0), part_key(upload, u16::MAX));
    let mut parts = Vec::new();
    for row in table.range(first.as_slice()..=last.as_slice())? {
        let (key, row) = row?;
        if let Some(number) = key.value().last_chunk::<2>() {
            let PartRow::V1(part) = decode(row.value())?;
            parts.push((u16::from_be_bytes(*number), part));
        }
    }
    Ok(parts)
}

fn bucket_info(name: &str, row: &[u8]) -> Outcome<BucketInfo> {
    let BucketRow::V1 { created } = decode(row)?;
    Ok(BucketInfo {
        name: name.to_owned(),
        created: created.to_time(),
    })
}
