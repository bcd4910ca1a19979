//! What the storage node counts.

use http::StatusCode;
use penstock_rdma::Via;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{sync::Arc, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    via: &'static str,
}

/// Seconds: from a cached HEAD to a large PUT on a slow disk.
const DURATIONS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The counters. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<OperationLabels, Histogram, fn() -> Histogram>,
    received: Family<TransportLabels, Counter>,
    sent: Family<TransportLabels, Counter>,
    lending: Arc<Lendings>,
    connections: Gauge,
    refused_connections: Counter,
    access_log_dropped: Counter,
    usage: Arc<UsageGauges>,
    scrub: Arc<ScrubMetrics>,
    backup: Arc<BackupMetrics>,
    rdma: Arc<RdmaMetrics>,
}

#[derive(Default)]
struct RdmaMetrics {
    sessions: Gauge,
    ports: Gauge,
    queue_pairs: Gauge,
    staging: Gauge,
    refusals: Family<ReasonLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Default)]
struct Lendings {
    leases: Gauge,
    files: Gauge,
    held: Gauge,
    refused: Family<ReasonLabels, Counter>,
}

#[derive(Default)]
struct ScrubMetrics {
    bytes: Counter,
    broken: Gauge,
}

#[derive(Default)]
struct BackupMetrics {
    newest: Gauge,
    failures: Counter,
}

#[derive(Default)]
struct UsageGauges {
    objects: Gauge,
    bytes: Gauge,
    disk_free: Gauge,
    disk_size: Gauge,
}

