//! Data files lent to whoever is on this host. They are immutable and hold one PUT or part each, so a descriptor of one
//! shows bytes of this object alone, and goes on showing them when the object is replaced or deleted: the kernel keeps the
//! file. Its space is free only then, so what is lent is counted, by user.

use super::{
    Inner, blocking,
    data::{Data, relative},
    internal, object, read,
    rows::FileId,
};
use crate::engine::{Borrower, ByteRange, Error, Lending, Loan, ObjectRef, Precondition, Result};
use penstock_rdma::local::{Extent, MOST_DESCRIPTORS};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Why a folder is no read-only view of the store.
#[derive(Debug, thiserror::Error)]
#[error("{} is no read-only view of {}: {cause}; mount the same volume there a second time, read-only", .view.display(), .folder.display())]
pub struct ViewError {
    view: PathBuf,
    folder: PathBuf,
    cause: String,
}

/// What is lent, and how much of it was deleted since.
#[derive(Default)]
pub(super) struct Loans {
    table: Mutex<Table>,
    view: OnceLock<PathBuf>,
}

#[derive(Default)]
struct Table {
    lent: HashMap<FileId, LentFile>,
    /// Bytes of deleted files that each user keeps from being freed.
    held: HashMap<u32, u64>,
    /// Those that anybody keeps; each file counts once.
    held_together: u64,
}

struct LentFile {
    size: u64,
    is_deleted: bool,
    /// How often it is lent to whom.
    to: HashMap<u32, u32>,
}

impl Loans {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a file's name goes.
    pub fn deleted(&self, file: FileId) {
        let mut table = self.table();
        let Table {
            lent,
            held,
            held_together,
        } = &mut *table;
        let Some(lent) = lent.get_mut(&file).filter(|lent| !lent.is_deleted) else {
            return;
        };
        lent.is_deleted = true;
        *held_together += lent.size;
        for uid in lent.to.keys() {
            *held.entry(*uid).or_default() += lent.size;
        }
    }

    fn lend(&self, files: &[(FileId, u64)], uid: u32) {
        let mut table = self.table();
        for (file, size) in files {
            let lent = table.lent.entry(*file).or_insert_with(|| LentFile {
                size: *size,
                is_deleted: false,
                to: HashMap::new(),
            });
            *lent.to.entry(uid).or_default() += 1;
        }
    }

    fn end(&self, files: &[(FileId, u64)], uid: u32) {
        let mut table = self.table();
        let Table {
            lent: all,
            held,
            held_together,
        } = &mut *table;
        for (file, _) in files {
            let Some(lent) = all.get_mut(file) else { continue };
            let Some(times) = lent.to.get_mut(&uid) else {
                continue;
            };
            *times -= 1;
            if *times > 0 {
                continue;
            }
            lent.to.remove(&uid);
            if lent.is_deleted
                && let Some(bytes) = held.get_mut(&uid)
            {
                *bytes = bytes.saturating_sub(lent.size);
                if *bytes == 0 {
                    held.remove(&uid);
                }
            }
            if lent.to.is_empty() {
                if lent.is_deleted {
                    *held_together -= lent.size;
                }
                all.remove(file);
            }
        }
    }

    fn held_by(&self, uid: u32) -> u64 {
        self.table().held.get(&uid).copied().unwrap_or(0)
    }
}

/// Counts files as lent while it lives.
struct Held {
    data: Arc<Data>,
    files: Vec<(FileId, u64)>,
    uid: u32,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.data.loans.end(&self.files, self.uid);
    }
}

