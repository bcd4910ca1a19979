//! StorageClusters as tests want them.

use crate::{Client, Namespace, Wait, eventually, object};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// A StorageCluster to be created.
#[must_use]
pub struct Cluster {
    ns: Namespace,
    manifest: Value,
}

/// A StorageCluster that is Ready.
#[derive(Clone)]
pub struct Ready {
    /// Its name.
    pub name: String,
    /// The StorageClass that makes buckets of it.
    pub storage_class: String,
    /// Its endpoint within the cluster.
    pub endpoint: String,
    /// Its Secret with the root key pair.
    pub credentials: String,
    /// The object as it was when it became Ready.
    pub object: Value,
}

/// A StorageCluster with one node and one disk, deleted with its data.
///
/// # Errors
/// When the API server does not answer.
pub async fn cluster(ns: &Namespace, name: &str) -> Result<Cluster> {
    let mut template = json!({"size": "1Gi"});
    if let Some(class) = disk_class(&ns.client).await? {
        template["storageClassName"] = json!(class);
    }
    let manifest = json!({
        "apiVersion": object::PENSTOCK, "kind": "StorageCluster", "metadata": {"name": name},
        "spec": {"storage": {"volumeClaimTemplate": template}, "deletionPolicy": "Delete"},
    });
    Ok(Cluster {
        ns: ns.clone(),
        manifest,
    })
}

/// The class of the throwaway cluster's disks, where there is one; else the cluster's default class is used.
///
/// # Errors
/// When the API server does not answer.
pub async fn disk_class(client: &Client) -> Result<Option<String>> {
    const NAME: &str = "local-disks";
    let classes = object::api(client, "storage.k8s.io/v1", "StorageClass", None);
    Ok(classes.get_opt(NAME).await?.map(|_| NAME.to_owned()))
}

impl Cluster {
    /// Merges fields into its `spec`.
    pub fn with(mut self, spec: Value) -> Self {
        object::merge(&mut self.manifest["spec"], spec);
        self
    }

    /// The object as it would be applied.
    #[must_use]
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// Applies it without waiting.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn applied(&self) -> Result<DynamicObject> {
        self.ns.apply(&self.manifest).await
    }

    /// Applies it and waits until it is Ready.
    ///
    /// # Errors
    /// When it is not Ready in time; the message holds its status.
    pub async fn created(self) -> Result<Ready> {
        self.applied().await?;
        let name = self.manifest["metadata"]["name"].as_str().unwrap_or_default();
        ready(&self.ns, name).await
    }
}

/// Waits until a StorageCluster is Ready for its current generation.
///
/// # Errors
/// When it is not in time.
pub async fn ready(ns: &Namespace, name: &str) -> Result<Ready> {
    let object = ns
        .until("StorageCluster", name, "is Ready", |object| {
            condition(object, "Ready") == "True"
        })
        .await?;
    let text = |field: &str| -> Result<String> {
        Ok(object["status"][field]
            .as_str()
            .with_context(|| format!("status.{field} is missing"))?
            .to_owned())
    };
    Ok(Ready {
        name: name.to_owned(),
        storage_class: text("storageClassName")?,
        endpoint: text("endpoint")?,
        credentials: text("credentialsSecret")?,
        object: object.clone(),
    })
}

/// The status of a condition: `True`, `False`, `Unknown`, or `Stale` when it speaks of an older generation.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
        return "Stale";
    }
    field_of(object, kind, "status")
}

/// The reason of a condition.
#[must_use]
pub fn reason<'a>(object: &'a Value, kind: &str) -> &'a str {
    field_of(object, kind, "reason")
}

/// The message of a condition.
#[must_use]
pub fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    field_of(object, kind, "message")
}

fn field_of<'a>(object: &'a Value, kind: &str, field: &str) -> &'a str {
    object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|condition| condition["type"] == kind))
        .and_then(|condition| condition[field].as_str())
        .unwrap_or_default()
}

/// A value of a Secret, as text.
///
/// # Errors
/// When the Secret or the key is missing.
pub async fn secret_value(ns: &Namespace, name: &str, key: &str) -> Result<String> {
    let secret = ns.api::<Secret>().get(name).await?;
    let data = secret.data.unwrap_or_default();
    let value = data
        .get(key)
        .with_context(|| format!("Secret {name} has no key {key}"))?;
    Ok(String::from_utf8(value.0.clone())?)
}

/// Waits until the only pod of a storage node is another one than `uid` and Ready.
///
/// # Errors
/// When that does not come true in time.
pub async fn replaced(ns: &Namespace, name: &str, uid: &str) -> Result<()> {
    let pods = ns.api::<k8s_openapi::api::core::v1::Pod>();
    let pod = format!("{name}-0");
    eventually(&format!("pod {pod} was replaced"), async || {
        let Some(found) = pods.get_opt(&pod).await? else {
            return Ok(Wait::NotYet("no pod".into()));
        };
        let ready = crate::is_ready(&found);
        Ok(if ready && found.metadata.uid.as_deref() != Some(uid) {
            Wait::Done(())
        } else {
            Wait::NotYet(format!("ready: {ready}, uid {:?}", found.metadata.uid))
        })
    })
    .await
}
