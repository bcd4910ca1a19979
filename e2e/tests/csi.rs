//! Buckets as volumes in real pods on real nodes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{Api, ResourceExt, api::DeleteParams};
use penstock_e2e::{
    Context, Namespace, Result, Wait, bail, client, ensure, eventually, in_namespace, nodes, object, storage,
    volume,
};
use serde_json::json;

/// The two nodes that pods of a test run on (the same one twice on a cluster with one).
async fn two_nodes() -> Result<(String, String)> {
    let names = nodes(&client().await?).await?;
    let first = names.first().context("the cluster has no node")?;
    Ok((first.clone(), names.get(1).unwrap_or(first).clone()))
}

#[tokio::test]
async fn two_pods_on_two_nodes_share_the_files_of_a_bucket() -> Result<()> {
    in_namespace("csi", async |ns| {
        let (first, second) = two_nodes().await?;
        let cluster = storage::cluster(&ns, "demo").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        let written = ns
            .pod("writer")
            .on(&first)
            .mounting("data")
            .runs(
                "mkdir -p /data/models/small
                 head -c 9000000 /dev/urandom > /data/models/small/weights
                 echo hello > /data/greeting
                 sha256sum < /data/models/small/weights",
            )
            .succeeds()
            .await?;
        let read = ns
            .pod("reader")
            .on(&second)
            .mounting("data")
            .runs("grep -q hello /data/greeting; sha256sum < /data/models/small/weights")
            .succeeds()
            .await?;
        ensure!(written == read, "written {written}, read {read}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn files_behave_as_programs_expect() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "posix").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        ns.pod("worker")
            .mounting("data")
            .runs(
                "cd /data
                 echo one > log; echo two >> log; [ \"$(cat log)\" = \"$(printf 'one\\ntwo')\" ]
                 printf 'XX' | dd of=log bs=1 seek=1 conv=notrunc 2>/dev/null; [ \"$(head -c 4 log)\" = oXX\"$(printf '\\n')\" ] || [ \"$(head -c 3 log)\" = oXX ]
                 truncate -s 2 log; [ \"$(cat log)\" = oX ]
                 mkdir -p a/b; echo x > a/b/f; mv a/b/f a/g; [ ! -e a/b/f ]; [ \"$(cat a/g)\" = x ]
                 mv a z; [ \"$(cat z/g)\" = x ]; [ ! -e a ]
                 rmdir z 2>/dev/null && exit 1
                 rm z/g; rmdir z/b z; [ ! -e z ]
                 echo keep > over; echo new > over.tmp; mv over.tmp over; [ \"$(cat over)\" = new ]
                 i=0; while [ $i -lt 300 ]; do : > many-$i; i=$((i+1)); done; [ \"$(ls | grep -c many-)\" = 300 ]
                 exec 3<over; rm over; [ \"$(cat <&3)\" = new ]
                 [ \"$(stat -c %s log)\" = 2 ]; touch empty; [ -e empty ]",
            )
            .succeeds()
            .await
            .map(drop)
    })
    .await
}

#[tokio::test]
async fn a_read_only_claim_refuses_writes() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "ro").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        ns.pod("writer")
            .mounting("data")
            .runs("echo x > /data/f")
            .succeeds()
            .await?;
        let told = ns
            .pod("reader")
            .mounting_read_only("data")
            .runs("[ \"$(cat /data/f)\" = x ]; if echo y > /data/f; then exit 7; fi; cat /data/f")
            .succeeds()
            .await?;
        ensure!(
            told.contains("Read-only file system") && told.lines().any(|line| line == "x"),
            "{told}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn claims_in_a_shared_bucket_are_prefixes_and_do_not_see_each_other() -> Result<()> {
    in_namespace("csi", async |ns| {
        let shared = json!({"storageClass": {"bucket": "shared"}});
        let cluster = storage::cluster(&ns, "many").await?.with(shared).created().await?;
        ns.claim("one", &cluster.storage_class).await?;
        ns.claim("two", &cluster.storage_class).await?;
        ns.pod("both")
            .mounting("one")
            .mounting("two")
            .runs("echo 1 > /one/f; [ ! -e /two/f ]; echo 2 > /two/f; [ \"$(cat /one/f)\" = 1 ]; [ \"$(ls /two)\" = f ]")
            .succeeds()
            .await?;
        let volume = volume_of(&ns, "one").await?;
        let handle = volume.spec.and_then(|spec| spec.csi).context("no CSI volume")?.volume_handle;
        ensure!(handle.starts_with("shared/pvc-"), "{handle}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deleting_a_claim_deletes_its_bucket() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "gone").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        ns.pod("writer")
            .mounting("data")
            .runs("mkdir /data/d; echo x > /data/d/f")
            .succeeds()
            .await?;
        let volume = volume_of(&ns, "data").await?.name_any();
        object::api(&ns.client, "v1", "Pod", Some(&ns.name))
            .delete("writer", &DeleteParams::default())
            .await?;
        ns.api::<PersistentVolumeClaim>()
            .delete("data", &DeleteParams::default())
            .await?;
        is_gone(&ns.client, &volume).await
    })
    .await
}

/// Its keys may go before its claims, and then nothing can delete their buckets any more.
#[tokio::test]
async fn a_namespace_that_goes_with_its_storage_cluster_leaves_no_volume() -> Result<()> {
    let volume = in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "whole").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        let volume = volume_of(&ns, "data").await?;
        // Before the claim goes; in a namespace that ends nothing is made again.
        ns.api::<Secret>()
            .delete("whole-credentials", &DeleteParams::default())
            .await?;
        Ok(volume)
    })
    .await?;
    is_gone(&client().await?, &volume.name_any()).await
}

#[tokio::test]
async fn volumes_whose_storage_cluster_is_deleted_are_told_of_and_go_with_their_claims() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "before").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        let volume = volume_of(&ns, "data").await?.name_any();
        ns.penstock("StorageCluster")
            .delete("before", &DeleteParams::default())
            .await?;
        told_in_events(&ns, "1 PersistentVolumes lose their storage node").await?;
        let claims = ns.api::<PersistentVolumeClaim>();
        let claim = claims.get("data").await?;
        ensure!(
            claim.metadata.deletion_timestamp.is_none(),
            "the claim is its owner's"
        );
        claims.delete("data", &DeleteParams::default()).await?;
        is_gone(&ns.client, &volume).await
    })
    .await
}

#[tokio::test]
async fn a_bucket_that_exists_is_a_static_volume() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "static").await?.created().await?;
        ns.claim("first", &cluster.storage_class).await?;
        ns.pod("writer")
            .mounting("first")
            .runs("mkdir /first/sub; echo here > /first/sub/f")
            .succeeds()
            .await?;
        let bucket = volume_of(&ns, "first")
            .await?
            .metadata
            .name
            .context("a volume without a name")?;
        let volume = format!("static-{}", ns.name);
        let manifest = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
                "claimRef": {"namespace": ns.name, "name": "second"},
                "csi": {
                    "driver": "csi.penstock.io", "volumeHandle": volume,
                    "volumeAttributes": {"bucket": bucket, "prefix": "sub"},
                    "nodeStageSecretRef": {"name": cluster.credentials, "namespace": ns.name},
                },
            },
        });
        object::apply(&ns.client, None, &manifest).await?;
        let outcome = async {
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "second"},
                "spec": {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume,
                         "resources": {"requests": {"storage": "1Gi"}}},
            });
            ns.apply(&claim).await?;
            let read = ns
                .pod("reader")
                .mounting_read_only("second")
                .runs("cat /second/f")
                .succeeds()
                .await?;
            ensure!(read == "here\n", "{read}");
            Ok(())
        }
        .await;
        Api::<PersistentVolume>::all(ns.client.clone())
            .delete(&volume, &DeleteParams::default())
            .await?;
        outcome
    })
    .await
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_says_why() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "wrong").await?.created().await?;
        let volume = format!("missing-{}", ns.name);
        let manifest = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
                "claimRef": {"namespace": ns.name, "name": "missing"},
                "csi": {
                    "driver": "csi.penstock.io", "volumeHandle": volume,
                    "volumeAttributes": {"bucket": "there-is-no-such-bucket"},
                    "nodeStageSecretRef": {"name": cluster.credentials, "namespace": ns.name},
                },
            },
        });
        object::apply(&ns.client, None, &manifest).await?;
        let outcome = async {
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "missing"},
                "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": volume,
                         "resources": {"requests": {"storage": "1Gi"}}},
            });
            ns.apply(&claim).await?;
            let pod = ns
                .pod("stuck")
                .mounting("missing")
                .runs("echo data > /missing/f")
                .created()
                .await?;
            told_in_events(&ns, "there-is-no-such-bucket").await?;
            ensure!(pod.log().await.is_err(), "the pod ran without its volume");
            pod.deleted().await
        }
        .await;
        Api::<PersistentVolume>::all(ns.client.clone())
            .delete(&volume, &DeleteParams::default())
            .await?;
        outcome
    })
    .await
}

