//! How the bytes of volumes travel, as both ends count them.

use crate::{Namespace, chart, command::kubectl};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use std::fmt;

/// Bytes by direction and transport, as some end counted them at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved(Vec<(String, String, u64)>);

impl Moved {
    /// Those of a direction (`read`, `write`) that went by a transport (`rdma`, `shm`, `http`).
    #[must_use]
    pub fn bytes(&self, direction: &str, via: &str) -> u64 {
        let wanted = |(d, v, _): &&(String, String, u64)| d == direction && v == via;
        self.0.iter().filter(wanted).map(|(_, _, bytes)| bytes).sum()
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (direction, via, bytes) in &self.0 {
            write!(f, "[{direction} by {via}: {bytes}]")?;
        }
        Ok(())
    }
}

/// What moved between a claim's volume and its storage node, as the agent of a node counts it.
///
/// # Errors
/// When the claim has no volume, the node no agent, or the agent does not answer.
pub async fn moved(ns: &Namespace, claim: &str, node: &str) -> Result<Moved> {
    let claim = ns.claim_bound(claim).await?;
    let volume = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .context("the claim is not bound")?;
    let of_node = ListParams::default()
        .labels("app.kubernetes.io/component=node")
        .fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::namespaced(ns.client.clone(), chart::NAMESPACE)
        .list(&of_node)
        .await?;
    let pod = pods
        .items
        .iter()
        .find(|pod| pod.metadata.deletion_timestamp.is_none())
        .and_then(|pod| pod.metadata.name.as_deref())
        .with_context(|| format!("{node} has no node pod"))?;
    let text = metrics(chart::NAMESPACE, pod, 9091).await?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("penstock_volume_bytes_total{") && line.contains(&volume));
    Ok(Moved(
        lines
            .filter_map(|line| Some((label(line, "direction")?, label(line, "via")?, value(line)?)))
            .collect(),
    ))
}

/// What a storage node moved since it started: `read` is what it sent.
///
/// # Errors
/// When it does not answer.
pub async fn served(ns: &Namespace, cluster: &str) -> Result<Moved> {
    let text = metrics(&ns.name, &format!("{cluster}-0"), 9001).await?;
    let of = |line: &str| {
        let direction = if line.starts_with("penstock_store_sent_bytes_total{") {
            "read"
        } else if line.starts_with("penstock_store_received_bytes_total{") {
            "write"
        } else {
            return None;
        };
        Some((direction.to_owned(), label(line, "via")?, value(line)?))
    };
    Ok(Moved(text.lines().filter_map(of).collect()))
}

async fn metrics(namespace: &str, pod: &str, port: u16) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    kubectl(&["get", "--raw", &path]).await
}

fn label(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

fn value(line: &str) -> Option<u64> {
    line.rsplit_once(' ')?.1.parse().ok()
}
