//! The DRA driver of GPUs: ResourceClaims of the class `gpu.penstock.io`, alone and beside those of NICs.

use crate::{
    claims::{apply_template, request, template},
    machine::{FOLDER, Has, Machines, Mode, with_devices},
    pods::{phase, printed, shown, told},
    recorded::{GPU_DRIVER, gpu_name, uuid},
};
use penstock_e2e::{Namespace, Result, Wait, ensure, eventually};
use serde_json::json;

/// Tells what a container has of GPUs, and opens each device node.
const LOOK: &str = "ls /dev | grep nvidia; env | grep PENSTOCK_GPU_DEVICE_; cat /usr/lib64/libcuda.so.1; for node in /dev/nvidia*; do echo x > $node; done";
/// Where the tests' GPUs are, unless they have to be somewhere.
const ROOTS: [&str; 2] = ["pci0000:00", "pci0000:80"];

/// Runs `test` on a cluster in which one node has two GPUs.
async fn with_gpus(test: impl AsyncFnOnce(&Machines) -> Result<()>) -> Result<()> {
    let has = Has {
        mode: Mode::Dra,
        nics: &[],
        cards: &[],
        gpus: Some(&ROOTS),
    };
    with_devices(has, test).await
}

/// What the script tells in a container that has one GPU.
fn has(number: usize) -> String {
    let uuid = uuid(number);
    let variable = uuid.to_ascii_uppercase().replace('-', "_");
    format!(
        "nvidia-uvm\nnvidia{number}\nnvidiactl\nPENSTOCK_GPU_DEVICE_{variable}={uuid}\nthe library of the node\n"
    )
}

/// The condition that a GPU is the one of this number.
fn is(number: usize) -> String {
    format!(r#"device.attributes["{GPU_DRIVER}"].uuid == "{}""#, uuid(number))
}

#[tokio::test]
async fn a_pod_with_a_claim_sees_its_gpu_and_the_drivers_libraries_and_no_other_gpu() -> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        template(ns, "any", GPU_DRIVER, None).await?;
        template(ns, "second", GPU_DRIVER, Some(&is(1))).await?;
        let script = format!("{LOOK}; sleep 600");
        let second = ns
            .pod("second")
            .claiming("second")
            .runs(&script)
            .started()
            .await?;
        printed(&second, &has(1)).await?;
        let first = ns.pod("first").claiming("any").runs(&script).started().await?;
        printed(&first, &has(0)).await?;
        let waits = ns.pod("waits").claiming("any").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(
            phase(ns, "waits").await? == "Pending",
            "a GPU was given to two claims"
        );
        // The next driver takes over what the last one prepared.
        machines.replace_driver().await?;
        for pod in ["first", "second"] {
            ensure!(phase(ns, pod).await? == "Running", "{pod} did not survive");
        }
        first.deleted().await?;
        succeeded(ns, "waits").await?;
        ensure!(waits.log().await? == has(0), "it has the GPU that was given back");
        waits.deleted().await?;
        second.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

async fn succeeded(ns: &Namespace, pod: &str) -> Result<()> {
    eventually(&format!("pod {pod} has run"), async || {
        let now = phase(ns, pod).await?;
        Ok(if now == "Succeeded" {
            Wait::Done(())
        } else {
            Wait::NotYet(now)
        })
    })
    .await
}

#[tokio::test]
async fn a_claim_chooses_by_what_a_gpu_is_and_has() -> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        let enough = format!(
            r#"device.attributes["{GPU_DRIVER}"].productName == "NVIDIA H200"
               && device.attributes["{GPU_DRIVER}"].cudaComputeCapability.isGreaterThan(semver("8.9.0"))
               && device.attributes["{GPU_DRIVER}"].driverVersion.compareTo(semver("580.159.4")) == 0
               && device.capacity["{GPU_DRIVER}"].memory.compareTo(quantity("100Gi")) > 0"#
        );
        template(ns, "enough", GPU_DRIVER, Some(&enough)).await?;
        ns.pod("enough").claiming("enough").runs(LOOK).succeeds().await?;
        let more = format!(r#"device.capacity["{GPU_DRIVER}"].memory.compareTo(quantity("150Gi")) > 0"#);
        template(ns, "more", GPU_DRIVER, Some(&more)).await?;
        let waits = ns.pod("more").claiming("more").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(
            phase(ns, "more").await? == "Pending",
            "a GPU that is too small was given"
        );
        waits.deleted().await?;
        // What is divided has no whole to give.
        let divide =
            |number: usize, gpu: &mut serde_json::Value| gpu["mig"]["enabled"] = (number == 0).into();
        machines.set_gpus(&ROOTS, divide).await?;
        machines
            .published_by(GPU_DRIVER, "the divided GPU is not offered", |slice| {
                !slice.contains(&gpu_name(0)) && slice.contains(&gpu_name(1))
            })
            .await
    })
    .await
}

