//! The DRA driver: ResourceClaims of the class `rdma.penstock.io`.

use crate::{
    claims::{self, apply_template},
    machine::{Mode, restart_kubelet, with_nics},
    pods::{phase, printed, shown, told},
};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use penstock_e2e::{Context, Namespace, Result, Wait, chart, command, ensure, eventually};
use serde_json::json;

/// Tells which device nodes a container has, and opens each.
const LOOK: &str = "ls /dev/infiniband; env | grep PENSTOCK_RDMA_DEVICE_; for node in /dev/infiniband/*; do echo x > $node; done";
const FIRST: &str = "uverbs0\nPENSTOCK_RDMA_DEVICE_RXE0=rxe0\n";
const SECOND: &str = "uverbs1\nPENSTOCK_RDMA_DEVICE_RXE1=rxe1\n";

/// A claim template for one NIC that fits `selector`.
async fn template(ns: &Namespace, name: &str, selector: Option<&str>) -> Result<()> {
    claims::template(ns, name, "rdma.penstock.io", selector).await
}

#[tokio::test]
async fn a_pod_with_a_claim_sees_its_nic_and_the_next_pod_another_one() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let script = format!("{LOOK}; sleep 600");
        let of_first = r#"device.attributes["rdma.penstock.io"].rdmaDevice == "rxe0""#;
        template(ns, "first", Some(of_first)).await?;
        let first = ns.pod("first").claiming("first").runs(&script).started().await?;
        printed(&first, FIRST).await?;
        let second = ns.pod("second").claiming("nic").runs(&script).started().await?;
        printed(&second, SECOND).await?;
        let _waits = ns.pod("third").claiming("nic").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(
            phase(ns, "third").await? == "Pending",
            "a NIC was given to two claims"
        );
        first.deleted().await?;
        ns.pod("third").claiming("nic").runs(LOOK).succeeds().await?;
        second.deleted().await
    })
    .await
}

#[tokio::test]
async fn a_claim_chooses_by_attributes_and_one_that_nothing_satisfies_waits_and_says_why() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        let of = |condition: &str| format!(r#"device.attributes["rdma.penstock.io"].{condition}"#);
        template(ns, "second", Some(&of(r#"rdmaDevice == "rxe1""#))).await?;
        let seen = ns.pod("chooser").claiming("second").runs(LOOK).succeeds().await?;
        ensure!(seen == SECOND, "{seen}");
        let all = r#"software && device.attributes["rdma.penstock.io"].megabits == 25000 && device.attributes["rdma.penstock.io"].linkLayer == "Ethernet""#;
        template(ns, "described", Some(&of(all))).await?;
        ns.pod("described").claiming("described").runs(LOOK).succeeds().await?;

        template(ns, "faster", Some(&of("megabits > 400000"))).await?;
        let waits = ns.pod("waits").claiming("faster").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(phase(ns, "waits").await? == "Pending", "a NIC that is too slow was given");
        waits.deleted().await
    })
    .await
}

#[tokio::test]
async fn two_pods_may_use_one_claim() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        let claim = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "shared"},
            "spec": {"devices": {"requests": [{"name": "nic", "exactly": {"deviceClassName": "rdma.penstock.io"}}]}},
        });
        ns.apply(&claim).await?;
        let script = format!("{LOOK}; sleep 600");
        let first = ns.pod("first").sharing("shared").runs(&script).started().await?;
        let second = ns.pod("second").sharing("shared").runs(&script).started().await?;
        printed(&first, FIRST).await?;
        printed(&second, FIRST).await?;
        // It is given back with the last of them.
        first.deleted().await?;
        ensure!(machines.specs().await? == 1, "the claim was given back under a pod");
        second.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

