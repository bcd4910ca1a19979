//! How the storage nodes are reached.

use super::{ADMIN_PORT, Names, S3_PORT};
use serde_json::{Value, json};

/// The endpoint that clients use.
pub fn endpoint_service(names: &Names) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": names.owned(&names.cluster),
        "spec": {
            "type": "ClusterIP", "selector": names.selector(),
            "ports": [{"name": "s3", "port": S3_PORT, "targetPort": "s3", "protocol": "TCP"}],
        },
    })
}

/// Names of single nodes, also of those that are not ready.
pub fn nodes_service(names: &Names) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": names.owned(&names.nodes()),
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": names.selector(),
            "ports": [
                {"name": "s3", "port": S3_PORT, "targetPort": "s3", "protocol": "TCP"},
                {"name": "admin", "port": ADMIN_PORT, "targetPort": "admin", "protocol": "TCP"},
            ],
        },
    })
}
