//! A data folder from a backup.

use super::{
    CACHE, Copy, INDEX, Manifest,
    carry::{Carrier, Progress, sync_all},
};
use crate::local::{
    data::relative,
    index::FORMAT_VERSION,
    open::{Lock, OpenError, RESTORING, holds_files},
    storage_error,
};
use redb::Database;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is none, or half of one.
    #[error("{} is no whole backup: it has no backup.json", from.display())]
    NoBackup {
        /// The folder.
        from: PathBuf,
    },
    /// It is of a newer version.
    #[error("the backup {} has format {found}, this penstock-store knows formats up to {FORMAT_VERSION}; use the newer version that made it", from.display())]
    NewerFormat {
        /// The folder.
        from: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It cannot be read.
    #[error("the backup {} cannot be read", from.display())]
    Unreadable {
        /// The folder.
        from: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data folder holds something.
    #[error("the data folder {} is not empty; restore into an empty one, and give that to the storage node", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] OpenError),
    /// Bytes cannot be moved.
    #[error(
        "restoring into {} broke off; a storage node refuses the folder until it is done again, from its beginning",
        folder.display()
    )]
    BrokeOff {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes a data folder of the backup in `from`. What the backup does not have is counted in `progress`. Blocks.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(from: &Path, folder: &Path, progress: &Progress) -> Result<Manifest, RestoreError> {
    let manifest = match Manifest::read(from) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            return Err(RestoreError::NoBackup {
                from: from.to_owned(),
            });
        }
        Err(source) => {
            return Err(RestoreError::Unreadable {
                from: from.to_owned(),
                source,
            });
        }
    };
    if manifest.format > FORMAT_VERSION {
        return Err(RestoreError::NewerFormat {
            from: from.to_owned(),
            found: manifest.format,
        });
    }
    let unusable = |source| OpenError::Folder {
        folder: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(unusable)?;
    let _lock = Lock::take(folder)?;
    clear(folder).map_err(unusable)?;
    if folder.join(INDEX).exists() || holds_files(&folder.join("data")).map_err(unusable)? {
        return Err(RestoreError::NotEmpty {
            folder: folder.to_owned(),
        });
    }
    fill(from, folder, progress).map_err(|source| RestoreError::BrokeOff {
        folder: folder.to_owned(),
        source,
    })?;
    Ok(manifest)
}

/// Removes what a restore left that broke off.
fn clear(folder: &Path) -> io::Result<()> {
    if !folder.join(RESTORING).exists() {
        return Ok(());
    }
    for remains in [INDEX, "index.redb.new"] {
        match fs::remove_file(folder.join(remains)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_dir_all(folder.join("data")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn fill(
    from: &Path,
    folder: &Path,
    progress: &Progress,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (marker, index) = (folder.join(RESTORING), folder.join("index.redb.new"));
    fs::write(&marker, b"")?;
    File::open(folder)?.sync_all()?;
    // Opening an index may write to it, and the backup stays as it is.
    fs::copy(from.join(INDEX), &index)?;
    let database = Database::builder().set_cache_size(CACHE).open(&index)?;
    let copy = Copy::of(&database)?;
    progress.files.store(copy.files, Ordering::Relaxed);
    let mut carrier = Carrier::new(folder, None, progress);
    copy.for_each_file(|id| {
        let source = from.join("data").join(relative(id));
        carrier
            .carry(id, |put| put(&source))
            .map_err(|error| storage_error(error, "the data folder", "restored a data file"))
    })?;
    drop(copy);
    drop(database);
    fs::rename(&index, folder.join(INDEX))?;
    sync_all(folder)?;
    fs::remove_file(&marker)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}
