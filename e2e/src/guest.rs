//! The throwaway cluster's nodes that are virtual machines with an RDMA device (`e2e/cluster/guests`).

use crate::{
    Client,
    command::{root, run},
};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};

/// Their label, and the key of their taint.
pub const MARK: &str = "penstock.io/test-rdma";
/// The RDMA device that each of them has.
pub const DEVICE: &str = "rxe0";

/// The names of two of them.
///
/// # Errors
/// When there are not two; the message says how to get them.
pub async fn two(client: &Client) -> Result<(String, String)> {
    let marked = ListParams::default().labels(&format!("{MARK}=true"));
    let nodes = Api::<Node>::all(client.clone()).list(&marked).await?;
    let mut names = nodes.into_iter().filter_map(|node| node.metadata.name);
    let both = names.next().zip(names.next());
    both.context("the cluster has no two nodes with RDMA: `make test SUITE=rdma-cluster` starts them, or e2e/cluster/guests up 2")
}

/// Runs a command in a guest as root, on the machine itself and not in a pod, and returns its stdout.
///
/// # Errors
/// When it fails, or the guest cannot be reached.
pub async fn command(node: &str, words: &[&str]) -> Result<String> {
    let script = root().join("e2e/cluster/guests");
    run(&script.to_string_lossy(), &[&["exec", node], words].concat()).await
}

/// A counter of the kernel's RDMA device, as `sent_pkts` (`rdma statistic`).
///
/// # Errors
/// When it cannot be read.
pub async fn counter(node: &str, name: &str) -> Result<u64> {
    let path = format!("/sys/class/infiniband/{DEVICE}/ports/1/hw_counters/{name}");
    Ok(command(node, &["cat", &path]).await?.trim().parse()?)
}

/// Pulls the cable of a guest, or plugs it in: its end of the switch, which is outside.
///
/// # Errors
/// When `ip` fails.
pub async fn cable(node: &str, plugged: bool) -> Result<()> {
    run("ip", &["link", "set", node, if plugged { "up" } else { "down" }]).await?;
    Ok(())
}
