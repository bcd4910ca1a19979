//! Connections to the socket of a storage node on this host.

use super::{
    CONNECT, DescriptorStream, Descriptors, LENT, Lent, LentHeader, MOST_DESCRIPTORS, NODE_ID, RETURNED,
    bond::{self, Bond, Identity},
    lent::Lease,
};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header::HOST};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::net::UnixStream;

/// A socket that does not answer is tried again after this.
const SHUNNED_FOR: Duration = Duration::from_secs(5);
/// Idle connections beyond these are closed.
const MOST_IDLE: usize = 64;
/// A connection without leases that was idle for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Leases that ended and that the storage node was not told of yet; one value per connection.
#[derive(Default)]
pub struct Leases(Mutex<Vec<u64>>);

impl Leases {
    pub(super) fn give_back(&self, lease: u64) {
        locked(&self.0).push(lease);
    }

    fn header(&self) -> Option<HeaderValue> {
        let returned = std::mem::take(&mut *locked(&self.0));
        if returned.is_empty() {
            return None;
        }
        let text: Vec<String> = returned.iter().map(u64::to_string).collect();
        HeaderValue::try_from(text.join(",")).ok()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where sockets are looked for, and the connections to the one that was found.
pub(crate) struct Local<B> {
    socket: Mutex<Option<PathBuf>>,
    folder: Option<PathBuf>,
    timeout: Duration,
    idle: Mutex<Vec<Idle<B>>>,
    missing: AtomicBool,
    /// The storage node has said its name.
    heard: AtomicBool,
    /// Nobody answered at the socket: it is let be until then.
    shunned: Mutex<Option<Instant>>,
    has_other_ways: bool,
}

struct Connection<B> {
    sender: SendRequest<B>,
    descriptors: Descriptors,
    leases: Arc<Leases>,
    bond: Bond,
}

struct Idle<B> {
    connection: Connection<B>,
    since: Instant,
}

/// Why a request was not answered over the socket.
pub(crate) enum Failure<B> {
    /// It was not sent: nobody listens there. The request is given back.
    NotSent(Box<Request<B>>, io::Error),
    /// It may have been performed.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// What came beside an answer; in its extensions.
#[derive(Clone)]
pub(crate) struct Answered {
    descriptors: Arc<Mutex<Vec<OwnedFd>>>,
    leases: Arc<Leases>,
    /// The request had no signature.
    pub is_bare: bool,
}

impl Answered {
    /// What an answer lent, if it says that it did.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn lent(&self, headers: &HeaderMap) -> Result<Option<(LentHeader, Lent)>, String> {
        let Some(value) = headers.get(LENT) else {
            return Ok(None);
        };
        let header = value.to_str().ok().and_then(LentHeader::parse);
        let header = header.ok_or_else(|| format!("its {LENT} cannot be understood"))?;
        let files: Vec<File> = std::mem::take(&mut *locked(&self.descriptors))
            .into_iter()
            .map(File::from)
            .collect();
        if files.len() != header.files {
            return Err(format!(
                "{} descriptors were announced and {} came",
                header.files,
                files.len()
            ));
        }
        let lease = Lease {
            id: header.lease,
            leases: Arc::clone(&self.leases),
        };
        let lent =
            Lent::new(files, header.extents.clone(), Box::new(lease)).map_err(|error| error.to_string())?;
        Ok(Some((header, lent)))
    }
}

impl<B> Local<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Connects to `socket`, or to that in `folder` which is named after the storage node.
    pub fn new(
        socket: Option<PathBuf>,
        folder: Option<PathBuf>,
        timeout: Duration,
        has_other_ways: bool,
    ) -> Self {
        Self {
            socket: Mutex::new(socket),
            folder,
            timeout,
            idle: Mutex::default(),
            missing: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            shunned: Mutex::default(),
            has_other_ways,
        }
    }

    /// Whether there is a socket to try.
    pub fn is_known(&self) -> bool {
        let is_shunned = locked(&self.shunned).is_some_and(|until| Instant::now() < until);
        !is_shunned && locked(&self.socket).is_some()
    }

    /// Whether the storage node has said its name, so that asking it again tells nothing new.
    pub fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Requests go another way for a while: the socket is that of a node that has gone, or does not let this process in.
    fn shun(&self) {
        if !self.has_other_ways {
            return;
        }
        *locked(&self.shunned) = Some(Instant::now() + SHUNNED_FOR);
    }

    /// Learns from an answer over the network which node it was, and so whether there is a socket of it on this host.
    pub fn learn(&self, headers: &HeaderMap) {
        let Some(folder) = &self.folder else { return };
        let id = headers.get(NODE_ID).and_then(|id| id.to_str().ok());
        // Only what is a name of a node is a name of a file.
        let Some(id) = id.filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        else {
            return;
        };
        self.heard.store(true, Ordering::Relaxed);
        let path = folder.join(format!("{id}.sock"));
        let mut socket = locked(&self.socket);
        if socket.as_ref() != Some(&path) && path.exists() {
            tracing::info!(socket = %path.display(), "the storage node is on this host");
            *socket = Some(path);
        }
    }

    /// Sends a request that somebody else signed.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<B>,
        handed: Option<&Arc<File>>,
    ) -> Result<Response<Incoming>, Failure<B>> {
        self.send_as(None, request, handed).await
    }

