//! What the loops over custom resources have in common: how an object is held until its end, and what is told of each look.

use crate::{apply::unless_gone, context::Context, error::Error, status::told};
use futures::{Stream, StreamExt};
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, events::EventType},
};
use penstock_crds::{
    FIELD_MANAGER,
    conditions::{DEGRADED, READY},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// One of ours.
pub trait CustomResource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

impl<K> CustomResource for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

/// Takes what the looks of a loop end with until there are no more.
pub async fn until_its_end<T, E: std::error::Error + 'static>(looks: impl Stream<Item = Result<T, E>>) {
    looks
        .for_each(async |outcome| {
            if let Err(error) = outcome {
                tracing::debug!(
                    error = penstock_service::chain(&error),
                    "a reconciliation did not end well"
                );
            }
        })
        .await;
}

/// One look, counted.
pub async fn measured(
    context: &Context,
    look: impl Future<Output = Result<Action, Error>>,
) -> Result<Action, Error> {
    let start = Instant::now();
    let outcome = look.await;
    context.metrics.reconciled(start.elapsed());
    outcome
}

/// What comes after a look that failed: another one.
pub fn again<K: CustomResource>(object: &K, error: &Error, context: &Context, after: Duration) -> Action {
    let kind = K::kind(&());
    context.metrics.failed(&kind, error);
    tracing::warn!(
        %kind,
        name = object.meta().name,
        namespace = object.meta().namespace,
        error = penstock_service::chain(error),
        "reconciling failed; it is tried again"
    );
    Action::requeue(after)
}

/// Whether the finalizer is on the object.
pub fn is_held<K: CustomResource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|name| name == finalizer)
}

/// Puts the finalizer on an object that lacks it.
pub async fn hold<K: CustomResource>(context: &Context, object: &K, finalizer: &str) -> Result<(), Error> {
    if is_held(object, finalizer) {
        return Ok(());
    }
    let held = object.finalizers().iter().cloned();
    set_finalizers(context, object, held.chain([finalizer.to_owned()]).collect()).await
}

/// Takes the finalizer off it.
pub async fn let_go<K: CustomResource>(context: &Context, object: &K, finalizer: &str) -> Result<(), Error> {
    let held = object.finalizers().iter();
    let left = held.filter(|name| *name != finalizer).cloned().collect();
    set_finalizers(context, object, left).await
}

async fn set_finalizers<K: CustomResource>(
    context: &Context,
    object: &K,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    let name = object.name_any();
    // With the version that was read: a finalizer that somebody else added meanwhile is not lost.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": object.meta().resource_version},
    });
    let patched = api(context, object)?
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    unless_gone(patched).map_err(Error::api(format!("set the finalizers of {name}")))?;
    Ok(())
}

/// Writes the status, and an Event when Ready changed or the cause of not being Ready did.
pub async fn report<K: CustomResource>(
    context: &Context,
    object: &K,
    status: &impl Serialize,
    before: &[Condition],
    after: &[Condition],
) -> Result<(), Error> {
    let name = object.name_any();
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": status,
    });
    api(context, object)?
        .patch_status(
            &name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&patch),
        )
        .await
        .map_err(Error::api(format!("write the status of {name}")))?;
    let Some((ready, reason, message)) = told(after, READY) else {
        return Ok(());
    };
    if told(before, READY).map(|(ready, reason, _)| (ready, reason)) == Some((ready, reason)) {
        return Ok(());
    }
    let is_degraded = told(after, DEGRADED).is_some_and(|(status, ..)| status == "True");
    let type_ = if is_degraded {
        EventType::Warning
    } else {
        EventType::Normal
    };
    let (kind, namespace) = (K::kind(&()), &object.meta().namespace);
    tracing::info!(%kind, namespace, name, ready, reason, message, "status");
    context.tell(object, type_, reason, message).await;
    Ok(())
}

fn api<K: CustomResource>(context: &Context, object: &K) -> Result<Api<K>, Error> {
    let namespace = object.namespace().ok_or(Error::Incomplete("a namespace"))?;
    Ok(Api::namespaced(context.client.clone(), &namespace))
}
