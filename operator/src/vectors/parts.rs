//! How etcd, Milvus and the workers really stand.

use super::{
    names::{Names, Part},
    resources::wanted_workers,
};
use crate::{
    context::Context,
    error::Error,
    nodes::{is_ready, trouble},
    status::Step,
};
use k8s_openapi::api::core::v1::Pod;
use penstock_crds::{
    VectorIndex,
    conditions::{REASON_POD_FAILING, REASON_ROLLING_OUT},
    vector_index::WorkerStatus,
};

/// What was seen.
pub struct Parts {
    pub step: Step,
    pub workers: WorkerStatus,
}

/// Looks at the pods. Milvus serves without workers, and builds without them too, so that only what keeps one from starting counts.
pub async fn observe(context: &Context, names: &Names, index: &VectorIndex) -> Result<Parts, Error> {
    let (etcd, milvus, workers) = (
        living(context, names, Part::Etcd).await?,
        living(context, names, Part::Milvus).await?,
        living(context, names, Part::Workers).await?,
    );
    let desired = wanted_workers(index);
    let ready = i32::try_from(workers.iter().filter(|pod| is_ready(pod)).count()).unwrap_or(i32::MAX);
    Ok(Parts {
        step: judge(&etcd, &milvus, &workers, desired, ready),
        workers: WorkerStatus {
            desired,
            ready,
            selector: names.selects(Part::Workers),
        },
    })
}

/// The pods of a part.
pub async fn pods(context: &Context, names: &Names, part: Part) -> Result<Vec<Pod>, Error> {
    crate::pods::list(context, &names.namespace, &names.part(part), &names.selects(part)).await
}

/// Those that are not on their way out.
pub async fn living(context: &Context, names: &Names, part: Part) -> Result<Vec<Pod>, Error> {
    Ok(pods(context, names, part)
        .await?
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .collect())
}

fn judge(etcd: &[Pod], milvus: &[Pod], workers: &[Pod], desired: i32, ready: i32) -> Step {
    let waits = |pods: &[Pod]| !pods.iter().any(is_ready);
    if let Some(trouble) = [etcd, milvus, workers].into_iter().flatten().find_map(trouble) {
        return Step::failed(REASON_POD_FAILING, trouble);
    }
    if waits(etcd) {
        return Step::waiting(REASON_ROLLING_OUT, "etcd is starting");
    }
    if waits(milvus) {
        return Step::waiting(REASON_ROLLING_OUT, "Milvus is starting");
    }
    Step::done(format!("Milvus runs, and {ready} of {desired} workers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(ready: &str, containers: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {"conditions": [{"type": "Ready", "status": ready}], "containerStatuses": containers},
        }))
        .unwrap()
    }

    #[test]
    fn what_keeps_a_pod_from_starting_is_told_before_what_waits() {
        let (up, down) = (|| vec![pod("True", json!([]))], || vec![pod("False", json!([]))]);
        assert!(judge(&up(), &up(), &up(), 1, 1).is_done());
        assert!(judge(&up(), &up(), &[], 1, 0).is_done());
        assert_eq!(judge(&[], &down(), &up(), 1, 1).message(), "etcd is starting");
        assert_eq!(judge(&up(), &down(), &up(), 1, 1).message(), "Milvus is starting");
        let waiting = json!({"waiting": {"reason": "ErrImageNeverPull", "message": "no image"}});
        let failing = pod(
            "False",
            json!([{
                "name": "milvus", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": waiting,
            }]),
        );
        let told = judge(&down(), &down(), &[failing], 1, 0);
        assert!(
            told.has_failed() && told.message().contains("ErrImageNeverPull"),
            "{told:?}"
        );
    }
}
