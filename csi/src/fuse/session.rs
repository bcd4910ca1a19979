//! One FUSE connection: reads requests, runs each as a task, writes the replies.

use super::{
    Answer, Errno, InitError, Negotiated, Operation, Request,
    abi::{InvalInodeOut, OutHeader, notify},
    init::MAX_WRITE,
    request::Refused,
};
use bytes::Bytes;
use rustix::fs::OFlags;
use std::{
    collections::HashMap,
    io::IoSlice,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zerocopy::IntoBytes;

/// A WRITE of the largest size with its headers, and some room.
const BUFFER: usize = MAX_WRITE as usize + 4096;
/// Requests, and the end: of an unmounted file system the kernel says POLLERR alone.
const AWAITED: Interest = Interest::READABLE.add(Interest::ERROR);
/// The kernel sends INIT while it mounts, so it is there already when a descriptor comes in.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers the requests of a session.
#[async_trait::async_trait]
pub trait Filesystem: Send + Sync + 'static {
    /// The connection is open; unasked messages to the kernel go through `notifier`.
    fn started(&self, notifier: Notifier);
    /// Answers one request. Called concurrently.
    async fn call(&self, request: Request) -> Result<Answer, Errno>;
    /// The kernel drops this many look-ups of each node.
    fn forget(&self, nodes: &[(u64, u64)]);
}

/// Why a session could not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The descriptor does not work.
    #[error("the FUSE descriptor cannot be used while the session {doing}")]
    Descriptor {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// INIT went wrong.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The kernel did not speak.
    #[error("the kernel sent no INIT within {} s; is the descriptor mounted?", INIT_TIMEOUT.as_secs())]
    Silent,
}

fn unusable(doing: &'static str) -> impl Fn(Errno) -> SessionError {
    move |errno| SessionError::Descriptor {
        doing,
        source: errno.into(),
    }
}

/// Sends what the kernel did not ask for. Does nothing once the session has ended.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Weak<AsyncFd<OwnedFd>>,
    has_passthrough: bool,
}

impl Notifier {
    /// A copy of the descriptor, if the kernel reads registered files by itself ([`super::backing`]). Not to be kept: the
    /// mount lives as long as anybody has its descriptor.
    pub fn for_passthrough(&self) -> Option<OwnedFd> {
        let device = self.device.upgrade().filter(|_| self.has_passthrough)?;
        device.get_ref().try_clone().ok()
    }

    /// The kernel's copy of a node's attributes is no longer true.
    pub fn attributes_changed(&self, node: u64) {
        let Some(device) = self.device.upgrade() else {
            return;
        };
        let body = InvalInodeOut {
            ino: node,
            off: -1,
            len: 0,
        };
        // ENOENT: the kernel does not know the node, so it holds no copy.
        let _unknown_is_fine = send(
            &device,
            0,
            notify::INVAL_INODE,
            &[Bytes::copy_from_slice(body.as_bytes())],
        );
    }
}

/// A running session. It goes on until the file system is unmounted everywhere or [`Session::stop`].
pub struct Session {
    negotiated: Negotiated,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Session {
    /// Opens the connection (INIT) on a freshly mounted descriptor and serves it in the background.
    ///
    /// # Errors
    /// When the descriptor is not a mounted FUSE device, or the kernel is too old.
    pub async fn start(device: OwnedFd, filesystem: Arc<dyn Filesystem>) -> Result<Self, SessionError> {
        let flags = rustix::fs::fcntl_getfl(&device).map_err(unusable("read its flags"))?;
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK).map_err(unusable("set its flags"))?;
        // SAFETY: an OwnedFd is open and stays the same descriptor until it is dropped, and the AsyncFd owns it.
        #[allow(unsafe_code)]
        let device = unsafe { AsyncFd::register_with_interest(device, AWAITED) };
        let device = device.map_err(|error| SessionError::Descriptor {
            doing: "was registered",
            source: error.into(),
        })?;
        let device = Arc::new(device);
        let mut buffer = vec![0; BUFFER];
        let opened = tokio::time::timeout(INIT_TIMEOUT, open(&device, &mut buffer)).await;
        let negotiated = opened.map_err(|_| SessionError::Silent)??;
        tracing::debug!(?negotiated, "FUSE connection is open");
        filesystem.started(Notifier {
            device: Arc::downgrade(&device),
            has_passthrough: negotiated.has_passthrough(),
        });

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let reader = Reader {
            device,
            filesystem,
            stop: stop.clone(),
            tasks: tasks.clone(),
            abandonable: Arc::default(),
        };
        tasks.spawn(reader.run(buffer));
        tasks.close();
        Ok(Self {
            negotiated,
            stop,
            tasks,
        })
    }

