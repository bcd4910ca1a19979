//! RDMA under the S3 front door: the server of `s3rdma-rc-1` (`docs/protocol.md`).
//!
//! ```text
//!   POST /.s3rdma-rc/connect ── connect ──▶ Sessions ── Session { owner, queue pair, sequence window }
//!   GET, PUT with a token ── request (signed? well-formed?) ── Sessions::admit ── transfer ──▶ the client's memory
//!   the same, of others, by a gateway ── gateway (its signature?) ─┘         Readings: objects that it has begun to read
//!                                                                   ▲ staging: a bounded pool of registered chunks
//! ```
//! This end performs every operation; no peer can reach memory of the storage node. An answer leaves only when nothing of
//! its request is under way any more.

mod connect;
mod device;
mod gateway;
mod readings;
mod receive;
mod refusal;
mod request;
mod send;
mod sessions;
mod transfer;

pub use device::Standing;

pub(crate) use connect::Names;
pub(crate) use gateway::Carried;
pub(crate) use receive::Receipt;
pub(crate) use refusal::Refusal;
pub(crate) use request::{is_signed, signed_names};

use crate::metrics::Metrics;
use penstock_rdma::{
    Credentials,
    fabric::{Pool, Purpose, Rail, Rails},
};
use readings::Readings;
use sessions::Sessions;
use std::{sync::Arc, time::Duration};
use transfer::CHUNK;

/// How much of it there is. Each is a bound, so that no client can have all of the storage node.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Registered memory between disk and each NIC, in bytes.
    pub staging_bytes: u64,
    /// Sessions of one access key.
    pub sessions_per_key: usize,
    /// Sessions of the gateways of all nodes, which have one key.
    pub sessions_of_gateways: usize,
    /// Sessions, and so queue pairs, in all.
    pub sessions: usize,
    /// Requests of one session that are served at the same time.
    pub in_flight: usize,
    /// A session without a request for this long ends (whole seconds).
    pub idle: Duration,
    /// An operation that does not end within this time has failed.
    pub operation: Duration,
    /// A request that finds no staging memory waits for this long before it is refused.
    pub patience: Duration,
    /// Data files that are open for gateways in the middle of objects.
    pub reading_files: usize,
    /// A gateway that asks for no more of an object for this long has forgotten it.
    pub reading_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            staging_bytes: 256 << 20,
            sessions_per_key: 64,
            sessions_of_gateways: 512,
            sessions: 1024,
            in_flight: 64,
            idle: Duration::from_secs(300),
            operation: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            reading_files: 8192,
            reading_idle: Duration::from_secs(900),
        }
    }
}

/// The RDMA side of a storage node, or that there is none. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Rdma {
    plane: Option<Arc<Plane>>,
    /// The identity of gateways, if there are any.
    gateway: Option<Arc<Credentials>>,
    metrics: Metrics,
}

struct Plane {
    rails: Rails,
    sessions: Arc<Sessions>,
    readings: Readings,
    limits: Limits,
}

impl Plane {
    fn staging(&self, rail: &Rail) -> Arc<Pool> {
        rail.pool(Purpose::Staging, CHUNK, self.limits.staging_bytes)
    }
}

impl Rdma {
    /// No RDMA: connect answers 501, and bytes go as HTTP bodies.
    pub fn off(metrics: Metrics) -> Self {
        Self {
            plane: None,
            gateway: None,
            metrics,
        }
    }

    /// RDMA over `rails`, those that come later too. Call it inside a Tokio runtime.
    pub fn new(rails: Rails, limits: Limits, metrics: Metrics) -> Self {
        let sessions = Sessions::begin(&limits, rails.clone());
        Self {
            plane: Some(Arc::new(Plane {
                rails,
                sessions,
                readings: Readings::new(&limits),
                limits,
            })),
            gateway: None,
            metrics,
        }
    }

    /// With gateways of this identity, which may carry the bytes of requests that others signed, and do nothing else.
    #[must_use]
    pub fn with_gateway(mut self, identity: Credentials) -> Self {
        self.gateway = Some(Arc::new(identity));
        self
    }

    /// The identity of gateways.
    pub(crate) fn gateway(&self) -> Option<&Credentials> {
        self.gateway.as_deref()
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        match &self.plane {
            Some(plane) => Standing::of(plane.rails.standing()),
            None => Standing::off(),
        }
    }

    /// Ends all sessions. What is under way fails.
    pub async fn shut_down(&self) {
        if let Some(plane) = &self.plane {
            plane.sessions.end_all().await;
        }
    }

    /// Sessions that stand now.
    pub fn sessions(&self) -> usize {
        self.plane.as_ref().map_or(0, |plane| plane.sessions.count())
    }

    /// Staging memory in use now, in bytes.
    pub fn staging_in_use(&self) -> u64 {
        self.rails().iter().map(|rail| rail.taken_bytes()).sum()
    }

    /// Objects that gateways are in the middle of reading.
    pub fn readings(&self) -> usize {
        self.plane.as_ref().map_or(0, |plane| plane.readings.count())
    }

    /// Shows what is in use.
    pub fn show_usage(&self) {
        if let Some(plane) = &self.plane {
            plane.readings.end_idle();
        }
        let rails = self.rails();
        let queue_pairs = rails.iter().map(|rail| rail.device().usage().queue_pairs).sum();
        let active = rails.iter().filter(|rail| rail.is_active()).count();
        self.metrics
            .show_rdma(active, self.sessions(), queue_pairs, self.staging_in_use());
    }

    fn rails(&self) -> Vec<Arc<Rail>> {
        self.plane
            .as_ref()
            .map(|plane| plane.rails.all())
            .unwrap_or_default()
    }

    /// Counts a refusal on its way to the client.
    fn refused(&self, refusal: Refusal) -> Refusal {
        self.metrics.rdma_refused(refusal.reason());
        refusal
    }
}