/// The first of both kinds are not below one root complex, so who takes the first that fits takes the wrong ones.
#[tokio::test]
async fn a_nic_and_a_gpu_that_are_asked_for_together_are_below_one_root_complex() -> Result<()> {
    let has = Has {
        mode: Mode::Dra,
        nics: &[],
        cards: &[("mlx5_0", "pci0000:00"), ("mlx5_1", "pci0000:80")],
        gpus: Some(&["pci0000:40", "pci0000:80"]),
    };
    with_devices(has, async |machines| {
        let ns = &machines.ns;
        let requests = [
            request("nic", "rdma.penstock.io", None),
            request("gpu", GPU_DRIVER, None),
        ];
        let aligned = json!({"devices": {
            "requests": requests, "constraints": [{"matchAttribute": "resource.kubernetes.io/pcieRoot"}],
        }});
        apply_template(ns, "aligned", aligned).await?;
        apply_template(ns, "anywhere", json!({"devices": {"requests": requests}})).await?;
        let look = "env | grep -o 'PENSTOCK_[A-Z]*_DEVICE_.*' | sort; ls /dev/infiniband";
        let expected = |gpu: usize, nic: usize| {
            let uuid = uuid(gpu);
            let variable = uuid.to_ascii_uppercase().replace('-', "_");
            format!(
                "PENSTOCK_GPU_DEVICE_{variable}={uuid}\nPENSTOCK_RDMA_DEVICE_MLX5_{nic}=mlx5_{nic}\nuverbs{nic}\n"
            )
        };
        // Without the constraint it is the first of each, so the constraint is what decides.
        let seen = ns.pod("anywhere").claiming("anywhere").runs(look).succeeds().await?;
        ensure!(seen == expected(0, 0), "{seen}");
        ns.pod("anywhere").deleted().await?;
        let script = format!("{look}; sleep 600");
        let pair = ns.pod("pair").claiming("aligned").runs(&script).started().await?;
        printed(&pair, &expected(1, 1)).await?;
        ensure!(machines.specs().await? == 2, "a claim has a CDI file of each driver");
        // A NIC and a GPU are left, below different ones.
        let waits = ns.pod("waits").claiming("aligned").runs(look).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(phase(ns, "waits").await? == "Pending", "a pair was given that is none");
        pair.deleted().await?;
        succeeded(ns, "waits").await?;
        ensure!(waits.log().await? == expected(1, 1), "it has the pair");
        waits.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

#[tokio::test]
async fn an_unhealthy_gpu_is_tainted_and_not_given_until_it_recovers() -> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        template(ns, "gpu", GPU_DRIVER, Some(&is(0))).await?;
        let script = format!("{LOOK}; sleep 600");
        let holder = ns.pod("holder").claiming("gpu").runs(&script).started().await?;
        let break_first = |number: usize, gpu: &mut serde_json::Value| {
            if number == 0 {
                gpu["health"]["recovery"] = "Reset".into();
            }
        };
        machines.set_gpus(&ROOTS, break_first).await?;
        machines
            .published_by(GPU_DRIVER, "the GPU is tainted", |slice| {
                slice.contains("gpu.penstock.io/unhealthy")
            })
            .await?;
        shown(ns, "holder", "Unhealthy").await?;
        ensure!(phase(ns, "holder").await? == "Running", "who has the GPU lost it");
        holder.deleted().await?;
        let waits = ns.pod("waits").claiming("gpu").runs(LOOK).created().await?;
        told(ns, "cannot allocate all claims").await?;
        ensure!(phase(ns, "waits").await? == "Pending", "a broken GPU was given");
        machines.set_gpus(&ROOTS, |_, _| {}).await?;
        succeeded(ns, "waits").await?;
        ensure!(waits.log().await? == has(0), "it has the GPU");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn parameters_are_heeded_or_refused_with_an_event_that_says_what_is_right() -> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        let with = |fields: serde_json::Value| {
            let mut parameters = fields;
            parameters["apiVersion"] = "gpu.penstock.io/v1alpha1".into();
            parameters["kind"] = "GpuParameters".into();
            json!({"devices": {
                "requests": [request("gpu", GPU_DRIVER, Some(&is(0)))],
                "config": [{"opaque": {"driver": GPU_DRIVER, "parameters": parameters}}],
            }})
        };
        apply_template(ns, "bare", with(json!({"driverLibraries": false}))).await?;
        let look = "ls /dev | grep nvidia; ls /usr/lib64/libcuda.so.1 2>&1 || true";
        let seen = ns.pod("bare").claiming("bare").runs(look).succeeds().await?;
        ensure!(
            seen.starts_with("nvidia-uvm\nnvidia0\nnvidiactl\n") && seen.contains("No such file"),
            "{seen}"
        );
        ns.pod("bare").deleted().await?;
        apply_template(ns, "shared", with(json!({"sharing": "TimeSlicing"}))).await?;
        let waits = ns.pod("shared").claiming("shared").runs(LOOK).created().await?;
        told(ns, "unknown field `sharing`").await?;
        ensure!(
            phase(ns, "shared").await? == "Pending",
            "a pod ran with parameters that mean nothing"
        );
        waits.deleted().await?;
        machines.nothing_is_left().await
    })
    .await
}

