//! Events about pods: the one thing for which the driver on a node speaks to the API server, with the right to create Events
//! and none besides.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Config,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::collections::HashMap;

const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
/// The API takes at most 1 kB.
const LONGEST_NOTE: usize = 900;

/// Tells pods of what they should know. Without an API server (tests, one machine) it says it in the log only.
#[derive(Clone)]
pub struct Events {
    recorder: Option<Recorder>,
}

/// The pod that a volume is published for, as the kubelet names it (`CSIDriver.spec.podInfoOnMount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

impl PodRef {
    /// The pod in a `volume_context`, if the kubelet says it.
    pub fn of(context: &HashMap<String, String>) -> Option<Self> {
        let get = |key| context.get(key).filter(|value| !value.is_empty()).cloned();
        Some(Self {
            name: get(POD_NAME)?,
            namespace: get(POD_NAMESPACE)?,
            uid: get(POD_UID)?,
        })
    }
}

impl Events {
    /// Events of the driver on `node`, through the API server of the cluster that this pod is in. Must be called inside a Tokio
    /// runtime.
    pub fn in_cluster(node: &str) -> Self {
        let client = Config::incluster()
            .map_err(|error| error.to_string())
            .and_then(|config| Client::try_from(config).map_err(|error| error.to_string()));
        let recorder = match client {
            Ok(client) => {
                let reporter = Reporter {
                    controller: "csi.penstock.io".into(),
                    instance: Some(node.to_owned()),
                };
                Some(Recorder::new(client, reporter))
            }
            Err(cause) => {
                tracing::info!(cause, "no API server is known: events go to the log");
                None
            }
        };
        Self { recorder }
    }

    /// Warns a pod. A lost event is only logged: what it tells is in the metrics too.
    pub async fn warn(&self, pod: &PodRef, reason: &str, note: &str) {
        tracing::warn!(pod = pod.name, namespace = pod.namespace, reason, note);
        let Some(recorder) = &self.recorder else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note.chars().take(LONGEST_NOTE).collect()),
            action: "Mount".to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = recorder.publish(&event, &about).await {
            tracing::warn!(%error, reason, "an event was not published");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_who_the_kubelet_says() {
        let mut context: HashMap<_, _> = [(POD_NAME, "p"), (POD_NAMESPACE, "n"), (POD_UID, "u")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(PodRef::of(&context).unwrap().namespace, "n");
        context.remove(POD_UID);
        assert_eq!(PodRef::of(&context), None);
    }
}
