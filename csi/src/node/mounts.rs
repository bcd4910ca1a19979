//! Mounting, unmounting and looking whether a mount answers. Everything here can block, so it runs on threads of its own, and
//! nothing waits for a mount longer than it must.

use super::mount_table::{self, FS_TYPE};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a new mount may take to answer its first look-up.
const PROOF: Duration = Duration::from_secs(15);
/// `FUSE_SUPER_MAGIC` of statfs(2).
const FUSE_MAGIC: u64 = 0x6573_5546;
/// What the kernel reads ahead in a file that is read in order.
const READ_AHEAD_KIB: u32 = 2048;

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no FUSE.
    #[error("cannot open /dev/fuse; load the kernel module fuse on this node")]
    NoFuse(#[source] io::Error),
    /// A system call failed.
    #[error("cannot {doing} {}", .path.display())]
    Failed {
        /// As "mount on".
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount does not answer as it should.
    #[error("the mount at {} does not answer: {cause}", .path.display())]
    Unproven {
        /// Where.
        path: PathBuf,
        /// What was seen instead.
        cause: String,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> MountError {
    move |source| MountError::Failed {
        doing,
        path: path.to_owned(),
        source,
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, MountError> + Send + 'static,
) -> Result<T, MountError> {
    let there = path.to_owned();
    match tokio::task::spawn_blocking(move || work(&there)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(failed("look after", path)(io::Error::other(error))),
    }
}

/// Mounts a FUSE file system at a path, which is made if need be, and returns the descriptor that must be served.
///
/// # Errors
/// When the kernel refuses.
pub async fn mount_fuse(path: &Path, source: &str) -> Result<OwnedFd, MountError> {
    let source = source.replace('\0', "");
    blocking(path, move |path| {
        make_folder(path)?;
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(MountError::NoFuse)?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={}",
            device.as_raw_fd(),
            crate::fuse::MAX_WRITE,
        );
        let options = CString::new(options).map_err(|error| failed("mount on", path)(error.into()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount(source.as_str(), path, FS_TYPE, flags, options.as_c_str())
            .map_err(|errno| failed("mount on", path)(errno.into()))?;
        Ok(device.into())
    })
    .await
}

/// Binds a mounted file system to a second path.
///
/// # Errors
/// When the kernel refuses; nothing is mounted then.
pub async fn bind(from: &Path, path: &Path, read_only: bool) -> Result<(), MountError> {
    let from = from.to_owned();
    blocking(path, move |path| {
        make_folder(path)?;
        rustix::mount::mount_bind(&from, path).map_err(|errno| failed("bind to", path)(errno.into()))?;
        if read_only {
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            if let Err(errno) = rustix::mount::mount_remount(path, flags, c"") {
                detach(path)?;
                return Err(failed("make read-only", path)(errno.into()));
            }
        }
        Ok(())
    })
    .await
}

/// Makes a folder if need be, and says its path as the mount table has it: absolute and without symbolic links.
///
/// # Errors
/// When it cannot be made.
pub async fn folder(path: &Path) -> Result<PathBuf, MountError> {
    blocking(path, |path| {
        make_folder(path)?;
        std::fs::canonicalize(path).map_err(failed("find", path))
    })
    .await
}

fn make_folder(path: &Path) -> Result<(), MountError> {
    std::fs::create_dir_all(path).map_err(failed("make the folder", path))
}

/// Says whether there was a mount.
fn detach(path: &Path) -> Result<bool, MountError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // EINVAL: it is no mount point (any more).
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("unmount", path)(errno.into())),
    }
}

/// Unmounts everything at a path, dead or alive, and removes the folder. Fine when nothing is there.
///
/// # Errors
/// When the kernel refuses.
pub async fn unmount(path: &Path) -> Result<(), MountError> {
    blocking(path, |path| {
        while mount_table::at(path)
            .map_err(failed("read the mount table for", path))?
            .is_some()
        {
            match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                // Somebody holds it still, or nobody serves it: it goes when the last one lets go.
                Err(_) if detach(path)? => {}
                // The table has it, but it cannot be reached: another mount above hides it.
                Err(_) => break,
            }
        }
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
            _ => Ok(()),
        }
    })
    .await
}

/// Lets the kernel read further ahead than the 128 KiB that every file system begins with.
pub async fn read_further_ahead(path: &Path) {
    let outcome = blocking(path, |path| {
        let Some(mounted) = mount_table::at(path).map_err(failed("read the mount table for", path))? else {
            return Ok(());
        };
        let knob = PathBuf::from(format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device));
        std::fs::write(&knob, READ_AHEAD_KIB.to_string()).map_err(failed("write", &knob))
    })
    .await;
    if let Err(error) = outcome {
        // It works all the same, only slower.
        tracing::info!(
            cause = penstock_service::chain(&error),
            "the kernel's read-ahead stays as it is"
        );
    }
}

/// Proves that a mount answers: a name that cannot be there is looked up and must be answered "not there" by the storage node.
///
/// # Errors
/// When there is another answer, or none in time.
pub async fn prove(path: &Path) -> Result<(), MountError> {
    let unproven = |cause: String| MountError::Unproven {
        path: path.to_owned(),
        cause,
    };
    let asked = path.to_owned();
    // A thread of its own, not one of the pool's: if the mount hangs, so does the thread, until the mount is gone.
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody listens any more when the deadline has passed.
        let _late = tell.send(ask(&asked));
    });
    match tokio::time::timeout(PROOF, told).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(cause))) => Err(unproven(cause)),
        Ok(Err(_)) => Err(unproven("the question was lost".into())),
        Err(_) => Err(unproven(format!("no answer within {} s", PROOF.as_secs()))),
    }
}

fn ask(path: &Path) -> Result<(), String> {
    let folder = File::open(path).map_err(|error| format!("the folder cannot be opened: {error}"))?;
    let kind = rustix::fs::fstatfs(&folder)
        .map_err(|errno| format!("statfs: {errno}"))?
        .f_type;
    if u64::try_from(kind).ok() != Some(FUSE_MAGIC) {
        return Err("another file system is mounted there".into());
    }
    let name = format!(".penstock-proof-{}", uuid::Uuid::new_v4());
    match std::fs::symlink_metadata(path.join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!(
            "a look-up failed: {error}; the log of container `agent` says more"
        )),
        Ok(_) => Err(format!("{name} is said to be there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(path: &Path) {
        std::fs::create_dir_all(path).unwrap();
        rustix::mount::mount("none", path, "tmpfs", MountFlags::empty(), None).unwrap();
    }

    #[tokio::test]
    async fn a_mount_that_another_one_hides_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let (above, hidden) = (folder.path().join("a"), folder.path().join("a/b"));
        tmpfs(&hidden);
        tmpfs(&above);
        let outcome = tokio::time::timeout(Duration::from_secs(10), unmount(&hidden)).await;
        unmount(&above).await.unwrap_err();
        unmount(&hidden).await.unwrap();
        outcome.expect("it does not try for ever").unwrap();
    }

    #[tokio::test]
    async fn a_folder_has_one_path() {
        let folder = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(folder.path()).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        let asked = folder.path().join("link/../link/deep/");
        assert_eq!(super::folder(&asked).await.unwrap(), real.join("real/deep"));
    }
}
