//! How calls ended. Without this, only the caller (kubelet, csi-provisioner) would see that one failed.
//!
//! Requests are not logged: they carry secrets.

use axum::{extract::Request, middleware::Next, response::Response};
use std::time::Instant;
use tonic::{Code, Status};

/// Passes a call on and logs its outcome.
pub(super) async fn outcome(request: Request, next: Next) -> Response {
    // `/csi.v1.Node/NodeStageVolume`
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or(&path);
    let begun = Instant::now();
    let response = next.run(request).await;
    let seconds = begun.elapsed().as_secs_f32();
    // A unary call that fails has its status in the headers, without a body; one that succeeds has it behind the body.
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => {
            tracing::warn!(method, code = ?status.code(), cause = status.message(), seconds, "a call failed");
        }
        _ => tracing::debug!(method, seconds, "a call succeeded"),
    }
    response
}
