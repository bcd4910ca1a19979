//! A copy of everything as it was at one instant, made while the store is used.
//!
//! ```text
//! BACKUP/backup.json   what it is
//! BACKUP/index.redb    the rows of one read transaction
//! BACKUP/data/xx/      the data files that they refer to
//! ```
//! Data files are immutable, so a file and its row cannot disagree; all that is needed is that none of those which the rows refer to is
//! removed meanwhile ([`Keeping`]). On the file system of the data folder they are links and take no time and no space; on another one
//! they are copied, except those that an older backup there has. The folder of a whole backup has its name, that of another one does not.

mod carry;
mod restore;

pub use carry::Progress;
pub use restore::{RestoreError, restore};

use super::{
    Inner, Local, blocking,
    index::{
        BUCKETS, DOCUMENTS, FILES, FORMAT_VERSION, Fault, KEYS, MASTER_KEY, META, OBJECTS, Outcome, PARTS,
        TOTAL_BYTES, TOTAL_OBJECTS, UPLOADS, USAGE, VERSIONS, is_full,
    },
    internal,
    removal::Keeping,
    rows::FileId,
};
use crate::engine::{Error, Result};
use carry::{Carrier, new_file, sync_all};
use penstock_service::CancellationToken;
use redb::backends::FileBackend;
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};
use time::OffsetDateTime;

const MANIFEST: &str = "backup.json";
const INDEX: &str = "index.redb";
/// Memory for pages of an index that is copied.
const CACHE: usize = 32 << 20;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Of the data folder.
    pub format: u64,
    /// Of the software that made it.
    pub version: String,
    /// The instant it shows.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Objects, every version counted.
    pub objects: u64,
    /// Their bytes; copies count each.
    pub bytes: u64,
    /// Data files.
    pub files: u64,
    /// Those that the data folder did not have, though it should.
    pub missing: u64,
    /// Which master key sealed what is in it, as hexadecimal digits that say nothing of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<String>,
}

impl Manifest {
    /// Of the backup in a folder; `None` where it holds none, or half of one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(MANIFEST)) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        }
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = new_file(&folder.join(MANIFEST))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()
    }
}

impl Local {
    /// Copies everything as it is now into `folder`, which must not be there; it is there when this has succeeded, and durable. `base`
    /// is an older backup beside it.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or [`Error::Internal`] for other failures, when it was stopped, and while another one is being made.
    pub async fn back_up(
        &self,
        folder: PathBuf,
        base: Option<PathBuf>,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Result<Manifest> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let snapshot = Snapshot::take(&inner)?;
            let partial = partial(&folder);
            let written = snapshot
                .write(&partial, base.as_deref(), &progress, &stop)
                .and_then(|manifest| {
                    settle(&partial, &folder).map_err(failed(&folder))?;
                    Ok(manifest)
                });
            if written.is_err()
                && let Err(error) = fs::remove_dir_all(&partial)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %partial.display(), %error, "what there was of a backup could not be removed");
            }
            written
        })
        .await
    }
}

/// Where a backup is until it is whole.
pub(crate) fn partial(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.partial"))
}

/// Gives a backup its name.
fn settle(partial: &Path, folder: &Path) -> io::Result<()> {
    sync_all(partial)?;
    if folder.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(partial, folder)?;
    match folder.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.display().to_string();
    move |error| match is_full(&error) {
        true => Error::NoSpace(format!("the backup {path}")),
        false => internal("wrote a backup")(format!("{path}: {error}")),
    }
}

fn index_failed(fault: Fault) -> Error {
    match fault.is_full() {
        true => Error::NoSpace("the index of a backup".to_owned()),
        false => internal("copied the index")(fault),
    }
}

/// Everything as it was at one instant, for as long as this lives.
struct Snapshot {
    read: ReadTransaction,
    created: OffsetDateTime,
    keeping: Keeping,
}