#[tokio::test]
async fn wrong_parameters_keep_the_pod_waiting_with_an_event_that_says_what_is_right() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        let with = |parameters: serde_json::Value| {
            json!({"devices": {
                "requests": [{"name": "nic", "exactly": {"deviceClassName": "rdma.penstock.io"}}],
                "config": [{"opaque": {"driver": "rdma.penstock.io", "parameters": parameters}}],
            }})
        };
        let good = json!({"apiVersion": "rdma.penstock.io/v1alpha1", "kind": "NicParameters", "connectionManager": false});
        apply_template(ns, "good", with(good)).await?;
        ns.pod("good").claiming("good").runs(LOOK).succeeds().await?;
        let bad = json!({"apiVersion": "rdma.penstock.io/v1alpha1", "kind": "NicParameters", "netns": "shared"});
        apply_template(ns, "bad", with(bad)).await?;
        let waits = ns.pod("bad").claiming("bad").runs(LOOK).created().await?;
        told(ns, "unknown field `netns`").await?;
        ensure!(phase(ns, "bad").await? == "Pending", "a pod ran with parameters that mean nothing");
        waits.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

#[tokio::test]
async fn an_unhealthy_nic_is_tainted_and_not_given_until_it_recovers() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let holder = ns
            .pod("holder")
            .claiming("nic")
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        machines.set_state("rxe0", "1: DOWN").await?;
        machines
            .published("the NIC is tainted", |slice| {
                slice.contains("rdma.penstock.io/unhealthy")
            })
            .await?;
        shown(ns, "holder", "Unhealthy").await?;
        ensure!(phase(ns, "holder").await? == "Running", "who has the NIC lost it");
        holder.deleted().await?;
        let waits = ns.pod("waits").claiming("nic").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        machines.set_state("rxe0", "4: ACTIVE").await?;
        eventually("the pod runs when the NIC is back", async || {
            let now = phase(ns, "waits").await?;
            Ok(if now == "Succeeded" {
                Wait::Done(())
            } else {
                Wait::NotYet(now)
            })
        })
        .await?;
        ensure!(waits.log().await? == FIRST, "it has the NIC");
        Ok(())
    })
    .await
}

/// A NIC that goes between allocation and preparation, or under a claim, is named; when it is back, all goes on.
#[tokio::test]
async fn a_nic_that_is_removed_leaves_the_slices_and_one_that_comes_back_is_given() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        machines.remove("rxe0").await?;
        machines
            .published("rxe0 is gone", |slice| {
                !slice.contains("rxe0") && slice.contains("rxe1")
            })
            .await?;
        template(ns, "nic", None).await?;
        let seen = ns.pod("other").claiming("nic").runs(LOOK).succeeds().await?;
        ensure!(seen == SECOND, "{seen}");
        machines.add("rxe0", 0).await?;
        machines
            .published("rxe0 is back", |slice| slice.contains("rxe0"))
            .await
    })
    .await
}

/// dranet#19, and upgrades: the next driver takes over what the last one prepared.
#[tokio::test]
async fn a_driver_that_is_killed_takes_its_running_claims_over_and_gives_them_back() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let running = ns
            .pod("stays")
            .claiming("nic")
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        machines.replace_driver().await?;
        ensure!(
            phase(ns, "stays").await? == "Running",
            "a pod with a claim did not survive"
        );
        ensure!(
            machines.specs().await? == 1,
            "the claim's CDI file went with the driver"
        );
        running.deleted().await?;
        machines.nothing_is_left().await?;
        let seen = ns.pod("after").claiming("nic").runs(LOOK).succeeds().await?;
        ensure!(seen == FIRST, "{seen}");
        Ok(())
    })
    .await
}

/// kubernetes#141433: a CDI file that a reboot removed was never written again.
#[tokio::test]
async fn cdi_files_that_are_wiped_are_written_again_by_the_next_driver() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let running = ns
            .pod("stays")
            .claiming("nic")
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        machines.shell("rm -f /cdi/rdma.penstock.io-*").await?;
        ensure!(machines.specs().await? == 0, "wiped");
        machines.replace_driver().await?;
        eventually("the CDI file is back", async || {
            let count = machines.specs().await?;
            Ok(if count == 1 {
                Wait::Done(())
            } else {
                Wait::NotYet(format!("{count} files"))
            })
        })
        .await?;
        running.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

