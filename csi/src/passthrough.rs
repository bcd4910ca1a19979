//! Who registers files for kernel passthrough: the process itself where it may, else `node` on the agent's request.
//!
//! ```text
//!  agent ── /dev/fuse of the mount, the file ──▶ node: looks at both, one ioctl ──▶ the kernel
//!        ◀── the number that names the file ────
//! ```
//! The kernel opens a registered file anew, with the rights of whoever registered it and for whatever the answer to OPEN
//! allows. So `node` registers files of read-only mounts alone: an agent that was taken over can gain nothing by it that it
//! could not read before.

use crate::{
    fuse::{Errno, backing},
    handover,
};
use rustix::fs::{OFlags, StatVfsMountFlags};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// How files are registered.
#[derive(Debug, Clone, Default)]
pub enum Passthrough {
    /// Not at all.
    #[default]
    Off,
    /// By this process, which needs CAP_SYS_ADMIN.
    Here,
    /// By `node`, behind this socket.
    ByNode(PathBuf),
}

/// What the agent asks. The mount's descriptor comes along, and of [`Call::Open`] the file, too.
#[derive(Debug, Serialize, Deserialize)]
enum Call {
    /// Register the file.
    Open,
    /// Forget it.
    Close {
        /// Its number.
        id: i32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Opened(i32),
    Closed,
    Refused(i32),
}

impl Passthrough {
    /// Registers a file with the connection of `device`.
    ///
    /// # Errors
    /// What the kernel or `node` says; reading goes on without passthrough then.
    pub async fn open(&self, device: OwnedFd, file: &File) -> io::Result<i32> {
        match self {
            Self::Off => Err(io::ErrorKind::Unsupported.into()),
            Self::Here => Ok(backing::open(device.as_fd(), file)?),
            Self::ByNode(socket) => {
                match ask(socket, Call::Open, vec![device, file.try_clone()?.into()]).await? {
                    Reply::Opened(id) => Ok(id),
                    Reply::Closed => Err(io::ErrorKind::InvalidData.into()),
                    Reply::Refused(code) => Err(io::Error::from_raw_os_error(code)),
                }
            }
        }
    }

    /// Forgets a registered file.
    ///
    /// # Errors
    /// As [`Passthrough::open`]; it is forgotten with the mount at the latest.
    pub async fn close(&self, device: OwnedFd, id: i32) -> io::Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Here => Ok(backing::close(device.as_fd(), id)?),
            Self::ByNode(socket) => match ask(socket, Call::Close { id }, vec![device]).await? {
                Reply::Refused(code) => Err(io::Error::from_raw_os_error(code)),
                Reply::Opened(_) | Reply::Closed => Ok(()),
            },
        }
    }
}

async fn ask(socket: &Path, call: Call, descriptors: Vec<OwnedFd>) -> io::Result<Reply> {
    let stream = tokio::net::UnixStream::connect(socket).await?.into_std()?;
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = stream;
        handover::be_patient(&stream)?;
        handover::send(&mut stream, &call, descriptors)?;
        handover::receive(&mut stream).map(|(reply, _)| reply)
    });
    asked.await.map_err(io::Error::other)?
}

/// Registers files for the agent, until the listener is dropped. Nobody but `uid` (and root) is served.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: &Path, uid: u32) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::os::unix::fs::chown(path, Some(uid), None)?;
    Ok(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was lost");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let caller = stream.peer_cred().map(|peer| peer.uid());
            if !caller.as_ref().is_ok_and(|caller| *caller == uid || *caller == 0) {
                tracing::warn!(?caller, "somebody who is not the agent asked for passthrough");
                continue;
            }
            tokio::task::spawn_blocking(move || {
                if let Err(error) = stream.into_std().and_then(attend) {
                    tracing::warn!(%error, "a request for passthrough was lost");
                }
            });
        }
    })
}

fn attend(mut stream: UnixStream) -> io::Result<()> {
    handover::be_patient(&stream)?;
    let (call, descriptors) = handover::receive_all::<Call>(&mut stream)?;
    let outcome = match (call, &descriptors[..]) {
        (Call::Open, [device, file]) => check(file)
            .and_then(|()| backing::open(device.as_fd(), file))
            .map(Reply::Opened),
        (Call::Close { id }, [device]) => backing::close(device.as_fd(), id).map(|()| Reply::Closed),
        _ => Err(Errno::INVAL),
    };
    let reply = outcome.unwrap_or_else(|errno| Reply::Refused(errno.raw_os_error()));
    handover::send(&mut stream, &reply, None)
}

/// Refuses what the kernel could be made to write to.
fn check(file: &OwnedFd) -> Result<(), Errno> {
    let facts = rustix::fs::fstat(file)?;
    let flags = rustix::fs::fcntl_getfl(file)?;
    let is_readable = !flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::PATH);
    let is_file = rustix::fs::FileType::from_raw_mode(facts.st_mode) == rustix::fs::FileType::RegularFile;
    let is_read_only = rustix::fs::fstatvfs(file)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY);
    match is_readable && is_file && is_read_only {
        true => Ok(()),
        false => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_could_be_written_to_are_not_registered() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        let uid = rustix::process::geteuid().as_raw();
        let serving = tokio::spawn(serve(&socket, uid).unwrap());
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let by_node = Passthrough::ByNode(socket);
        let device = || OwnedFd::from(File::open("/dev/null").unwrap());
        let error = by_node
            .open(device(), &File::open(&path).unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
        let error = by_node.close(device(), 1).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTTY.raw_os_error()));
        serving.abort();
    }
}
