//! What gateways count.

use http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::sync::Arc;

/// What carried the bytes of a body between gateway and storage node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing: the gateway read the storage node's files, which it was lent.
    Shm,
    /// The storage node's socket on this host.
    Socket,
    /// RDMA.
    Rdma,
    /// TCP.
    Http,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Socket => "socket",
            Self::Rdma => "rdma",
            Self::Http => "http",
        }
    }
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the client.
    Read,
    /// To the storage node.
    Write,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    upstream: String,
    direction: &'static str,
    via: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    upstream: String,
    method: &'static str,
    status: u16,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BrokenLabels {
    upstream: String,
    side: &'static str,
}

/// Counters of all gateways of a process, all named `penstock_gateway_…`. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct GatewayMetrics {
    bytes: Family<BytesLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    broken: Family<BrokenLabels, Counter>,
    connections: Family<UpstreamLabels, Gauge>,
    failed: Family<UpstreamLabels, Counter>,
    local: Family<UpstreamLabels, Gauge>,
    rdma: Family<UpstreamLabels, Gauge>,
    reachable: Family<UpstreamLabels, Gauge>,
}

impl GatewayMetrics {
    /// Counters shown in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "penstock_gateway",
            "Bytes of bodies passed on, by direction and by what carried them between gateway and storage node: shm (lent files), \
             socket (this host's Unix socket), rdma, http (TCP)",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        let registry = registry.sub_registry_with_prefix("penstock_gateway");
        registry.register(
            "requests",
            "Requests by status and outcome: shm, socket, rdma and http were answered by the storage node; unreachable, broken, refused and \
             malformed by the gateway",
            metrics.requests.clone(),
        );
        registry.register(
            "broken_bodies",
            "Bodies that ended before their end, by the side that ended them",
            metrics.broken.clone(),
        );
        registry.register(
            "connections",
            "Open connections of clients",
            metrics.connections.clone(),
        );
        registry.register(
            "connection_failures",
            "Connections of clients that ended with an error",
            metrics.failed.clone(),
        );
        registry.register(
            "upstream_local",
            "1 while the storage node's socket on this host is used",
            metrics.local.clone(),
        );
        registry.register(
            "upstream_rdma",
            "1 when the last bytes to or from a storage node on another host went by RDMA",
            metrics.rdma.clone(),
        );
        registry.register(
            "upstream_reachable",
            "1 when the storage node answered the last request over the network",
            metrics.reachable.clone(),
        );
        metrics
    }

    /// The counters of one upstream, which show from now on.
    pub(super) fn of(&self, upstream: &str) -> Counters {
        // Shown from the start, so that a zero can be told from something that is not counted.
        let bytes = [Direction::Read, Direction::Write].map(|direction| {
            [Way::Shm, Way::Socket, Way::Rdma, Way::Http].map(|way| {
                self.bytes.get_or_create_owned(&BytesLabels {
                    upstream: upstream.to_owned(),
                    direction: direction.name(),
                    via: way.name(),
                })
            })
        });
        let counters = Counters {
            upstream: upstream.to_owned(),
            bytes: bytes.into(),
            all: self.clone(),
        };
        counters.local(false);
        counters.rdma(false);
        counters
    }
}

/// What one upstream's gateway counts.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    upstream: String,
    /// By direction and way, in the order of their declaration.
    bytes: Arc<[[Counter; 4]; 2]>,
    all: GatewayMetrics,
}

/// An open connection, until it is dropped.
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Counters {
    fn labels(&self) -> UpstreamLabels {
        UpstreamLabels {
            upstream: self.upstream.clone(),
        }
    }

    pub fn bytes(&self, direction: Direction, way: Way, bytes: u64) {
        self.bytes[direction as usize][way as usize].inc_by(bytes);
    }

    pub fn answered(&self, method: &Method, status: StatusCode, way: Way) {
        self.request(method, status, way.name());
    }

    pub fn request(&self, method: &Method, status: StatusCode, outcome: &'static str) {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let labels = RequestLabels {
            upstream: self.upstream.clone(),
            method,
            status: status.as_u16(),
            outcome,
        };
        self.all.requests.get_or_create(&labels).inc();
    }

    pub fn broken(&self, side: &'static str) {
        let labels = BrokenLabels {
            upstream: self.upstream.clone(),
            side,
        };
        self.all.broken.get_or_create(&labels).inc();
    }

    /// A client's connection ended with an error.
    pub fn connection_failed(&self) {
        self.all.failed.get_or_create(&self.labels()).inc();
    }

    pub fn connection(&self) -> Open {
        let gauge = self.all.connections.get_or_create_owned(&self.labels());
        gauge.inc();
        Open(gauge)
    }

    pub fn local(&self, is_local: bool) {
        let gauge = self.all.local.get_or_create(&self.labels());
        gauge.set(is_local.into());
    }

    pub fn rdma(&self, is_used: bool) {
        let gauge = self.all.rdma.get_or_create(&self.labels());
        gauge.set(is_used.into());
    }

    pub fn reachable(&self, is_reachable: bool) {
        let gauge = self.all.reachable.get_or_create(&self.labels());
        gauge.set(is_reachable.into());
    }
}
