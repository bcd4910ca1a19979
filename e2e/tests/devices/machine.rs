//! Nodes with RDMA NICs that they do not have: a recorded sysfs in a folder of each node, whose device nodes are harmless ones
//! (`/dev/null` by another name). Everything else is real: the kubelet, the scheduler, the container runtime, the driver.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use penstock_e2e::{
    Context, Namespace, Result, Wait, chart, client, command::kubectl, ensure, eventually, in_namespace,
    nodes,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Mutex;

/// Where the recorded trees are, on the nodes.
const FOLDER: &str = "/var/lib/penstock/e2e-devices";
/// The resource under test.
pub const RDMA: &str = "penstock.io/rdma";
/// Units of a NIC.
pub const UNITS: u32 = 4;

/// The one installation is shared, so one test at a time has it its way.
static TURN: Mutex<()> = Mutex::const_new(());
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The nodes of the cluster, and what they pretend to have.
pub struct Machines {
    /// The test's namespace, in which a pod per node writes its tree.
    pub ns: Namespace,
    /// The node that has NICs; the others have none.
    pub node: String,
}

/// Runs `test` with the chart's `devices` looking at recorded trees: one node has the soft-RoCE devices `names`.
pub async fn with_nics(names: &[&str], test: impl AsyncFnOnce(&Machines) -> Result<()>) -> Result<()> {
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
        let outcome = machines.run(names, test).await;
        for name in &all {
            // The folder is on the node and outlives the namespace.
            machines.shell_on(name, "rm -rf /machine/*").await?;
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
    async fn run(&self, names: &[&str], test: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        for (number, name) in names.iter().enumerate() {
            self.add(name, number).await?;
        }
        Self::install(&[]).await?;
        let units = UNITS * u32::try_from(names.len())?;
        self.allocatable(units).await?;
        test(self).await
    }

    /// Installs the chart with devices; `more` goes to helm.
    pub async fn install(more: &[&str]) -> Result<()> {
        let units = format!("devices.devicePlugin.sharedUnits={UNITS}");
        let (sysfs, dev) = (
            format!("devices.sysfs={FOLDER}/sys"),
            format!("devices.dev={FOLDER}/dev"),
        );
        let mut args = vec![
            "--set",
            "devices.enabled=true",
            "--set",
            &units,
            "--set",
            &sysfs,
            "--set",
            &dev,
        ];
        args.extend(more);
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
                    "command": ["sh", "-c", "rm -rf /machine/* && mkdir -p /machine/sys/class/misc && touch /tmp/ready && sleep 3600"],
                    "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "machine", "mountPath": "/machine"}],
                }],
                "volumes": [{"name": "machine", "hostPath": {"path": FOLDER, "type": "DirectoryOrCreate"}}],
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

    /// Gives the node a soft-RoCE device, in the format of Linux 6.1.
    pub async fn add(&self, name: &str, number: usize) -> Result<()> {
        self.shell(&format!(
            "nic=sys/devices/virtual/infiniband/{name} verbs=sys/devices/virtual/infiniband_verbs/uverbs{number}
             mkdir -p $nic/ports/1/gids $nic/ports/1/gid_attrs/types $nic/ports/1/gid_attrs/ndevs $verbs dev/infiniband \\
               sys/class/infiniband sys/class/infiniband_verbs
             echo > $nic/fw_ver
             echo b88f:11ff:fe1b:3d{number:02x} > $nic/node_guid
             echo eth0 > $nic/parent
             echo Ethernet > $nic/ports/1/link_layer
             echo '25 Gb/sec (1X EDR)' > $nic/ports/1/rate
             echo 0000:0000:0000:0000:0000:ffff:0a63:0001 > $nic/ports/1/gids/1
             echo 'RoCE v2' > $nic/ports/1/gid_attrs/types/1
             echo eth0 > $nic/ports/1/gid_attrs/ndevs/1
             echo '4: ACTIVE' > $nic/ports/1/state
             echo {name} > $verbs/ibdev
             printf 'MAJOR=231\\nMINOR=%s\\nDEVNAME=infiniband/uverbs{number}\\nDEVMODE=0666\\n' $((192 + {number})) > $verbs/uevent
             [ -e dev/infiniband/uverbs{number} ] || mknod -m 666 dev/infiniband/uverbs{number} c 1 3
             ln -sfn ../../devices/virtual/infiniband_verbs/uverbs{number} sys/class/infiniband_verbs/uverbs{number}
             ln -sfn ../../devices/virtual/infiniband/{name} sys/class/infiniband/{name}"
        ))
        .await
        .map(drop)
    }

    /// Takes a device from the node, as `rdma link delete` does.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.shell(&format!("rm sys/class/infiniband/{name}"))
            .await
            .map(drop)
    }

    /// Sets the state of a device's port, as `1: DOWN`.
    pub async fn set_state(&self, name: &str, state: &str) -> Result<()> {
        self.shell(&format!(
            "echo '{state}' > sys/class/infiniband/{name}/ports/1/state"
        ))
        .await
        .map(drop)
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

    /// Waits until a pod of the driver runs on the node that is not `old`, and returns its UID.
    pub async fn driver_uid(&self) -> Result<String> {
        let pods = driver_pods(&self.node).await?;
        let pod = pods["items"].get(0).context("no pod of the driver")?;
        Ok(pod["metadata"]["uid"]
            .as_str()
            .context("a pod without UID")?
            .to_owned())
    }

    /// Kills the driver's pod on the node, and waits until the next one is ready.
    pub async fn replace_driver(&self) -> Result<()> {
        let old = self.driver_uid().await?;
        let selector = format!("spec.nodeName={}", self.node);
        let label = "app.kubernetes.io/component=devices";
        kubectl(&[
            "-n",
            chart::NAMESPACE,
            "delete",
            "pods",
            "-l",
            label,
            "--field-selector",
            &selector,
            "--force",
        ])
        .await?;
        eventually("the driver's pod is replaced and ready", async || {
            let pods = driver_pods(&self.node).await?;
            let ready = pods["items"].as_array().into_iter().flatten().any(|pod| {
                pod["metadata"]["uid"] != old.as_str()
                    && pod["status"]["containerStatuses"][0]["ready"] == true
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

/// Waits until an Event of the namespace says `needle`.
pub async fn told(ns: &Namespace, needle: &str) -> Result<()> {
    eventually(&format!("an Event says {needle:?}"), async || {
        let events = kubectl(&["-n", &ns.name, "get", "events", "-o", "json"]).await?;
        Ok(if events.contains(needle) {
            Wait::Done(())
        } else {
            Wait::NotYet("no such Event".into())
        })
    })
    .await
}

/// The phase of a pod.
pub async fn phase(ns: &Namespace, pod: &str) -> Result<String> {
    let pod = ns.api::<k8s_openapi::api::core::v1::Pod>().get(pod).await?;
    let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
    ensure!(!phase.is_empty(), "a pod without a phase");
    Ok(phase)
}
