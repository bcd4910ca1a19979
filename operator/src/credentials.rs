//! Key pairs, made once and never changed by the operator afterwards; and the root's, which is the cluster's.
//!
//! Its Secret has no owner reference: with `deletionPolicy: Retain` it must outlive the cluster as the data do, and a Secret
//! that a user made beforehand is the user's.

use crate::{
    apply::{apply, unless_gone},
    context::Context,
    error::Error,
    resources::{Names, REGION},
    secrets,
    status::Step,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use penstock_crds::conditions::REASON_INCOMPLETE_SECRET;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];

/// Outcome of the step: a digest of the keys when they are complete.
pub type Outcome = Result<String, Step>;

/// Makes sure that the Secret holds a key pair, then adds endpoint, region and CA to it.
pub async fn ensure(
    context: &Context,
    names: &Names,
    endpoint: &str,
    ca: Option<&str>,
) -> Result<Outcome, Error> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let name = names.credentials();
    let metadata = json!({"name": name, "namespace": names.namespace, "labels": names.labels()});
    let found = secrets::once(&secrets, &name, &metadata, key_pair).await?;
    let digest = match complete(&name, &found) {
        Ok(digest) => digest,
        Err(step) => return Ok(Err(step)),
    };
    let mut added = json!({"endpoint": endpoint, "region": REGION});
    if let Some(ca) = ca {
        added["ca.crt"] = json!(ca);
    }
    // Only these fields are applied, so the keys are never ours to overwrite.
    apply(
        &context.client,
        &json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": names.namespace}, "stringData": added,
        }),
    )
    .await?;
    Ok(Ok(digest))
}

/// A digest of the key pair in a Secret, or what is missing.
pub fn complete(name: &str, secret: &Secret) -> Outcome {
    let value = |key: &str| {
        let data = secret.data.as_ref()?;
        data.get(key).filter(|value| !value.0.is_empty())
    };
    let missing: Vec<_> = KEYS.into_iter().filter(|key| value(key).is_none()).collect();
    if !missing.is_empty() {
        let message = format!(
            "Secret {name} lacks {}: add what is missing, or delete the Secret to have a new key pair made",
            missing.join(" and ")
        );
        return Err(Step::failed(REASON_INCOMPLETE_SECRET, message));
    }
    let mut digest = Sha256::new();
    for value in KEYS.into_iter().filter_map(value) {
        digest.update(&value.0);
        digest.update([0]);
    }
    Ok(hex::encode(digest.finalize())[..16].to_owned())
}

/// 100 and 240 random bits, in the alphabets that S3 tools expect.
pub fn key_pair() -> Value {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let id: String = (0..16)
        .map(|_| char::from(LETTERS[usize::from(rand::random::<u8>() & 31)]))
        .collect();
    json!({"accessKeyId": format!("PSTK{id}"), "secretAccessKey": hex::encode(rand::random::<[u8; 30]>())})
}

/// Removes the Secret if the operator made it.
pub async fn remove(context: &Context, names: &Names) -> Result<(), Error> {
    let name = names.credentials();
    let doing = format!("delete Secret {name}");
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let found = secrets.get_opt(&name).await.map_err(Error::api(doing.clone()))?;
    let ours = |secret: &Secret| {
        let labels = secret.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get("app.kubernetes.io/managed-by"))
            .map(String::as_str)
            == Some(penstock_crds::FIELD_MANAGER)
    };
    if found.as_ref().is_some_and(ours) {
        unless_gone(secrets.delete(&name, &Default::default()).await).map_err(Error::api(doing))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_pairs_have_the_form_that_s3_tools_expect_and_differ() {
        let (one, two) = (key_pair(), key_pair());
        assert_eq!(one["accessKeyId"].as_str().unwrap().len(), 20);
        assert_eq!(one["secretAccessKey"].as_str().unwrap().len(), 60);
        assert_ne!(one["secretAccessKey"], two["secretAccessKey"]);
    }
}
