//! What `/metrics` shows of a node's NICs.

use super::{nic::Nic, watch::Nics};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;

/// Shows the NICs as they are when somebody looks, so that one that goes leaves no series behind.
#[derive(Debug)]
struct Shown(Nics);

/// Shows `nics` in `registry`.
pub(super) fn register(registry: &mut Registry, nics: Nics) {
    registry.register_collector(Box::new(Shown(nics)));
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let nics = self.0.borrow().clone();
        let mut each = |name: &str, help: &str, value: fn(&Nic) -> i64| -> fmt::Result {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for nic in nics.iter() {
                let labels = [("nic", nic.name.as_str())];
                ConstGauge::new(value(nic)).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        each(
            "penstock_rdma_nic_healthy",
            "1 while a port of the RDMA NIC carries data, else 0",
            |nic| nic.trouble().is_none().into(),
        )?;
        each(
            "penstock_rdma_nic_bits_per_second",
            "Rate of the RDMA NIC's best port",
            |nic| {
                let best = nic.ports.iter().map(|port| port.hundred_mbits).max();
                i64::try_from(best.unwrap_or(0))
                    .unwrap_or(0)
                    .saturating_mul(100_000_000)
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::{PortState, tests::nic};
    use std::sync::Arc;
    use tokio::sync::watch;

    #[test]
    fn nics_are_shown_as_they_are_and_one_that_went_is_not() {
        let nics = watch::Sender::new(Arc::new(vec![nic("mlx5_0"), nic("mlx5_1")]));
        let mut registry = Registry::default();
        register(&mut registry, nics.subscribe());
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(
            shown().contains("penstock_rdma_nic_healthy{nic=\"mlx5_0\"} 1\n"),
            "{}",
            shown()
        );
        assert!(shown().contains("penstock_rdma_nic_bits_per_second{nic=\"mlx5_1\"} 100000000000\n"));
        let mut broken = nic("mlx5_0");
        broken.ports[0].state = PortState::Down;
        nics.send_replace(Arc::new(vec![broken]));
        assert!(shown().contains("penstock_rdma_nic_healthy{nic=\"mlx5_0\"} 0\n"));
        assert!(!shown().contains("mlx5_1"));
    }
}