    /// Sends a request, with a descriptor if there is one. It is signed for the connection that it goes over, unless that
    /// was signed for; given back it has no signature.
    pub async fn send_as(
        self: &Arc<Self>,
        identity: Option<&Identity<'_>>,
        mut request: Request<B>,
        handed: Option<&Arc<File>>,
    ) -> Result<Response<Incoming>, Failure<B>> {
        let Some(path) = locked(&self.socket).clone() else {
            return Err(Failure::NotSent(
                Box::new(request),
                io::ErrorKind::NotFound.into(),
            ));
        };
        let target = request.uri().clone();
        origin_form(&mut request);
        let given_back = |mut request: Request<B>, error| {
            // A header that the sender set himself stays his.
            if target.authority().is_some() {
                request.headers_mut().remove(HOST);
            }
            *request.uri_mut() = target.clone();
            request.headers_mut().remove(RETURNED);
            if identity.is_some() {
                bond::withdraw(request.headers_mut());
            }
            Failure::NotSent(Box::new(request), error)
        };
        loop {
            let (mut connection, reused) = match self.idle() {
                Some(connection) => (connection, true),
                None => match self.connect(&path).await {
                    Ok(connection) => (connection, false),
                    Err(error) => {
                        if !self.missing.swap(true, Ordering::Relaxed) {
                            tracing::info!(socket = %path.display(), %error, "the storage node's socket does not answer");
                        }
                        self.shun();
                        return Err(given_back(request, error));
                    }
                },
            };
            let method = request.method().clone();
            let proven = match identity {
                Some(identity) => {
                    connection
                        .bond
                        .prove(&method, request.headers_mut(), identity, Instant::now())
                }
                // Connections are shared by those whose requests are passed on: none may speak for the others.
                None => {
                    request.headers_mut().remove(CONNECT);
                    Ok(false)
                }
            };
            let is_bare = match proven {
                Ok(is_bare) => is_bare,
                Err(error) => {
                    self.put_back(connection);
                    // Not sent at all, and not to be sent in another way either.
                    return Err(Failure::Broken(Box::new(error)));
                }
            };
            match connection.leases.header() {
                Some(returned) => drop(request.headers_mut().insert(RETURNED, returned)),
                None => drop(request.headers_mut().remove(RETURNED)),
            }
            if let Some(file) = handed {
                let attached = file
                    .try_clone()
                    .and_then(|file| connection.descriptors.attach(vec![file.into()]));
                if let Err(error) = attached {
                    return Err(Failure::Broken(error.into()));
                }
            }
            match connection.sender.try_send_request(request).await {
                Ok(mut response) => {
                    self.missing.store(false, Ordering::Relaxed);
                    connection.bond.learn(response.headers(), Instant::now());
                    response.extensions_mut().insert(Answered {
                        descriptors: Arc::new(Mutex::new(connection.descriptors.take())),
                        leases: Arc::clone(&connection.leases),
                        is_bare,
                    });
                    self.keep(connection);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    // Closed by the storage node while it was idle.
                    Some(unsent) if reused => request = unsent,
                    Some(unsent) => {
                        let error = io::Error::new(io::ErrorKind::ConnectionReset, failed.into_error());
                        return Err(given_back(unsent, error));
                    }
                    None => {
                        let error = failed.into_error();
                        // Whoever is not let in is cut off before any answer; and where descriptors could not be taken, they
                        // cannot the next time either.
                        if !reused || lacks_descriptors(&error) {
                            self.shun();
                        }
                        return Err(Failure::Broken(error.into()));
                    }
                },
            }
        }
    }

    async fn connect(&self, path: &Path) -> io::Result<Connection<B>> {
        let connecting = UnixStream::connect(path);
        let stream = tokio::time::timeout(self.timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let stream = DescriptorStream::new(stream, MOST_DESCRIPTORS);
        let descriptors = stream.descriptors();
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to the storage node's socket ended");
            }
        });
        Ok(Connection {
            sender,
            descriptors,
            leases: Arc::default(),
            bond: Bond::default(),
        })
    }

    fn idle(&self) -> Option<Connection<B>> {
        let mut idle = locked(&self.idle);
        idle.retain(|idle| {
            let is_lending = Arc::strong_count(&idle.connection.leases) > 1;
            !idle.connection.sender.is_closed() && (is_lending || idle.since.elapsed() < IDLE)
        });
        // The latest first, so that those that are not needed become old.
        let at = idle.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        Some(idle.remove(at).connection)
    }

    /// Puts a connection back as soon as its answer was read.
    fn keep(self: &Arc<Self>, mut connection: Connection<B>) {
        if connection.sender.is_ready() {
            return self.put_back(connection);
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                pool.put_back(connection);
            }
        });
    }

    fn put_back(&self, connection: Connection<B>) {
        let mut idle = locked(&self.idle);
        if idle.len() < MOST_IDLE || Arc::strong_count(&connection.leases) > 1 {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

/// Whether a connection ended because descriptors came that this process has no room for.
fn lacks_descriptors(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::InvalidData;
        }
        cause = error.source();
    }
    false
}

/// As a server, and not a proxy, is asked: the path alone, and the host in its header (RFC 9112, 3.2.1).
fn origin_form<B>(request: &mut Request<B>) {
    let uri = request.uri();
    let host = uri
        .authority()
        .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    if let Some(path) = uri.path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
}
