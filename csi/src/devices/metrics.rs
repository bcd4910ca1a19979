//! What `/metrics` shows of a node's devices.

use super::{gpu::Gpu, kind::Kind, nic::Nic, watch::Devices};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use std::fmt;

/// A number that each device of a kind has.
#[derive(Debug)]
pub(super) struct Gauge<K> {
    name: &'static str,
    help: &'static str,
    value: fn(&K) -> i64,
}

/// Of NICs.
pub(super) const OF_NICS: &[Gauge<Nic>] = &[
    Gauge {
        name: "penstock_rdma_nic_healthy",
        help: "1 while a port of the RDMA NIC carries data, else 0",
        value: |nic| nic.trouble().is_none().into(),
    },
    Gauge {
        name: "penstock_rdma_nic_bits_per_second",
        help: "Rate of the RDMA NIC's best port",
        value: |nic| {
            let best = nic.ports.iter().map(|port| port.hundred_mbits).max();
            i64::try_from(best.unwrap_or(0))
                .unwrap_or(0)
                .saturating_mul(100_000_000)
        },
    },
];

/// Of GPUs.
pub(super) const OF_GPUS: &[Gauge<Gpu>] = &[
    Gauge {
        name: "penstock_gpu_healthy",
        help: "1 while nothing has to be done to the GPU, else 0",
        value: |gpu| gpu.trouble().is_none().into(),
    },
    Gauge {
        name: "penstock_gpu_memory_bytes",
        help: "Memory of the GPU",
        value: |gpu| i64::try_from(gpu.memory_bytes).unwrap_or(i64::MAX),
    },
];

/// Shows the devices as they are when somebody looks, so that one that goes leaves no series behind.
#[derive(Debug)]
struct Shown<K: 'static>(Devices<K>, &'static [Gauge<K>]);

/// Shows `gauges` of `devices` in `registry`.
pub(super) fn register<K: Kind + fmt::Debug>(
    registry: &mut Registry,
    devices: Devices<K>,
    gauges: &'static [Gauge<K>],
) {
    registry.register_collector(Box::new(Shown(devices, gauges)));
}

impl<K: Kind + fmt::Debug> Collector for Shown<K> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let devices = self.0.borrow().clone();
        for gauge in self.1 {
            let mut family = encoder.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?;
            for device in devices.iter() {
                let labels = [(K::KEY, device.id())];
                ConstGauge::new((gauge.value)(device)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{
        nic::{PortState, tests::nic},
        recorded::gpu,
    };
    use std::sync::Arc;
    use tokio::sync::watch;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn nics_are_shown_as_they_are_and_one_that_went_is_not() {
        let nics = watch::Sender::new(Arc::new(vec![nic("mlx5_0"), nic("mlx5_1")]));
        let mut registry = Registry::default();
        register(&mut registry, nics.subscribe(), OF_NICS);
        let first = text(&registry);
        assert!(
            first.contains("penstock_rdma_nic_healthy{nic=\"mlx5_0\"} 1\n"),
            "{first}"
        );
        assert!(first.contains("penstock_rdma_nic_bits_per_second{nic=\"mlx5_1\"} 100000000000\n"));
        let mut broken = nic("mlx5_0");
        broken.ports[0].state = PortState::Down;
        nics.send_replace(Arc::new(vec![broken]));
        let second = text(&registry);
        assert!(second.contains("penstock_rdma_nic_healthy{nic=\"mlx5_0\"} 0\n"));
        assert!(!second.contains("mlx5_1"));
    }

    #[test]
    fn gpus_are_shown_by_their_uuids() {
        let mut lost = gpu();
        lost.health.lost = true;
        let gpus = watch::Sender::new(Arc::new(vec![lost]));
        let mut registry = Registry::default();
        register(&mut registry, gpus.subscribe(), OF_GPUS);
        let text = text(&registry);
        let labels = format!("{{gpu=\"{}\"}}", gpu().uuid);
        assert!(
            text.contains(&format!("penstock_gpu_healthy{labels} 0\n")),
            "{text}"
        );
        assert!(text.contains(&format!("penstock_gpu_memory_bytes{labels} 150754820096\n")));
    }
}