/// dra-driver-nvidia-gpu#330: the slices that kubelet deletes at its start.
#[tokio::test]
async fn slices_that_are_deleted_are_written_again_at_once() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let slices = Api::<ResourceSlice>::all(machines.ns.client.clone());
        let own = ListParams::default().fields(&format!(
            "spec.driver=rdma.penstock.io,spec.nodeName={}",
            machines.node
        ));
        let before = slices.list(&own).await?.items.pop().context("no slice")?;
        slices.delete_collection(&DeleteParams::default(), &own).await?;
        eventually("the slice is written anew", async || {
            let now = slices.list(&own).await?.items.pop();
            let new = now.is_some_and(|now| now.metadata.uid != before.metadata.uid);
            Ok(if new {
                Wait::Done(())
            } else {
                Wait::NotYet("not yet".into())
            })
        })
        .await?;
        template(&machines.ns, "nic", None).await?;
        machines
            .ns
            .pod("user")
            .claiming("nic")
            .runs(LOOK)
            .succeeds()
            .await
            .map(drop)
    })
    .await
}

#[tokio::test]
async fn after_a_restart_of_kubelet_claims_are_prepared_and_given_back() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let running = ns
            .pod("stays")
            .claiming("nic")
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        if !restart_kubelet(&machines.node).await? {
            return Ok(());
        }
        ns.pod("after").claiming("nic").runs(LOOK).succeeds().await?;
        ensure!(
            phase(ns, "stays").await? == "Running",
            "a pod with a claim did not survive"
        );
        running.deleted().await?;
        ns.pod("after").deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

/// Who holds the token of one node's driver must not offer devices elsewhere.
#[tokio::test]
async fn a_node_may_not_write_slices_of_another_node_or_driver() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let pod = machines.driver_name().await?;
        let token = command::kubectl(&[
            "-n", chart::NAMESPACE, "create", "token", "penstock-devices", "--bound-object-kind=Pod", "--bound-object-name", &pod,
        ])
        .await?;
        let try_with = async |node: &str, driver: &str| {
            let slice = json!({
                "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "penstock-e2e-intruder"},
                "spec": {"driver": driver, "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}},
            });
            let args = ["--kubeconfig=/dev/null", &format!("--token={}", token.trim()), &server().await?, "--insecure-skip-tls-verify",
                        "create", "--dry-run=server", "-f", "-"];
            command::run_with_input("kubectl", &args, &slice.to_string()).await
        };
        try_with(&machines.node, "rdma.penstock.io").await?;
        for (node, driver, why) in [
            ("elsewhere", "rdma.penstock.io", "of another node"),
            (machines.node.as_str(), "gpu.example.org", "of another driver"),
        ] {
            let Err(error) = try_with(node, driver).await else { penstock_e2e::bail!("{node} {driver} was accepted") };
            ensure!(format!("{error:#}").contains(why), "{error:#}");
        }
        Ok(())
    })
    .await
}

async fn server() -> Result<String> {
    let url = command::kubectl(&[
        "config",
        "view",
        "--minify",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ])
    .await?;
    Ok(format!("--server={url}"))
}

#[tokio::test]
async fn the_checks_of_dra_can_fail() -> Result<()> {
    with_nics(Mode::Dra, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        template(ns, "nic", None).await?;
        let running = ns
            .pod("holds")
            .claiming("nic")
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        ensure!(machines.specs().await? == 1, "a running claim has no CDI file");
        let claims = ns.api::<ResourceClaim>().list(&ListParams::default()).await?;
        let allocated = |claim: &ResourceClaim| {
            claim
                .status
                .as_ref()
                .is_some_and(|status| status.allocation.is_some())
        };
        ensure!(claims.iter().any(allocated), "no claim is allocated");
        running.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}
