//! Who may do what: the nodes need nothing of the API, the CSI controller exactly one Secret.

use super::Names;
use crate::context::ServiceAccount;
use serde_json::{Value, json};

/// Identity of the storage nodes, without a token.
pub fn service_account(names: &Names) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": names.owned(&names.account()),
        "automountServiceAccountToken": false,
    })
}

/// The right to read the cluster's credentials, and nothing else.
pub fn role(names: &Names) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": names.owned(&names.account()),
        "rules": [{
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": [names.credentials()], "verbs": ["get"],
        }],
    })
}

/// Gives that right to the CSI controller.
pub fn role_binding(names: &Names, csi: &ServiceAccount) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": names.owned(&names.account()),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.account()},
        "subjects": [{"kind": "ServiceAccount", "name": csi.name, "namespace": csi.namespace}],
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::cluster;
    use super::*;

    #[test]
    fn the_csi_controller_may_read_one_secret_and_no_other() {
        let names = Names::of(&cluster(json!({"storage": {"hostPath": {"path": "/d"}}}))).unwrap();
        assert_eq!(role(&names)["rules"].as_array().unwrap().len(), 1);
        assert_eq!(
            role(&names)["rules"][0]["resourceNames"],
            json!(["demo-credentials"])
        );
        assert_eq!(role(&names)["rules"][0]["verbs"], json!(["get"]));
    }
}