#[tokio::test]
async fn the_storage_node_may_restart_under_a_mounted_volume() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "restart").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        let worker = ns
            .pod("worker")
            .mounting("data")
            .runs(
                "echo before > /data/before
                 while [ ! -e /data/go ] || [ ! -s /data/go ]; do sleep 1; done
                 cat /data/before /data/go; echo after > /data/after; cat /data/after; sleep 600",
            )
            .started()
            .await?;
        let uid = ns
            .api::<k8s_openapi::api::core::v1::Pod>()
            .get("restart-0")
            .await?
            .metadata
            .uid
            .unwrap_or_default();
        ns.api::<k8s_openapi::api::core::v1::Pod>()
            .delete("restart-0", &DeleteParams::default().grace_period(0))
            .await?;
        storage::replaced(&ns, "restart", &uid).await?;
        ns.pod("signal")
            .mounting("data")
            .runs("echo go > /data/go")
            .succeeds()
            .await?;
        eventually("the worker goes on after the restart", async || {
            let log = worker.log().await?;
            Ok(if log.contains("before\ngo\nafter") {
                Wait::Done(())
            } else {
                Wait::NotYet(log)
            })
        })
        .await
    })
    .await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "proof").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        let (first, second) = two_nodes().await?;
        let written = ns
            .pod("writer")
            .on(&first)
            .mounting("data")
            .runs("echo right > /data/f; cat /data/f")
            .succeeds()
            .await?;
        ns.pod("vandal")
            .mounting("data")
            .runs("printf wrong | dd of=/data/f conv=notrunc 2>/dev/null")
            .succeeds()
            .await?;
        let read = ns
            .pod("reader")
            .on(&second)
            .mounting("data")
            .runs("cat /data/f")
            .succeeds()
            .await?;
        ensure!(written != read, "a changed file passed for the written one");
        let missing = ns
            .pod("missing")
            .mounting("data")
            .runs("cat /data/no-such-file")
            .succeeds()
            .await;
        ensure!(missing.is_err(), "a failing pod counted as a success");
        Ok(())
    })
    .await
}

