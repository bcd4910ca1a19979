//! Whether the storage nodes can use RDMA: each is asked at its admin endpoint, since only the process in the pod knows what
//! it may open, pin and address.

use crate::{pods, resources::ADMIN_PORT, status::Step};
use k8s_openapi::api::core::v1::Pod;
use penstock_crds::{
    StorageCluster,
    conditions::{
        REASON_DEVICE_FAILED, REASON_DISABLED, REASON_KERNEL_MODULE_MISSING, REASON_MEMLOCK_TOO_LOW,
        REASON_NO_DEVICE, REASON_NO_LIBRARY, REASON_NO_ROCE_V2_GID, REASON_NOT_TOLD, REASON_PORT_DOWN,
    },
    storage_cluster::RdmaPolicy,
};
use serde::Deserialize;

const MAX_ANSWER: usize = 16 << 10;

/// The answer of a storage node at `/rdma`.
#[derive(Debug, Deserialize)]
struct Told {
    ready: bool,
    reason: String,
    message: String,
}

/// Asks the pods of a cluster. The step fails when one of them cannot use RDMA.
pub async fn observe(cluster: &StorageCluster, pods: &[Pod]) -> Step {
    if cluster.spec.rdma.policy == RdmaPolicy::Disabled {
        return Step::failed(REASON_DISABLED, "rdma.policy is Disabled: bytes travel by HTTP");
    }
    let mut fine = Vec::new();
    for pod in pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
    {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match ask(pod).await {
            Ok(told) if told.ready => fine.push(format!("{name}: {}", told.message)),
            Ok(told) => return Step::failed(known(&told.reason), format!("{name}: {}", told.message)),
            Err(cause) => return Step::waiting(REASON_NOT_TOLD, format!("{name}: {cause}")),
        }
    }
    if fine.is_empty() {
        return Step::waiting(REASON_NOT_TOLD, "no storage node runs yet");
    }
    Step::done(fine.join("; "))
}

async fn ask(pod: &Pod) -> Result<Told, String> {
    let body = pods::ask(pod, ADMIN_PORT, "/rdma", MAX_ANSWER).await?;
    serde_json::from_slice(&body).map_err(|error| format!("its answer is not understood: {error}"))
}

/// Reasons are few and known, so that scripts can rely on them.
fn known(reason: &str) -> &'static str {
    [
        REASON_DISABLED,
        REASON_NO_LIBRARY,
        REASON_KERNEL_MODULE_MISSING,
        REASON_NO_DEVICE,
        REASON_PORT_DOWN,
        REASON_NO_ROCE_V2_GID,
        REASON_MEMLOCK_TOO_LOW,
        REASON_DEVICE_FAILED,
    ]
    .into_iter()
    .find(|known| *known == reason)
    .unwrap_or(REASON_NOT_TOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_storage_nodes_are_those_of_the_condition() {
        assert_eq!(known("NoDevice"), REASON_NO_DEVICE);
        assert_eq!(known("<script>"), REASON_NOT_TOLD);
    }
}
