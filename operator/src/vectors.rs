//! The loop over VectorIndexes: storage, Milvus and its workers are applied, then Milvus is asked, step by step, for the collection that is wanted.

mod auth;
mod build;
mod finalize;
mod imports;
mod measure;
mod names;
mod parts;
mod plan;
mod resources;
mod source;
mod status;
mod storage;
mod verify;

use crate::{apply::apply, context::Context, error::Error, reconciliation, status::Step};
use build::Builder;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::Service,
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    runtime::{
        controller::{Action, Controller},
        events::EventType,
        watcher,
    },
};
use names::Names;
use penstock_crds::{
    FIELD_MANAGER, VectorIndex,
    conditions::{
        REASON_API_REFUSED, REASON_INCOMPLETE_SECRET, REASON_MILVUS_UNHEALTHY, REASON_STORAGE_UNREACHABLE,
        REASON_UNSUPPORTED,
    },
};
use source::Source;
use status::Findings;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// New files are looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// While something is waited for or failing.
const LOOK_SOON: Duration = Duration::from_secs(3);

/// Reconciles until the token fires.
pub async fn run(context: Arc<Context>, leading: CancellationToken) {
    let client = context.client.clone();
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
    let looks = Controller::new(
        Api::<VectorIndex>::all(client.clone()),
        watcher::Config::default(),
    )
    .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
    .owns(Api::<Deployment>::all(client.clone()), ours.clone())
    .owns(Api::<Service>::all(client), ours)
    .graceful_shutdown_on(async move { leading.cancelled().await })
    .run(reconcile, retry, context);
    reconciliation::until_its_end(looks).await;
}

fn retry(index: Arc<VectorIndex>, error: &Error, context: Arc<Context>) -> Action {
    reconciliation::again(&*index, error, &context, LOOK_SOON)
}

async fn reconcile(index: Arc<VectorIndex>, context: Arc<Context>) -> Result<Action, Error> {
    reconciliation::measured(&context, reconcile_once(&index, &context)).await
}

async fn reconcile_once(index: &VectorIndex, context: &Context) -> Result<Action, Error> {
    let names = Names::of(index)?;
    if index.metadata.deletion_timestamp.is_some() {
        return Ok(match finalize::release(context, &names, index).await? {
            true => Action::await_change(),
            false => Action::requeue(LOOK_SOON),
        });
    }
    reconciliation::hold(context, index, finalize::FINALIZER).await?;
    let old = index.status.clone().unwrap_or_default();
    let mut findings = Findings::blank(
        index.metadata.generation,
        names.endpoint(),
        names.alias(index),
        &old,
    );
    let outcome = make_true(context, &names, index, &mut findings).await;
    if let Err(error) = &outcome {
        findings.milvus = Step::failed(REASON_API_REFUSED, penstock_service::chain(error));
    }
    let patience = Duration::from_secs(60 * u64::from(index.spec.workers.stalled_after_minutes));
    findings.judge_progress(&old, Timestamp::now(), patience);
    report(context, index, &findings).await?;
    outcome?;
    Ok(Action::requeue(if findings.settled() {
        LOOK_AGAIN
    } else {
        LOOK_SOON
    }))
}

async fn make_true(
    context: &Context,
    names: &Names,
    index: &VectorIndex,
    findings: &mut Findings,
) -> Result<(), Error> {
    if let Some(message) = unsupported(index) {
        findings.milvus = Step::failed(REASON_UNSUPPORTED, message);
        return Ok(());
    }
    let storage = match storage::ensure(context, names, index).await? {
        Ok(storage) => storage,
        Err(step) => {
            findings.storage = step;
            return Ok(());
        }
    };
    findings.access = Some(storage.status.clone());
    for object in [
        resources::etcd_policy(names),
        resources::milvus_policy(names),
        resources::workers_policy(names),
        resources::etcd_service(names),
        resources::etcd_set(names, index),
        resources::milvus_service(names),
        resources::milvus_set(names, index, &storage),
        resources::workers(names, index, &storage),
    ] {
        apply(&context.client, &object).await?;
    }
    let parts = parts::observe(context, names, index).await?;
    findings.workers = Some(parts.workers);
    findings.milvus = parts.step;
    let source = match Source::list(
        &storage.client,
        &index.spec.storage.bucket,
        &index.spec.source.prefix,
    )
    .await
    {
        Ok(source) => source,
        Err(error) => {
            findings.storage = Step::waiting(REASON_STORAGE_UNREACHABLE, penstock_service::chain(&error));
            return Ok(());
        }
    };
    findings.storage = Step::done(format!(
        "Milvus keeps its files in bucket {}",
        index.spec.storage.bucket
    ));
    if !findings.milvus.is_done() {
        return Ok(());
    }
    let Some(passwords) = auth::passwords(context, names).await? else {
        let message = format!(
            "Secret {} lacks password or operatorPassword: add what is missing, or delete the VectorIndex and make it anew",
            names.users()
        );
        findings.milvus = Step::failed(REASON_INCOMPLETE_SECRET, message);
        return Ok(());
    };
    let milvus = match auth::connect(&names.endpoint(), &passwords).await {
        Ok(milvus) => milvus,
        Err(error) if error.is_unauthenticated() => {
            let message = format!(
                "Milvus does not take the passwords in Secret {}: put back those that it was made with",
                names.users()
            );
            findings.milvus = Step::failed(REASON_INCOMPLETE_SECRET, message);
            return Ok(());
        }
        Err(error) => {
            findings.milvus = Step::waiting(REASON_MILVUS_UNHEALTHY, error.to_string());
            return Ok(());
        }
    };
    let unhealthy = match milvus.ailments().await {
        Ok(ailments) if ailments.is_empty() => None,
        Ok(ailments) => Some(ailments.join("; ")),
        Err(error) => Some(error.to_string()),
    };
    if let Some(message) = unhealthy {
        findings.milvus = Step::waiting(REASON_MILVUS_UNHEALTHY, message);
        return Ok(());
    }
    let builder = Builder {
        context,
        names,
        index,
        milvus: &milvus,
        source: &source,
    };
    builder.advance(findings).await
}

