//! Data files lent to whoever is on this host. They are immutable and hold one PUT or part each, so a descriptor of one
//! shows bytes of this object alone, and goes on showing them when the object is replaced or deleted: the kernel keeps the
//! file. Its space is free only then, so what is lent is counted, by user.

use super::{
    Inner, blocking,
    data::{Data, relative},
    internal, object, read,
    rows::FileId,
};
use crate::engine::{Borrower, ByteRange, Encrypted, Error, Lending, Loan, ObjectRef, Precondition, Result};
use penstock_rdma::local::{Extent, MOST_DESCRIPTORS};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::{
    collections::{HashMap, hash_map::RandomState},
    fs::{self, File},
    hash::BuildHasher,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
    recent: Recent,
}

/// An object in more pieces comes in a body: the answer's header would be too long (32 KiB are these).
const MOST_EXTENTS: usize = 1024;
/// How many objects [`Recent`] has room for.
const RECENT: usize = 4096;

/// Which objects were lent a moment ago. Their rows and the names of their files are in memory, so that lending them again
/// takes less time than waking a thread that may wait for the disk. It may err both ways, and costs a little time then.
struct Recent {
    hasher: RandomState,
    seen: Box<[AtomicU64]>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            seen: (0..RECENT).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Recent {
    fn place(&self, object: &ObjectRef) -> (Option<&AtomicU64>, u64) {
        let hash = self.hasher.hash_one(object);
        let at = usize::try_from(hash % RECENT as u64).unwrap_or(0);
        (self.seen.get(at), hash)
    }

    fn holds(&self, object: &ObjectRef) -> bool {
        let (place, hash) = self.place(object);
        place.is_some_and(|place| place.load(Ordering::Relaxed) == hash)
    }

    fn note(&self, object: &ObjectRef) {
        let (place, hash) = self.place(object);
        if let Some(place) = place {
            place.store(hash, Ordering::Relaxed);
        }
    }
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

    /// As [`Data::open_lent`], unless that had to wait for the disk or the kernel cannot tell (before Linux 5.12).
    fn open_lent_at_once(&self, file: FileId) -> io::Result<File> {
        let path = match self.loans.view.get() {
            Some(view) => view.join(relative(file)),
            None => self.path(file),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::CACHED);
        Ok(opened?.into())
    }
}

/// What is asked for, and by whom.
#[derive(Clone)]
struct Asked {
    object: ObjectRef,
    range: Option<ByteRange>,
    precondition: Precondition,
    borrower: Borrower,
}

pub(super) async fn lend(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
    borrower: Borrower,
) -> Result<Lending> {
    let asked = Asked {
        object: object.clone(),
        range,
        precondition: precondition.clone(),
        borrower,
    };
    if inner.data.loans.recent.holds(object)
        && let Some(lending) = asked.lend_at_once(inner)?
    {
        return Ok(lending);
    }
    let inner = Arc::clone(inner);
    blocking(move || {
        let lending = asked.lend(&inner);
        inner.data.loans.recent.note(&asked.object);
        lending
    })
    .await
}

impl Asked {
    /// As [`Asked::lend`], `None` if that had to wait for the disk.
    fn lend_at_once(&self, inner: &Inner) -> Result<Option<Lending>> {
        match self.attempt(inner, Data::open_lent_at_once)? {
            Attempt::Done(lending) => Ok(Some(lending)),
            // Whether it is the file or the kernel that says no, opening it in the ordinary way tells.
            Attempt::NotOpened(_) => Ok(None),
        }
    }

    /// Blocks.
    fn lend(&self, inner: &Inner) -> Result<Lending> {
        for _ in 0..read::ATTEMPTS {
            match self.attempt(inner, Data::open_lent)? {
                Attempt::Done(lending) => return Ok(lending),
                Attempt::NotOpened(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Out of descriptors: a body needs one, not many.
                Attempt::NotOpened(error)
                    if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
                {
                    return Ok(Lending::Refused("descriptors"));
                }
                Attempt::NotOpened(error) => {
                    return Err(internal("opened a data file")(format!(
                        "{}: {error}",
                        self.object
                    )));
                }
            }
        }
        // It is damaged or replaced all the time; reading it tells which.
        Ok(Lending::Refused("missing"))
    }

    fn attempt(&self, inner: &Inner, open: impl Fn(&Data, FileId) -> io::Result<File>) -> Result<Attempt> {
        let row = object::find(&inner.index, &self.object)?;
        let encrypted = row.encryption();
        Encrypted::check(encrypted.as_ref(), self.precondition.key.as_ref())?;
        read::check(&self.object, &self.precondition, &row)?;
        // Who borrowed the file could not read it.
        if encrypted.is_some() {
            return Ok(Attempt::Done(Lending::Refused("encrypted")));
        }
        if inner.data.loans.held_by(self.borrower.uid) >= self.borrower.held_limit {
            return Ok(Attempt::Done(Lending::Refused("held")));
        }
        let range = match self.range {
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
        if ids.len() > MOST_DESCRIPTORS || extents.len() > MOST_EXTENTS {
            return Ok(Attempt::Done(Lending::Refused("extents")));
        }
        // Counted before they are opened, so that a deletion in between is seen.
        inner.data.loans.lend(&ids, self.borrower.uid);
        let hold = Held {
            data: Arc::clone(&inner.data),
            files: ids,
            uid: self.borrower.uid,
        };
        let opened: io::Result<Vec<File>> = hold
            .files
            .iter()
            .map(|(file, _)| open(&inner.data, *file))
            .collect();
        Ok(match opened {
            Ok(files) => Attempt::Done(Lending::Lent(Box::new(Loan {
                info: inner
                    .index
                    .info(&self.object.bucket, &row)
                    .map_err(internal("read the index"))?,
                range,
                files,
                extents,
                hold: Box::new(hold),
            }))),
            Err(error) => Attempt::NotOpened(error),
        })
    }
}

enum Attempt {
    Done(Lending),
    /// The object was replaced in between, or its file cannot be opened.
    NotOpened(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lent_a_moment_ago_is_known_and_another_object_is_not() {
        let (recent, one) = (Recent::default(), ObjectRef::new("bucket", "one"));
        assert!(!recent.holds(&one));
        recent.note(&one);
        assert!(recent.holds(&one) && !recent.holds(&ObjectRef::new("bucket", "other")));
    }

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
