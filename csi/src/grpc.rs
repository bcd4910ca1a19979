//! Serving gRPC on a Unix socket: one that only this process and root can open, with every failed call in our own log.
//!
//! ```text
//!  path ──bind──▶ Socket (mode 0600, gone when the process ends) ──▶ tonic ──▶ log ──▶ services
//! ```

pub mod code;
mod log;
mod socket;

pub use log::Calls;
pub use socket::{BindError, Socket};

use axum::middleware;
use penstock_service::CancellationToken;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};
use tonic::{
    service::Routes,
    transport::{self, Server, server::Connected},
};

/// How long calls under way may take to end after the token fired. Kubernetes kills a container after 30 s.
const DRAIN: Duration = Duration::from_secs(20);

/// Why a socket is not served, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Serving ended with an error.
    #[error("serving {} ended", .path.display())]
    Ended {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: transport::Error,
    },
}

/// The path in an endpoint, which is written as `unix:///path` or as the absolute path itself.
///
/// # Errors
/// When it is written otherwise.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, ServeError> {
    Ok(socket::path(endpoint)?)
}

/// Binds the socket `path` and serves `routes` on it until `shutdown` fires; calls under way may then take 20 s to end.
///
/// # Errors
/// When the socket cannot be bound or serving ends by itself.
pub async fn serve(
    path: &Path,
    routes: Routes,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    serve_on(Socket::bind(path)?, routes, calls, shutdown, |stream| stream).await
}

/// Serves `routes` on a bound socket, each connection seen through `adapt`.
///
/// # Errors
/// When serving ends by itself.
pub async fn serve_on<S>(
    socket: Socket,
    routes: Routes,
    calls: Calls,
    shutdown: CancellationToken,
    adapt: impl Fn(UnixStream) -> S,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let Socket { listener, file } = socket;
    tracing::info!(path = %file.path().display(), "serving gRPC");
    let connections = UnixListenerStream::new(listener).map(|stream| io::Result::Ok(adapt(stream?)));
    let router = routes
        .into_axum_router()
        .layer(middleware::from_fn_with_state(calls, log::outcome));
    let served = Server::builder()
        .add_routes(router.into())
        .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = served => outcome.map_err(|source| ServeError::Ended { path: file.path().to_owned(), source }),
        () = overdue => {
            tracing::warn!(path = %file.path().display(), "calls under way did not end in time and are cut off");
            Ok(())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        identity::Identity,
        proto::csi::{ProbeRequest, identity_client::IdentityClient, identity_server::IdentityServer},
    };
    use hyper_util::rt::TokioIo;
    use penstock_service::Health;
    use tonic::transport::Channel;

    pub(crate) async fn connect(path: PathBuf) -> Result<Channel, transport::Error> {
        let dial = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(dial)
            .await
    }

    #[tokio::test]
    async fn calls_are_served_until_the_token_fires_and_calls_under_way_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        let health = Health::default();
        let (asked, mut seen) = tokio::sync::mpsc::channel(1);
        health.probe("slow", move || {
            let asked = asked.clone();
            async move {
                let _full = asked.try_send(());
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(())
            }
        });
        let shutdown = CancellationToken::new();
        let server = tokio::spawn({
            let routes = Routes::new(IdentityServer::new(Identity::new(health)));
            let socket = Socket::bind(&path).unwrap();
            serve_on(socket, routes, Calls::default(), shutdown.clone(), |stream| {
                stream
            })
        });
        let mut client = IdentityClient::new(connect(path.clone()).await.unwrap());
        let call = tokio::spawn(async move { client.probe(ProbeRequest {}).await });
        seen.recv().await.unwrap();
        shutdown.cancel();
        assert_eq!(call.await.unwrap().unwrap().into_inner().ready, Some(true));
        server.await.unwrap().unwrap();
        assert!(!path.exists());
        assert!(connect(path.clone()).await.is_err());
    }
}
