//! Helpers for tests and the demo that run against a real Kubernetes.
//!
//! A test takes a namespace of its own, says what it wants in it, and waits for what must come true:
//!
//! ```no_run
//! use penstock_e2e::{in_namespace, storage};
//! # async fn example() -> anyhow::Result<()> {
//! in_namespace("csi", async |ns| {
//!     let cluster = storage::cluster(&ns, "demo").await?.created().await?;
//!     ns.claim("data", &cluster.storage_class).await?;
//!     ns.pod("writer").mounting("data").runs("echo hello > /data/greeting").succeeds().await?;
//!     Ok(())
//! })
//! .await
//! # }
//! ```
//! When it fails, the events, pod logs and node logs of what it touched are printed before the namespace goes.
#![forbid(unsafe_code)]

mod diagnose;
mod namespace;
mod pod;
mod wait;

pub mod chart;
pub mod command;
pub mod forward;
pub mod gateway;
pub mod guest;
pub mod object;
pub mod s3;
pub mod storage;
pub mod vectors;
pub mod volume;

pub use anyhow::{Context, Result, bail, ensure};
pub use kube::Client;
pub use namespace::{Namespace, in_namespace};
pub use pod::Pod;
pub use wait::{Wait, eventually, within};

/// A client for the cluster of `KUBECONFIG`.
///
/// # Errors
/// When there is no such cluster; the message says how to get one.
pub async fn client() -> Result<Client> {
    Client::try_default()
        .await
        .context("no cluster: run this by `make test`, or inside `make shell` after `make up`")
}

/// Names of the cluster's nodes that take any pod, in order.
///
/// # Errors
/// When the API server does not answer.
pub async fn nodes(client: &Client) -> Result<Vec<String>> {
    let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
    let mut names: Vec<_> = nodes
        .list(&kube::api::ListParams::default())
        .await?
        .into_iter()
        .filter(|node| {
            node.spec.as_ref().is_none_or(|spec| {
                spec.unschedulable != Some(true) && spec.taints.as_ref().is_none_or(Vec::is_empty)
            })
        })
        .filter_map(|node| node.metadata.name)
        .collect();
    names.sort();
    Ok(names)
}

/// Whether a pod's condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
