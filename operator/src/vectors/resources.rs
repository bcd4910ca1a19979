//! The objects of a VectorIndex, as pure functions of its spec.

mod etcd;
mod milvus;
mod pods;
mod policy;

pub use etcd::{etcd_service, etcd_set};
pub use milvus::{milvus_service, milvus_set, wanted_workers, workers};
pub use policy::{etcd_policy, milvus_policy, workers_policy};

use super::names::{Names, Part};
use crate::resources::disk_claim;
use penstock_crds::vector_index::Disk;
use serde_json::{Value, json};

/// A claim for the disk of a part's pod.
fn claim(names: &Names, part: Part, disk: &Disk) -> Value {
    disk_claim(
        &names.labels(part),
        disk.storage_class_name.as_deref(),
        &disk.size,
    )
}

/// A Service that leads to a part's pods.
fn service(names: &Names, part: Part, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": names.owned(&names.part(part), part),
        "spec": {"selector": names.selector(part), "ports": ports},
    })
}
