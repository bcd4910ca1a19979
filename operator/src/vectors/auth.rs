//! Users of Milvus: `root`, whose password is for the index's own users, and the operator's.

use super::names::{Names, Part};
use crate::{context::Context, error::Error, secrets};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use penstock_milvus::{Credentials, Milvus};
use serde_json::json;

/// Milvus' first user.
const ROOT: &str = "root";
/// Its password until it is changed.
const FIRST_PASSWORD: &str = "Milvus";
/// The operator's user.
const OWN: &str = "penstock";
/// The role of users that may do everything.
const ADMIN: &str = "admin";

/// Passwords, as the Secret has them.
pub struct Passwords {
    root: String,
    own: String,
}

/// The index's passwords, made once: a Secret with `username`, `password` and `operatorPassword`. `None` where a Secret of that name lacks one.
pub async fn passwords(context: &Context, names: &Names) -> Result<Option<Passwords>, Error> {
    let name = names.users();
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let metadata = names.owned(&name, Part::Milvus);
    let made = || json!({"username": ROOT, "password": random(), "operatorPassword": random()});
    let secret = secrets::once(&secrets, &name, &metadata, made).await?;
    let text = |key| secrets::text(&secret, key);
    Ok(text("password")
        .zip(text("operatorPassword"))
        .map(|(root, own)| Passwords { root, own }))
}

/// 128 random bits. (Milvus takes 6 to 256 characters.)
fn random() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// A client that Milvus knows as the operator; the users are made, and root's password set, where that has not been done.
pub async fn connect(address: &str, passwords: &Passwords) -> penstock_milvus::Result<Milvus> {
    let client = |user: &str, password: &str| {
        let credentials = Credentials {
            user: user.into(),
            password: password.into(),
        };
        Milvus::new(address, Some(&credentials))
    };
    let own = client(OWN, &passwords.own)?;
    if !is_stranger(&own).await? {
        return Ok(own);
    }
    let root = client(ROOT, &passwords.root)?;
    if is_stranger(&root).await? {
        let first = client(ROOT, FIRST_PASSWORD)?;
        first.set_password(ROOT, FIRST_PASSWORD, &passwords.root).await?;
    }
    // One with another password is of no use.
    root.delete_user(OWN).await?;
    root.create_user(OWN, &passwords.own).await?;
    root.add_role(OWN, ADMIN).await?;
    Ok(own)
}

async fn is_stranger(milvus: &Milvus) -> penstock_milvus::Result<bool> {
    match milvus.collections().await {
        Ok(_) => Ok(false),
        Err(error) if error.is_unauthenticated() => Ok(true),
        Err(error) => Err(error),
    }
}
