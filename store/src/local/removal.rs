//! Removing data files: at once, or while a backup is made, once that has what it needs of them.

use super::{data::relative, rows::FileId};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Removes data files.
pub(super) struct Removal {
    data: PathBuf,
    tmp: PathBuf,
    /// Which backup is being made. Whoever removes holds it meanwhile, so that nothing is put aside after its end.
    keeping: RwLock<Option<u64>>,
    backups: AtomicU64,
}

impl Removal {
    pub fn new(data: PathBuf, tmp: PathBuf) -> Self {
        Self {
            data,
            tmp,
            keeping: RwLock::default(),
            backups: AtomicU64::new(0),
        }
    }

    /// Removes a file; one that is not there is removed.
    pub fn remove(&self, id: FileId) -> io::Result<()> {
        let path = self.data.join(relative(id));
        let keeping = self.keeping.read().unwrap_or_else(PoisonError::into_inner);
        let removed = match *keeping {
            None => fs::remove_file(path),
            Some(backup) => fs::rename(path, self.tmp.join(aside(backup, id))),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// From now on files are put aside rather than removed, until the value is dropped. They wait in `tmp`, where memory would have to grow with
    /// them, and a start removes what a crash leaves. `None` where that is so already.
    pub fn keep(self: &Arc<Self>) -> Option<Keeping> {
        let mut keeping = self.keeping.write().unwrap_or_else(PoisonError::into_inner);
        if keeping.is_some() {
            return None;
        }
        let backup = self.backups.fetch_add(1, Ordering::Relaxed);
        *keeping = Some(backup);
        Some(Keeping {
            removal: Arc::clone(self),
            backup,
        })
    }
}

/// The name of a file that is put aside.
fn aside(backup: u64, id: FileId) -> String {
    format!("{}{id}", asides(backup))
}

/// What the names begin with. Each backup has its own, so that the end of one takes nothing of the next.
fn asides(backup: u64) -> String {
    format!("removed-{backup}-")
}

/// Keeps data files from being removed.
pub(super) struct Keeping {
    removal: Arc<Removal>,
    backup: u64,
}

impl Keeping {
    /// Calls `with` with the place of a file that was there when the keeping began. It is called again where the file is put aside meanwhile.
    pub fn find<T>(&self, id: FileId, mut with: impl FnMut(&Path) -> io::Result<T>) -> io::Result<T> {
        match with(&self.removal.data.join(relative(id))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                with(&self.removal.tmp.join(aside(self.backup, id)))
            }
            found => found,
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        *self
            .removal
            .keeping
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
        let prefix = asides(self.backup);
        let removed = fs::read_dir(&self.removal.tmp).and_then(|mut entries| {
            entries.try_for_each(|entry| {
                let entry = entry?;
                let is_aside = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.starts_with(&prefix));
                if is_aside {
                    fs::remove_file(entry.path())
                } else {
                    Ok(())
                }
            })
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "files that were deleted during a backup could not be removed; it is tried again at the next start");
        }
    }
}