/// dra-driver-nvidia-gpu#1144: containers started without anything of the driver.
#[tokio::test]
async fn a_node_without_the_drivers_libraries_says_so_and_nvidias_own_specification_is_used_where_it_is()
-> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        template(ns, "gpu", GPU_DRIVER, Some(&is(0))).await?;
        machines.shell("rm -rf driver/usr/*").await?;
        let waits = ns.pod("waits").claiming("gpu").runs(LOOK).created().await?;
        told(ns, "libcuda.so.580.159.04").await?;
        ensure!(
            phase(ns, "waits").await? == "Pending",
            "a pod ran without the driver"
        );
        waits.deleted().await?;
        let uuid = uuid(0);
        let theirs = json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{
            "name": uuid,
            "containerEdits": {
                "env": ["BY_NVIDIA=580.159.04"],
                "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": format!("{FOLDER}/dev/nvidia0")}],
            },
        }]});
        machines
            .shell(&format!("echo '{theirs}' > /cdi/nvidia-e2e.yaml"))
            .await?;
        let look = "ls /dev | grep nvidia; env | grep -oE 'BY_NVIDIA.*|PENSTOCK_GPU_DEVICE_.*' | sort";
        let seen = ns.pod("handed").claiming("gpu").runs(look).succeeds().await?;
        let variable = uuid.to_ascii_uppercase().replace('-', "_");
        let expected = format!("nvidia0\nBY_NVIDIA=580.159.04\nPENSTOCK_GPU_DEVICE_{variable}={uuid}\n");
        ensure!(seen == expected, "{seen}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_checks_of_gpus_can_fail() -> Result<()> {
    with_gpus(async |machines| {
        let ns = &machines.ns;
        template(ns, "gpu", GPU_DRIVER, Some(&is(0))).await?;
        // As after a driver that names the wrong device node.
        machines.shell("mv dev/nvidia0 dev/elsewhere").await?;
        let pod = ns.pod("blind").claiming("gpu").runs(LOOK).created().await?;
        told(ns, "nvidia0").await?;
        ensure!(
            phase(ns, "blind").await? == "Pending",
            "a pod ran without its device"
        );
        pod.deleted().await
    })
    .await
}
