//! A namespace of a test's own.

use crate::{Client, Pod, Wait, client, diagnose, eventually, object};
use anyhow::{Result, bail};
use k8s_openapi::api::{
    core::v1::{Namespace as Resource, PersistentVolumeClaim},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A namespace that one test owns.
#[derive(Clone)]
pub struct Namespace {
    /// Client for the cluster it is in.
    pub client: Client,
    /// Its name.
    pub name: String,
}

/// Runs `test` in a fresh namespace. On failure prints what happened in it; removes it in any case.
///
/// # Errors
/// The test's own error, or that the cluster or the clean-up failed.
pub async fn in_namespace<T>(prefix: &str, test: impl AsyncFnOnce(Namespace) -> Result<T>) -> Result<T> {
    let ns = Namespace::create(client().await?, prefix).await?;
    let outcome = test(ns.clone()).await;
    if let Err(error) = &outcome {
        eprintln!("--- failed in namespace {}: {error:#}", ns.name);
        diagnose::print(&ns).await;
    }
    let cleaned = ns.remove().await;
    let value = outcome?;
    cleaned?;
    Ok(value)
}

impl Namespace {
    async fn create(client: Client, prefix: &str) -> Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        // Tests of one process may begin in the same microsecond.
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        let number = TAKEN.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{:x}-{number}", now & 0xff_ffff_ffff);
        let object: Resource = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "penstock-e2e"}}
        }))?;
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        Ok(Self { client, name })
    }

    /// A namespace that stays: created when it is missing.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn existing(client: Client, name: &str) -> Result<Self> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        object::apply(&client, None, &object).await?;
        Ok(Self {
            client,
            name: name.into(),
        })
    }

    /// The typed API in this namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The API of our custom resources in this namespace.
    #[must_use]
    pub fn penstock(&self, kind: &str) -> Api<DynamicObject> {
        object::api(&self.client, object::PENSTOCK, kind, Some(&self.name))
    }

    /// Applies an object in this namespace.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        object::apply(&self.client, Some(&self.name), object).await
    }

    /// A PersistentVolumeClaim of 1 GiB, ReadWriteMany, bound.
    ///
    /// # Errors
    /// When it is not bound in time.
    pub async fn claim(&self, name: &str, storage_class: &str) -> Result<PersistentVolumeClaim> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": storage_class,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))
        .await?;
        self.claim_bound(name).await
    }

    /// Waits until a claim is bound.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn claim_bound(&self, name: &str) -> Result<PersistentVolumeClaim> {
        let claims = self.api::<PersistentVolumeClaim>();
        eventually(&format!("claim {name} is bound"), async || {
            let claim = claims.get(name).await?;
            Ok(
                match claim.status.as_ref().and_then(|status| status.phase.clone()) {
                    Some(phase) if phase == "Bound" => Wait::Done(claim),
                    phase => Wait::NotYet(format!("phase {phase:?}")),
                },
            )
        })
        .await
    }

    /// Describes a pod to be run here.
    pub fn pod(&self, name: &str) -> Pod {
        Pod::new(self.clone(), name)
    }

    /// The names of objects of a kind here.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn names(&self, api_version: &str, kind: &str) -> Result<Vec<String>> {
        names(
            &object::api(&self.client, api_version, kind, Some(&self.name)),
            &ListParams::default(),
        )
        .await
    }

    /// Events about a pod with this reason: what they say.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn told(&self, pod: &str, reason: &str) -> Result<Vec<String>> {
        let events = self.api::<Event>().list(&ListParams::default()).await?;
        Ok(events
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(pod))
            .filter_map(|event| event.note)
            .collect())
    }

    async fn remove(&self) -> Result<()> {
        // Pods and claims first, then our objects: a namespace controller deletes in no particular order, and volumes
        // whose storage node is gone already could not be given back. What the operator made goes with its owner.
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by!=penstock-operator");
        for (api_version, kind) in [
            ("apps/v1", "Deployment"),
            ("v1", "Pod"),
            ("v1", "PersistentVolumeClaim"),
            (object::PENSTOCK, "VectorIndex"),
            (object::PENSTOCK, "StorageCluster"),
        ] {
            let api = object::api(&self.client, api_version, kind, Some(&self.name));
            api.delete_collection(&DeleteParams::background(), &ours).await?;
            eventually(&format!("{kind}s of {} are gone", self.name), async || {
                let left: Vec<_> = api
                    .list(&ours)
                    .await?
                    .into_iter()
                    .filter(|object| holds_up(kind, object))
                    .filter_map(|object| object.metadata.name)
                    .collect();
                Ok(if left.is_empty() {
                    Wait::Done(())
                } else {
                    Wait::NotYet(left.join(", "))
                })
            })
            .await?;
        }
        let namespaces = Api::<Resource>::all(self.client.clone());
        namespaces.delete(&self.name, &DeleteParams::default()).await?;
        eventually(&format!("namespace {} is gone", self.name), async || {
            Ok(match namespaces.get_opt(&self.name).await? {
                None => Wait::Done(()),
                Some(left) => Wait::NotYet(format!("{:?}", left.status.and_then(|status| status.conditions))),
            })
        })
        .await
    }

    /// Waits until `check` holds of the object; fails at once when it is gone.
    ///
    /// # Errors
    /// When it does not hold in time.
    pub async fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        mut check: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let api = self.penstock(kind);
        eventually(&format!("{kind} {name}: {what}"), async || {
            let Some(object) = api.get_opt(name).await? else {
                bail!("{kind} {name} is gone")
            };
            let value = serde_json::to_value(&object)?;
            Ok(if check(&value) {
                Wait::Done(value)
            } else {
                Wait::NotYet(
                    value
                        .get("status")
                        .map_or_else(|| "no status".into(), Value::to_string),
                )
            })
        })
        .await
    }
}

/// Whether what comes after it has to wait for its end: a disk that a storage node uses ends after that, with the namespace.
fn holds_up(kind: &str, object: &DynamicObject) -> bool {
    let provisioner = object
        .annotations()
        .get("volume.kubernetes.io/storage-provisioner");
    kind != "PersistentVolumeClaim" || provisioner.is_some_and(|name| name == "csi.penstock.io")
}

async fn names(api: &Api<DynamicObject>, selector: &ListParams) -> Result<Vec<String>> {
    Ok(api
        .list(selector)
        .await?
        .into_iter()
        .filter_map(|object| object.metadata.name)
        .collect())
}
