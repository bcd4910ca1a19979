//! The storage nodes.

use super::{ADMIN_PORT, Names, S3_PORT, disk_claim};
use crate::context::Config;
use penstock_crds::{
    StorageCluster,
    storage_cluster::{DeletionPolicy, LockedMemory, RdmaPolicy},
};
use serde_json::{Value, json};

const CREDENTIALS: &str = "/etc/penstock/credentials";
const TLS: &str = "/etc/penstock/tls";
const GATEWAY: &str = "/etc/penstock/gateway";
const MASTER_KEY: &str = "/etc/penstock/master-key";
const BACKUPS: &str = "/backups";
/// User and group of the image.
const USER: i64 = 65532;
/// Where the pod has the node's folder of sockets.
const SOCKETS: &str = "/run/penstock-sockets";
/// The data volume again, read-only: files are lent through it, so that nobody can open them for writing.
const VIEW: &str = "/data-read-only";

/// Digests of what the pods mount: a change restarts them.
#[derive(Debug, Clone, Default)]
pub struct Hashes {
    /// Of the key pair.
    pub credentials: String,
    /// Of the certificate; empty without TLS.
    pub tls: String,
    /// Of the gateways' key pair, where they have one here.
    pub gateway: Option<String>,
}

/// `size`: what the claim template says; it cannot be changed once the StatefulSet is there.
pub fn stateful_set(
    names: &Names,
    cluster: &StorageCluster,
    config: &Config,
    hashes: &Hashes,
    size: Option<&str>,
) -> Value {
    let spec = &cluster.spec;
    let deletion = match spec.deletion_policy {
        DeletionPolicy::Retain => "Retain",
        DeletionPolicy::Delete => "Delete",
    };
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": names.owned(&names.cluster),
        "spec": {
            "replicas": spec.nodes, "serviceName": names.nodes(), "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": names.selector()},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deletion, "whenScaled": "Retain"},
            "template": {
                "metadata": {
                    "labels": names.labels(),
                    "annotations": {
                        "penstock.io/credentials-hash": hashes.credentials, "penstock.io/tls-hash": hashes.tls,
                    },
                },
                "spec": pod(names, cluster, config, hashes.gateway.is_some()),
            },
        },
    });
    if let Some(gateway) = &hashes.gateway {
        set["spec"]["template"]["metadata"]["annotations"]["penstock.io/gateway-hash"] = json!(gateway);
    }
    if let Some(networks) = &spec.rdma.networks {
        set["spec"]["template"]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = json!(networks);
    }
    if let Some(template) = &spec.storage.volume_claim_template {
        let (class, size) = (
            template.storage_class_name.as_deref(),
            size.unwrap_or(&template.size),
        );
        set["spec"]["volumeClaimTemplates"] = disk_claim(&names.labels(), class, size);
    }
    set
}

