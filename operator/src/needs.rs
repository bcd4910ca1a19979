//! What the spec names and its owner has to make: pods that mount what is not there wait for ever, and do not say why in their status.

use crate::{context::Context, error::Error, resources::Names, status::Step};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::Api;
use penstock_crds::{
    StorageCluster,
    conditions::{REASON_INCOMPLETE_SECRET, REASON_NO_CLAIM},
};

/// The first thing that is missing.
pub async fn missing(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
) -> Result<Option<Step>, Error> {
    if let Some(wanted) = &cluster.spec.master_key {
        let name = &wanted.secret_name;
        let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
        let found = secrets.get_opt(name).await;
        let found = found.map_err(Error::api(format!("read Secret {name}")))?;
        if let Some(message) = incomplete(name, &wanted.key, found.as_ref()) {
            return Ok(Some(Step::failed(REASON_INCOMPLETE_SECRET, message)));
        }
    }
    if let Some(backups) = &cluster.spec.backups {
        let name = &backups.claim_name;
        let claims = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &names.namespace);
        let found = claims.get_opt(name).await;
        if found
            .map_err(Error::api(format!("read PersistentVolumeClaim {name}")))?
            .is_none()
        {
            let message = format!(
                "there is no PersistentVolumeClaim {name} in this namespace: make it, or take spec.backups away"
            );
            return Ok(Some(Step::failed(REASON_NO_CLAIM, message)));
        }
    }
    Ok(None)
}

fn incomplete(name: &str, key: &str, secret: Option<&Secret>) -> Option<String> {
    let Some(secret) = secret else {
        return Some(format!(
            "there is no Secret {name} in this namespace: make it, with 32 random bytes in hexadecimal digits in {key}"
        ));
    };
    let has_key = secret
        .data
        .as_ref()
        .and_then(|data| data.get(key))
        .is_some_and(|value| !value.0.is_empty());
    (!has_key).then(|| format!("Secret {name} lacks {key}: 32 random bytes in hexadecimal digits or base64"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_master_key_that_is_missing_is_told() {
        assert!(
            incomplete("s", "k", None)
                .unwrap()
                .contains("there is no Secret s")
        );
        let secret = |data| serde_json::from_value::<Secret>(json!({"data": data})).unwrap();
        for data in [json!({}), json!({"k": ""}), json!({"other": "YQ=="})] {
            let told = incomplete("s", "k", Some(&secret(data))).unwrap();
            assert!(told.contains("Secret s lacks k"), "{told}");
        }
        assert_eq!(incomplete("s", "k", Some(&secret(json!({"k": "YQ=="})))), None);
    }
}
