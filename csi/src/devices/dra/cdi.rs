//! Container Device Interface specifications (CDI 0.5.0, `tags.cncf.io/container-device-interface`): what the container runtime puts into
//! a container that has a claim. A file per claim, named by its UID: runtimes cache what a name meant.

use super::file::{self, FileError};
use crate::devices::DRIVER;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The first version that knows `hostPath`.
const VERSION: &str = "0.5.0";
/// Class of our devices.
const CLASS: &str = "claim";

/// A device of a claim, as a container is to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Its name in the pool.
    pub(super) device: String,
    /// Its name in the kernel.
    pub(super) nic: String,
    /// Its device nodes, relative to `/dev`.
    pub(super) nodes: Vec<PathBuf>,
}

/// The folder that the container runtime reads.
#[derive(Debug, Clone)]
pub(super) struct Specs {
    folder: PathBuf,
    /// The host's folder of device nodes.
    dev: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'a str,
    kind: String,
    devices: Vec<Device>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: PathBuf,
    permissions: &'static str,
}

impl Specs {
    pub(super) fn open(folder: &Path, dev: &Path) -> Result<Self, FileError> {
        file::prepare_folder(folder, DRIVER)?;
        Ok(Self {
            folder: folder.to_owned(),
            dev: dev.to_owned(),
        })
    }

    /// Writes the specification of a claim, whatever was there.
    pub(super) fn write(&self, uid: &str, devices: &[Given]) -> Result<(), FileError> {
        let spec = Spec {
            cdi_version: VERSION,
            kind: format!("{DRIVER}/{CLASS}"),
            devices: devices.iter().map(|given| self.device(uid, given)).collect(),
        };
        let path = self.path(uid);
        let content = serde_json::to_vec_pretty(&spec).map_err(std::io::Error::from);
        // A reboot empties /run, the folder included.
        file::prepare_folder(&self.folder, DRIVER)?;
        file::write(&path, &content.map_err(file::failed("describe", &path))?)
    }

    fn device(&self, uid: &str, given: &Given) -> Device {
        let node = |node: &PathBuf| Node {
            path: Path::new("/dev").join(node),
            host_path: self.dev.join(node),
            permissions: "rw",
        };
        // A variable per device: a container may have several claims, and the last of two with the same name would win.
        let variable = given.device.to_ascii_uppercase().replace('-', "_");
        Device {
            name: device_name(uid, &given.device),
            container_edits: Edits {
                env: vec![format!("PENSTOCK_RDMA_DEVICE_{variable}={}", given.nic)],
                device_nodes: given.nodes.iter().map(node).collect(),
            },
        }
    }

    pub(super) fn remove(&self, uid: &str) -> Result<(), FileError> {
        file::remove(&self.path(uid))
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{DRIVER}-{uid}.json"))
    }
}

fn device_name(uid: &str, device: &str) -> String {
    format!("{uid}-{device}")
}

/// The name of a claim's device towards the container runtime.
pub(super) fn id(uid: &str, device: &str) -> String {
    format!("{DRIVER}/{CLASS}={}", device_name(uid, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_claim_is_a_file_with_a_device_each_and_is_written_anew_after_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let cdi = folder.path().join("cdi");
        let specs = Specs::open(&cdi, Path::new("/host/dev")).unwrap();
        let given = Given {
            device: "mlx5-0".to_owned(),
            nic: "mlx5_0".to_owned(),
            nodes: vec!["infiniband/rdma_cm".into(), "infiniband/uverbs3".into()],
        };
        let path = cdi.join("rdma.penstock.io-u1.json");
        for _ in 0..2 {
            specs.write("u1", std::slice::from_ref(&given)).unwrap();
            let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let node = |name: &str| json!({"path": format!("/dev/infiniband/{name}"), "hostPath": format!("/host/dev/infiniband/{name}"), "permissions": "rw"});
            assert_eq!(
                written,
                json!({"cdiVersion": "0.5.0", "kind": "rdma.penstock.io/claim", "devices": [{
                    "name": "u1-mlx5-0",
                    "containerEdits": {
                        "env": ["PENSTOCK_RDMA_DEVICE_MLX5_0=mlx5_0"],
                        "deviceNodes": [node("rdma_cm"), node("uverbs3")],
                    },
                }]})
            );
            std::fs::remove_dir_all(&cdi).unwrap();
        }
        assert_eq!(id("u1", "mlx5-0"), "rdma.penstock.io/claim=u1-mlx5-0");
        specs.write("u1", &[given]).unwrap();
        specs.remove("u1").unwrap();
        specs.remove("u1").unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_other_drivers_write_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("nvidia.com-gpu.unfinished");
        let ours = folder.path().join("rdma.penstock.io-u1.unfinished");
        for path in [&other, &ours] {
            std::fs::write(path, "").unwrap();
        }
        Specs::open(folder.path(), Path::new("/dev")).unwrap();
        assert!(other.exists() && !ours.exists());
    }
}