    /// What INIT agreed on.
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Returns when the session has ended and every request taken was answered.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// Whether the session has ended.
    pub fn has_ended(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Takes no more requests; those already taken are answered. Then the descriptor is closed.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn open(device: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Result<Negotiated, SessionError> {
    loop {
        let length = read(device, buffer).await.map_err(unusable("read INIT"))?;
        let Ok(request) = Request::parse(&Bytes::copy_from_slice(&buffer[..length])) else {
            continue;
        };
        let Operation::Init { offer } = request.operation else {
            let opcode = u32::from_ne_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
            return Err(InitError::AlreadyOpen(opcode).into());
        };
        match Negotiated::from_offer(&offer.first, offer.flags2) {
            Ok(negotiated) => {
                let body = Bytes::copy_from_slice(negotiated.reply().as_bytes());
                send(device, request.unique, 0, &[body]).map_err(unusable("answered INIT"))?;
                return Ok(negotiated);
            }
            Err(error) => {
                send(device, request.unique, -Errno::PROTO.raw_os_error(), &[])
                    .map_err(unusable("refused INIT"))?;
                return Err(error.into());
            }
        }
    }
}

/// Reads one request; `ENODEV` when the file system is unmounted.
async fn read(device: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        let mut ready = device.ready(AWAITED).await.map_err(|_| Errno::NODEV)?;
        match rustix::io::read(device.get_ref(), &mut *buffer) {
            Ok(length) => return Ok(length),
            Err(Errno::AGAIN) => ready.clear_ready(),
            // ENOENT: the request was taken back while it was being read.
            Err(Errno::INTR | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn send(device: &AsyncFd<OwnedFd>, unique: u64, error: i32, body: &[Bytes]) -> Result<(), Errno> {
    let length = size_of::<OutHeader>() + body.iter().map(Bytes::len).sum::<usize>();
    let header = OutHeader {
        len: u32::try_from(length).map_err(|_| Errno::MSGSIZE)?,
        error,
        unique,
    };
    let mut pieces = Vec::with_capacity(1 + body.len());
    pieces.push(IoSlice::new(header.as_bytes()));
    pieces.extend(body.iter().map(|piece| IoSlice::new(piece)));
    rustix::io::writev(device.get_ref(), &pieces).map(|_| ())
}

struct Reader {
    device: Arc<AsyncFd<OwnedFd>>,
    filesystem: Arc<dyn Filesystem>,
    stop: CancellationToken,
    tasks: TaskTracker,
    abandonable: Arc<Mutex<HashMap<u64, CancellationToken>>>,
}

impl Reader {
    async fn run(self, mut buffer: Vec<u8>) {
        loop {
            let length = tokio::select! {
                () = self.stop.cancelled() => return,
                outcome = read(&self.device, &mut buffer) => match outcome {
                    Ok(length) => length,
                    Err(Errno::NODEV) => return,
                    Err(errno) => {
                        tracing::error!(%errno, "the FUSE descriptor cannot be read; the session ends");
                        return;
                    }
                },
            };
            match Request::parse(&Bytes::copy_from_slice(&buffer[..length])) {
                Ok(request) => self.dispatch(request),
                Err(Refused { unique, errno }) => self.reply(unique, Err(errno)),
            }
        }
    }

    fn dispatch(&self, request: Request) {
        match request.operation {
            Operation::Forget { nodes } => self.filesystem.forget(&nodes),
            Operation::Interrupt { unique } => {
                if let Some(token) = self.abandonable().get(&unique) {
                    token.cancel();
                }
            }
            Operation::Destroy => self.reply(request.unique, Ok(Answer::Done)),
            Operation::Init { .. } => self.reply(request.unique, Err(Errno::IO)),
            _ => {
                let token = request.operation.can_be_abandoned().then(CancellationToken::new);
                if let Some(token) = &token {
                    self.abandonable().insert(request.unique, token.clone());
                }
                self.tasks.spawn(self.share().answer(request, token));
            }
        }
    }

    fn share(&self) -> Self {
        Self {
            device: Arc::clone(&self.device),
            filesystem: Arc::clone(&self.filesystem),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            abandonable: Arc::clone(&self.abandonable),
        }
    }

    async fn answer(self, request: Request, abandoned: Option<CancellationToken>) {
        let unique = request.unique;
        let call = self.filesystem.call(request);
        let outcome = match abandoned {
            None => call.await,
            Some(token) => {
                let outcome = tokio::select! {
                    biased;
                    outcome = call => outcome,
                    () = token.cancelled() => Err(Errno::INTR),
                };
                self.abandonable().remove(&unique);
                outcome
            }
        };
        self.reply(unique, outcome);
    }

    fn reply(&self, unique: u64, outcome: Result<Answer, Errno>) {
        let sent = match outcome {
            Ok(answer) => send(&self.device, unique, 0, &answer.into_pieces()),
            Err(errno) => send(&self.device, unique, -errno.raw_os_error(), &[]),
        };
        match sent {
            // ENOENT: nobody waits any more. ENODEV: unmounted meanwhile.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                tracing::error!(%errno, unique, "the kernel refused a reply");
                // Whoever waits must not wait for ever.
                let _nothing_more_to_do = send(&self.device, unique, -Errno::IO.raw_os_error(), &[]);
            }
        }
    }

    fn abandonable(&self) -> std::sync::MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.abandonable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
