//! Nodes with RDMA NICs and GPUs that they do not have: a recorded sysfs and recorded answers of NVML in a folder of each node, whose device
//! nodes are harmless ones (`/dev/null` by another name). Everything else is real: the kubelet, the scheduler, the container runtime, the driver.

use crate::recorded::{GPU_DRIVER, gpu_name, gpu_settings};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use penstock_e2e::{
    Context, Namespace, Result, Wait, chart, client,
    command::{self, kubectl},
    eventually, in_namespace, nodes,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Mutex;

/// Where the recorded trees are, on the nodes.
pub const FOLDER: &str = "/var/lib/penstock/e2e-devices";
/// The resource under test.
pub const RDMA: &str = "penstock.io/rdma";
/// Units of a NIC.
pub const UNITS: u32 = 4;

/// Makes a node's tree one without devices.
const EMPTY: &str = "mkdir -p /machine/sys/class /machine/dev /machine/driver/usr && \
    rm -rf /machine/sys/class/* /machine/sys/devices /machine/dev/* /machine/driver/usr/* /cdi/nvidia-e2e.yaml";

/// The one installation is shared, so one test at a time has it its way.
static TURN: Mutex<()> = Mutex::const_new(());
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// How the chart's `devices` offers NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a resource.
    DevicePlugin,
    /// As devices of claims.
    Dra,
}

/// What the node with devices has.
#[derive(Debug, Clone, Copy)]
pub struct Has<'a> {
    /// How it is offered.
    pub mode: Mode,
    /// soft-RoCE devices, by their names.
    pub nics: &'a [&'a str],
    /// NICs on a PCI bus, by their names and their root complexes.
    pub cards: &'a [(&'a str, &'a str)],
    /// GPUs, by the root complexes that they are below, if GPUs are offered.
    pub gpus: Option<&'a [&'a str]>,
}

/// The nodes of the cluster, and what they pretend to have.
pub struct Machines {
    /// The test's namespace, in which a pod per node writes its tree.
    pub ns: Namespace,
    /// The node that has NICs; the others have none.
    pub node: String,
}

/// Runs `test` on a cluster in which one node has the soft-RoCE devices `nics`.
pub async fn with_nics(
    mode: Mode,
    nics: &[&str],
    test: impl AsyncFnOnce(&Machines) -> Result<()>,
) -> Result<()> {
    let has = Has {
        mode,
        nics,
        cards: &[],
        gpus: None,
    };
    with_devices(has, test).await
}

/// Runs `test` with the chart's `devices` looking at recorded machines: one node has devices, the others have none.
pub async fn with_devices(has: Has<'_>, test: impl AsyncFnOnce(&Machines) -> Result<()>) -> Result<()> {
    WAITING.fetch_add(1, Ordering::SeqCst);
    let _turn = TURN.lock().await;
    WAITING.fetch_sub(1, Ordering::SeqCst);
    let outcome = in_namespace("devices", async |ns| {
        let all = nodes(&client().await?).await?;
        let node = all.first().context("the cluster has no node")?.clone();
        let machines = Machines { ns, node };
        for name in &all {
            machines.prepare(name).await?;
        }
        let outcome = machines.run(has, test).await;
        for name in &all {
            // The folder is on the node and outlives the namespace. The driver that runs has mounted what is in it.
            let last = WAITING.load(Ordering::SeqCst) == 0;
            machines
                .shell_on(
                    name,
                    if last {
                        "rm -rf /machine/* /cdi/nvidia-e2e.yaml"
                    } else {
                        EMPTY
                    },
                )
                .await?;
        }
        outcome
    })
    .await;
    // The next test installs it anyway.
    if WAITING.load(Ordering::SeqCst) == 0 {
        chart::install(&[]).await?;
    }
    outcome
}

