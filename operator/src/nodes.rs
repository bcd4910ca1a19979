//! How the storage nodes really stand: from the StatefulSet and its pods.

use crate::{context::Context, error::Error, pods, resources::Names, status::Step};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ContainerStatus, Pod},
};
use penstock_crds::{
    CLUSTER_LABEL,
    conditions::{REASON_NODE_FAILING, REASON_ROLLING_OUT},
    storage_cluster::NodeCounts,
};

/// The pods of a cluster's nodes.
pub async fn pods(context: &Context, names: &Names) -> Result<Vec<Pod>, Error> {
    let labels = format!("{CLUSTER_LABEL}={}", names.cluster);
    pods::list(context, &names.namespace, &names.cluster, &labels).await
}

/// How many nodes there are, and whether all is well.
pub fn judge(set: &StatefulSet, pods: &[Pod]) -> (NodeCounts, Step) {
    let desired = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = set.status.clone().unwrap_or_default();
    let current = status.observed_generation >= set.metadata.generation;
    let revision = status.update_revision.as_deref();
    // The StatefulSet counts a pod as ready that is being deleted, and as updated one that is not ready.
    let live = || {
        pods.iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
    };
    let has_revision = |pod: &&Pod| label(pod, "controller-revision-hash") == revision && revision.is_some();
    let ready = i32::try_from(live().filter(|pod| is_ready(pod)).count()).unwrap_or(i32::MAX);
    let updated = if current {
        i32::try_from(live().filter(has_revision).filter(|pod| is_ready(pod)).count()).unwrap_or(i32::MAX)
    } else {
        0
    };
    let counts = NodeCounts::new(desired, ready, updated);
    if updated >= desired {
        return (
            counts,
            Step::done(format!(
                "{updated} of {desired} storage nodes run with the current spec"
            )),
        );
    }
    let standing = format!("{updated} of {desired} storage nodes run with the current spec");
    let step = match live().find_map(trouble) {
        Some(trouble) => Step::failed(REASON_NODE_FAILING, format!("{standing}; {trouble}")),
        None => Step::waiting(REASON_ROLLING_OUT, standing),
    };
    (counts, step)
}

fn label<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    pod.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<(&'p str, &'p str)> {
    let found = pod
        .status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)?;
    Some((&found.status, found.message.as_deref().unwrap_or_default()))
}

/// What keeps a pod from running, in words that say what to look at.
pub fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(("False", message)) = condition(pod, "PodScheduled") {
        return Some(format!("pod {name} cannot be scheduled: {message}"));
    }
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find_map(|container| {
        let told = container_trouble(container)?;
        let image = container.image.as_str();
        Some(format!("pod {name}, image {image}: {told}"))
    })
}

fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    match reason {
        "ErrImageNeverPull"
        | "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError" => Some(format!(
            "{reason}: {}",
            waiting.message.as_deref().unwrap_or("see the pod's events")
        )),
        "CrashLoopBackOff" => {
            let last = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let message = last
                .and_then(|last| last.message.as_deref())
                .unwrap_or("see the pod's log");
            Some(format!(
                "it ends again and again: {}",
                message.trim().lines().last().unwrap_or(message)
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_crds::conditions::REASON_READY;
    use serde_json::{Value, json};

    fn set(generation: i64, observed: i64) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"generation": generation}, "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"replicas": 1, "readyReplicas": 1, "observedGeneration": observed, "updateRevision": "new"},
        }))
        .unwrap()
    }

    fn pod(revision: &str, ready: &str, containers: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-0", "labels": {"controller-revision-hash": revision}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": containers,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_node_counts_only_when_it_is_ready_with_the_current_spec() {
        for (observed, revision, ready, wanted) in [
            (
                2,
                "new",
                "True",
                Step::done("1 of 1 storage nodes run with the current spec"),
            ),
            (
                2,
                "new",
                "False",
                Step::waiting(
                    REASON_ROLLING_OUT,
                    "0 of 1 storage nodes run with the current spec",
                ),
            ),
            (
                2,
                "old",
                "True",
                Step::waiting(
                    REASON_ROLLING_OUT,
                    "0 of 1 storage nodes run with the current spec",
                ),
            ),
            (
                1,
                "new",
                "True",
                Step::waiting(
                    REASON_ROLLING_OUT,
                    "0 of 1 storage nodes run with the current spec",
                ),
            ),
        ] {
            let (_, step) = judge(&set(2, observed), &[pod(revision, ready, json!([]))]);
            assert_eq!(
                step, wanted,
                "observed {observed}, revision {revision}, ready {ready}"
            );
        }
        assert_eq!(REASON_READY, "Ready");
    }

    #[test]
    fn a_pod_that_is_being_deleted_does_not_count() {
        let mut going = pod("new", "True", json!([]));
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        ));
        assert_eq!(judge(&set(1, 1), &[going]).0, NodeCounts::new(1, 0, 0));
    }

    #[test]
    fn trouble_is_told_with_its_cause() {
        let container = |state: Value, last: Value| {
            json!([{"name": "store", "image": "x:1", "imageID": "", "ready": false, "restartCount": 1,
                    "state": state, "lastState": last}])
        };
        let pull = container(
            json!({"waiting": {"reason": "ErrImageNeverPull", "message": "x:1 is not there"}}),
            json!({}),
        );
        let (_, step) = judge(&set(1, 1), &[pod("new", "False", pull)]);
        assert_eq!(
            step,
            Step::failed(
                REASON_NODE_FAILING,
                "0 of 1 storage nodes run with the current spec; pod demo-0, image x:1: ErrImageNeverPull: x:1 is not there"
            )
        );
        let last =
            json!({"terminated": {"exitCode": 1, "message": "started\nerror: the disk is read-only\n"}});
        let crash = container(json!({"waiting": {"reason": "CrashLoopBackOff"}}), last);
        let (_, step) = judge(&set(1, 1), &[pod("new", "False", crash)]);
        assert!(format!("{step:?}").contains("again and again: error: the disk is read-only"));
    }
}
