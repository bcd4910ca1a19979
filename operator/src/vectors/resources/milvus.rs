//! Milvus itself, and the workers that build indexes beside it.

use super::{
    super::{
        names::{MILVUS_ADMIN_PORT, MILVUS_PORT, Names, Part},
        status::SERVING,
        storage::Storage,
    },
    claim,
    pods::pod,
    service,
};
use crate::resources::REGION;
use penstock_crds::{
    VectorIndex,
    vector_index::{Gpu, WhenIdle},
};
use serde_json::{Value, json};

/// Where the image has `glog.conf`, without which Milvus does not start.
const CONFIGURATION: &str = "/milvus/configs";
/// Milvus' disk.
const DISK: &str = "/var/lib/milvus";
/// The file of CAs that Milvus' C++ side reads, and no other.
const CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Seconds that Milvus takes to end while something is loaded (`common.gracefulStopTimeout`; 1800 unless said): it waits for another query node to take that
/// over, and one pod has no other.
const STOPS_AFTER: u32 = 5;
/// Seconds that its pod is given.
const KILLED_AFTER: u32 = 60;

/// The port of each component. All have the same one unless it is said, and then end for it.
const PORTS: [(&str, u16); 7] = [
    ("PROXY_INTERNALPORT", 19529),
    ("ROOTCOORD_PORT", 53100),
    ("DATACOORD_PORT", 13333),
    ("QUERYCOORD_PORT", 19531),
    ("QUERYNODE_PORT", 21123),
    ("INDEXNODE_PORT", 21121),
    ("DATANODE_PORT", 21124),
];

/// The image of an index.
pub fn image(index: &VectorIndex) -> String {
    let milvus = &index.spec.milvus;
    let suffix = if index.spec.index.index_type.is_gpu() {
        "-gpu"
    } else {
        ""
    };
    let default = || format!("milvusdb/milvus:v{}{suffix}", milvus.version);
    milvus.image.clone().unwrap_or_else(default)
}

/// Where searches go.
pub fn milvus_service(names: &Names) -> Value {
    service(
        names,
        Part::Milvus,
        &json!([
            {"name": "grpc", "port": MILVUS_PORT, "targetPort": "grpc", "protocol": "TCP"},
            {"name": "metrics", "port": MILVUS_ADMIN_PORT, "targetPort": "metrics", "protocol": "TCP"},
        ]),
    )
}

/// Milvus' StatefulSet.
pub fn milvus_set(names: &Names, index: &VectorIndex, storage: &Storage) -> Value {
    let name = names.part(Part::Milvus);
    let mut container = container(names, index, storage, "standalone");
    add(
        &mut container["ports"],
        json!({"name": "grpc", "containerPort": MILVUS_PORT, "protocol": "TCP"}),
    );
    container["readinessProbe"]["failureThreshold"] = json!(2);
    add(
        &mut container["volumeMounts"],
        json!({"name": "data", "mountPath": DISK}),
    );
    let mut template = template(
        names,
        index,
        storage,
        Part::Milvus,
        container,
        volumes(names, storage),
    );
    // It searches, and an index of a GPU is searched by one.
    if index.spec.index.index_type.is_gpu()
        && let Some(gpu) = &index.spec.workers.gpu
    {
        give(gpu, &mut template["spec"]);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": names.owned(&name, Part::Milvus),
        "spec": {
            "serviceName": name, "replicas": 1, "selector": {"matchLabels": names.selector(Part::Milvus)},
            "template": template,
            "volumeClaimTemplates": claim(names, Part::Milvus, &index.spec.milvus.disk),
        },
    })
}

/// How many workers there are to be. What was settled for this very spec has nothing to build until a file comes.
pub fn wanted_workers(index: &VectorIndex) -> i32 {
    let workers = &index.spec.workers;
    let status = index.status.as_ref();
    let is_idle = status.is_some_and(|status| {
        status.phase.as_deref() == Some(SERVING) && status.observed_generation == index.metadata.generation
    });
    match workers.when_idle {
        WhenIdle::Remove if is_idle => 0,
        _ => workers.replicas,
    }
}