impl Machines {
    async fn run(&self, has: Has<'_>, test: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        for (number, name) in has.nics.iter().enumerate() {
            self.add(name, number).await?;
        }
        for (number, (name, root)) in has.cards.iter().enumerate() {
            self.add_card(name, has.nics.len() + number, root).await?;
        }
        if let Some(roots) = has.gpus {
            self.install_driver().await?;
            self.add_gpus(roots).await?;
            Self::install(has.mode, &gpu_settings()).await?;
        } else {
            Self::install(has.mode, &[""; 0]).await?;
        }
        let cards = has.cards.iter().map(|(name, _)| *name);
        let names: Vec<_> = has.nics.iter().copied().chain(cards).collect();
        match has.mode {
            Mode::DevicePlugin => self.allocatable(UNITS * u32::try_from(names.len())?).await?,
            Mode::Dra if !names.is_empty() => {
                self.published("all NICs are offered, healthy", |slice| {
                    names.iter().all(|name| slice.contains(name)) && !slice.contains("unhealthy")
                })
                .await?;
            }
            Mode::Dra => {}
        }
        if let Some(roots) = has.gpus {
            self.published_by(GPU_DRIVER, "all GPUs are offered, healthy", |slice| {
                (0..roots.len()).all(|number| slice.contains(&gpu_name(number)))
                    && !slice.contains("unhealthy")
            })
            .await?;
        }
        test(self).await
    }

    /// Installs the chart with devices; `more` goes to helm.
    pub async fn install(mode: Mode, more: &[impl AsRef<str>]) -> Result<()> {
        let units = format!("devices.devicePlugin.sharedUnits={UNITS}");
        let (sysfs, dev) = (
            format!("devices.sysfs={FOLDER}/sys"),
            format!("devices.dev={FOLDER}/dev"),
        );
        let mode = match mode {
            Mode::DevicePlugin => "devices.mode=DevicePlugin",
            Mode::Dra => "devices.mode=DRA",
        };
        let mut args = vec!["--set", "devices.enabled=true"];
        for setting in [mode, &units, &sysfs, &dev] {
            args.extend(["--set", setting]);
        }
        args.extend(more.iter().map(|argument| argument.as_ref()));
        chart::install(&args).await.map(drop)
    }

    /// Starts the pod that writes a node's tree, which is empty at first.
    async fn prepare(&self, node: &str) -> Result<()> {
        let image = std::env::var("PENSTOCK_TOOLS_IMAGE").unwrap_or_else(|_| "localhost/tools:1".into());
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("machine-{node}")},
            "spec": {
                "nodeName": node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{
                    "name": "machine", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", format!("{EMPTY} && touch /tmp/ready && sleep 3600")],
                    "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "machine", "mountPath": "/machine"}, {"name": "cdi", "mountPath": "/cdi"}],
                }],
                "volumes": [
                    {"name": "machine", "hostPath": {"path": FOLDER, "type": "DirectoryOrCreate"}},
                    {"name": "cdi", "hostPath": {"path": "/var/run/cdi", "type": "DirectoryOrCreate"}},
                ],
            },
        });
        self.ns.apply(&pod).await?;
        let name = format!("pod/machine-{node}");
        kubectl(&[
            "-n",
            &self.ns.name,
            "wait",
            &name,
            "--for=condition=Ready",
            "--timeout=120s",
        ])
        .await
        .map(drop)
    }

    async fn shell_on(&self, node: &str, script: &str) -> Result<String> {
        let pod = format!("machine-{node}");
        kubectl(&["-n", &self.ns.name, "exec", &pod, "--", "sh", "-euc", script]).await
    }

    /// Runs a script on the node with NICs, in the folder of its tree.
    pub async fn shell(&self, script: &str) -> Result<String> {
        self.shell_on(&self.node, &format!("cd /machine\n{script}")).await
    }

    /// Waits until the scheduler may give away so many units on the node.
    pub async fn allocatable(&self, units: u32) -> Result<()> {
        let node = self.node.clone();
        eventually(&format!("{node} offers {units} of {RDMA}"), async || {
            let found = offered(&self.ns, &node).await?;
            let reached = found.as_deref().unwrap_or("0") == units.to_string();
            Ok(if reached {
                Wait::Done(())
            } else {
                Wait::NotYet(format!("{found:?}"))
            })
        })
        .await
    }

    /// Waits until the node's slices of NICs, as JSON, are as `wanted`.
    pub async fn published(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.published_by("rdma.penstock.io", what, wanted).await
    }

    /// Waits until the node's slices of a driver, as JSON, are as `wanted`.
    pub async fn published_by(&self, driver: &str, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let selector = format!("spec.driver={driver},spec.nodeName={}", self.node);
        eventually(
            &format!("the slices of {driver} on {}: {what}", self.node),
            async || {
                let list = kubectl(&[
                    "get",
                    "resourceslices",
                    "--field-selector",
                    &selector,
                    "-o",
                    "json",
                ])
                .await?;
                let list: Value = serde_json::from_str(&list)?;
                let slices: Vec<_> = list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|slice| &slice["spec"])
                    .collect();
                let text = serde_json::to_string(&slices)?;
                let reached = !slices.is_empty() && wanted(&text);
                Ok(if reached {
                    Wait::Done(())
                } else {
                    Wait::NotYet(text)
                })
            },
        )
        .await
    }

    /// How many CDI files there are on the node: one for each claim and driver.
    pub async fn specs(&self) -> Result<usize> {
        let files = self.shell("ls /cdi").await?;
        Ok(files
            .lines()
            .filter(|name| name.contains(".penstock.io-"))
            .count())
    }

    /// Waits until no claim is prepared on the node.
    pub async fn nothing_is_left(&self) -> Result<()> {
        eventually("no claim is prepared any more", async || {
            let count = self.specs().await?;
            Ok(if count == 0 {
                Wait::Done(())
            } else {
                Wait::NotYet(format!("{count} CDI files"))
            })
        })
        .await
    }

    /// The driver's pod on the node.
    async fn driver(&self) -> Result<Value> {
        let mut pods = driver_pods(&self.node).await?;
        let first = pods.pointer_mut("/items/0").map(Value::take);
        first.context("no pod of the driver is on the node")
    }

    /// Its name.
    pub async fn driver_name(&self) -> Result<String> {
        let driver = self.driver().await?;
        Ok(driver["metadata"]["name"]
            .as_str()
            .context("a pod without a name")?
            .to_owned())
    }

    /// Kills the driver's pod on the node, and waits until the next one is ready.
    pub async fn replace_driver(&self) -> Result<()> {
        let old = self.driver().await?["metadata"]["uid"].clone();
        let name = self.driver_name().await?;
        kubectl(&["-n", chart::NAMESPACE, "delete", "pod", &name, "--force"]).await?;
        eventually("the driver's pod is replaced and ready", async || {
            let pods = driver_pods(&self.node).await?;
            let ready = pods["items"].as_array().into_iter().flatten().any(|pod| {
                let containers = pod["status"]["containerStatuses"].as_array();
                let ready = |all: &Vec<Value>| all.iter().all(|container| container["ready"] == true);
                pod["metadata"]["uid"] != old && containers.is_some_and(ready)
            });
            Ok(if ready {
                Wait::Done(())
            } else {
                Wait::NotYet("not yet".into())
            })
        })
        .await
    }
}

