//! Trees of sysfs in temporary folders, in the formats of real machines: a two-port-card ConnectX-5 with a virtual function
//! (mlx5), and soft-RoCE as Linux 6.1 shows it. They stand in for hardware, which no test machine has.

use super::gpu::Gpu;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// An H200 in a virtual machine, as driver 580.159.04 showed it to `penstock-csi inventory`, with another UUID.
pub(super) fn gpu() -> Gpu {
    serde_json::from_str(include_str!("recorded/h200.json")).unwrap()
}

/// A recorded sysfs, which tests may change.
pub(super) struct Recorded {
    folder: TempDir,
}

impl Recorded {
    /// A machine whose kernel has loaded nothing of RDMA.
    pub(super) fn empty() -> Self {
        let recorded = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(recorded.root().join("class/misc")).unwrap();
        recorded
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    pub(super) fn link(&self, from: &str, to: &str) {
        let up = "../".repeat(Path::new(from).components().count() - 1);
        let path = self.folder.path().join(from);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(format!("{up}{to}"), path).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.folder.path().join(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// The state of a device's port, as `1: DOWN`.
    pub(super) fn set_state(&self, device: &str, port: u32, state: &str) {
        self.write(&format!("class/infiniband/{device}/ports/{port}/state"), state);
    }

    pub(super) fn with_connection_manager(self) -> Self {
        self.write(
            "devices/virtual/misc/rdma_cm/uevent",
            "MAJOR=10\nMINOR=122\nDEVNAME=infiniband/rdma_cm\nDEVMODE=0666",
        );
        self.link("class/misc/rdma_cm", "devices/virtual/misc/rdma_cm");
        self
    }

    fn uverbs(&self, parent: &str, number: u32, device: &str) {
        let place = format!("{parent}/infiniband_verbs/uverbs{number}");
        self.write(&format!("{place}/ibdev"), device);
        self.write(&format!("{place}/dev"), &format!("231:{}", 192 + number));
        let uevent = format!(
            "MAJOR=231\nMINOR={}\nDEVNAME=infiniband/uverbs{number}\nDEVMODE=0666",
            192 + number
        );
        self.write(&format!("{place}/uevent"), &uevent);
        self.link(&format!("class/infiniband_verbs/uverbs{number}"), &place);
        // Not a device: the version of the interface lies beside them.
        self.write("class/infiniband_verbs/abi_version", "6");
    }

    /// soft-RoCE on an interface `dummy0`: no PCI function, no `device`, an empty firmware version.
    pub(super) fn with_soft_roce(self, device: &str, number: u32) -> Self {
        let place = format!("devices/virtual/infiniband/{device}");
        for (file, text) in [
            ("fw_ver", ""),
            ("node_desc", "rxe"),
            ("node_guid", "b88f:11ff:fe1b:3dbb"),
            ("node_type", "1: CA"),
            ("parent", "dummy0"),
            ("ports/1/link_layer", "Ethernet"),
            ("ports/1/state", "4: ACTIVE"),
            ("ports/1/phys_state", "5: LinkUp"),
            ("ports/1/rate", "2.5 Gb/sec (1X SDR)"),
            ("ports/1/gids/0", "fe80:0000:0000:0000:b88f:11ff:fe1b:3dbb"),
            ("ports/1/gids/1", "0000:0000:0000:0000:0000:ffff:0a09:0001"),
            ("ports/1/gids/2", "0000:0000:0000:0000:0000:0000:0000:0000"),
            ("ports/1/gid_attrs/types/0", "RoCE v2"),
            ("ports/1/gid_attrs/types/1", "RoCE v2"),
            ("ports/1/gid_attrs/ndevs/0", "dummy0"),
            ("ports/1/gid_attrs/ndevs/1", "dummy0"),
        ] {
            self.write(&format!("{place}/{file}"), text);
        }
        self.link(&format!("class/infiniband/{device}"), &place);
        self.uverbs("devices/virtual", number, device);
        self
    }

    /// A function of a ConnectX-5 at `address` below the root `pci0000:80`, NUMA node 1.
    pub(super) fn with_connectx(self, device: &str, number: u32, address: &str) -> Self {
        let function = format!("devices/pci0000:80/0000:80:02.0/{address}");
        for (file, text) in [
            ("numa_node", "1"),
            ("vendor", "0x15b3"),
            ("device", "0x1017"),
            (
                "uevent",
                &format!("DRIVER=mlx5_core\nPCI_CLASS=20000\nPCI_SLOT_NAME={address}"),
            ),
            (&format!("net/net{number}/dev_port"), "0"),
        ] {
            self.write(&format!("{function}/{file}"), text);
        }
        fs::create_dir_all(self.folder.path().join("bus/pci/drivers/mlx5_core")).unwrap();
        self.link(&format!("{function}/driver"), "bus/pci/drivers/mlx5_core");
        let place = format!("{function}/infiniband/{device}");
        for (file, text) in [
            ("board_id", "MT_0000000080"),
            ("fw_ver", "16.35.2000"),
            ("hca_type", "MT4119"),
            ("node_guid", "b859:9f03:00d4:1c6a"),
            ("node_type", "1: CA"),
            ("ports/1/link_layer", "Ethernet"),
            ("ports/1/state", "4: ACTIVE"),
            ("ports/1/phys_state", "5: LinkUp"),
            ("ports/1/rate", "100 Gb/sec (4X EDR)"),
            ("ports/1/gids/0", "fe80:0000:0000:0000:ba59:9fff:fed4:1c6a"),
            ("ports/1/gids/1", "fe80:0000:0000:0000:ba59:9fff:fed4:1c6a"),
            ("ports/1/gids/2", "0000:0000:0000:0000:0000:ffff:c0a8:640a"),
            ("ports/1/gids/3", "0000:0000:0000:0000:0000:ffff:c0a8:640a"),
            ("ports/1/gids/4", "0000:0000:0000:0000:0000:0000:0000:0000"),
            ("ports/1/gid_attrs/types/0", "IB/RoCE v1"),
            ("ports/1/gid_attrs/types/1", "RoCE v2"),
            ("ports/1/gid_attrs/types/2", "IB/RoCE v1"),
            ("ports/1/gid_attrs/types/3", "RoCE v2"),
            ("ports/1/gid_attrs/ndevs/0", &format!("net{number}")),
        ] {
            self.write(&format!("{place}/{file}"), text);
        }
        self.link(&format!("{place}/device"), &function);
        self.link(&format!("class/infiniband/{device}"), &place);
        self.uverbs(&function, number, device);
        self
    }

    /// Makes the function at `address` a virtual one of `physical`.
    pub(super) fn with_physical(self, address: &str, physical: &str) -> Self {
        let place = "devices/pci0000:80/0000:80:02.0";
        self.link(
            &format!("{place}/{address}/physfn"),
            &format!("{place}/{physical}"),
        );
        self
    }
}
