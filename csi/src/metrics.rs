//! What the agent counts.

use penstock_rdma::Via;
use penstock_store::remote::Traffic;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::Arc;

/// Metrics of mounted volumes. Clones count into the same numbers.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    operations: Family<OperationLabels, Counter>,
    read: Counter,
    written: Counter,
    staged: Gauge,
    mounted: Gauge,
    moved: Family<MovedLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MovedLabels {
    volume: String,
    direction: &'static str,
    via: &'static str,
}

/// Counts what moves between one volume and its storage node.
#[derive(Debug)]
pub struct VolumeTraffic {
    volume: String,
    moved: Family<MovedLabels, Counter>,
}

impl VolumeTraffic {
    fn count(&self, direction: &'static str, via: Via, bytes: u64) {
        let labels = MovedLabels {
            volume: self.volume.clone(),
            direction,
            via: via.name(),
        };
        self.moved.get_or_create(&labels).inc_by(bytes);
    }
}

impl Traffic for VolumeTraffic {
    fn read(&self, via: Via, bytes: u64) {
        self.count("read", via, bytes);
    }

    fn written(&self, via: Via, bytes: u64) {
        self.count("write", via, bytes);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    outcome: String,
}

impl Metrics {
    /// Counters that are shown in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "penstock_fuse_operations",
            "File operations by kind and outcome (ok or the error's name)",
            metrics.operations.clone(),
        );
        registry.register(
            "penstock_fuse_read_bytes",
            "Bytes read from mounted volumes",
            metrics.read.clone(),
        );
        registry.register(
            "penstock_fuse_written_bytes",
            "Bytes written to mounted volumes",
            metrics.written.clone(),
        );
        registry.register(
            "penstock_staged_bytes",
            "Bytes of files being written, on this node's disk",
            metrics.staged.clone(),
        );
        registry.register(
            "penstock_volumes_mounted",
            "Volumes mounted now",
            metrics.mounted.clone(),
        );
        registry.register(
            "penstock_volume_bytes",
            "Bytes moved between a volume and its storage node, by direction and transport (rdma, shm, http)",
            metrics.moved.clone(),
        );
        metrics
    }

    /// What is to be told of the traffic of a volume.
    pub fn traffic(&self, volume: &str) -> Arc<VolumeTraffic> {
        Arc::new(VolumeTraffic {
            volume: volume.to_owned(),
            moved: self.moved.clone(),
        })
    }

    pub(crate) fn operation(&self, operation: &'static str, outcome: Result<(), crate::fuse::Errno>) {
        let outcome = match outcome {
            Ok(()) => "ok".to_owned(),
            Err(errno) => format!("{errno:?}"),
        };
        self.operations
            .get_or_create(&OperationLabels { operation, outcome })
            .inc();
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.read.inc_by(bytes);
    }

    pub(crate) fn written(&self, bytes: u64) {
        self.written.inc_by(bytes);
    }

    pub(crate) fn staged_bytes(&self, old: u64, new: u64) {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.staged.inc_by(signed(new).saturating_sub(signed(old)));
    }

    pub(crate) fn mounted(&self, volumes: usize) {
        self.mounted.set(i64::try_from(volumes).unwrap_or(i64::MAX));
    }

    /// Operations of a kind that went well.
    pub fn done(&self, operation: &'static str) -> u64 {
        let outcome = "ok".to_owned();
        self.operations
            .get_or_create(&OperationLabels { operation, outcome })
            .get()
    }

    /// Bytes staged now.
    pub fn staged_total(&self) -> i64 {
        self.staged.get()
    }
}
