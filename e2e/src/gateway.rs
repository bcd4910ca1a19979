//! What the agents count of the requests that they pass on.

use crate::{Namespace, Wait, chart, command, eventually};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};

/// Waits until the agent of a node counts so much for a StorageCluster of the namespace.
///
/// # Errors
/// When it does not in time.
pub async fn counts(
    ns: &Namespace,
    cluster: &str,
    node: &str,
    name: &str,
    labels: &str,
    good: impl Fn(u64) -> bool,
) -> Result<()> {
    let comma = if labels.is_empty() { "" } else { "," };
    let metric = format!(
        r#"penstock_gateway_{name}{{upstream="{}/{cluster}"{comma}{labels}}} "#,
        ns.name
    );
    eventually(&format!("{metric}on {node} is as it should"), async || {
        let text = metrics(ns, node).await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(&metric)?.parse().ok());
        Ok(match value {
            Some(value) if good(value) => Wait::Done(()),
            other => Wait::NotYet(format!("{other:?}")),
        })
    })
    .await
}

async fn metrics(ns: &Namespace, node: &str) -> Result<String> {
    let of_node = ListParams::default()
        .labels("app.kubernetes.io/component=node")
        .fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::namespaced(ns.client.clone(), chart::NAMESPACE)
        .list(&of_node)
        .await?;
    let pod = pods
        .items
        .first()
        .and_then(|pod| pod.metadata.name.clone())
        .context("no node pod")?;
    let path = format!(
        "/api/v1/namespaces/{}/pods/{pod}:9091/proxy/metrics",
        chart::NAMESPACE
    );
    command::kubectl(&["get", "--raw", &path]).await
}
