//! What pods and Events say.

use penstock_e2e::{Namespace, Pod, Result, Wait, command::kubectl, ensure, eventually};

/// Waits until an Event of the namespace says `needle`.
pub async fn told(ns: &Namespace, needle: &str) -> Result<()> {
    eventually(&format!("an Event says {needle:?}"), async || {
        let events = kubectl(&["-n", &ns.name, "get", "events", "-o", "json"]).await?;
        Ok(if events.contains(needle) {
            Wait::Done(())
        } else {
            Wait::NotYet("no such Event".into())
        })
    })
    .await
}

/// Waits until a pod has printed exactly this.
pub async fn printed(pod: &Pod, wanted: &str) -> Result<()> {
    eventually("the pod has printed what it sees", async || {
        let log = pod.log().await?;
        Ok(if log == wanted {
            Wait::Done(())
        } else {
            Wait::NotYet(log)
        })
    })
    .await
}

/// The phase of a pod.
pub async fn phase(ns: &Namespace, pod: &str) -> Result<String> {
    let pod = ns.api::<k8s_openapi::api::core::v1::Pod>().get(pod).await?;
    let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
    ensure!(!phase.is_empty(), "a pod without a phase");
    Ok(phase)
}

/// Waits until a pod's status says that its device is healthy or not (KEP-4680).
pub async fn shown(ns: &Namespace, pod: &str, health: &str) -> Result<()> {
    let path = "jsonpath={.status.containerStatuses[0].allocatedResourcesStatus[*].resources[*].health}";
    eventually(&format!("the status of {pod} says {health}"), async || {
        let now = kubectl(&["-n", &ns.name, "get", "pod", pod, "-o", path]).await?;
        Ok(if now == health {
            Wait::Done(())
        } else {
            Wait::NotYet(now)
        })
    })
    .await
}