fn pod(names: &Names, cluster: &StorageCluster, config: &Config, has_gateway: bool) -> Value {
    let spec = &cluster.spec;
    let mut args = vec![
        "serve".to_owned(),
        "--data=/data".to_owned(),
        format!("--listen=0.0.0.0:{S3_PORT}"),
        format!("--admin-listen=0.0.0.0:{ADMIN_PORT}"),
        // Also where RDMA is required, since a node that ends cannot say why there is none: the condition judges that.
        format!(
            "--rdma={}",
            if spec.rdma.policy == RdmaPolicy::Disabled {
                "off"
            } else {
                "prefer"
            }
        ),
    ];
    // Read by `serve`, and by the commands of an administrator (`kubectl exec … penstock-store key list`).
    let scheme = if spec.tls.enabled { "https" } else { "http" };
    let mut env = vec![
        json!({"name": "PENSTOCK_LOG_FORMAT", "value": "json"}),
        json!({"name": "PENSTOCK_ROOT_ACCESS_KEY_FILE", "value": format!("{CREDENTIALS}/accessKeyId")}),
        json!({"name": "PENSTOCK_ROOT_SECRET_KEY_FILE", "value": format!("{CREDENTIALS}/secretAccessKey")}),
        json!({"name": "PENSTOCK_ENDPOINT", "value": format!("{scheme}://localhost:{S3_PORT}")}),
    ];
    if let Some(device) = &spec.rdma.device {
        args.push(format!("--rdma-device={device}"));
    }
    let mut mounts = vec![
        json!({"name": "data", "mountPath": "/data"}),
        json!({"name": "credentials", "mountPath": CREDENTIALS, "readOnly": true}),
    ];
    let items = |keys: &[&str]| {
        keys.iter()
            .map(|key| json!({"key": key, "path": key}))
            .collect::<Vec<_>>()
    };
    let mut volumes = vec![json!({
        "name": "credentials",
        "secret": {
            "secretName": names.credentials(), "items": items(&["accessKeyId", "secretAccessKey"]),
            "defaultMode": 0o440,
        },
    })];
    if has_gateway {
        args.push(format!("--gateway-access-key-file={GATEWAY}/accessKeyId"));
        args.push(format!("--gateway-secret-key-file={GATEWAY}/secretAccessKey"));
        mounts.push(json!({"name": "gateway", "mountPath": GATEWAY, "readOnly": true}));
        volumes.push(json!({
            "name": "gateway",
            "secret": {
                "secretName": names.gateway(), "items": items(&["accessKeyId", "secretAccessKey"]),
                "defaultMode": 0o440,
            },
        }));
    }
    if spec.tls.enabled {
        args.push(format!("--tls-cert={TLS}/tls.crt"));
        args.push(format!("--tls-key={TLS}/tls.key"));
        env.push(json!({"name": "PENSTOCK_CA_FILE", "value": format!("{TLS}/ca.crt")}));
        mounts.push(json!({"name": "tls", "mountPath": TLS, "readOnly": true}));
        // The CA's own key stays out of the pod.
        volumes.push(json!({
            "name": "tls",
            "secret": {"secretName": names.tls(), "items": items(&["tls.crt", "tls.key", "ca.crt"]), "defaultMode": 0o440},
        }));
    }
    if let Some(folder) = &spec.local_path {
        args.push(format!("--local-sockets={SOCKETS}"));
        // The agent of the node's CSI pod has this group, whoever it runs as.
        args.push(format!("--local-allow-gid={USER}"));
        args.push(format!("--local-view={VIEW}"));
        mounts.push(json!({"name": "sockets", "mountPath": SOCKETS}));
        mounts.push(json!({"name": "data", "mountPath": VIEW, "readOnly": true}));
        // Made, and given to that user, by the CSI pod; without it this pod waits and says why.
        volumes.push(json!({"name": "sockets", "hostPath": {"path": folder, "type": "Directory"}}));
    }
    if let Some(key) = &spec.master_key {
        args.push(format!("--master-key-file={MASTER_KEY}/key"));
        mounts.push(json!({"name": "master-key", "mountPath": MASTER_KEY, "readOnly": true}));
        volumes.push(json!({
            "name": "master-key",
            "secret": {
                "secretName": key.secret_name, "items": [{"key": key.key, "path": "key"}], "defaultMode": 0o440,
            },
        }));
    }
    if let Some(backups) = &spec.backups {
        args.push(format!("--backups={BACKUPS}/penstock"));
        args.push(format!("--backup-every={}", backups.every_hours * 3600));
        args.push(format!("--backup-keep={}", backups.keep));
        mounts.push(json!({"name": "backups", "mountPath": BACKUPS}));
        volumes.push(json!({"name": "backups", "persistentVolumeClaim": {"claimName": backups.claim_name}}));
    }
    if let Some(host) = &spec.storage.host_path {
        volumes.push(json!({"name": "data", "hostPath": {"path": host.path, "type": "DirectoryOrCreate"}}));
    }
    let pull_policy = spec
        .image_pull_policy
        .map_or(config.image_pull_policy.as_str(), |policy| policy.as_str());
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": "admin"}, "periodSeconds": period, "timeoutSeconds": 3,
            "failureThreshold": failures,
        })
    };
    let mut pod = json!({
        "serviceAccountName": names.account(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            // Changing the owner of every file at each start would take as long as there are files.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "store", "image": image(cluster, config), "imagePullPolicy": pull_policy, "args": args,
            "env": env,
            "ports": [
                {"name": "s3", "containerPort": S3_PORT, "protocol": "TCP"},
                {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
            ],
            "startupProbe": probe("/livez", 1, 120),
            "livenessProbe": probe("/livez", 10, 6),
            "readinessProbe": probe("/readyz", 2, 3),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": spec.resources.clone().unwrap_or_default(),
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        }],
        "volumes": volumes,
    });
    give_device(&mut pod, cluster);
    if !spec.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.node_selector);
    }
    if !spec.tolerations.is_empty() {
        pod["tolerations"] = json!(spec.tolerations);
    }
    if let Some(affinity) = &spec.affinity {
        pod["affinity"] = affinity.clone();
    }
    if !spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(spec.image_pull_secrets);
    }
    pod
}

