//! The StorageClass that turns claims into buckets.

use super::Names;
use penstock_crds::{CSI_DRIVER, StorageCluster};
use serde_json::{Map, Value, json};

/// Cluster-scoped, so it cannot be owned by the cluster; two annotations say whose it is.
pub fn storage_class(names: &Names, cluster: &StorageCluster) -> Value {
    let spec = &cluster.spec.storage_class;
    let mut parameters = Map::new();
    parameters.insert(
        "storageCluster".into(),
        json!(format!("{}/{}", names.namespace, names.cluster)),
    );
    // NodePublishVolume has the keys too: it mounts anew when the node's agent was restarted since the volume was staged.
    for step in ["provisioner", "node-stage", "node-publish"] {
        parameters.insert(
            format!("csi.storage.k8s.io/{step}-secret-name"),
            json!(names.credentials()),
        );
        parameters.insert(
            format!("csi.storage.k8s.io/{step}-secret-namespace"),
            json!(names.namespace),
        );
    }
    let optional = [
        ("bucket", spec.bucket.clone()),
        ("uid", spec.uid.map(|id| id.to_string())),
        ("gid", spec.gid.map(|id| id.to_string())),
        ("fileMode", spec.file_mode.clone()),
        ("dirMode", spec.dir_mode.clone()),
        ("rdma", spec.rdma.map(|policy| policy.as_str().to_owned())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            parameters.insert(name.into(), json!(value));
        }
    }
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": names.storage_class(cluster), "labels": names.labels(),
            "annotations": {"penstock.io/owner": format!("{}/{}", names.namespace, names.cluster)},
        },
        "provisioner": CSI_DRIVER, "reclaimPolicy": spec.reclaim_policy.as_str(),
        "volumeBindingMode": "Immediate", "allowVolumeExpansion": false, "parameters": Value::Object(parameters),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::cluster;
    use super::*;

    #[test]
    fn parameters_name_the_secret_and_what_the_spec_says_only() {
        let cluster = cluster(json!({
            "storage": {"hostPath": {"path": "/d"}},
            "storageClass": {"bucket": "shared", "uid": 1000, "reclaimPolicy": "Retain"},
        }));
        let class = storage_class(&Names::of(&cluster).unwrap(), &cluster);
        assert_eq!(class["reclaimPolicy"], "Retain");
        assert_eq!(
            class["parameters"],
            json!({
                "storageCluster": "default/demo", "bucket": "shared", "uid": "1000",
                "csi.storage.k8s.io/provisioner-secret-name": "demo-credentials",
                "csi.storage.k8s.io/provisioner-secret-namespace": "default",
                "csi.storage.k8s.io/node-stage-secret-name": "demo-credentials",
                "csi.storage.k8s.io/node-stage-secret-namespace": "default",
                "csi.storage.k8s.io/node-publish-secret-name": "demo-credentials",
                "csi.storage.k8s.io/node-publish-secret-namespace": "default",
            })
        );
    }
}
