//! The gateway of one storage node: its listener, and looking where the storage node is.

use super::{
    forward::Forward,
    metrics::{Counters, GatewayMetrics},
    request::RequestBody,
};
use crate::server::{self, ServeError};
use http::{Method, Request};
use hyper_util::server::graceful::GracefulShutdown;
use penstock_rdma::{
    Endpoint, Policy,
    relay::{Relay, RelayOptions},
};
use penstock_service::CancellationToken;
use std::{convert::Infallible, net::SocketAddr, sync::Arc, task::Context, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// How often the storage node is asked who it is, while that is not known.
const LOOK: Duration = Duration::from_secs(5);
/// How often, when it is known and not on this host, to which it can move.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long it may take to say.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The storage node of a gateway, and how it is reached.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// In metrics and logs.
    pub name: String,
    /// Where it serves S3.
    pub endpoint: Endpoint,
    /// How.
    pub options: RelayOptions,
}

/// Serves S3 on an address, for one upstream.
pub struct GatewayServer {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    forward: Forward,
    connections: Arc<Semaphore>,
    policy: Policy,
}

/// Why a gateway cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address.
    #[error(transparent)]
    Listen(#[from] ServeError),
    /// The upstream.
    #[error("the gateway's upstream {name} cannot be used")]
    Upstream {
        /// Its name.
        name: String,
        /// Why.
        source: penstock_rdma::Error,
    },
}

impl GatewayServer {
    /// Binds the address; nothing is accepted yet. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub async fn bind(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        upstream: Upstream,
        metrics: &GatewayMetrics,
        connections: Arc<Semaphore>,
    ) -> Result<Self, GatewayError> {
        let Upstream {
            name,
            endpoint,
            options,
        } = upstream;
        let policy = options.policy;
        let relay = Relay::new(endpoint, options).map_err(|source| GatewayError::Upstream {
            name: name.clone(),
            source,
        })?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Listen { address, source })?;
        Ok(Self {
            listener,
            forward: Forward {
                by_tls: tls.is_some(),
                relay,
                counters: metrics.of(&name),
            },
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            connections,
            policy,
        })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token fires, then lets requests under way end, for at most 10 s.
    pub async fn run(self, draining: CancellationToken) {
        let looking = tokio::spawn(look(self.forward.clone(), self.policy));
        let graceful = GracefulShutdown::new();
        let accept =
            |context: &mut Context<'_>| self.listener.poll_accept(context).map_ok(|(stream, _)| stream);
        while let Some((permit, stream)) = server::next_connection(&draining, &self.connections, accept).await
        {
            let held = (permit, self.forward.counters.connection());
            let (tls, forward, watcher) = (self.tls.clone(), self.forward.clone(), graceful.watcher());
            tokio::spawn(async move {
                let _held = held;
                let counters = forward.counters.clone();
                let answer = hyper::service::service_fn(move |request| {
                    let forward = forward.clone();
                    async move { Ok::<_, Infallible>(forward.answer(request).await) }
                });
                if let Err(error) = server::connection(stream, tls, answer, watcher).await {
                    counters.connection_failed();
                    tracing::debug!(%error, "a client's connection failed");
                }
            });
        }
        drop(self.listener);
        if timeout(server::DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests through the gateway were still under way and are cut");
        }
        looking.abort();
    }
}

/// Asks the storage node who it is until that is known, which tells whether there is a socket of it on this host. The first client
/// need not do it by the slow way then, which a policy may forbid.
async fn look(forward: Forward, policy: Policy) {
    let Forward { relay, counters, .. } = forward;
    let mut was = None;
    loop {
        let mut pause = LOOK;
        if !relay.is_local() {
            match timeout(LOOK_TIMEOUT, relay.ask_over_network(question(&relay, &counters))).await {
                Ok(Ok(_)) => {
                    counters.reachable(true);
                    if policy != Policy::Require {
                        pause = LOOK_AGAIN;
                    }
                }
                Ok(Err(error)) => {
                    counters.reachable(false);
                    tracing::debug!(
                        error = penstock_service::chain(&error),
                        "the storage node does not answer"
                    );
                }
                Err(_) => counters.reachable(false),
            }
        }
        let is_local = relay.is_local();
        counters.local(is_local);
        if was.replace(is_local) != Some(is_local) {
            let endpoint = relay.endpoint();
            match (is_local, policy) {
                (true, _) => {
                    tracing::info!(%endpoint, "the storage node is on this host; its files are read without a network")
                }
                // What carries the bytes is known with the first of them, and told then.
                (false, _) if relay.works_by_rdma().is_some() => {
                    tracing::info!(%endpoint, "the storage node is not on this host; RDMA is tried with the first bytes");
                }
                (false, Policy::Require) => {
                    tracing::warn!(%endpoint, "the storage node is not on this host, and requests are refused: fastPath is require");
                }
                (false, _) => {
                    tracing::info!(%endpoint, "the gateway's bytes travel by HTTP to the storage node")
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Unsigned, so that the storage node says nothing but who it is.
fn question(relay: &Relay<RequestBody>, counters: &Counters) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::none(counters));
    *request.method_mut() = Method::GET;
    if let Ok((name, value)) = relay.host() {
        request.headers_mut().insert(name, value);
    }
    request
}
