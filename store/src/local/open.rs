//! Opening a store, and every reason not to.

use super::rows::{ObjectRow, ObjectV2, decode};
use super::{
    Inner,
    commit::Committer,
    data::Data,
    index::{
        BUCKETS, DOCUMENTS, FILES, FORMAT, FORMAT_VERSION, Fault, Index, KEYS, META, OBJECTS, PARTS,
        TOTAL_BYTES, TOTAL_OBJECTS, UPLOADS, USAGE, VERSIONS, is_full,
    },
};
use crate::engine::Versioning;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::Database;
use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Memory for pages of the index.
const INDEX_CACHE: usize = 64 << 20;

/// A file that is in a data folder while a backup is restored into it.
pub(super) const RESTORING: &str = "restoring";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error("the data folder {} cannot be used; it must be a folder that this process may write to", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("the data folder {} is in use by another process; stop that one, or give this one a folder of its own", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// There are data files, but the index that names them is gone.
    #[error(
        "the data folder {} holds data files but no index.redb; put the index back from a backup, or empty the folder if its objects are not needed",
        folder.display()
    )]
    IndexMissing {
        /// The folder.
        folder: PathBuf,
    },
    /// The index cannot be opened.
    #[error("the index {} cannot be opened; restore it from a backup if it is damaged", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The folder was written by a newer version.
    #[error(
        "the data folder {} has format {found}, this penstock-store knows formats up to {FORMAT_VERSION}; use the newer version that wrote it",
        folder.display()
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A backup was being restored.
    #[error(
        "the data folder {} holds a part of a backup, as restoring it broke off; run `penstock-store restore` again, or remove the folder",
        folder.display()
    )]
    HalfRestored {
        /// The folder.
        folder: PathBuf,
    },
    /// The runtime ended while the store was opened.
    #[error("opening the store was interrupted")]
    Interrupted,
}

/// Keeps every other process from opening the store.
pub(super) struct Lock(File);

impl Lock {
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
                folder: folder.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file alone would leave it locked while a program that is being started, by whatever part of this
        // process, still has a copy of the descriptor (flock(2)).
        let _closed_anyway = self.0.unlock();
    }
}

pub(super) fn open(folder: PathBuf) -> Result<Inner, OpenError> {
    let unusable = |source| OpenError::Folder {
        folder: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(unusable)?;
    let lock = Lock::take(&folder)?;
    if folder.join(RESTORING).exists() {
        return Err(OpenError::HalfRestored { folder });
    }
    let path = folder.join("index.redb");
    // Without its index every data file would look like garbage.
    if !path.exists() && holds_files(&folder.join("data")).map_err(unusable)? {
        return Err(OpenError::IndexMissing { folder });
    }
    let index = Arc::new(open_index(&folder, &path)?);
    let data = Arc::new(Data::open(&folder).map_err(unusable)?);
    let committer = Committer::start(Arc::clone(&index), Arc::clone(&data), path).map_err(unusable)?;
    Ok(Inner {
        folder,
        index,
        data,
        committer,
        server_key: OnceLock::new(),
        _lock: lock,
    })
}

fn open_index(folder: &Path, path: &Path) -> Result<Index, OpenError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Index {
        path: path.to_owned(),
        source,
    };
    settle(path).map_err(|error| failed(error.into()))?;
    let database = builder().create(path).map_err(|error| failed(error.into()))?;
    let (format, objects, bytes) = prepare(&database).map_err(|fault| failed(fault.into()))?;
    if format > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            folder: folder.to_owned(),
            found: format,
        });
    }
    let index = Index::new(database, objects, bytes);
    let buckets = index.buckets().map_err(|fault| failed(fault.into()))?;
    if buckets
        .iter()
        .any(|bucket| bucket.versioning != Versioning::Never)
    {
        index.set_has_versions();
    }
    Ok(index)
}

/// The index that is there, as it is on disk.
pub(super) fn reopen(path: &Path) -> Result<Database, ReopenError> {
    settle(path)?;
    Ok(builder().open(path).map_err(Fault::from)?)
}

/// Why an index cannot be opened anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReopenError {
    #[error("the index cannot be written to disk")]
    Disk(#[from] io::Error),
    #[error("the index cannot be opened")]
    Index(#[from] Fault),
}

impl ReopenError {
    /// Whether the disk was full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) => is_full(error),
            Self::Index(fault) => fault.is_full(),
        }
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(INDEX_CACHE);
    builder
}

/// Makes the kernel's memory of a file what is on disk. After a write-back that failed the kernel takes the pages for clean and goes
/// on showing them, and the next fsync succeeds without them (fsync(2), "Notes"): what is built on them is gone with the power.
fn settle(path: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    file.sync_all()?;
    Ok(posix_fadvise(
        &file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

/// Makes the tables that an index lacks; returns the format and the totals. Where it lacks none nothing is written, so that a full
/// disk can be opened, read and cleaned up.
fn prepare(database: &Database) -> Result<(u64, u64, u64), Fault> {
    let transaction = database.begin_write()?;
    let before = transaction.list_tables()?.count();
    let (format, is_current, objects, bytes) = {
        let mut meta = transaction.open_table(META)?;
        let row =
            |key: &str| Ok::<_, Fault>(redb::ReadableTable::get(&meta, key)?.map(|value| value.value()));
        let found = (
            row(FORMAT)?,
            row(TOTAL_OBJECTS)?.unwrap_or(0),
            row(TOTAL_BYTES)?.unwrap_or(0),
        );
        // Rows of older formats are read as they are, and what is written anew is of this one.
        if found.0.is_none_or(|format| format < FORMAT_VERSION) {
            meta.insert(FORMAT, FORMAT_VERSION)?;
        }
        let is_current = found.0 == Some(FORMAT_VERSION);
        (found.0.unwrap_or(FORMAT_VERSION), is_current, found.1, found.2)
    };
    if format > FORMAT_VERSION {
        transaction.abort()?;
        return Ok((format, objects, bytes));
    }
    transaction.open_table(BUCKETS)?;
    transaction.open_table(DOCUMENTS)?;
    transaction.open_table(KEYS)?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(VERSIONS)?;
    transaction.open_table(UPLOADS)?;
    transaction.open_table(PARTS)?;
    transaction.open_table(FILES)?;
    count_usage(&transaction, format)?;
    if is_current && transaction.list_tables()?.count() == before {
        transaction.abort()?;
    } else {
        transaction.commit()?;
    }
    Ok((format, objects, bytes))
}

/// Format 1 did not count what is in each bucket.
fn count_usage(transaction: &redb::WriteTransaction, format: u64) -> Result<(), Fault> {
    let mut usage = transaction.open_table(USAGE)?;
    if format > 1 {
        return Ok(());
    }
    let mut counted: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in redb::ReadableTable::iter(&transaction.open_table(OBJECTS)?)? {
        let (key, row) = row?;
        let bucket = key.value().split(|byte| *byte == 0).next().unwrap_or_default();
        let (objects, bytes) = counted
            .entry(String::from_utf8_lossy(bucket).into_owned())
            .or_default();
        *objects += 1;
        *bytes += ObjectV2::from(decode::<ObjectRow>(row.value())?).size;
    }
    for (bucket, count) in counted {
        usage.insert(bucket.as_str(), count)?;
    }
    Ok(())
}

pub(super) fn holds_files(data: &Path) -> io::Result<bool> {
    let folders = match fs::read_dir(data) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?.path();
        if folder.is_dir() && fs::read_dir(folder)?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
