//! Any Kubernetes object by its kind, as JSON: tests say what a user would write.

use crate::Client;
use anyhow::{Context, Result};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::Value;

/// `penstock.io/v1alpha1`, the API group under test.
pub const PENSTOCK: &str = "penstock.io/v1alpha1";

/// The API for objects of `api_version`/`kind` in `namespace`, or cluster-wide.
///
/// # Errors
/// Never for well-formed names; kept fallible for a readable call chain.
pub fn api(client: &Client, api_version: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Applies `object` as `kubectl apply --server-side` would.
///
/// # Errors
/// What the API server answers, unchanged, with the object's name before it.
pub async fn apply(client: &Client, namespace: Option<&str>, object: &Value) -> Result<DynamicObject> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    api(client, text("/apiVersion"), kind, namespace)
        .patch(
            name,
            &PatchParams::apply("penstock-e2e").force(),
            &Patch::Apply(object),
        )
        .await
        .with_context(|| format!("cannot apply {kind} {name:?}"))
}

/// Merges `from` into `into`, object by object; `null` takes a field away.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}
