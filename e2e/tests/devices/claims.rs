//! ResourceClaims of tests, and what pods say of them.

use penstock_e2e::{Namespace, Result, Wait, command, eventually};
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

/// Waits until a pod's status says that its device is healthy or not (KEP-4680).
pub async fn shown(ns: &Namespace, pod: &str, health: &str) -> Result<()> {
    let path = "jsonpath={.status.containerStatuses[0].allocatedResourcesStatus[*].resources[*].health}";
    eventually(&format!("the status of {pod} says {health}"), async || {
        let now = command::kubectl(&["-n", &ns.name, "get", "pod", pod, "-o", path]).await?;
        Ok(if now == health {
            Wait::Done(())
        } else {
            Wait::NotYet(now)
        })
    })
    .await
}
