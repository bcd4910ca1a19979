//! Data files: immutable once they are in `data`, and removed when nothing refers to them and nobody reads them.

use super::{
    lend::Loans,
    removal::{Keeping, Removal},
    rows::FileId,
};
use nix::sys::statvfs::statvfs;
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::watch;

/// Files that follow each other share a folder, so that one fsync of it serves many of them.
const FILES_PER_SLOT: u32 = 4096;
/// Writing stops while there is still room for the index to grow and for deletions to be noted.
const RESERVE: u64 = 64 << 20;

/// The folders `data` and `tmp`.
pub(super) struct Data {
    data: PathBuf,
    tmp: PathBuf,
    slots: Vec<Slot>,
    made: AtomicU32,
    use_: Mutex<Use>,
    pub(super) loans: Loans,
    removal: Arc<Removal>,
    swept: watch::Sender<bool>,
}

struct Slot {
    folder: File,
    /// How often it could not be written to disk. The kernel goes on showing the names that it could not write, and the next fsync
    /// succeeds without them (fsync(2), "Notes"), so that a name from before the last failure must not be relied on.
    failures: AtomicU32,
}

#[derive(Default)]
struct Use {
    /// Files in `data` that no commit refers to yet.
    new: HashSet<FileId>,
    /// Files that are read, and how often.
    pinned: HashMap<FileId, u32>,
    /// Pinned files to be removed with their last reader.
    doomed: HashSet<FileId>,
}

impl Data {
    /// Makes the folders, empties `tmp`.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let (data, tmp) = (folder.join("data"), folder.join("tmp"));
        fs::create_dir_all(&tmp)?;
        for entry in fs::read_dir(&tmp)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
        let mut slots = Vec::with_capacity(256);
        for slot in 0..=u8::MAX {
            let path = data.join(format!("{slot:02x}"));
            fs::create_dir_all(&path)?;
            slots.push(Slot {
                folder: File::open(path)?,
                failures: AtomicU32::new(0),
            });
        }
        File::open(&data)?.sync_all()?;
        File::open(folder)?.sync_all()?;
        let removal = Arc::new(Removal::new(data.clone(), tmp.clone()));
        Ok(Self {
            data,
            tmp,
            slots,
            // Where a process begins does not matter; it only should not be the same folder each time.
            made: AtomicU32::new(u32::from(rand::random::<u8>()) * FILES_PER_SLOT),
            use_: Mutex::default(),
            loans: Loans::default(),
            removal,
            swept: watch::Sender::new(false),
        })
    }

    /// Bytes free for data (the reserve is not), and the size of the disk.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let stat = statvfs(&self.data).map_err(io::Error::from)?;
        let block = stat.fragment_size();
        let size = stat.blocks() * block;
        let reserve = RESERVE.min(size / 20);
        Ok(((stat.blocks_available() * block).saturating_sub(reserve), size))
    }

    /// A new temporary file.
    pub fn create(self: &Arc<Self>) -> io::Result<NewFile> {
        let slot = self.made.fetch_add(1, Ordering::Relaxed) / FILES_PER_SLOT;
        let mut id = rand::random::<u128>().to_be_bytes();
        id[0] = slot.to_le_bytes()[0];
        let id = FileId(u128::from_be_bytes(id));
        let path = self.tmp.join(id.to_string());
        // Nobody else's, whatever the umask: a borrower must not be able to open by its descriptor what he was lent.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(NewFile {
            data: Arc::clone(self),
            id,
            path: Some(path),
            failures: 0,
            file,
        })
    }

    pub fn open_file(&self, id: FileId) -> io::Result<File> {
        File::open(self.path(id))
    }

    /// Puts the names in a folder on disk.
    pub fn sync_slot(&self, slot: u8) -> io::Result<()> {
        match self.slots.get(usize::from(slot)) {
            Some(slot) => slot.folder.sync_all().inspect_err(|_| {
                slot.failures.fetch_add(1, Ordering::AcqRel);
            }),
            None => Ok(()),
        }
    }

    fn failures(&self, slot: u8) -> u32 {
        let slot = self.slots.get(usize::from(slot));
        slot.map_or(0, |slot| slot.failures.load(Ordering::Acquire))
    }

    /// Whether a sync of its folder failed since the file got its name, so that the name will perhaps never be on disk.
    pub fn is_doubtful(&self, named: Named) -> bool {
        self.failures(named.id.slot()) != named.failures
    }

    /// Keeps files from being removed while they are read.
    pub fn pin(self: &Arc<Self>, files: Vec<FileId>) -> Pins {
        let mut in_use = self.in_use();
        for file in &files {
            *in_use.pinned.entry(*file).or_default() += 1;
        }
        Pins {
            data: Arc::clone(self),
            files,
        }
    }

    /// Removes files that nothing refers to, now or when their last reader is done.
    pub fn discard(&self, files: Vec<FileId>) {
        for file in files {
            let mut in_use = self.in_use();
            if in_use.pinned.contains_key(&file) {
                in_use.doomed.insert(file);
            } else {
                drop(in_use);
                self.remove(file);
            }
        }
    }

    /// Whether a file was written but not yet committed.
    pub fn is_new(&self, file: FileId) -> bool {
        self.in_use().new.contains(&file)
    }

    pub fn remove(&self, id: FileId) {
        self.loans.deleted(id);
        if let Err(error) = self.removal.remove(id) {
            tracing::warn!(file = %id, %error, "a data file could not be removed; it is tried again at the next start");
        }
    }

    /// See [`Removal::keep`].
    pub fn keep_removed(&self) -> Option<Keeping> {
        self.removal.keep()
    }

    /// The folder of data files.
    pub fn folder(&self) -> &Path {
        &self.data
    }

    pub fn sweep_ended(&self) {
        self.swept.send_replace(true);
    }

    pub async fn swept(&self) {
        // The sender lives as long as `self`.
        let mut swept = self.swept.subscribe();
        let _closed = swept.wait_for(|ended| *ended).await;
    }

    pub fn path(&self, id: FileId) -> PathBuf {
        self.data.join(relative(id))
    }

    fn in_use(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a file is below `data`.
pub(super) fn relative(id: FileId) -> PathBuf {
    PathBuf::from(format!("{:02x}", id.slot())).join(id.to_string())
}

/// A data file, and when it got its name, in failures of its folder.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub id: FileId,
    failures: u32,
}