async fn volume_of(ns: &Namespace, claim: &str) -> Result<PersistentVolume> {
    let name = ns
        .claim_bound(claim)
        .await?
        .spec
        .and_then(|spec| spec.volume_name)
        .with_context(|| format!("claim {claim} has no volume"))?;
    Ok(Api::<PersistentVolume>::all(ns.client.clone()).get(&name).await?)
}

async fn is_gone(client: &kube::Client, volume: &str) -> Result<()> {
    let volumes = Api::<PersistentVolume>::all(client.clone());
    eventually(&format!("volume {volume} is gone"), async || {
        Ok(match volumes.get_opt(volume).await? {
            None => Wait::Done(()),
            Some(left) => Wait::NotYet(format!("{:?}", left.status.and_then(|status| status.phase))),
        })
    })
    .await
}

async fn told_in_events(ns: &Namespace, needle: &str) -> Result<()> {
    eventually(&format!("an Event speaks of {needle:?}"), async || {
        let events = penstock_e2e::command::kubectl(&["-n", &ns.name, "get", "events", "-o", "json"]).await?;
        if events.contains("AKIA") && events.contains("secretAccessKey") {
            bail!("an Event carries credentials");
        }
        Ok(if events.contains(needle) {
            Wait::Done(())
        } else {
            Wait::NotYet("no such Event".into())
        })
    })
    .await
}