/// The Deployment of workers, whose number a HorizontalPodAutoscaler may change through the VectorIndex.
pub fn workers(names: &Names, index: &VectorIndex, storage: &Storage) -> Value {
    let mut container = container(names, index, storage, "indexnode");
    add(
        &mut container["volumeMounts"],
        json!({"name": "scratch", "mountPath": DISK}),
    );
    let mut volumes = volumes(names, storage);
    add(&mut volumes, json!({"name": "scratch", "emptyDir": {}}));
    let mut template = template(names, index, storage, Part::Workers, container, volumes);
    if let Some(gpu) = &index.spec.workers.gpu {
        give(gpu, &mut template["spec"]);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": names.owned(&names.part(Part::Workers), Part::Workers),
        "spec": {
            "replicas": wanted_workers(index), "selector": {"matchLabels": names.selector(Part::Workers)},
            // A worker that is replaced has its build begun anew elsewhere; GPUs for a surplus one may be nowhere.
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": template,
        },
    })
}

/// Gives a pod's container GPUs.
fn give(gpu: &Gpu, pod: &mut Value) {
    if let Some(template) = &gpu.resource_claim_template_name {
        pod["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": template}]);
        pod["containers"][0]["resources"]["claims"] = json!([{"name": "gpu"}]);
    }
    if let Some(resource) = &gpu.extended_resource {
        pod["containers"][0]["resources"]["limits"][resource] = json!(gpu.count);
    }
    let pool = [
        ("GPU_INITMEMSIZE", gpu.initial_pool_mib),
        ("GPU_MAXMEMSIZE", gpu.maximum_pool_mib),
    ];
    for (name, value) in pool {
        if let Some(value) = value {
            add(
                &mut pod["containers"][0]["env"],
                json!({"name": name, "value": value.to_string()}),
            );
        }
    }
}

fn template(
    names: &Names,
    index: &VectorIndex,
    storage: &Storage,
    part: Part,
    container: Value,
    volumes: Value,
) -> Value {
    let milvus = &index.spec.milvus;
    let pods = if part == Part::Workers {
        &index.spec.workers.pods
    } else {
        &milvus.pods
    };
    let mut spec = pod(milvus, pods, container, &volumes);
    spec["terminationGracePeriodSeconds"] = json!(KILLED_AFTER);
    json!({
        "metadata": {
            "labels": names.labels(part),
            "annotations": {"penstock.io/storage-hash": storage.digest},
        },
        "spec": spec,
    })
}

fn container(names: &Names, index: &VectorIndex, storage: &Storage, role: &str) -> Value {
    let mut mounts = vec![json!({"name": "tmp", "mountPath": "/tmp"})];
    if storage.has_ca {
        mounts.push(json!({"name": "ca", "mountPath": CAS, "subPath": "ca.crt", "readOnly": true}));
    }
    json!({
        "name": "milvus", "image": image(index), "command": ["milvus", "run", role],
        "env": environment(names, index, storage), "volumeMounts": mounts,
        "ports": [{"name": "metrics", "containerPort": MILVUS_ADMIN_PORT, "protocol": "TCP"}],
        // Without its bucket Milvus tries for about two minutes and ends by itself.
        "startupProbe": {"tcpSocket": {"port": "metrics"}, "periodSeconds": 3, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}, "periodSeconds": 5, "timeoutSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "metrics"}, "periodSeconds": 15, "failureThreshold": 4},
    })
}

fn volumes(names: &Names, storage: &Storage) -> Value {
    let mut volumes = json!([{"name": "tmp", "emptyDir": {}}]);
    if storage.has_ca {
        let items = json!([{"key": "ca.crt", "path": "ca.crt"}]);
        add(
            &mut volumes,
            json!({"name": "ca", "secret": {"secretName": names.storage(), "items": items, "defaultMode": 0o444}}),
        );
    }
    volumes
}

