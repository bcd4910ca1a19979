//! What agents serve for a cluster. It lies in their own namespace, because a Service selects pods of its namespace only, and agents
//! may read nothing from the API server but what is mounted.

use super::{Names, S3_PORT};
use crate::context::Config;
use penstock_crds::{CLUSTER_LABEL, FIELD_MANAGER, StorageCluster};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Secret with an entry for each cluster, which is mounted by the agents.
pub const GATEWAYS: &str = "penstock-gateway";
/// The first port that is given away.
const FIRST_PORT: u16 = 9100;
/// Names are DNS labels.
const LONGEST: usize = 63;

/// A port that another cluster has: its number, and whose it is.
pub type Taken = (u16, String);

/// Name of the Service: readable where that fits.
fn service_name(names: &Names) -> String {
    let name = format!("penstock-gateway-{}-{}", names.cluster, names.namespace);
    if name.len() <= LONGEST {
        return name;
    }
    let digest = hex::encode(Sha256::digest(format!("{}/{}", names.namespace, names.cluster)));
    format!("{}-{}", &name[..LONGEST - 9], &digest[..8])
}

/// Leads each pod to the agent of its own node, and nowhere where there is none.
pub fn gateway_service(names: &Names, config: &Config, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": service_name(names), "namespace": config.namespace,
            "labels": {
                "app.kubernetes.io/name": "penstock-gateway", CLUSTER_LABEL: names.cluster,
                "app.kubernetes.io/managed-by": FIELD_MANAGER, "app.kubernetes.io/part-of": "penstock",
            },
            // Owner references do not reach into other namespaces.
            "annotations": {"penstock.io/owner": format!("{}/{}", names.namespace, names.cluster)},
        },
        "spec": {
            "type": "ClusterIP", "selector": config.gateway_selector, "internalTrafficPolicy": "Local",
            "ports": [{"name": "s3", "port": S3_PORT, "targetPort": port, "protocol": "TCP"}],
        },
    })
}

/// Where pods find it.
pub fn gateway_endpoint(names: &Names, config: &Config) -> String {
    let scheme = if config.gateway_tls { "https" } else { "http" };
    format!(
        "{scheme}://{}.{}.svc:{S3_PORT}",
        service_name(names),
        config.namespace
    )
}

/// Key of the cluster's entry. No namespace has a dot in its name.
pub fn gateway_key(names: &Names) -> String {
    format!("{}.{}.json", names.namespace, names.cluster)
}

/// The cluster's entry, as agents read it.
pub fn gateway_entry(
    names: &Names,
    cluster: &StorageCluster,
    port: u16,
    ca: Option<&str>,
    identity: Option<(&str, &str)>,
) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", names.namespace, names.cluster), "listen": format!("0.0.0.0:{port}"),
        "endpoint": names.endpoint(cluster), "fastPath": cluster.spec.gateway.fast_path.as_str(),
    });
    if let Some(ca) = ca {
        entry["ca"] = json!(ca);
    }
    if let Some((access, secret)) = identity {
        entry["identity"] = json!({"accessKeyId": access, "secretAccessKey": secret});
    }
    entry
}

/// The port in an entry.
pub fn port_of(entry: &[u8]) -> Option<u16> {
    let entry: Value = serde_json::from_slice(entry).ok()?;
    entry["listen"].as_str()?.rsplit_once(':')?.1.parse().ok()
}

/// The port of a cluster that wants `wanted`, or has `own` already.
///
/// # Errors
/// Whose the wanted one is.
pub fn gateway_port(wanted: Option<u16>, own: Option<u16>, taken: &[Taken]) -> Result<u16, Taken> {
    let owner = |port: u16| taken.iter().find(|(other, _)| *other == port);
    if let Some(wanted) = wanted {
        return owner(wanted).map_or(Ok(wanted), |owner| Err(owner.clone()));
    }
    let free = |port: &u16| owner(*port).is_none();
    let kept = own.filter(free);
    let first = || (FIRST_PORT..=u16::MAX).find(free);
    kept.or_else(first)
        .ok_or_else(|| (u16::MAX, "every other StorageCluster".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{cluster, config};
    use super::*;

    fn names(namespace: &str, name: &str) -> Names {
        let mut cluster = cluster(json!({"storage": {"hostPath": {"path": "/d"}}}));
        cluster.metadata.name = Some(name.to_owned());
        cluster.metadata.namespace = Some(namespace.to_owned());
        Names::of(&cluster).unwrap()
    }

    #[test]
    fn the_service_stays_on_the_node_and_says_whose_it_is() {
        let (names, config) = (names("default", "demo"), config());
        let service = gateway_service(&names, &config, 9107);
        assert_eq!(service["spec"]["internalTrafficPolicy"], "Local");
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 9107);
        assert_eq!(service["spec"]["selector"], json!({"app": "agents"}));
        assert_eq!(service["metadata"]["namespace"], "penstock-system");
        assert_eq!(
            service["metadata"]["annotations"]["penstock.io/owner"],
            "default/demo"
        );
        let endpoint = gateway_endpoint(&names, &config);
        assert_eq!(
            endpoint,
            "http://penstock-gateway-demo-default.penstock-system.svc:9000"
        );
        let config = Config {
            gateway_tls: true,
            ..config
        };
        assert!(gateway_endpoint(&names, &config).starts_with("https://"));
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "a".repeat(52);
        let (one, two) = (names("first", &long), names("other", &long));
        let (one, two) = (service_name(&one), service_name(&two));
        assert!(
            one.len() == LONGEST && two.len() == LONGEST && one != two,
            "{one} {two}"
        );
    }

    #[test]
    fn an_entry_is_what_agents_read_and_its_port_is_found_again() {
        let spec = json!({"storage": {"hostPath": {"path": "/d"}}, "gateway": {"enabled": true, "fastPath": "Disabled"}});
        let (names, cluster) = (names("default", "demo"), cluster(spec));
        let entry = gateway_entry(&names, &cluster, 9101, Some("PEM"), Some(("id", "secret")));
        assert_eq!(
            entry,
            json!({
                "name": "default/demo", "listen": "0.0.0.0:9101", "endpoint": "https://demo.default.svc:9000", "ca": "PEM",
                "fastPath": "off", "identity": {"accessKeyId": "id", "secretAccessKey": "secret"},
            })
        );
        assert_eq!(port_of(entry.to_string().as_bytes()), Some(9101));
        assert_eq!(port_of(b"nothing"), None);
        assert_eq!(gateway_key(&names), "default.demo.json");
    }

    #[test]
    fn a_port_stays_and_no_two_clusters_have_one() {
        let taken = [(9100, "a/a".to_owned()), (9102, "b/b".to_owned())];
        assert_eq!(gateway_port(None, None, &taken), Ok(9101));
        assert_eq!(gateway_port(None, Some(9150), &taken), Ok(9150));
        assert_eq!(gateway_port(None, Some(9102), &taken), Ok(9101));
        assert_eq!(
            gateway_port(Some(9102), Some(9150), &taken),
            Err(taken[1].clone())
        );
        assert_eq!(gateway_port(Some(2000), Some(9150), &taken), Ok(2000));
    }
}