impl Data {
    pub fn lend_through(&self, folder: &Path, view: &Path) -> std::result::Result<(), ViewError> {
        let refused = |cause: String| ViewError {
            view: view.to_owned(),
            folder: folder.to_owned(),
            cause,
        };
        let identity =
            |folder: &Path| fs::metadata(folder.join("lock")).map(|facts| (facts.dev(), facts.ino()));
        let own = identity(folder).map_err(|error| refused(error.to_string()))?;
        let seen = identity(view)
            .map_err(|error| refused(format!("its file `lock` cannot be looked at: {error}")))?;
        if own != seen {
            return Err(refused("it is another folder".into()));
        }
        let flags = nix::sys::statvfs::statvfs(view)
            .map_err(|errno| refused(errno.to_string()))?
            .flags();
        if !flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
            return Err(refused("it can be written to".into()));
        }
        // Set once, at the start.
        let _set_before = self.loans.view.set(view.join("data"));
        Ok(())
    }

    pub fn held(&self) -> u64 {
        self.loans.table().held_together
    }

    /// A descriptor of its own, so that its offset is shared with nobody.
    fn open_lent(&self, file: FileId) -> io::Result<File> {
        match self.loans.view.get() {
            Some(view) => File::open(view.join(relative(file))),
            None => self.open_file(file),
        }
    }
}

pub(super) async fn lend(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
    borrower: Borrower,
) -> Result<Lending> {
    let (inner, object, precondition) = (Arc::clone(inner), object.clone(), precondition.clone());
    blocking(move || {
        for _ in 0..read::ATTEMPTS {
            let row = object::find(&inner.index, &object)?;
            read::check(&object, &precondition, &row)?;
            if inner.data.loans.held_by(borrower.uid) >= borrower.held_limit {
                return Ok(Lending::Refused("held"));
            }
            let range = match range {
                None => 0..row.size,
                Some(range) => range.of(row.size).ok_or(Error::InvalidRange { size: row.size })?,
            };
            // A copy or an upload may have the same file several times; one descriptor of it is enough.
            let (mut ids, mut extents) = (Vec::new(), Vec::new());
            for segment in read::segments(&row, &range) {
                let id = segment.extent.file;
                let known = ids.iter().position(|(file, _)| *file == id);
                extents.push(Extent {
                    file: known.unwrap_or(ids.len()),
                    offset: segment.extent.offset + segment.range.start,
                    length: segment.range.end - segment.range.start,
                });
                if known.is_none() {
                    ids.push((id, segment.extent.offset + segment.extent.length));
                }
            }
            if ids.len() > MOST_DESCRIPTORS {
                return Ok(Lending::Refused("extents"));
            }
            // Counted before they are opened, so that a deletion in between is seen.
            inner.data.loans.lend(&ids, borrower.uid);
            let hold = Held {
                data: Arc::clone(&inner.data),
                files: ids,
                uid: borrower.uid,
            };
            let opened: io::Result<Vec<File>> = hold
                .files
                .iter()
                .map(|(file, _)| inner.data.open_lent(*file))
                .collect();
            let files = match opened {
                Ok(files) => files,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Out of descriptors: a body needs one, not many.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                    return Ok(Lending::Refused("descriptors"));
                }
                Err(error) => return Err(internal("opened a data file")(format!("{object}: {error}"))),
            };
            return Ok(Lending::Lent(Box::new(Loan {
                info: row.to_info(),
                range,
                files,
                extents,
                hold: Box::new(hold),
            })));
        }
        // It is damaged or replaced all the time; reading it tells which.
        Ok(Lending::Refused("missing"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_and_lent_is_counted_once_per_user_until_the_last_lease_ends() {
        let (loans, file) = (Loans::default(), [(FileId(1), 100)]);
        loans.lend(&file, 7);
        loans.lend(&file, 7);
        loans.lend(&file, 8);
        assert_eq!(loans.held_by(7), 0, "what is not deleted costs nothing");
        loans.deleted(FileId(1));
        loans.deleted(FileId(1));
        assert_eq!(
            (loans.held_by(7), loans.held_by(8), loans.table().held_together),
            (100, 100, 100)
        );
        loans.end(&file, 7);
        assert_eq!(loans.held_by(7), 100);
        loans.end(&file, 7);
        assert_eq!((loans.held_by(7), loans.table().held_together), (0, 100));
        loans.end(&file, 8);
        assert_eq!((loans.held_by(8), loans.table().held_together), (0, 0));
        assert!(loans.table().lent.is_empty() && loans.table().held.is_empty());
    }
}
