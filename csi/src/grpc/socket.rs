//! The Unix socket that gRPC is served on.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use tokio::net::{UnixListener, UnixSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// The path in an endpoint, which is written as `unix:///path` or as the absolute path itself.
///
/// # Errors
/// [`BindError::NoPath`] when it is written otherwise.
pub(super) fn path(endpoint: &str) -> Result<PathBuf, BindError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() && path.file_name().is_some() {
        Ok(path.to_owned())
    } else {
        Err(BindError::NoPath(endpoint.to_owned()))
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Text that names no socket.
    #[error("{0:?} is not the absolute path of a Unix socket; give one like unix:///csi/csi.sock")]
    NoPath(String),
    /// Somebody answers there.
    #[error("another process serves {}; stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} is there and not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A bound socket, which nobody but this user can open. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) file: File,
}

/// The file of a bound socket.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// Device and inode, to tell our file from a successor's.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Binds the socket `path`. The file that a dead process left is replaced, and a missing folder is made.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |doing| {
            move |source| BindError::Io {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        }
        clear(path)?;
        let socket = UnixSocket::new_stream().map_err(failed("make a socket for"))?;
        socket.bind(path).map_err(failed("bind"))?;
        // Between bind and listen nobody can connect yet, so the mode holds for the first connection too, whatever the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("set the mode of"))?;
        let file = File {
            path: path.to_owned(),
            identity: identity(path).ok(),
        };
        let listener = socket.listen(BACKLOG).map_err(failed("listen on"))?;
        Ok(Self { listener, file })
    }
}

impl File {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let path = &self.path;
        if self.identity.is_some()
            && identity(path).ok() == self.identity
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the socket stays behind");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Removes a socket that nobody serves.
fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |doing, source| BindError::Io {
        doing,
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    // A blocking connect to a socket on this host ends at once: accepted, or refused because no process has it open.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed("remove the stale socket", error))
        }
        Err(error) => Err(failed("ask who serves", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_absolute_path_with_or_without_a_scheme() {
        for text in ["unix:///csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(super::path(text).unwrap(), Path::new("/csi/csi.sock"));
        }
        for text in ["", "csi.sock", "unix://csi.sock", "tcp://x:1", "/", "unix:///"] {
            let error = super::path(text).unwrap_err().to_string();
            assert!(error.contains("unix:///csi/csi.sock"), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn only_the_owner_may_connect_and_the_file_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins/csi.penstock.io/csi.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        Socket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_answers_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _first = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::InUse(_))));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_outlives_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let old = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = Socket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
    }
}
