//! How `node` hands mounts over to `agent`: one request and one reply per connection of a Unix socket.
//!
//! ```text
//!  node (root)  ──── length u32 LE, JSON of Call ────▶  agent (unprivileged)
//!               ──── /dev/fuse descriptor (SCM_RIGHTS, with the length) ──▶
//!               ◀─── length u32 LE, JSON of Reply ────
//! ```
//! Keys of storage nodes travel here, so each side looks at who the other is (`SO_PEERCRED`).

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

use crate::{access::Access, fs::Look};
use penstock_rdma::Policy;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// A message is small: keys, a certificate, names.
const LONGEST: u32 = 1 << 20;
/// A side that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be served behind a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The CSI volume id, for logs.
    pub volume: String,
    /// Bucket.
    pub bucket: String,
    /// Prefix in it; empty for the whole bucket.
    pub prefix: String,
    /// The storage node.
    pub access: Access,
    /// Owner and permissions of its files.
    pub look: Look,
    /// Whether its bytes may travel by HTTP; nobody need be told if nothing is said.
    pub rdma: Option<Policy>,
}

/// What `node` asks. A mount is named by the path it is mounted at.
#[derive(Debug, Serialize, Deserialize)]
pub enum Call {
    /// Serve the descriptor that comes along.
    Serve {
        /// Mount point.
        path: PathBuf,
        /// What to serve.
        mount: Box<Mount>,
    },
    /// End what is served there; fine when nothing is.
    Drop {
        /// Mount point.
        path: PathBuf,
    },
    /// How files look there, if something is served there and alive.
    Look {
        /// Mount point.
        path: PathBuf,
    },
    /// Why bytes travel by HTTP there, if they do although the volume says `rdma: prefer`.
    Complaint {
        /// Mount point.
        path: PathBuf,
    },
    /// Nothing: is anybody there?
    Ping,
}

/// What `agent` answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Call::Look`].
    Looks(Option<Look>),
    /// To [`Call::Complaint`].
    Complains(Option<String>),
    /// It could not be done.
    Refused(Refusal),
}

/// Why a mount is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is no such bucket.
    #[error("{0}")]
    NotFound(String),
    /// The keys are not taken.
    #[error("{0}")]
    Denied(String),
    /// The storage node cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Bytes may not travel by HTTP, and there is no other way.
    #[error("{0}")]
    NoFastPath(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something here failed.
    #[error("{0}")]
    Failed(String),
}

/// Why a call got no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers there.
    #[error("the agent of this node does not answer on {}; look at the log of container `agent` of this pod", .socket.display())]
    Gone {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Somebody else answers there.
    #[error("{} is served by user {found} and not by the agent (user {expected}); keys are not given to it", .socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
        /// Who answers.
        found: u32,
        /// Who should.
        expected: u32,
    },
    /// The agent said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The agent, as `node` sees it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
    /// The user it runs as.
    pub uid: u32,
}

impl Agent {
    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// When nobody answers in time, or the answer is no.
    pub async fn call(&self, call: Call, descriptor: Option<OwnedFd>) -> Result<Reply, CallError> {
        let gone = |source| CallError::Gone {
            socket: self.socket.clone(),
            source,
        };
        let connected = tokio::time::timeout(PATIENCE, tokio::net::UnixStream::connect(&self.socket)).await;
        let stream = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(gone)?;
        let found = stream.peer_cred().map_err(gone)?.uid();
        if found != self.uid {
            return Err(CallError::Stranger {
                socket: self.socket.clone(),
                found,
                expected: self.uid,
            });
        }
        let stream = stream.into_std().map_err(gone)?;
        let asked = tokio::task::spawn_blocking(move || exchange(stream, &call, descriptor)).await;
        match asked
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(gone)?
        {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }
}

fn exchange(mut stream: UnixStream, call: &Call, descriptor: Option<OwnedFd>) -> io::Result<Reply> {
    be_patient(&stream)?;
    send(&mut stream, call, descriptor)?;
    receive(&mut stream).map(|(reply, _)| reply)
}

/// Makes a socket of the runtime one that blocks, with deadlines on both directions.
///
/// # Errors
/// When the socket is no socket.
pub fn be_patient(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends a message, and up to two descriptors.
///
/// # Errors
/// When the other end is gone or slow.
pub fn send(
    stream: &mut UnixStream,
    message: &impl Serialize,
    descriptors: impl IntoIterator<Item = OwnedFd>,
) -> io::Result<()> {
    let descriptors: Vec<OwnedFd> = descriptors.into_iter().collect();
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length
        .ok_or_else(|| io::Error::other("the message is too long"))?
        .to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("a descriptor does not fit"));
    }
    let sent = rustix::net::sendmsg(
        &*stream,
        &[IoSlice::new(&length)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)
}

/// Receives a message, with the descriptor if one came along.
///
/// # Errors
/// When the other end is gone or slow, or what came is no message.
pub fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Option<OwnedFd>)> {
    let (message, mut descriptors) = receive_all(stream)?;
    Ok((message, descriptors.pop()))
}

/// As [`receive`], with all descriptors that came along.
///
/// # Errors
/// As [`receive`].
pub fn receive_all<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        &*stream,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    stream.read_exact(&mut length[got.bytes..])?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body)?;
    // The parser's own words could quote a key.
    let message =
        serde_json::from_slice(&body).map_err(|_| io::Error::other("the message cannot be understood"))?;
    Ok((message, descriptors))
}

/// Where the socket of an agent is by default.
pub fn default_socket() -> &'static Path {
    Path::new("/run/penstock/agent.sock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek;

    #[test]
    fn a_message_and_its_descriptor_arrive() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through").unwrap();
        let path = PathBuf::from("/mnt");
        send(&mut here, &Call::Drop { path: path.clone() }, Some(file.into())).unwrap();
        let (call, descriptor) = receive::<Call>(&mut there).unwrap();
        assert!(matches!(call, Call::Drop { path: there } if there == path));
        let mut file = std::fs::File::from(descriptor.unwrap());
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "through");

        send(&mut there, &Reply::Refused(Refusal::NotFound("x".into())), None).unwrap();
        let (reply, descriptor) = receive::<Reply>(&mut here).unwrap();
        assert!(matches!(reply, Reply::Refused(Refusal::NotFound(_))) && descriptor.is_none());
    }

    #[test]
    fn rubbish_and_silence_are_errors_and_quote_nothing() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        here.write_all(&9_u32.to_le_bytes()).unwrap();
        here.write_all(b"secretkey").unwrap();
        let error = receive::<Call>(&mut there).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        here.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(receive::<Call>(&mut there).is_err());
        drop(here);
        assert!(receive::<Call>(&mut there).is_err());
    }

    #[tokio::test]
    async fn keys_are_not_given_to_a_stranger() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let agent = Agent {
            socket,
            uid: 4_000_000,
        };
        let error = agent.call(Call::Ping, None).await.unwrap_err();
        assert!(matches!(error, CallError::Stranger { .. }), "{error}");
    }
}
