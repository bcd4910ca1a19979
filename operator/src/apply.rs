//! Server-side apply, with one field manager.

use crate::error::Error;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use penstock_crds::FIELD_MANAGER;
use serde_json::Value;

/// The API for objects like `object` (by its `apiVersion` and `kind`), in its namespace if it names one.
pub fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |pointer| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (group, version) = text("/apiVersion")
        .split_once('/')
        .unwrap_or(("", text("/apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    match object.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Applies an object: the fields in it are ours, all others are left alone.
pub async fn apply(client: &Client, object: &Value) -> Result<DynamicObject, Error> {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    api_of(client, object)
        .patch(
            name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(object),
        )
        .await
        .map_err(Error::api(format!(
            "apply {} {name}",
            object["kind"].as_str().unwrap_or_default()
        )))
}

/// `None` for "not found", so that deleting twice is no error.
pub fn unless_gone<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// An owner reference to `owner`, which makes the garbage collector remove the object with it.
pub fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Value {
    owner
        .controller_owner_ref(&())
        .map_or(Value::Null, |reference| serde_json::json!([reference]))
}
