//! Data files between a data folder and a backup.

use crate::local::{data::relative, rows::FileId};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// How far a backup or a restore is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Data files that there are.
    pub files: AtomicU64,
    /// Those that are done.
    pub done: AtomicU64,
    /// Bytes that were copied; links cost none.
    pub copied: AtomicU64,
    /// Files that are not where they should be.
    pub missing: AtomicU64,
}

impl Progress {
    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// Puts data files into another folder: links where that is possible, as they are immutable, and copies elsewhere.
pub(super) struct Carrier<'a> {
    /// With `data` in it.
    to: &'a Path,
    /// An older backup beside it, with files that need not be copied again.
    base: Option<&'a Path>,
    progress: &'a Progress,
    may_link: bool,
    slots: Vec<bool>,
}

impl<'a> Carrier<'a> {
    pub fn new(to: &'a Path, base: Option<&'a Path>, progress: &'a Progress) -> Self {
        Self {
            to,
            base,
            progress,
            may_link: true,
            slots: vec![false; 256],
        }
    }

    /// `find` calls with the place of the file.
    ///
    /// # Errors
    /// Those of the file system. A file that is nowhere is counted, and is none.
    pub fn carry(
        &mut self,
        id: FileId,
        find: impl FnOnce(&mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_slot(id)?;
        let to = self.path(self.to, id);
        let carried = find(&mut |from| self.put(from, &to, id));
        Progress::add(&self.progress.done, 1);
        match carried {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(file = %id, "a data file is not there; what is in it is lost, and `check` names it");
                Progress::add(&self.progress.missing, 1);
                Ok(())
            }
            carried => carried,
        }
    }

    fn put(&mut self, from: &Path, to: &Path, id: FileId) -> io::Result<()> {
        if self.may_link {
            match fs::hard_link(from, to) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices || cannot_link(&error) => {
                    self.may_link = false;
                }
                // This one has as many as a file can have.
                Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {}
                linked => return linked,
            }
        }
        let mut source = File::open(from)?;
        let length = source.metadata()?.len();
        if let Some(base) = self.base {
            let there = self.path(base, id);
            // Nobody writes to it, so one of the right length is the same.
            if fs::metadata(&there).is_ok_and(|found| found.len() == length)
                && fs::hard_link(&there, to).is_ok()
            {
                return Ok(());
            }
        }
        let mut target = new_file(to)?;
        let copied = io::copy(&mut source, &mut target)?;
        Progress::add(&self.progress.copied, copied);
        Ok(())
    }

    fn path(&self, folder: &Path, id: FileId) -> PathBuf {
        folder.join("data").join(relative(id))
    }

    fn make_slot(&mut self, id: FileId) -> io::Result<()> {
        if let Some(made) = self.slots.get_mut(usize::from(id.slot()))
            && !*made
        {
            if let Some(folder) = self.to.join("data").join(relative(id)).parent() {
                fs::create_dir_all(folder)?;
            }
            *made = true;
        }
        Ok(())
    }
}

/// File systems without hard links say so in one of these ways (link(2)).
fn cannot_link(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::EPERM | nix::libc::EOPNOTSUPP | nix::libc::ENOSYS)
    )
}

/// A new file that its owner alone may read, whatever the umask.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Puts everything on a file system on its disk: one call, where a call for each file would take as long as writing it.
pub(super) fn sync_all(folder: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(folder)?)?)
}
