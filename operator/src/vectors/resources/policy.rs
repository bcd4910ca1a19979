//! Who reaches the pods of an index: etcd asks nobody for a password, and neither do Milvus' parts among each other.

use super::super::names::{ETCD_PORT, MILVUS_ADMIN_PORT, MILVUS_PORT, Names, Part};
use penstock_crds::INDEX_LABEL;
use serde_json::{Value, json};

/// etcd is reached by the pods of its index.
pub fn etcd_policy(names: &Names) -> Value {
    policy(
        names,
        Part::Etcd,
        &json!([{"from": [own(names)], "ports": [port(ETCD_PORT)]}]),
    )
}

/// Milvus is reached by clients, at the two ports for them; at all others by the pods of its index.
pub fn milvus_policy(names: &Names) -> Value {
    let clients = json!({"ports": [port(MILVUS_PORT), port(MILVUS_ADMIN_PORT)]});
    policy(names, Part::Milvus, &json!([clients, {"from": [own(names)]}]))
}

/// Workers are reached by the pods of their index, and asked for their metrics.
pub fn workers_policy(names: &Names) -> Value {
    let metrics = json!({"ports": [port(MILVUS_ADMIN_PORT)]});
    policy(names, Part::Workers, &json!([metrics, {"from": [own(names)]}]))
}

fn policy(names: &Names, part: Part, ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": names.owned(&names.part(part), part),
        "spec": {
            "podSelector": {"matchLabels": names.selector(part)}, "policyTypes": ["Ingress"], "ingress": ingress,
        },
    })
}

fn own(names: &Names) -> Value {
    json!({"podSelector": {"matchLabels": {INDEX_LABEL: names.index}}})
}

fn port(port: u16) -> Value {
    json!({"port": port, "protocol": "TCP"})
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::index;
    use super::*;

    #[test]
    fn only_the_ports_of_clients_are_open_to_all() {
        let names = Names::of(&index(json!({}))).unwrap();
        let open = |policy: &Value| -> Vec<Value> {
            let rules = policy["spec"]["ingress"].as_array().unwrap().iter();
            rules
                .filter(|rule| rule["from"].is_null())
                .map(|rule| rule["ports"].clone())
                .collect()
        };
        assert!(open(&etcd_policy(&names)).is_empty());
        let milvus = open(&milvus_policy(&names));
        assert_eq!(milvus.len(), 1);
        assert_eq!(milvus[0][0]["port"], 19530);
        assert_eq!(milvus[0][1]["port"], 9091);
        let workers = open(&workers_policy(&names));
        assert_eq!(workers, [json!([{"port": 9091, "protocol": "TCP"}])]);
    }
}
