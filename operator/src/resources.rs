//! The objects of a StorageCluster, as pure functions of its spec.

mod access;
mod gateway;
mod service;
mod stateful_set;
mod storage_class;

pub use access::{role, role_binding, service_account};
pub use gateway::{
    GATEWAYS, Taken, gateway_endpoint, gateway_entry, gateway_key, gateway_port, gateway_service, port_of,
};
pub use service::{endpoint_service, nodes_service};
pub use stateful_set::{Hashes, image, stateful_set};
pub use storage_class::storage_class;

use crate::{apply::owned_by, error::Error};
use kube::ResourceExt;
use penstock_crds::{CLUSTER_LABEL, FIELD_MANAGER, StorageCluster};
use serde_json::{Value, json};

/// Port of S3.
pub const S3_PORT: u16 = 9000;
/// Port of metrics and probes.
pub const ADMIN_PORT: u16 = 9001;
/// The only region there is; S3 clients must name one.
pub const REGION: &str = "us-east-1";

/// Names that everything of one cluster is derived from.
#[derive(Debug, Clone)]
pub struct Names {
    /// Namespace of the cluster and of all but the StorageClass.
    pub namespace: String,
    /// Name of the cluster; also of its StatefulSet and Service.
    pub cluster: String,
    /// Owner references of what goes with the cluster.
    pub owner: Value,
}

impl Names {
    pub fn of(cluster: &StorageCluster) -> Result<Self, Error> {
        Ok(Self {
            namespace: cluster.namespace().ok_or(Error::Incomplete("a namespace"))?,
            cluster: cluster.metadata.name.clone().ok_or(Error::Incomplete("a name"))?,
            owner: owned_by(cluster),
        })
    }

    /// Secret with key pair, endpoint, region and CA.
    pub fn credentials(&self) -> String {
        format!("{}-credentials", self.cluster)
    }

    /// Secret with certificates.
    pub fn tls(&self) -> String {
        format!("{}-tls", self.cluster)
    }

    /// Secret with the key pair of gateways.
    pub fn gateway(&self) -> String {
        format!("{}-gateway", self.cluster)
    }

    /// Headless Service that names the nodes.
    pub fn nodes(&self) -> String {
        format!("{}-nodes", self.cluster)
    }

    /// ServiceAccount of the nodes, and Role for the CSI controller.
    pub fn account(&self) -> String {
        format!("{}-store", self.cluster)
    }

    pub fn storage_class(&self, cluster: &StorageCluster) -> String {
        let default = || format!("penstock-{}-{}", self.namespace, self.cluster);
        cluster.spec.storage_class.name.clone().unwrap_or_else(default)
    }

    /// Where S3 is served.
    pub fn endpoint(&self, cluster: &StorageCluster) -> String {
        let scheme = if cluster.spec.tls.enabled { "https" } else { "http" };
        format!("{scheme}://{}.{}.svc:{S3_PORT}", self.cluster, self.namespace)
    }

    /// Labels that select the nodes' pods.
    pub fn selector(&self) -> Value {
        json!({"app.kubernetes.io/name": "penstock-store", CLUSTER_LABEL: self.cluster})
    }

    /// Labels of everything that belongs to the cluster.
    pub fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": "penstock-store", CLUSTER_LABEL: self.cluster,
            "app.kubernetes.io/managed-by": FIELD_MANAGER, "app.kubernetes.io/part-of": "penstock",
        })
    }

    /// Metadata of an object in the cluster's namespace that goes with the cluster.
    pub fn owned(&self, name: &str) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(), "ownerReferences": self.owner,
        })
    }
}

/// A claim for a pod's disk, under the name `data`, in the class that is named or the cluster's default one.
pub fn disk_claim(labels: &Value, class: Option<&str>, size: &str) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}},
    });
    if let Some(class) = class {
        spec["storageClassName"] = json!(class);
    }
    json!([{
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": labels}, "spec": spec,
    }])
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::context::{Config, ServiceAccount};

    pub fn config() -> Config {
        Config {
            store_image: "penstock/store:1".into(),
            image_pull_policy: "IfNotPresent".into(),
            csi_service_account: ServiceAccount {
                namespace: "s".into(),
                name: "c".into(),
            },
            gateway_selector: Some([("app".to_owned(), "agents".to_owned())].into()),
            gateway_tls: false,
            namespace: "penstock-system".into(),
            identity: "i".into(),
        }
    }

    /// A cluster as the API server would hand it out: defaults filled in.
    pub fn cluster(spec: Value) -> StorageCluster {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "StorageCluster",
            "metadata": {"name": "demo", "namespace": "default", "uid": "u1", "generation": 3},
            "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn names_follow_the_cluster() {
        let cluster = cluster(json!({"storage": {"hostPath": {"path": "/d"}}, "tls": {"enabled": false}}));
        let names = Names::of(&cluster).unwrap();
        assert_eq!(names.endpoint(&cluster), "http://demo.default.svc:9000");
        assert_eq!(names.storage_class(&cluster), "penstock-default-demo");
        assert_eq!(names.owner[0]["uid"], "u1");
    }
}
