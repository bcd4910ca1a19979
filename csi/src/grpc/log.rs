//! How calls ended: counted, and logged where they failed. Without this, only the caller (kubelet, csi-provisioner) would see
//! that one did.
//!
//! Requests are not logged: they carry secrets.

use axum::{extract::Request, extract::State, middleware::Next, response::Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Instant;
use tonic::{Code, Status};

/// Calls by method and outcome. Clones count into the same numbers.
#[derive(Clone, Debug)]
pub struct Calls {
    ended: Family<EndedLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedLabels {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            // 1 ms to half a minute: mounts wait for the network.
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16))),
        }
    }
}

impl Calls {
    /// Counters that are shown in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let calls = Self::default();
        registry.register(
            "penstock_csi_calls",
            "CSI calls answered, by method and gRPC code",
            calls.ended.clone(),
        );
        registry.register(
            "penstock_csi_call_duration_seconds",
            "How long CSI calls took",
            calls.seconds.clone(),
        );
        calls
    }

    fn ended(&self, method: &str, code: Code, seconds: f64) {
        let method = method.to_owned();
        let code = format!("{code:?}");
        self.seconds
            .get_or_create(&MethodLabels {
                method: method.clone(),
            })
            .observe(seconds);
        self.ended.get_or_create(&EndedLabels { method, code }).inc();
    }
}

/// Passes a call on, and counts and logs its outcome.
pub(super) async fn outcome(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    // `/csi.v1.Node/NodeStageVolume`
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or(&path);
    let begun = Instant::now();
    let response = next.run(request).await;
    let seconds = begun.elapsed().as_secs_f64();
    // A unary call that fails has its status in the headers, without a body; one that succeeds has it behind the body.
    let status = Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""));
    calls.ended(method, status.code(), seconds);
    if status.code() == Code::Ok {
        tracing::debug!(method, seconds, "a call succeeded");
    } else {
        tracing::warn!(method, code = ?status.code(), cause = status.message(), seconds, "a call failed");
    }
    response
}