async fn driver_pods(node: &str) -> Result<Value> {
    let selector = format!("spec.nodeName={node}");
    let label = "app.kubernetes.io/component=devices";
    let text = kubectl(&[
        "-n",
        chart::NAMESPACE,
        "get",
        "pods",
        "-l",
        label,
        "--field-selector",
        &selector,
        "-o",
        "json",
    ])
    .await?;
    Ok(serde_json::from_str(&text)?)
}

/// How much of the resource a node offers, as it says it; `None` when it does not know the resource.
pub async fn offered(ns: &Namespace, node: &str) -> Result<Option<String>> {
    let node = Api::<Node>::all(ns.client.clone()).get(node).await?;
    let allocatable = node
        .status
        .and_then(|status| status.allocatable)
        .unwrap_or_default();
    Ok(allocatable.get(RDMA).map(|quantity| quantity.0.clone()))
}

/// Kills a node's kubelet and starts it again, in the throwaway cluster. False, with a note, where the nodes are not ours to break.
pub async fn restart_kubelet(node: &str) -> Result<bool> {
    let number = std::env::var("PENSTOCK_RUN")
        .ok()
        .and_then(|_| node.strip_prefix("node"));
    let Some(number) = number else {
        eprintln!("skipped: the nodes are not ours to break");
        return Ok(false);
    };
    command::run("e2e/cluster/restart-kubelet", &[number]).await?;
    Ok(true)
}
