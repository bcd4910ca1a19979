//! What the operator counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::time::Duration;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    kind: String,
    error: &'static str,
}

/// Handles to the operator's metrics; clones count into the same.
#[derive(Clone)]
pub struct Metrics {
    durations: Histogram,
    failures: Family<Failure, Counter>,
    leading: Gauge,
}

impl Metrics {
    /// Makes the metrics known to `/metrics`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            durations: Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
            failures: Family::default(),
            leading: Gauge::default(),
        };
        registry.register(
            "penstock_operator_reconcile_duration_seconds",
            "How long reconciling an object took",
            metrics.durations.clone(),
        );
        registry.register(
            "penstock_operator_reconcile_failures",
            "Reconciliations that failed, by kind of object and of error",
            metrics.failures.clone(),
        );
        registry.register(
            "penstock_operator_leading",
            "1 while this replica holds the Lease",
            metrics.leading.clone(),
        );
        metrics
    }

    pub fn reconciled(&self, took: Duration) {
        self.durations.observe(took.as_secs_f64());
    }

    pub fn failed(&self, kind: &str, error: &crate::Error) {
        self.failures
            .get_or_create(&Failure {
                kind: kind.to_owned(),
                error: error.label(),
            })
            .inc();
    }

    pub fn leading(&self, leads: bool) {
        self.leading.set(leads.into());
    }
}
