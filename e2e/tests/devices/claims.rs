//! ResourceClaims of tests.

use penstock_e2e::{Namespace, Result};
use serde_json::{Value, json};

/// A claim template for one device of a class that fits `selector`.
pub async fn template(ns: &Namespace, name: &str, class: &str, selector: Option<&str>) -> Result<()> {
    apply_template(
        ns,
        name,
        json!({"devices": {"requests": [request(name, class, selector)]}}),
    )
    .await
}

/// A request for one device of a class.
pub fn request(name: &str, class: &str, selector: Option<&str>) -> Value {
    let mut exactly = json!({"deviceClassName": class});
    if let Some(expression) = selector {
        exactly["selectors"] = json!([{"cel": {"expression": expression}}]);
    }
    json!({"name": name, "exactly": exactly})
}

/// A claim template.
pub async fn apply_template(ns: &Namespace, name: &str, spec: Value) -> Result<()> {
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": {"spec": spec},
    });
    ns.apply(&object).await.map(drop)
}
