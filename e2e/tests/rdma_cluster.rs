//! RDMA in a real cluster: nodes with a soft-RoCE device each, the device plugin, volumes whose bytes travel by verbs, and what
//! happens when storage node or cable fail.
//!
//! The two nodes with RDMA are virtual machines, emulated and slow: sizes are of a few MiB, and nothing here measures speed.

use k8s_openapi::api::core::v1::Pod as Resource;
use kube::api::DeleteParams;
use penstock_e2e::{
    Namespace, Pod, Result, Wait,
    command::kubectl,
    ensure, eventually, guest, in_namespace, nodes, object, storage,
    volume::{self, Moved},
};
use serde_json::json;
use std::time::Duration;
use tokio::sync::Mutex;

/// A storage node on its Kubernetes node's network takes ports 9000 and 9001 there, so there is one at a time.
static PORTS: Mutex<()> = Mutex::const_new(());

const MIB: u64 = 1 << 20;
/// Payload of a packet at most, with Ethernet's usual 1500 bytes a frame.
const PATH_MTU: u64 = 1024;

/// A StorageCluster on a node with RDMA, as docs/storagecluster.md says; `volumes` is what its volumes do without.
async fn on_rdma_node(ns: &Namespace, name: &str, node: &str, volumes: &str) -> Result<storage::Cluster> {
    Ok(storage::cluster(ns, name).await?.with(json!({
        "rdma": {"policy": "Require", "extendedResource": "penstock.io/rdma", "hostNetwork": true},
        "storageClass": {"rdma": volumes},
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [{"key": guest::MARK, "operator": "Exists"}],
    })))
}

/// What both ends and both kernels counted at one moment.
struct Ledger {
    agent: Moved,
    store: Moved,
    /// Packets that the storage node's RDMA device sent and received.
    storage_side: (u64, u64),
    /// The same of the client's.
    client_side: (u64, u64),
}

impl Ledger {
    async fn of(
        ns: &Namespace,
        cluster: &str,
        claim: &str,
        storage_node: &str,
        client_node: &str,
    ) -> Result<Self> {
        let packets = async |node: &str| -> Result<(u64, u64)> {
            Ok((
                guest::counter(node, "sent_pkts").await?,
                guest::counter(node, "rcvd_pkts").await?,
            ))
        };
        Ok(Self {
            agent: volume::moved(ns, claim, client_node).await?,
            store: volume::served(ns, cluster).await?,
            storage_side: packets(storage_node).await?,
            client_side: packets(client_node).await?,
        })
    }

    /// Whether at least `bytes` were moved in `direction` since `before` by RDMA, and none by HTTP, from everybody's view.
    fn shows_rdma(&self, before: &Self, direction: &str, bytes: u64) -> Result<()> {
        for (end, now, then) in [
            ("the agent", &self.agent, &before.agent),
            ("the storage node", &self.store, &before.store),
        ] {
            let grown = |via: &str| now.bytes(direction, via) - then.bytes(direction, via);
            ensure!(
                grown("rdma") >= bytes,
                "{end} counted {} of {bytes} bytes by RDMA ({direction}): {now}",
                grown("rdma")
            );
            ensure!(
                now.bytes(direction, "http") - then.bytes(direction, "http") < MIB,
                "{end} counted bytes by HTTP: {now}"
            );
        }
        // The storage node performs all operations: it writes into the client's memory, or reads from it.
        let grown = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        let (sent, received) = grown(self.storage_side, before.storage_side);
        let (client_sent, client_received) = grown(self.client_side, before.client_side);
        let (out, into) = if direction == "read" {
            (sent, client_received)
        } else {
            (client_sent, received)
        };
        ensure!(
            out >= bytes / PATH_MTU && into >= bytes / PATH_MTU,
            "{bytes} bytes are more than the kernels' {out} packets sent and {into} received"
        );
        Ok(())
    }
}