impl Metrics {
    /// Counters shown in `registry`, all named `penstock_store_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("penstock_store");
        let received = Family::<TransportLabels, Counter>::default();
        let sent = Family::<TransportLabels, Counter>::default();
        for via in [Via::Http, Via::Rdma, Via::Shm] {
            // Shown from the start, so that a zero can be told from something that is not counted.
            for counters in [&received, &sent] {
                drop(counters.get_or_create(&TransportLabels { via: via.name() }));
            }
        }
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            received,
            sent,
            lending: Arc::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            access_log_dropped: Counter::default(),
            usage: Arc::default(),
            scrub: Arc::default(),
            backup: Arc::default(),
            rdma: Arc::default(),
        };
        registry.register("requests", "S3 requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's headers to its answer's headers",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        let (received, sent) = (metrics.received.clone(), metrics.sent.clone());
        registry.register_with_unit("received", "Object bytes received", Unit::Bytes, received);
        registry.register_with_unit("sent", "Object bytes sent, or lent (shm)", Unit::Bytes, sent);
        let lending = &metrics.lending;
        registry.register("lent_leases", "Leases of lent objects", lending.leases.clone());
        registry.register("lent_files", "Descriptors lent", lending.files.clone());
        registry.register_with_unit(
            "lent_held",
            "Bytes of deleted objects that are lent still, so that their space is not free",
            Unit::Bytes,
            lending.held.clone(),
        );
        registry.register(
            "lent_refused",
            "Reads that were to be lent and were not, by reason",
            lending.refused.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connection_failures",
            "Connections that ended with an error, as a failed TLS handshake or a client that stalled",
            metrics.refused_connections.clone(),
        );
        registry.register(
            "access_log_dropped_lines",
            "Lines of access logs that could not be kept or delivered",
            metrics.access_log_dropped.clone(),
        );
        let usage = &metrics.usage;
        registry.register("objects", "Objects stored", usage.objects.clone());
        registry.register_with_unit(
            "stored",
            "Bytes of the objects stored",
            Unit::Bytes,
            usage.bytes.clone(),
        );
        registry.register_with_unit(
            "disk_free",
            "Bytes free for objects",
            Unit::Bytes,
            usage.disk_free.clone(),
        );
        registry.register_with_unit(
            "disk_size",
            "Size of the disk",
            Unit::Bytes,
            usage.disk_size.clone(),
        );
        let scrub = &metrics.scrub;
        registry.register_with_unit(
            "scrubbed",
            "Bytes that were read again and had their checksums",
            Unit::Bytes,
            scrub.bytes.clone(),
        );
        registry.register(
            "broken_objects",
            "Objects that the last scrub found to be not what was written",
            scrub.broken.clone(),
        );
        let backup = &metrics.backup;
        registry.register_with_unit(
            "backup_newest_timestamp",
            "When the newest backup was made, in seconds of the epoch; 0: there is none",
            Unit::Seconds,
            backup.newest.clone(),
        );
        registry.register(
            "backup_failures",
            "Backups that could not be made",
            backup.failures.clone(),
        );
        let rdma = &metrics.rdma;
        registry.register("rdma_sessions", "RDMA sessions", rdma.sessions.clone());
        registry.register(
            "rdma_ports",
            "Ports of RDMA devices that are up",
            rdma.ports.clone(),
        );
        registry.register(
            "rdma_queue_pairs",
            "Queue pairs on the RDMA device, dead ones that still hold memory included",
            rdma.queue_pairs.clone(),
        );
        registry.register_with_unit(
            "rdma_staging",
            "Registered memory in use between disk and NIC",
            Unit::Bytes,
            rdma.staging.clone(),
        );
        registry.register(
            "rdma_refusals",
            "Requests by RDMA that were refused or failed",
            rdma.refusals.clone(),
        );
        metrics
    }

    pub(crate) fn request(&self, operation: &str, status: StatusCode, took: Duration) {
        let requests = self.requests.get_or_create(&RequestLabels {
            operation: operation.to_owned(),
            status: status.as_u16(),
        });
        requests.inc();
        let durations = self.durations.get_or_create(&OperationLabels {
            operation: operation.to_owned(),
        });
        durations.observe(took.as_secs_f64());
    }

    pub(crate) fn received(&self, via: Via, bytes: u64) {
        let labels = TransportLabels { via: via.name() };
        self.received.get_or_create(&labels).inc_by(bytes);
    }

    pub(crate) fn sent(&self, via: Via, bytes: u64) {
        let labels = TransportLabels { via: via.name() };
        self.sent.get_or_create(&labels).inc_by(bytes);
    }

    pub(crate) fn rdma_refused(&self, reason: &'static str) {
        self.rdma.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn show_rdma(&self, ports: usize, sessions: usize, queue_pairs: usize, staging_bytes: u64) {
        self.rdma
            .sessions
            .set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.rdma.ports.set(i64::try_from(ports).unwrap_or(i64::MAX));
        self.rdma
            .queue_pairs
            .set(i64::try_from(queue_pairs).unwrap_or(i64::MAX));
        self.rdma
            .staging
            .set(i64::try_from(staging_bytes).unwrap_or(i64::MAX));
    }

    /// An object was what was written.
    pub(crate) fn compared(&self, bytes: u64) {
        self.scrub.bytes.inc_by(bytes);
    }

    /// A scrub has seen everything.
    pub(crate) fn scrubbed(&self, broken: u64) {
        self.scrub.broken.set(i64::try_from(broken).unwrap_or(i64::MAX));
    }

    /// There is a backup of this instant.
    pub(crate) fn backed_up(&self, created: time::OffsetDateTime) {
        self.backup.newest.set(created.unix_timestamp());
    }

    /// A backup could not be made.
    pub(crate) fn backup_failed(&self) {
        self.backup.failures.inc();
    }

    /// A lease of so many files, which counts until the value goes away.
    pub(crate) fn lent(&self, files: usize) -> Counted {
        let files = i64::try_from(files).unwrap_or(i64::MAX);
        self.lending.leases.inc();
        self.lending.files.inc_by(files);
        Counted {
            lending: Arc::clone(&self.lending),
            files,
        }
    }

    pub(crate) fn not_lent(&self, reason: &'static str) {
        self.lending.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Shows how much deleted space is lent still.
    pub fn show_held(&self, bytes: u64) {
        self.lending.held.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A connection that counts as open until the value goes away.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// Lines of access logs are lost.
    pub(crate) fn access_log_dropped(&self, lines: u64) {
        self.access_log_dropped.inc_by(lines);
    }

    pub(crate) fn connection_failed(&self) {
        self.refused_connections.inc();
    }

    /// Shows how much is stored.
    pub fn show_usage(&self, usage: &crate::local::Usage) {
        let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.usage.objects.set(shown(usage.objects));
        self.usage.bytes.set(shown(usage.bytes));
        self.usage.disk_free.set(shown(usage.disk_free));
        self.usage.disk_size.set(shown(usage.disk_size));
    }
}

pub(crate) struct Counted {
    lending: Arc<Lendings>,
    files: i64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.lending.leases.dec();
        self.lending.files.dec_by(self.files);
    }
}

pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
