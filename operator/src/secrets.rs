//! Secrets that are made once, and read.

use crate::error::Error;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

/// The Secret of that name; with what `texts` gives, if there is none. It is created and not applied: whoever is second finds what the first one made.
pub async fn once(
    secrets: &Api<Secret>,
    name: &str,
    metadata: &Value,
    texts: impl FnOnce() -> Value,
) -> Result<Secret, Error> {
    let found = secrets.get_opt(name).await;
    if let Some(found) = found.map_err(Error::api(format!("read Secret {name}")))? {
        return Ok(found);
    }
    let secret: Secret =
        serde_json::from_value(json!({"metadata": metadata, "stringData": texts()})).unwrap_or_default();
    let parameters = PostParams {
        field_manager: Some("penstock-operator-keys".into()),
        ..PostParams::default()
    };
    let made = match secrets.create(&parameters, &secret).await {
        Err(kube::Error::Api(status)) if status.code == 409 => secrets.get(name).await,
        made => made,
    };
    made.map_err(Error::api(format!("create Secret {name}")))
}

/// A value that is text, and not empty.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret
        .data
        .as_ref()?
        .get(key)
        .filter(|value| !value.0.is_empty())?;
    String::from_utf8(value.0.clone()).ok()
}