/// A file being written, or written and not yet committed. It is removed with this value, unless [`NewFile::keep`].
pub(super) struct NewFile {
    data: Arc<Data>,
    id: FileId,
    /// Where it is; `None` once it is kept.
    path: Option<PathBuf>,
    failures: u32,
    pub file: File,
}

impl NewFile {
    pub fn id(&self) -> FileId {
        self.id
    }

    pub fn named(&self) -> Named {
        Named {
            id: self.id,
            failures: self.failures,
        }
    }

    /// Puts the bytes on disk, then the file in its place. The folder is not on disk yet ([`Data::sync_slot`]).
    pub fn finish(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        // From here on the file lies among those that no row refers to; nobody must take it for garbage.
        self.data.in_use().new.insert(self.id);
        let target = self.data.path(self.id);
        self.failures = self.data.failures(self.id.slot());
        if let Some(path) = &mut self.path {
            if let Err(error) = fs::rename(&*path, &target) {
                // A disk that fails may have done it all the same.
                let _not_there = fs::remove_file(&target);
                return Err(error);
            }
            *path = target;
        }
        Ok(())
    }

    /// A row refers to it now.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a file of a cut write could not be removed");
        }
        self.data.in_use().new.remove(&self.id);
    }
}

/// Files that stay while this value lives.
pub(super) struct Pins {
    data: Arc<Data>,
    files: Vec<FileId>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut unread = Vec::new();
        {
            let mut in_use = self.data.in_use();
            for file in &self.files {
                let readers = in_use.pinned.get_mut(file).map_or(0, |readers| {
                    *readers -= 1;
                    *readers
                });
                if readers == 0 {
                    in_use.pinned.remove(file);
                    if in_use.doomed.remove(file) {
                        unread.push(*file);
                    }
                }
            }
        }
        for file in unread {
            self.data.remove(file);
        }
    }
}
