//! HTTP/1.1 with or without TLS, bounded: in connections, in header size, and in how long a client may stall.

mod stall;

use crate::{access::Origin, metrics::Metrics, s3::Service};
use http::Request;
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use penstock_service::CancellationToken;
use stall::WriteDeadline;
use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// A request's headers must be here after this, also the next ones on an idle connection. Longer than clients keep idle
/// connections, so that it is the client that closes them.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes no byte of its answer for this long is given up.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// Requests under way have this long to end after the signal.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// Requests hold at most 8 KiB of headers in S3; presigned URLs and metadata together stay below this.
const MAX_HEADERS: usize = 64 << 10;

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}; choose a free address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("the TLS {what} {} cannot be used: {cause}", path.display())]
    Tls {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// What serves S3 on an address.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Service,
    metrics: Metrics,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Binds the address; nothing is accepted yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        service: Service,
        metrics: Metrics,
        max_connections: usize,
    ) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address).await;
        Ok(Self {
            listener: listener.map_err(|source| ServeError::Listen { address, source })?,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            service,
            metrics,
            connections: Arc::new(Semaphore::new(max_connections)),
        })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token fires, then lets requests under way end, for at most 10 s.
    pub async fn run(self, draining: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let accept = |context: &mut Context<'_>| self.listener.poll_accept(context);
        while let Some((permit, (stream, address))) =
            next_connection(&draining, &self.connections, accept).await
        {
            let open = self.metrics.connection();
            let watcher = graceful.watcher();
            let origin = Origin {
                address: address.ip(),
                by_tls: self.tls.is_some(),
            };
            let (tls, service, metrics) = (self.tls.clone(), self.service.clone(), self.metrics.clone());
            tokio::spawn(async move {
                let _held = (permit, open);
                let answer = hyper::service::service_fn(move |mut request: Request<Incoming>| {
                    let service = service.clone();
                    request.extensions_mut().insert(origin);
                    async move { service.answer(request).await }
                });
                if let Err(error) = connection(stream, tls, answer, watcher).await {
                    metrics.connection_failed();
                    tracing::debug!(%error, "a connection failed");
                }
            });
        }
        drop(self.listener);
        if timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!(
                "requests were still under way after {} s and are cut",
                DRAIN.as_secs()
            );
        }
    }
}

/// The next connection and its place among those that are served at the same time; `None` when the token fired.
pub(crate) async fn next_connection<S>(
    draining: &CancellationToken,
    connections: &Arc<Semaphore>,
    accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<S>>,
) -> Option<(OwnedSemaphorePermit, S)> {
    loop {
        // A connection beyond the limit waits in the listener's queue until another one ends.
        let permit = tokio::select! {
            () = draining.cancelled() => return None,
            permit = Arc::clone(connections).acquire_owned() => permit.ok()?,
        };
        let accepted = tokio::select! {
            () = draining.cancelled() => return None,
            accepted = poll_fn(&accept) => accepted,
        };
        match accepted {
            Ok(stream) => return Some((permit, stream)),
            Err(error) => {
                // Out of descriptors, most likely: others must end before the next one can begin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection over TCP, until it ends.
pub(crate) async fn connection<S, B>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    answer: S,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Failure>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B> + Send + 'static,
    S::Error: Into<Failure>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    stream.set_nodelay(true)?;
    match tls {
        None => http(stream, answer, HEADER_TIMEOUT, watcher).await,
        Some(tls) => {
            let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
            http(stream, answer, HEADER_TIMEOUT, watcher).await
        }
    }
}

/// HTTP/1.1 on a connection, until it ends. `idle` is how long it may wait for a request.
pub(crate) async fn http<S, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: S,
    idle: Duration,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Failure>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B> + Send + 'static,
    S::Error: Into<Failure>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Failure>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_header_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(WriteDeadline::new(stream, WRITE_STALL)), answer);
    Ok(watcher.watch(connection).await?)
}

/// The TLS configuration from PEM files.
///
/// # Errors
/// When a file cannot be read, holds nothing of the kind, or the two do not belong together.
pub fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig, ServeError> {
    let failed = |what, path: &Path, cause: String| ServeError::Tls {
        what,
        path: path.to_owned(),
        cause,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(
            "certificate",
            certificate,
            "it holds no PEM certificate".to_owned(),
        ));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed("key", key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| failed("key", key, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