/// Every key of `milvus.yaml` can be a variable, in capitals with `_` for `.`; they win over the file.
fn environment(names: &Names, index: &VectorIndex, storage: &Storage) -> Value {
    let spec = &index.spec;
    let mut env = json!([
        {"name": "MILVUSCONF", "value": CONFIGURATION},
        {"name": "DEPLOY_MODE", "value": "STANDALONE"},
        {"name": "METRICS_PORT", "value": MILVUS_ADMIN_PORT.to_string()},
        {"name": "ETCD_USE_EMBED", "value": "false"},
        {"name": "ETCD_ENDPOINTS", "value": names.etcd()},
        {"name": "ETCD_ROOTPATH", "value": format!("{}/{}", names.namespace, names.index)},
        {"name": "MQ_TYPE", "value": "rocksmq"},
        // A folder beside it is made as well.
        {"name": "ROCKSMQ_PATH", "value": format!("{DISK}/messages/rocksmq")},
        {"name": "LOCALSTORAGE_PATH", "value": format!("{DISK}/local")},
        {"name": "COMMON_STORAGETYPE", "value": "remote"},
        // With its port: the variable for that alone is one that service links set.
        {"name": "MINIO_ADDRESS", "value": storage.address},
        {"name": "MINIO_USE_SSL", "value": storage.tls.to_string()},
        {"name": "MINIO_REGION", "value": REGION},
        {"name": "MINIO_CLOUD_PROVIDER", "value": "aws"},
        {"name": "MINIO_BUCKET_NAME", "value": spec.storage.bucket},
        {"name": "MINIO_ROOT_PATH", "value": names.prefix(index)},
        {"name": "MINIO_USE_IAM", "value": "false"},
        {"name": "COMMON_SECURITY_AUTHORIZATIONENABLED", "value": "true"},
        {"name": "PROXY_PORT", "value": MILVUS_PORT.to_string()},
        // Without it, Milvus does not end on SIGTERM.
        {"name": "QUOTAANDLIMITS_ENABLED", "value": "true"},
        {"name": "COMMON_GRACEFULSTOPTIMEOUT", "value": STOPS_AFTER.to_string()},
    ]);
    for (name, port) in PORTS {
        add(&mut env, json!({"name": name, "value": port.to_string()}));
    }
    for (name, key) in [
        ("MINIO_ACCESS_KEY_ID", "accessKeyId"),
        ("MINIO_SECRET_ACCESS_KEY", "secretAccessKey"),
    ] {
        let from = json!({"secretKeyRef": {"name": names.storage(), "key": key}});
        add(&mut env, json!({"name": name, "valueFrom": from}));
    }
    if storage.has_ca {
        // The Go side; the C++ side has no such variable.
        add(&mut env, json!({"name": "SSL_CERT_FILE", "value": CAS}));
    }
    for (path, value) in &spec.milvus.config {
        add(
            &mut env,
            json!({"name": path.to_uppercase().replace('.', "_"), "value": value}),
        );
    }
    env
}

