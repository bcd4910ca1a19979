//! The health of devices for the status of pods that have them: `DRAResourceHealth` v1alpha1 (KEP-4680,
//! `k8s.io/kubelet/pkg/apis/dra-health`), which kubelet shows in `status.containerStatuses[].allocatedResourcesStatus`.

use super::offered::Offered;
use crate::{
    devices::watch::{Devices, Looking},
    proto::dra_health::{
        DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
        dra_resource_health_server::DraResourceHealth,
    },
};
use futures::{StreamExt, stream};
use penstock_service::CancellationToken;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status, codegen::BoxStream};

/// Name of the service, as the registration says it.
pub(super) const SERVICE: &str = "v1alpha1.DRAResourceHealth";
/// How often it is told that nothing has changed.
const AGAIN: Duration = Duration::from_secs(10);
/// For how long kubelet may believe it: its own default, twice what a look that is late takes.
const BELIEVED_SECONDS: i64 = 30;

/// The service.
pub(super) struct Health<K> {
    pub(super) devices: Devices<K>,
    pub(super) looking: Looking,
    pub(super) node: String,
    pub(super) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl<K: Offered> DraResourceHealth for Health<K> {
    async fn node_watch_resources(
        &self,
        _request: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<BoxStream<NodeWatchResourcesResponse>>, Status> {
        let (looking, node) = (self.looking.clone(), self.node.clone());
        let lists = stream::unfold((self.devices.clone(), true), move |(mut devices, first)| {
            let (looking, node) = (looking.clone(), node.clone());
            async move {
                // The sender lives until the process ends.
                if !first {
                    let _either = tokio::time::timeout(AGAIN, devices.changed()).await;
                }
                let known = devices.borrow_and_update().clone();
                Some((Ok(report(&known, &node, looking.check())), (devices, false)))
            }
        });
        let lists = lists.take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(lists)))
    }
}

/// All devices of the node, as kubelet asks for them. What cannot be looked at is unknown, whatever it was.
fn report<K: Offered>(devices: &[K], node: &str, looking: Result<(), String>) -> NodeWatchResourcesResponse {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let health = |device: &K| {
        let (health, message) = match (&looking, device.trouble()) {
            (Err(why), _) => (HealthStatus::Unknown, why.clone()),
            (Ok(()), Some(why)) => (HealthStatus::Unhealthy, why),
            (Ok(()), None) => (HealthStatus::Healthy, String::new()),
        };
        DeviceHealth {
            device: Some(DeviceIdentifier {
                pool_name: node.to_owned(),
                device_name: device.name(),
            }),
            health: health.into(),
            last_updated_time: now,
            health_check_timeout_seconds: BELIEVED_SECONDS,
            message,
        }
    };
    NodeWatchResourcesResponse {
        devices: devices.iter().map(health).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::{PortState, tests::nic};

    #[test]
    fn a_device_is_healthy_unhealthy_or_unknown_with_the_reason() {
        let mut nics = [nic("mlx5_0"), nic("mlx5_1")];
        nics[1].ports[0].state = PortState::Down;
        let told = |looking| {
            let report = report(&nics, "node1", looking);
            let told = report.devices.into_iter();
            told.map(|device| {
                (
                    device.health(),
                    device.device.unwrap().device_name,
                    device.message,
                )
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(
            told(Ok(())),
            [
                (HealthStatus::Healthy, "mlx5-0".to_owned(), String::new()),
                (
                    HealthStatus::Unhealthy,
                    "mlx5-1".to_owned(),
                    "port 1 is down".to_owned()
                ),
            ]
        );
        let unknown = told(Err("sysfs hangs".to_owned()));
        assert!(
            unknown
                .iter()
                .all(|(health, _, why)| *health == HealthStatus::Unknown && why == "sysfs hangs")
        );
    }
}
