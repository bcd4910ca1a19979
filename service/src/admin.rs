//! The admin endpoint: `/metrics` (Prometheus text), `/livez`, `/readyz`, and documents of the process' own.

use crate::{Args, Health};
use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the admin endpoint shows. Build it, register metrics and checks, then [`Admin::serve`] it.
#[derive(Default)]
pub struct Admin {
    /// Metrics of the process, all named `penstock_…`.
    pub metrics: Registry,
    /// Fails only when a restart would help.
    pub liveness: Health,
    /// Fails while the process cannot do its work.
    pub readiness: Health,
    /// JSON documents by their paths, each made when it is asked for.
    pub documents: Vec<(&'static str, Document)>,
}

/// Writes a document.
pub type Document = Box<dyn Fn() -> String + Send + Sync>;

/// Why the admin endpoint could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the admin endpoint on {address}; choose a free one with --admin-listen")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

struct Shown {
    admin: Admin,
    draining: CancellationToken,
}

impl Admin {
    /// Binds the address of `--admin-listen` and serves in the background until the process ends: probes must still be
    /// answered while it drains. Returns the bound address, or `None` without `--admin-listen`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(
        mut self,
        args: &Args,
        draining: CancellationToken,
    ) -> Result<Option<SocketAddr>, BindError> {
        let Some(address) = args.admin_listen else {
            return Ok(None);
        };
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let documents = std::mem::take(&mut self.documents);
        let shown = Arc::new(Shown {
            admin: self,
            draining,
        });
        let mut router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(shown);
        for (path, document) in documents {
            let document: Arc<dyn Fn() -> String + Send + Sync> = document.into();
            let answer = async move || ([(CONTENT_TYPE, "application/json")], document());
            router = router.route(path, get(answer));
        }
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin endpoint ended");
            }
        });
        tracing::info!(address = %bound, "admin endpoint");
        Ok(Some(bound))
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &shown.admin.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    answer(shown.admin.liveness.report().await)
}

async fn readyz(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    if shown.draining.is_cancelled() {
        return answer(Err("draining\n".to_owned()));
    }
    answer(shown.admin.readiness.report().await)
}

fn answer(report: Result<String, String>) -> (StatusCode, String) {
    match report {
        Ok(text) => (StatusCode::OK, text + "ok\n"),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn readyz_tells_the_truth_and_says_draining() {
        let args = Args {
            log_format: crate::LogFormat::Text,
            admin_listen: Some(([127, 0, 0, 1], 0).into()),
        };
        let admin = Admin::default();
        let flag = admin.readiness.flag("index");
        let token = CancellationToken::new();
        let address = admin.serve(&args, token.clone()).await.unwrap().unwrap();

        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        flag.pass();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.ends_with("# EOF\n"));
        token.cancel();
        assert!(get(address, "/readyz").await.contains("draining"));
    }
}