fn add(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{index, storage};
    use super::*;

    fn env<'v>(set: &'v Value, name: &str) -> Option<&'v Value> {
        let env = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array()?;
        env.iter().find(|entry| entry["name"] == name)
    }

    fn made(change: Value) -> (Value, Value) {
        let index = index(change);
        let names = Names::of(&index).unwrap();
        (
            milvus_set(&names, &index, &storage()),
            workers(&names, &index, &storage()),
        )
    }

    #[test]
    fn what_milvus_needs_from_its_environment_is_there() {
        let (set, workers) = made(json!({}));
        for set in [&set, &workers] {
            for name in [
                "PROXY_PORT",
                "INDEXNODE_PORT",
                "QUOTAANDLIMITS_ENABLED",
                "COMMON_GRACEFULSTOPTIMEOUT",
                "MILVUSCONF",
            ] {
                assert!(env(set, name).is_some(), "{name}");
            }
            assert_eq!(
                env(set, "MINIO_ADDRESS").unwrap()["value"],
                "demo.default.svc:9000"
            );
            assert_eq!(
                env(set, "MINIO_ROOT_PATH").unwrap()["value"],
                ".milvus/default/products"
            );
            // Keys are in no field that anybody who may read the StatefulSet can see.
            assert_eq!(
                env(set, "MINIO_SECRET_ACCESS_KEY").unwrap()["valueFrom"]["secretKeyRef"]["name"],
                "products-storage"
            );
            let spec = &set["spec"]["template"]["spec"];
            assert_eq!(spec["enableServiceLinks"], false);
            assert_eq!(
                spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
                true
            );
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        }
        assert_eq!(
            set["spec"]["template"]["spec"]["containers"][0]["command"],
            json!(["milvus", "run", "standalone"])
        );
        assert_eq!(
            workers["spec"]["template"]["spec"]["containers"][0]["command"],
            json!(["milvus", "run", "indexnode"])
        );
    }

    #[test]
    fn idle_workers_go_if_they_are_to_and_come_back() {
        let wanted = |policy: &str, phase: &str, observed: i64| {
            let mut index = index(json!({"workers": {"replicas": 3, "whenIdle": policy}}));
            index.metadata.generation = Some(2);
            index.status = Some(penstock_crds::VectorIndexStatus {
                phase: Some(phase.into()),
                observed_generation: Some(observed),
                ..Default::default()
            });
            wanted_workers(&index)
        };
        assert_eq!(wanted("Remove", "Serving", 2), 0);
        assert_eq!(wanted("Remove", "Import", 2), 3);
        // The spec has changed, and nobody has looked yet.
        assert_eq!(wanted("Remove", "Serving", 1), 3);
        assert_eq!(wanted("Keep", "Serving", 2), 3);
    }

    #[test]
    fn settings_of_milvus_are_variables() {
        let (set, _) = made(json!({"milvus": {"config": {"dataCoord.segment.maxSize": "24"}}}));
        assert_eq!(env(&set, "DATACOORD_SEGMENT_MAXSIZE").unwrap()["value"], "24");
    }

    #[test]
    fn gpus_are_the_workers_and_their_image_is_made_for_them() {
        let gpu = |gpu: Value| made(json!({"index": {"type": "GPU_CAGRA"}, "workers": {"gpu": gpu}}));
        let (set, workers) =
            gpu(json!({"extendedResource": "nvidia.com/gpu", "count": 2, "maximumPoolMib": 4096}));
        let container = &workers["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], 2);
        assert_eq!(container["image"], "milvusdb/milvus:v2.3.5-gpu");
        assert_eq!(env(&workers, "GPU_MAXMEMSIZE").unwrap()["value"], "4096");
        // The proxy validates types of indexes with the library that it is linked with.
        assert_eq!(
            set["spec"]["template"]["spec"]["containers"][0]["image"],
            "milvusdb/milvus:v2.3.5-gpu"
        );
        // It searches with one too.
        assert_eq!(
            set["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
            2
        );
        let (set, _) = made(json!({"workers": {"gpu": {"extendedResource": "nvidia.com/gpu"}}}));
        assert!(set["spec"]["template"]["spec"]["containers"][0]["resources"].is_null());
        let (_, workers) = gpu(json!({"resourceClaimTemplateName": "near"}));
        let spec = &workers["spec"]["template"]["spec"];
        assert_eq!(spec["resourceClaims"][0]["resourceClaimTemplateName"], "near");
        assert_eq!(
            spec["containers"][0]["resources"]["claims"],
            json!([{"name": "gpu"}])
        );
    }

    #[test]
    fn resources_of_the_spec_and_gpus_go_together() {
        let (_, workers) = made(json!({
            "index": {"type": "GPU_CAGRA"},
            "workers": {
                "gpu": {"extendedResource": "nvidia.com/gpu"},
                "pods": {"resources": {"limits": {"memory": "8Gi"}}, "runtimeClassName": "nvidia"},
            },
        }));
        let spec = &workers["spec"]["template"]["spec"];
        assert_eq!(
            spec["containers"][0]["resources"]["limits"],
            json!({"memory": "8Gi", "nvidia.com/gpu": 1})
        );
        assert_eq!(spec["runtimeClassName"], "nvidia");
    }
}