#[tokio::test]
async fn bytes_of_a_volume_travel_by_verbs_between_nodes_and_both_ends_and_the_kernels_say_so() -> Result<()>
{
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, second) = guest::two(&ns.client).await?;
        let cluster = on_rdma_node(&ns, "fast", &first, "Require").await?.created().await?;
        ensure!(
            storage::condition(&cluster.object, "RdmaReady") == "True",
            "{}",
            cluster.object
        );
        let told = kubectl(&["-n", &ns.name, "exec", "fast-0", "--", "penstock-store", "preflight"]).await?;
        ensure!(
            told.contains(guest::DEVICE) && told.contains("RDMA can be used"),
            "{told}"
        );

        ns.claim("data", &cluster.storage_class).await?;
        let bytes = 6 * MIB;
        let before = Ledger::of(&ns, "fast", "data", &first, &second).await?;
        let written = ns
            .pod("writer")
            .on(&second)
            .mounting("data")
            .runs("head -c 6291456 /dev/urandom > /data/over; sha256sum < /data/over")
            .succeeds()
            .await?;
        let after = Ledger::of(&ns, "fast", "data", &first, &second).await?;
        after.shows_rdma(&before, "write", bytes)?;

        // On the storage node's own machine, from a device to itself. Then nobody on the other node has the file in memory.
        let beside = ns
            .pod("beside")
            .on(&first)
            .mounting("data")
            .runs(
                "head -c 6291456 /dev/urandom > /data/beside; sha256sum < /data/over; sha256sum < /data/beside",
            )
            .succeeds()
            .await?;
        let mut lines = beside.lines();
        ensure!(
            lines.next() == written.lines().next(),
            "written {written}, read beside the storage node {beside}"
        );
        let before = Ledger::of(&ns, "fast", "data", &first, &second).await?;
        let read = ns
            .pod("reader")
            .on(&second)
            .mounting("data")
            .runs("sha256sum < /data/beside")
            .succeeds()
            .await?;
        ensure!(lines.next() == read.lines().next(), "written {beside}, read {read}");
        let after = Ledger::of(&ns, "fast", "data", &first, &second).await?;
        after.shows_rdma(&before, "read", bytes)
    })
    .await
}

#[tokio::test]
async fn a_pod_with_the_library_moves_objects_by_verbs() -> Result<()> {
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, second) = guest::two(&ns.client).await?;
        on_rdma_node(&ns, "lib", &first, "Require")
            .await?
            .created()
            .await?;
        let before = volume::served(&ns, "lib").await?;
        let (size, times) = (2 * MIB + 4097, 3);
        for (work, direction) in [("put", "write"), ("get", "read")] {
            let arguments = [work, "objects", &size.to_string(), &times.to_string(), "2"];
            let told = ns
                .pod(work)
                .on(&second)
                .asking("penstock.io/rdma", 1)
                .transfers("lib", &arguments)
                .succeeds()
                .await?;
            // It ends with an error when a byte went another way, or came as another one.
            let bytes = size * times * 2;
            ensure!(told.contains(&format!("\"bytes\": {bytes},")), "{work}: {told}");
            let served = volume::served(&ns, "lib").await?;
            let grown = |via: &str| served.bytes(direction, via) - before.bytes(direction, via);
            ensure!(
                grown("rdma") == bytes && grown("http") == 0,
                "{direction}: {served}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn on_a_node_without_rdma_require_is_refused_and_prefer_is_served_and_both_say_so() -> Result<()> {
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, _) = guest::two(&ns.client).await?;
        let without = nodes(&ns.client).await?.remove(0);
        let cluster = on_rdma_node(&ns, "mixed", &first, "Require")
            .await?
            .created()
            .await?;
        ns.claim("strict", &cluster.storage_class).await?;
        let waiting = ns
            .pod("strict")
            .on(&without)
            .mounting("strict")
            .runs("echo never")
            .created()
            .await?;
        let note = eventually("the pod is told that its node has no RDMA", async || {
            let notes = ns.told("strict", "FailedMount").await?;
            let found = notes.into_iter().find(|note| note.contains("rdma: require"));
            Ok(found.map_or_else(|| Wait::NotYet("no such event".into()), Wait::Done))
        })
        .await?;
        ensure!(
            note.contains("FailedPrecondition") && note.contains("rdma: prefer"),
            "it says what to do: {note}"
        );
        waiting.deleted().await?;

        let class = object::api(&ns.client, "storage.k8s.io/v1", "StorageClass", None)
            .get(&cluster.storage_class)
            .await?;
        let milder = format!("milder-{}", ns.name);
        let mut manifest = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": milder},
            "provisioner": "csi.penstock.io", "parameters": class.data["parameters"],
        });
        manifest["parameters"]["rdma"] = json!("prefer");
        object::apply(&ns.client, None, &manifest).await?;
        let outcome = async {
            ns.claim("mild", &milder).await?;
            ns.pod("mild")
                .on(&without)
                .mounting("mild")
                .runs("head -c 3000000 /dev/urandom > /mild/f; [ $(wc -c < /mild/f) = 3000000 ]")
                .succeeds()
                .await?;
            eventually("the pod is told that its bytes travel by HTTP", async || {
                let note = ns.told("mild", "RdmaUnavailable").await?.pop();
                Ok(match note {
                    Some(note) if note.contains("travel by HTTP") => Wait::Done(()),
                    note => Wait::NotYet(format!("{note:?}")),
                })
            })
            .await?;
            let moved = volume::moved(&ns, "mild", &without).await?;
            ensure!(
                moved.bytes("write", "http") >= 3_000_000 && moved.bytes("write", "rdma") == 0,
                "{moved}"
            );
            Ok(())
        }
        .await;
        object::api(&ns.client, "storage.k8s.io/v1", "StorageClass", None)
            .delete(&milder, &DeleteParams::default())
            .await?;
        outcome
    })
    .await
}