/// What this version of Milvus cannot do, of what the spec asks for.
fn unsupported(index: &VectorIndex) -> Option<String> {
    let version = &index.spec.milvus.version;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    let kind = index.spec.index.index_type;
    let is_before = |than: [u32; 3]| parts.as_slice() < than.as_slice();
    if is_before([2, 3, 0]) {
        return Some(format!(
            "Milvus {version} is older than 2.3.0: choose a newer one (spec.milvus.version)"
        ));
    }
    if !is_before([2, 6, 0]) {
        return Some(format!(
            "Milvus {version} builds indexes in other pods than those before 2.6.0, which this version of Penstock does not make: choose an older one \
             (spec.milvus.version)"
        ));
    }
    if kind.is_gpu() && is_before([2, 4, 0]) {
        return Some(format!(
            "Milvus {version} has no {}: choose 2.4.0 or newer (spec.milvus.version)",
            kind.as_str()
        ));
    }
    None
}

/// Writes the status if it says something new, and an Event when another collection serves.
async fn report(context: &Context, index: &VectorIndex, findings: &Findings) -> Result<(), Error> {
    let old = index.status.clone().unwrap_or_default();
    let new = findings.status(&old, Timestamp::now());
    if new == old {
        return Ok(());
    }
    reconciliation::report(context, index, &new, &old.conditions, &new.conditions).await?;
    if new.serving != old.serving
        && let Some(serving) = &new.serving
    {
        let note = format!("collection {serving} answers searches in {}", findings.alias);
        context.tell(index, EventType::Normal, "Serving", &note).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_crds::vector_index::StorageStatus;
    use penstock_rdma::{Client, Credentials, Options};
    use serde_json::{Value, json};

    /// An index called `products`, changed by merging `change` into its spec.
    pub fn index(change: Value) -> VectorIndex {
        let mut object = json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "VectorIndex",
            "metadata": {"name": "products", "namespace": "default", "uid": "u"},
            "spec": {
                "storage": {"clusterName": "demo", "bucket": "vectors"}, "milvus": {"version": "2.3.5"},
                "collection": {"vector": {"name": "vector", "dimension": 128}},
                "source": {"prefix": "embeddings/"}, "index": {"type": "HNSW"},
            },
        });
        merge(&mut object["spec"], change);
        serde_json::from_value(object).unwrap()
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    pub fn storage() -> storage::Storage {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        let endpoint = "http://demo.default.svc:9000".parse().unwrap();
        storage::Storage {
            client: Client::new(endpoint, Credentials::new("a", "b"), Options::default()).unwrap(),
            address: "demo.default.svc:9000".into(),
            tls: false,
            has_ca: false,
            digest: "d".into(),
            status: StorageStatus::default(),
        }
    }

    #[test]
    fn what_a_version_does_not_have_is_told() {
        assert_eq!(unsupported(&index(json!({}))), None);
        let gpu = json!({"index": {"type": "GPU_CAGRA"}});
        assert!(unsupported(&index(gpu.clone())).unwrap().contains("choose 2.4.0"));
        for version in ["2.4.0", "2.5.16"] {
            let mut change = gpu.clone();
            change["milvus"] = json!({"version": version});
            assert_eq!(unsupported(&index(change)), None);
        }
        assert!(unsupported(&index(json!({"milvus": {"version": "2.2.9"}}))).is_some());
        assert!(unsupported(&index(json!({"milvus": {"version": "2.6.1"}}))).is_some());
    }
}
