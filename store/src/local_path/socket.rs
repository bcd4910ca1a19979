//! The Unix socket: who may connect, and S3 over it.

use super::{Ledger, LentFiles, Peer};
use crate::{
    metrics::Metrics,
    s3::Service,
    server::{self, Failure},
};
use http::{Request, StatusCode, header::AUTHORIZATION};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use penstock_rdma::local::{CONNECT, DescriptorStream, Descriptors, RETURNED};
use penstock_service::CancellationToken;
use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    task::Context,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// A connection on which no request begins for so long is closed, and its leases end. A client that holds lent files must ask
/// something now and then, or the space of deleted ones is no longer counted as its.
const LEASE: Duration = Duration::from_secs(600);
/// A request hands over one descriptor; a second one may be there while the first is being looked at.
const MOST_HANDED: usize = 2;

/// Where the socket is and who may use it.
#[derive(Debug, Clone)]
pub struct SocketOptions {
    /// Its path.
    pub path: PathBuf,
    /// Its permission bits. Connecting needs write permission (unix(7)).
    pub mode: u32,
    /// Users that may connect; with an empty `gids` too, the server's own user.
    pub uids: Vec<u32>,
    /// Groups whose processes may connect (their main group).
    pub gids: Vec<u32>,
    /// Connections at the same time.
    pub max_connections: usize,
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It cannot be made.
    #[error("cannot listen on {}; its folder must exist and be writable for this process", .path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process serves it.
    #[error("{} is served by another process; stop that one, or give this one a socket of its own", .path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is there and is no socket; choose another path", .path.display())]
    NoSocket {
        /// Its path.
        path: PathBuf,
    },
}

/// Serves S3 on a Unix socket. The socket is removed with this value.
pub struct LocalServer {
    listener: UnixListener,
    options: SocketOptions,
    service: Service,
    ledger: Ledger,
    metrics: Metrics,
}

impl LocalServer {
    /// Makes the socket; nothing is accepted yet. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(
        options: SocketOptions,
        service: Service,
        ledger: Ledger,
        metrics: Metrics,
    ) -> Result<Self, SocketError> {
        let path = &options.path;
        clear(path)?;
        let failed = |source| SocketError::Listen {
            path: path.clone(),
            source,
        };
        // Under another name until its permissions are right: nobody may connect before.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let listener = UnixListener::bind(&hidden).map_err(failed)?;
        let placed = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(options.mode))
            .and_then(|()| std::fs::rename(&hidden, path));
        if let Err(error) = placed {
            let _not_there_either = std::fs::remove_file(&hidden);
            return Err(failed(error));
        }
        Ok(Self {
            listener,
            options,
            service,
            ledger,
            metrics,
        })
    }

    /// Serves until the token fires, then lets requests under way end, for at most 10 s.
    pub async fn run(self, draining: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(self.options.max_connections));
        let accept =
            |context: &mut Context<'_>| self.listener.poll_accept(context).map_ok(|(stream, _)| stream);
        while let Some((permit, stream)) = server::next_connection(&draining, &connections, accept).await {
            let Some(uid) = self.admit(&stream) else {
                self.metrics.connection_failed();
                continue;
            };
            let open = self.metrics.connection();
            let watcher = graceful.watcher();
            let (service, metrics) = (self.service.clone(), self.metrics.clone());
            let peer = Arc::new(self.ledger.peer(uid));
            tokio::spawn(async move {
                let _held = (permit, open);
                let stream = DescriptorStream::new(stream, MOST_HANDED);
                let descriptors = stream.descriptors();
                let answer = hyper::service::service_fn(move |request| {
                    answer(service.clone(), Arc::clone(&peer), descriptors.clone(), request)
                });
                if let Err(error) = server::http(stream, answer, LEASE, watcher).await {
                    metrics.connection_failed();
                    tracing::debug!(%error, "a local connection failed");
                }
            });
        }
        let _removed_by_somebody = std::fs::remove_file(&self.options.path);
        if timeout(server::DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("local requests were still under way and are cut");
        }
    }

    /// The user at the other end, if it may connect.
    fn admit(&self, stream: &UnixStream) -> Option<u32> {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "it is not known who connected to the local socket; refused");
                return None;
            }
        };
        let SocketOptions { uids, gids, .. } = &self.options;
        let own = uids.is_empty() && gids.is_empty() && peer.uid() == rustix::process::geteuid().as_raw();
        if own || uids.contains(&peer.uid()) || gids.contains(&peer.gid()) {
            tracing::debug!(
                uid = peer.uid(),
                gid = peer.gid(),
                pid = peer.pid(),
                "local connection"
            );
            return Some(peer.uid());
        }
        tracing::warn!(
            uid = peer.uid(),
            gid = peer.gid(),
            pid = peer.pid(),
            "a local connection was refused; --local-allow-uid and --local-allow-gid say who may connect"
        );
        None
    }
}

/// Removes the socket of a process that is gone.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(facts) if !facts.file_type().is_socket() => Err(SocketError::NoSocket {
            path: path.to_owned(),
        }),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Ok(_) => std::fs::remove_file(path).map_err(failed),
    }
}

async fn answer(
    service: Service,
    peer: Arc<Peer>,
    descriptors: Descriptors,
    mut request: Request<Incoming>,
) -> Result<s3s::HttpResponse, Failure> {
    peer.begin(&descriptors);
    if let Some(returned) = request.headers().get(RETURNED).and_then(|ids| ids.to_str().ok()) {
        peer.returned(returned);
    }
    request.extensions_mut().insert(Arc::clone(&peer));
    let connects = request.headers().contains_key(CONNECT);
    let is_signed = request.headers().contains_key(AUTHORIZATION);
    let answered = if connects && !is_signed {
        service.answer_bound(&peer, &request).await
    } else {
        service.answer(request).await
    };
    peer.end();
    let mut response = answered?;
    // Whoever goes on without a signature knows it already.
    if connects
        && (is_signed || response.status() == StatusCode::FORBIDDEN)
        && let Some(offer) = peer.offer()
    {
        response.headers_mut().insert(CONNECT, offer);
    }
    if let Some(files) = response.extensions().get::<LentFiles>() {
        descriptors.attach(files.take())?;
    }
    Ok(response)
}