/// Twelve files of 2 MiB with a list of their checksums, written on one node, and a pod on the other that reads each until it is
/// whole, and says of every try whether it was `right`, `failed`, or `wrong`.
async fn reader_of_many(ns: &Namespace, writer: &str, reader: &str) -> Result<Pod> {
    ns.pod("writer")
        .on(writer)
        .mounting("data")
        .runs(
            "cd /data
             for n in $(seq 12); do head -c 2097152 /dev/urandom > $n; done
             sha256sum $(seq 12) > sums",
        )
        .succeeds()
        .await?;
    ns.pod("reader")
        .on(reader)
        .mounting("data")
        .runs(
            "cp /data/sums /tmp/sums
             cd /data
             while read -r sum n; do
                 until
                     if read=$(sha256sum < $n); then
                         [ \"${read%% *}\" = $sum ] && echo right $n || { echo wrong $n; exit 1; }
                     else
                         echo failed $n; false
                     fi
                 do sleep 1; done
             done < /tmp/sums
             echo all are right",
        )
        .started()
        .await
}

/// What the reader printed, once it printed `text`.
async fn said(reader: &Pod, text: &str) -> Result<String> {
    eventually(&format!("the reader says {text:?}"), async || {
        // While a node is cut off its kubelet does not answer.
        let log = reader.log().await.unwrap_or_default();
        ensure!(!log.contains("wrong"), "the reader got wrong bytes: {log}");
        Ok(if log.contains(text) {
            Wait::Done(log)
        } else {
            Wait::NotYet(log)
        })
    })
    .await
}

#[tokio::test]
async fn a_storage_node_that_dies_in_mid_transfer_gives_errors_and_never_wrong_bytes_and_rdma_comes_back()
-> Result<()> {
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, second) = guest::two(&ns.client).await?;
        let cluster = on_rdma_node(&ns, "mortal", &first, "Require")
            .await?
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        let reader = reader_of_many(&ns, &first, &second).await?;
        said(&reader, "right 2\n").await?;
        let pods = ns.api::<Resource>();
        let uid = pods.get("mortal-0").await?.metadata.uid.unwrap_or_default();
        pods.delete("mortal-0", &DeleteParams::default().grace_period(0))
            .await?;
        storage::replaced(&ns, "mortal", &uid).await?;
        let log = said(&reader, "all are right").await?;
        ensure!(!log.contains("failed 1\n"), "it died too early: {log}");

        // The counters of the new storage node began at zero, and the volume uses nothing but RDMA.
        let served = volume::served(&ns, "mortal").await?;
        ensure!(
            served.bytes("read", "rdma") >= 2 * MIB && served.bytes("read", "http") < MIB,
            "after the restart: {served}; {log}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cable_that_is_pulled_and_plugged_in_leaves_a_volume_that_uses_rdma_again() -> Result<()> {
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, second) = guest::two(&ns.client).await?;
        let cluster = on_rdma_node(&ns, "cut", &first, "Require")
            .await?
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        let reader = reader_of_many(&ns, &first, &second).await?;
        said(&reader, "right 2\n").await?;
        let before = volume::served(&ns, "cut").await?;
        guest::cable(&first, false).await?;
        // Longer than a queue pair's retries last.
        tokio::time::sleep(Duration::from_secs(8)).await;
        guest::cable(&first, true).await?;
        let log = said(&reader, "all are right").await?;
        let after = volume::served(&ns, "cut").await?;
        ensure!(
            after.bytes("read", "rdma") >= before.bytes("read", "rdma") + 2 * MIB,
            "before {before}, after {after}; {log}"
        );
        ensure!(after.bytes("read", "http") < MIB, "{after}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    let _ports = PORTS.lock().await;
    in_namespace("rdma", async |ns| {
        let (first, second) = guest::two(&ns.client).await?;
        // Between the same nodes, by HTTP.
        let cluster = on_rdma_node(&ns, "slow", &first, "Disabled")
            .await?
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        let before = Ledger::of(&ns, "slow", "data", &first, &second).await?;
        ns.pod("writer")
            .on(&second)
            .mounting("data")
            .runs("head -c 2097152 /dev/urandom > /data/f")
            .succeeds()
            .await?;
        let after = Ledger::of(&ns, "slow", "data", &first, &second).await?;
        let judged = after.shows_rdma(&before, "write", 2 * MIB);
        ensure!(
            judged.is_err(),
            "bytes by HTTP passed for bytes by RDMA: {}",
            after.agent
        );
        Ok(())
    })
    .await
}