impl Snapshot {
    fn take(inner: &Inner) -> Result<Self> {
        // In this order: what is removed before has no row in the transaction.
        let keeping = inner.data.keep_removed();
        let keeping = keeping.ok_or_else(|| internal("began a backup")("another one is being made"))?;
        let read = inner.index.read().map_err(internal("read the index"))?;
        Ok(Self {
            read,
            created: OffsetDateTime::now_utc(),
            keeping,
        })
    }

    fn write(
        self,
        to: &Path,
        base: Option<&Path>,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Manifest> {
        let Self {
            read,
            created,
            keeping,
        } = self;
        let failed = failed(to);
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(to);
        made.map_err(&failed)?;
        let index = new_file(&to.join(INDEX)).map_err(&failed)?;
        let backend = FileBackend::new(index).map_err(|error| index_failed(error.into()))?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(backend);
        let database = database.map_err(|error| index_failed(error.into()))?;
        copy_index(&read, &database).map_err(index_failed)?;
        // While it lasts the index cannot use again what is freed.
        drop(read);
        let copy = Copy::of(&database).map_err(index_failed)?;
        progress.files.store(copy.files, Ordering::Relaxed);
        let mut carrier = Carrier::new(to, base, progress);
        copy.for_each_file(|id| {
            if stop.is_cancelled() {
                return Err(internal("made a backup")("it was stopped"));
            }
            carrier.carry(id, |put| keeping.find(id, put)).map_err(&failed)
        })?;
        let manifest = Manifest {
            format: FORMAT_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            objects: copy.objects,
            bytes: copy.bytes,
            files: copy.files,
            missing: progress.missing.load(Ordering::Relaxed),
            master_key: copy.master_key.map(|id| format!("{id:016x}")),
        };
        drop(copy);
        drop(database);
        manifest.write(to).map_err(&failed)?;
        Ok(manifest)
    }
}

fn copy_index(from: &ReadTransaction, to: &Database) -> Outcome<()> {
    let transaction = to.begin_write()?;
    copy_table(from, &transaction, META)?;
    copy_table(from, &transaction, BUCKETS)?;
    copy_table(from, &transaction, DOCUMENTS)?;
    copy_table(from, &transaction, KEYS)?;
    copy_table(from, &transaction, OBJECTS)?;
    copy_table(from, &transaction, VERSIONS)?;
    copy_table(from, &transaction, UPLOADS)?;
    copy_table(from, &transaction, PARTS)?;
    copy_table(from, &transaction, FILES)?;
    copy_table(from, &transaction, USAGE)?;
    transaction.commit()?;
    Ok(())
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Outcome<()> {
    let mut target = to.open_table(table)?;
    for row in from.open_table(table)?.iter()? {
        let (key, value) = row?;
        target.insert(key.value(), value.value())?;
    }
    Ok(())
}

/// What an index says that nothing changes.
struct Copy {
    read: ReadTransaction,
    files: u64,
    objects: u64,
    bytes: u64,
    master_key: Option<u64>,
}

impl Copy {
    fn of(database: &Database) -> Outcome<Self> {
        use redb::ReadableTableMetadata;
        let read = database.begin_read()?;
        let meta = read.open_table(META)?;
        let row = |key: &str| Ok::<_, Fault>(meta.get(key)?.map(|row| row.value()));
        let files = read.open_table(FILES)?.len()?;
        let (objects, bytes, master_key) = (row(TOTAL_OBJECTS)?, row(TOTAL_BYTES)?, row(MASTER_KEY)?);
        drop(meta);
        Ok(Self {
            read,
            files,
            objects: objects.unwrap_or(0),
            bytes: bytes.unwrap_or(0),
            master_key,
        })
    }

    fn for_each_file(&self, mut with: impl FnMut(FileId) -> Result<()>) -> Result<()> {
        let table = self
            .read
            .open_table(FILES)
            .map_err(|error| index_failed(error.into()))?;
        let rows = table.iter().map_err(|error| index_failed(error.into()))?;
        for row in rows {
            let (id, _) = row.map_err(|error| index_failed(error.into()))?;
            with(FileId(id.value()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
