//! What all pods of a VectorIndex have in common.

use penstock_crds::vector_index::{Milvus, Pods};
use serde_json::{Value, json};

/// User and group of all containers.
const USER: i64 = 65532;

/// A pod's spec with its container, and what that mounts.
pub fn pod(milvus: &Milvus, pods: &Pods, mut container: Value, volumes: &Value) -> Value {
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    if let Some(policy) = milvus.image_pull_policy {
        container["imagePullPolicy"] = json!(policy.as_str());
    }
    if let Some(resources) = &pods.resources {
        container["resources"] = json!(resources);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        // A Service that happens to be called `minio` or `etcd` would set variables that Milvus takes for its own.
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container], "volumes": volumes,
    });
    if !milvus.image_pull_secrets.is_empty() {
        spec["imagePullSecrets"] = json!(milvus.image_pull_secrets);
    }
    if !pods.node_selector.is_empty() {
        spec["nodeSelector"] = json!(pods.node_selector);
    }
    if !pods.tolerations.is_empty() {
        spec["tolerations"] = json!(pods.tolerations);
    }
    if let Some(class) = &pods.runtime_class_name {
        spec["runtimeClassName"] = json!(class);
    }
    spec
}
