//! Milvus' catalogue: an etcd of one member with a disk.

use super::{
    super::names::{ETCD_PORT, Names, Part},
    claim,
    pods::pod,
    service,
};
use penstock_crds::VectorIndex;
use serde_json::{Value, json};

/// Where clients reach it.
pub fn etcd_service(names: &Names) -> Value {
    service(
        names,
        Part::Etcd,
        &json!([{"name": "client", "port": ETCD_PORT, "targetPort": "client", "protocol": "TCP"}]),
    )
}

/// Its StatefulSet.
pub fn etcd_set(names: &Names, index: &VectorIndex) -> Value {
    let (milvus, etcd) = (&index.spec.milvus, &index.spec.milvus.etcd);
    let name = names.part(Part::Etcd);
    let container = json!({
        "name": "etcd", "image": etcd.image,
        // (Version 3.4 serves one client port and its probes under /health.)
        "command": [
            "etcd", "--name=etcd", "--data-dir=/data/etcd",
            format!("--listen-client-urls=http://0.0.0.0:{ETCD_PORT}"),
            format!("--advertise-client-urls=http://{}", names.etcd()),
            "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=etcd=http://127.0.0.1:2380",
            // As Milvus' own charts: its catalogue is small and changes often.
            "--auto-compaction-mode=revision", "--auto-compaction-retention=1000", "--quota-backend-bytes=4294967296",
        ],
        "ports": [{"name": "client", "containerPort": ETCD_PORT, "protocol": "TCP"}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "startupProbe": {"httpGet": {"path": "/health", "port": "client"}, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "client"}, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "client"}, "periodSeconds": 10, "failureThreshold": 6},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": names.owned(&name, Part::Etcd),
        "spec": {
            "serviceName": name, "replicas": 1, "selector": {"matchLabels": names.selector(Part::Etcd)},
            "template": {
                "metadata": {"labels": names.labels(Part::Etcd)},
                "spec": pod(milvus, &etcd.pods, container, &json!([])),
            },
            "volumeClaimTemplates": claim(names, Part::Etcd, &etcd.disk),
        },
    })
}