/// What a pod needs besides for an RDMA device: the device, its network, pinned memory.
fn give_device(pod: &mut Value, cluster: &StorageCluster) {
    let rdma = &cluster.spec.rdma;
    if rdma.policy == RdmaPolicy::Disabled {
        return;
    }
    if let Some(template) = &rdma.resource_claim_template_name {
        pod["resourceClaims"] = json!([{"name": "rdma", "resourceClaimTemplateName": template}]);
        pod["containers"][0]["resources"]["claims"] = json!([{"name": "rdma"}]);
    }
    let counted = rdma
        .extended_resource
        .as_ref()
        .map(|name| (name.clone(), "1".to_owned()));
    let huge = rdma
        .hugepages
        .as_ref()
        .map(|size| ("hugepages-2Mi".to_owned(), size.clone()));
    for (name, amount) in counted.into_iter().chain(huge) {
        for kind in ["requests", "limits"] {
            pod["containers"][0]["resources"][kind][&name] = json!(amount);
        }
    }
    if rdma.hugepages.is_some() {
        // Kubernetes gives huge pages only to pods that ask for processor or memory too.
        let requests = &mut pod["containers"][0]["resources"]["requests"];
        if requests.get("cpu").is_none() && requests.get("memory").is_none() {
            requests["memory"] = json!("64Mi");
        }
    }
    if rdma.host_network == Some(true) {
        pod["hostNetwork"] = json!(true);
        pod["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    if rdma.locked_memory == LockedMemory::Capability {
        // A capability that is added takes effect for root only.
        let context = &mut pod["containers"][0]["securityContext"];
        context["runAsUser"] = json!(0);
        context["runAsNonRoot"] = json!(false);
        context["capabilities"]["add"] = json!(["IPC_LOCK", "DAC_OVERRIDE"]);
    }
}

/// The image that the storage nodes are to run.
pub fn image<'a>(cluster: &'a StorageCluster, config: &'a Config) -> &'a str {
    cluster.spec.image.as_deref().unwrap_or(&config.store_image)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, config};
    use super::*;

    fn made(spec: Value) -> Value {
        made_with(spec, &Hashes::default())
    }

    fn made_with(spec: Value, hashes: &Hashes) -> Value {
        let cluster = cluster(spec);
        stateful_set(&Names::of(&cluster).unwrap(), &cluster, &config(), hashes, None)
    }

    #[test]
    fn gateways_are_known_by_a_secret_of_their_own_and_only_where_there_are_any() {
        let spec = json!({"storage": {"volumeClaimTemplate": {"size": "1Gi"}}});
        let plain = made(spec.clone()).to_string();
        assert!(!plain.contains("gateway"), "{plain}");
        let hashes = Hashes {
            gateway: Some("h".into()),
            ..Hashes::default()
        };
        let set = made_with(spec, &hashes);
        let template = &set["spec"]["template"];
        assert_eq!(
            template["metadata"]["annotations"]["penstock.io/gateway-hash"],
            "h"
        );
        let args = template["spec"]["containers"][0]["args"].to_string();
        assert!(
            args.contains("--gateway-secret-key-file=/etc/penstock/gateway/secretAccessKey"),
            "{args}"
        );
        let volumes = template["spec"]["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "gateway").unwrap();
        assert_eq!(volume["secret"]["secretName"], "demo-gateway");
        assert_eq!(volume["secret"]["defaultMode"], 0o440);
    }

    #[test]
    fn a_claim_template_becomes_a_disk_of_that_size_and_class() {
        let storage = json!({"volumeClaimTemplate": {"size": "1Gi", "storageClassName": "fast"}});
        let set = made(json!({"storage": storage}));
        let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
        assert_eq!(claim["resources"]["requests"]["storage"], "1Gi");
        assert_eq!(claim["storageClassName"], "fast");
    }

    #[test]
    fn the_pod_is_restricted_and_never_sees_the_key_of_the_ca() {
        let set = made(json!({"storage": {"volumeClaimTemplate": {"size": "1Gi"}}}));
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
            true
        );
        assert!(!pod["volumes"].to_string().contains("ca.key"));
        assert!(pod["containers"][0]["args"].to_string().contains("--tls-cert"));
    }

    #[test]
    fn clients_on_the_same_node_are_served_only_when_asked_for() {
        let storage = json!({"volumeClaimTemplate": {"size": "1Gi"}});
        let plain = made(json!({"storage": storage})).to_string();
        assert!(
            !plain.contains("hostPath") && !plain.contains("--local"),
            "{plain}"
        );
        let set = made(json!({"storage": storage, "localPath": "/var/lib/penstock-sockets"}));
        let pod = &set["spec"]["template"]["spec"];
        let args = pod["containers"][0]["args"].to_string();
        assert!(
            args.contains("--local-sockets=/run/penstock-sockets")
                && args.contains("--local-allow-gid=65532")
        );
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let view = mounts.iter().find(|mount| mount["mountPath"] == VIEW).unwrap();
        assert_eq!((&view["name"], &view["readOnly"]), (&json!("data"), &json!(true)));
        assert!(pod["volumes"].to_string().contains("/var/lib/penstock-sockets"));
    }

    #[test]
    fn the_master_key_and_backups_are_mounted_where_they_are_named() {
        let storage = json!({"volumeClaimTemplate": {"size": "1Gi"}});
        let plain = made(json!({"storage": storage})).to_string();
        assert!(
            !plain.contains("master-key") && !plain.contains("backup"),
            "{plain}"
        );
        let set = made(json!({
            "storage": storage, "masterKey": {"secretName": "sealing"}, "backups": {"claimName": "other-disk", "keep": 3},
        }));
        let pod = &set["spec"]["template"]["spec"];
        let args = pod["containers"][0]["args"].to_string();
        for argument in [
            "--master-key-file=/etc/penstock/master-key/key",
            "--backups=/backups/penstock",
            "--backup-every=86400",
            "--backup-keep=3",
        ] {
            assert!(args.contains(argument), "{args}");
        }
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = |name: &str| volumes.iter().find(|volume| volume["name"] == name).unwrap();
        assert_eq!(
            volume("master-key")["secret"]["items"],
            json!([{"key": "master-key", "path": "key"}])
        );
        assert_eq!(
            volume("backups")["persistentVolumeClaim"]["claimName"],
            "other-disk"
        );
    }

    #[test]
    fn without_tls_nothing_of_it_is_mounted() {
        let set =
            made(json!({"storage": {"volumeClaimTemplate": {"size": "1Gi"}}, "tls": {"enabled": false}}));
        assert!(!set.to_string().contains("tls.crt"));
    }

    #[test]
    fn deletion_policy_decides_over_the_claims() {
        let storage = json!({"volumeClaimTemplate": {"size": "1Gi"}});
        for (policy, wanted) in [("Retain", "Retain"), ("Delete", "Delete")] {
            let set = made(json!({"storage": storage, "deletionPolicy": policy}));
            assert_eq!(
                set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"],
                wanted
            );
        }
    }

    #[test]
    fn an_rdma_device_comes_with_its_network_and_pinned_memory_and_only_when_asked_for() {
        let storage = json!({"volumeClaimTemplate": {"size": "1Gi"}});
        let template = |rdma: Value| {
            let set = made(json!({"storage": storage, "rdma": rdma}));
            set["spec"]["template"].clone()
        };
        let plain = template(json!({}));
        assert!(
            plain["spec"]["containers"][0]["args"]
                .to_string()
                .contains("--rdma=prefer")
        );
        assert_eq!(
            plain["spec"]["containers"][0]["securityContext"]["capabilities"],
            json!({"drop": ["ALL"]})
        );

        let full = template(json!({
            "policy": "Require", "extendedResource": "rdma/hca", "device": "mlx5_1", "networks": "rdma-net",
            "lockedMemory": "Capability", "hugepages": "64Mi",
        }));
        let container = &full["spec"]["containers"][0];
        assert_eq!(
            full["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"],
            "rdma-net"
        );
        assert_eq!(
            container["resources"]["limits"],
            json!({"rdma/hca": "1", "hugepages-2Mi": "64Mi"})
        );
        assert_eq!(container["resources"]["requests"]["memory"], "64Mi");
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"], "add": ["IPC_LOCK", "DAC_OVERRIDE"]})
        );
        let args = container["args"].to_string();
        assert!(
            args.contains("--rdma=prefer") && args.contains("--rdma-device=mlx5_1"),
            "{args}"
        );

        let claimed = template(json!({"resourceClaimTemplateName": "nic", "hostNetwork": true}));
        assert_eq!(
            claimed["spec"]["resourceClaims"][0]["resourceClaimTemplateName"],
            "nic"
        );
        assert_eq!(
            claimed["spec"]["containers"][0]["resources"]["claims"][0]["name"],
            "rdma"
        );
        assert_eq!(claimed["spec"]["hostNetwork"], true);

        let off = template(json!({"policy": "Disabled", "extendedResource": "rdma/hca"}));
        assert_eq!(off["spec"]["containers"][0]["resources"], json!({}));
    }
}
