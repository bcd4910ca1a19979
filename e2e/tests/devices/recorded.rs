//! What the nodes pretend to have: trees of sysfs, what NVML says, and the files of NVIDIA's driver, in the formats of real machines.

use crate::machine::{FOLDER, Machines};
use penstock_e2e::{Context, Result};
use serde_json::{Value, json};

/// The driver of GPUs.
pub const GPU_DRIVER: &str = "gpu.penstock.io";
/// An H200, as the unit tests have it.
const H200: &str = include_str!("../../../csi/src/devices/recorded/h200.json");

/// The UUID of a node's GPU of some number.
pub fn uuid(number: usize) -> String {
    format!("GPU-00000000-1111-2222-3333-{number:012}")
}

/// Its name in slices.
pub fn gpu_name(number: usize) -> String {
    uuid(number).to_ascii_lowercase()
}

/// What the chart is told to find the recorded GPUs.
pub fn gpu_settings() -> Vec<String> {
    let settings = [
        "enabled=true".to_owned(),
        format!("driverRoot={FOLDER}/driver"),
        format!("nvmlRecorded={FOLDER}/dev/recorded-gpus.json"),
    ];
    let set = |setting| ["--set".to_owned(), format!("devices.gpu.{setting}")];
    settings.into_iter().flat_map(set).collect()
}

fn gpu(number: usize, root: &str) -> Result<Value> {
    let mut gpu: Value = serde_json::from_str(H200)?;
    gpu["index"] = number.into();
    gpu["uuid"] = uuid(number).into();
    gpu["pci"]["root"] = root.into();
    gpu["pci"]["address"] = format!("0000:{:02x}:00.0", 0x10 + number).into();
    gpu["nodes"] = json!([format!("nvidia{number}"), "nvidiactl", "nvidia-uvm"]);
    Ok(gpu)
}

impl Machines {
    /// Gives the node a soft-RoCE device, in the format of Linux 6.1.
    pub async fn add(&self, name: &str, number: usize) -> Result<()> {
        self.add_below("virtual", name, number).await
    }

    /// Gives it an RDMA device below a device.
    async fn add_below(&self, parent: &str, name: &str, number: usize) -> Result<()> {
        self.shell(&format!(
            "nic=sys/devices/{parent}/infiniband/{name} verbs=sys/devices/{parent}/infiniband_verbs/uverbs{number}
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
             ln -sfn ../../devices/{parent}/infiniband_verbs/uverbs{number} sys/class/infiniband_verbs/uverbs{number}
             ln -sfn ../../devices/{parent}/infiniband/{name} sys/class/infiniband/{name}"
        ))
        .await
        .map(drop)
    }

    /// Gives the node a NIC on a PCI bus, below a root complex.
    pub async fn add_card(&self, name: &str, number: usize, root: &str) -> Result<()> {
        let bus = root.rsplit(':').next().context("no root complex")?;
        let function = format!("{root}/0000:{bus}:02.0/0000:{number:02x}:00.0");
        self.add_below(&function, name, number).await?;
        self.shell(&format!(
            "echo 0 > sys/devices/{function}/numa_node
             ln -sfn ../.. sys/devices/{function}/infiniband/{name}/device"
        ))
        .await
        .map(drop)
    }

    /// Installs NVIDIA's driver on the node, as far as it is a library and its links.
    pub async fn install_driver(&self) -> Result<()> {
        self.shell(
            "folder=driver/usr/lib/$(uname -m)-linux-gnu
             mkdir -p $folder
             echo the library of the node > $folder/libcuda.so.580.159.04
             ln -sfn libcuda.so.580.159.04 $folder/libcuda.so.1",
        )
        .await
        .map(drop)
    }

    /// Gives the node GPUs, each below a root complex.
    pub async fn add_gpus(&self, roots: &[&str]) -> Result<()> {
        for node in (0..roots.len())
            .map(|number| format!("nvidia{number}"))
            .chain(["nvidiactl".to_owned(), "nvidia-uvm".to_owned()])
        {
            self.shell(&format!("mknod -m 666 dev/{node} c 1 3")).await?;
        }
        self.set_gpus(roots, |_, _| {}).await
    }

    /// Has NVML tell of the node's GPUs, each changed by `change`.
    pub async fn set_gpus(&self, roots: &[&str], change: impl Fn(usize, &mut Value)) -> Result<()> {
        let mut gpus = Vec::new();
        for (number, root) in roots.iter().enumerate() {
            let mut gpu = gpu(number, root)?;
            change(number, &mut gpu);
            gpus.push(gpu);
        }
        self.shell(&format!(
            "echo '{}' > dev/new && mv dev/new dev/recorded-gpus.json",
            Value::from(gpus)
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
}