#[tokio::test]
async fn a_volume_that_requires_rdma_is_not_mounted_on_a_node_without_and_the_pod_is_told_why() -> Result<()>
{
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "strict")
            .await?
            .with(json!({"storageClass": {"rdma": "Require"}}))
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        let _waiting = ns
            .pod("strict")
            .mounting("data")
            .runs("echo never")
            .created()
            .await?;
        let note = eventually("the pod is told that there is no RDMA", async || {
            let notes = ns.told("strict", "FailedMount").await?;
            Ok(
                match notes.into_iter().find(|note| note.contains("rdma: require")) {
                    Some(note) => Wait::Done(note),
                    None => Wait::NotYet("no such event".into()),
                },
            )
        })
        .await?;
        ensure!(
            note.contains("FailedPrecondition") && note.contains("rdma: prefer"),
            "it says what to do: {note}"
        );
        let pod = ns.api::<Pod>().get("strict").await?;
        let phase = pod.status.and_then(|status| status.phase);
        ensure!(phase.as_deref() == Some("Pending"), "{phase:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_volume_that_prefers_rdma_falls_back_and_the_pod_is_told() -> Result<()> {
    in_namespace("csi", async |ns| {
        let cluster = storage::cluster(&ns, "mild")
            .await?
            .with(json!({"storageClass": {"rdma": "Prefer"}}))
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        ns.pod("mild")
            .mounting("data")
            .runs("echo x > /data/f; [ \"$(cat /data/f)\" = x ]")
            .succeeds()
            .await?;
        let note = eventually("the pod is told that its bytes travel by HTTP", async || {
            Ok(match ns.told("mild", "RdmaUnavailable").await?.pop() {
                Some(note) => Wait::Done(note),
                None => Wait::NotYet("no such event".into()),
            })
        })
        .await?;
        ensure!(note.contains("travel by HTTP"), "{note}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn on_the_storage_nodes_host_files_are_lent_and_elsewhere_they_travel() -> Result<()> {
    in_namespace("csi", async |ns| {
        let (first, second) = two_nodes().await?;
        let cluster = storage::cluster(&ns, "near")
            .await?
            .with(json!({
                "localPath": "/var/lib/penstock-sockets", "nodeSelector": {"kubernetes.io/hostname": first},
            }))
            .created()
            .await?;
        ns.claim("data", &cluster.storage_class).await?;
        let written = ns
            .pod("near")
            .on(&first)
            .mounting("data")
            .runs("head -c 9000000 /dev/urandom > /data/f; sha256sum < /data/f")
            .succeeds()
            .await?;
        // Opened for the first time, and so lent, by a pod that did not write it.
        let read = ns
            .pod("reader")
            .on(&first)
            .mounting("data")
            .runs("sha256sum < /data/f")
            .succeeds()
            .await?;
        ensure!(written == read, "written {written}, read {read}");
        let near = volume::moved(&ns, "data", &first).await?;
        ensure!(near.bytes("write", "shm") >= 9_000_000, "{near}");
        ensure!(near.bytes("read", "shm") >= 9_000_000, "{near}");
        ensure!(near.bytes("read", "http") == 0, "{near}");
        if first == second {
            return Ok(());
        }
        let far = ns
            .pod("far")
            .on(&second)
            .mounting("data")
            .runs("sha256sum < /data/f")
            .succeeds()
            .await?;
        ensure!(written == far, "written {written}, read elsewhere {far}");
        let far = volume::moved(&ns, "data", &second).await?;
        ensure!(
            far.bytes("read", "http") >= 9_000_000 && far.bytes("read", "shm") == 0,
            "{far}"
        );
        Ok(())
    })
    .await
}
