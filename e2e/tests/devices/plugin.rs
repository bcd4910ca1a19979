//! The device plugin: `penstock.io/rdma` in a pod's limits.

use crate::{
    machine::{Machines, Mode, RDMA, UNITS, offered, restart_kubelet, with_nics},
    pods::{phase, told},
};
use penstock_e2e::{Context, Result, Wait, client, ensure, eventually, nodes};

/// Tells which device nodes a container has, and opens one of them.
const LOOK: &str = "ls /dev/infiniband; echo given=$PENSTOCK_RDMA_DEVICES; for node in /dev/infiniband/*; do echo x > $node; done";

#[tokio::test]
async fn a_pod_that_asks_for_a_nic_sees_its_device_nodes_and_no_others_do() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        // With two units, of both NICs; the pod is an unprivileged user's.
        let seen = ns.pod("two").asking(RDMA, 2).runs(LOOK).succeeds().await?;
        ensure!(seen == "uverbs0\nuverbs1\ngiven=rxe0,rxe1\n", "{seen}");
        let seen = ns.pod("one").asking(RDMA, 1).runs(LOOK).succeeds().await?;
        let one = ["uverbs0\ngiven=rxe0\n", "uverbs1\ngiven=rxe1\n"];
        ensure!(one.contains(&seen.as_str()), "{seen}");
        let without = ns
            .pod("none")
            .on(&machines.node)
            .runs("ls /dev/infiniband 2>&1 || true")
            .succeeds()
            .await?;
        ensure!(without.contains("No such file"), "{without}");
        for other in nodes(&client().await?)
            .await?
            .iter()
            .filter(|node| **node != machines.node)
        {
            let shown = offered(ns, other).await?;
            ensure!(
                shown.as_deref().unwrap_or("0") == "0",
                "{other} has no NIC and offers {shown:?}"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_nic_is_shared_by_as_many_pods_as_it_has_units_and_the_next_is_told_why_it_waits() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        let mut pods = Vec::new();
        for number in 0..UNITS {
            let pod = ns
                .pod(&format!("user{number}"))
                .asking(RDMA, 1)
                .runs(&format!("{LOOK}; sleep 600"));
            pods.push(pod.started().await?);
        }
        let _waits = ns.pod("waits").asking(RDMA, 1).runs("true").created().await?;
        told(ns, &format!("Insufficient {RDMA}")).await?;
        ensure!(
            phase(ns, "waits").await? == "Pending",
            "the NIC was given once too often"
        );
        pods.pop().context("no pods")?.deleted().await?;
        ns.pod("waits").asking(RDMA, 1).runs("true").succeeds().await?;
        Ok(())
    })
    .await
}

/// "FIXME: there is no way to recover from the Unhealthy state", say other device plugins.
#[tokio::test]
async fn a_nic_whose_link_goes_down_is_not_given_until_it_comes_back() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0", "rxe1"], async |machines| {
        let ns = &machines.ns;
        machines.set_state("rxe0", "1: DOWN").await?;
        machines.allocatable(UNITS).await?;
        let seen = ns.pod("other").asking(RDMA, 1).runs(LOOK).succeeds().await?;
        ensure!(
            seen == "uverbs1\ngiven=rxe1\n",
            "an unhealthy NIC was given: {seen}"
        );
        machines.set_state("rxe0", "4: ACTIVE").await?;
        machines.allocatable(2 * UNITS).await?;
        let seen = ns.pod("both").asking(RDMA, 2).runs(LOOK).succeeds().await?;
        ensure!(seen == "uverbs0\nuverbs1\ngiven=rxe0,rxe1\n", "{seen}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_nic_that_is_removed_is_not_offered_and_one_that_is_added_is() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        machines.remove("rxe0").await?;
        machines.allocatable(0).await?;
        machines.add("rxe0", 0).await?;
        machines.allocatable(UNITS).await?;
        machines.add("rxe1", 1).await?;
        machines.allocatable(2 * UNITS).await
    })
    .await
}

/// k8s-rdma-shared-dev-plugin#48, #74, #79, #118: 0 resources after a restart of kubelet.
#[tokio::test]
async fn after_a_restart_of_kubelet_the_nics_are_offered_again() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        let running = ns
            .pod("stays")
            .asking(RDMA, 1)
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        if !restart_kubelet(&machines.node).await? {
            return Ok(());
        }
        eventually("a new pod gets a NIC from the new kubelet", async || {
            let pod = ns.pod("after").on(&machines.node).asking(RDMA, 1).runs(LOOK);
            Ok(match pod.succeeds().await {
                Ok(seen) => Wait::Done(ensure_given(&seen)?),
                // While kubelet has no list yet, it refuses the pod.
                Err(error) => {
                    ns.pod("after").deleted().await?;
                    Wait::NotYet(format!("{error:#}"))
                }
            })
        })
        .await?;
        machines.allocatable(UNITS).await?;
        ensure!(
            phase(ns, "stays").await? == "Running",
            "a pod with a NIC did not survive"
        );
        running.deleted().await
    })
    .await
}

fn ensure_given(seen: &str) -> Result<()> {
    ensure!(seen == "uverbs0\ngiven=rxe0\n", "{seen}");
    Ok(())
}

#[tokio::test]
async fn the_driver_may_be_killed_under_pods_that_have_nics() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        let ns = &machines.ns;
        let running = ns
            .pod("stays")
            .asking(RDMA, UNITS)
            .runs(&format!("{LOOK}; sleep 600"))
            .started()
            .await?;
        machines.replace_driver().await?;
        machines.allocatable(UNITS).await?;
        ensure!(
            phase(ns, "stays").await? == "Running",
            "a pod with a NIC did not survive"
        );
        // What the first pod has is still taken.
        let _waits = ns.pod("waits").asking(RDMA, 1).runs(LOOK).created().await?;
        told(ns, &format!("Insufficient {RDMA}")).await?;
        running.deleted().await?;
        let seen = ns.pod("waits").asking(RDMA, 1).runs(LOOK).succeeds().await?;
        ensure_given(&seen)
    })
    .await
}

#[tokio::test]
async fn switching_devices_off_withdraws_the_nics() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        Machines::install(Mode::DevicePlugin, &["--set", "devices.enabled=false"]).await?;
        machines.allocatable(0).await?;
        let _waits = machines
            .ns
            .pod("waits")
            .asking(RDMA, 1)
            .runs("true")
            .created()
            .await?;
        told(&machines.ns, &format!("Insufficient {RDMA}")).await
    })
    .await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    with_nics(Mode::DevicePlugin, &["rxe0"], async |machines| {
        // A device node that is not there, as after a driver that names the wrong one.
        machines
            .shell("mv dev/infiniband/uverbs0 dev/infiniband/elsewhere")
            .await?;
        let pod = machines
            .ns
            .pod("blind")
            .asking(RDMA, 1)
            .runs(LOOK)
            .created()
            .await?;
        told(&machines.ns, "uverbs0").await?;
        ensure!(
            phase(&machines.ns, "blind").await? == "Pending",
            "a pod ran without its device"
        );
        pod.deleted().await
    })
    .await
}
