//! Container Device Interface specifications (CDI 0.5.0, `tags.cncf.io/container-device-interface`): what the container runtime puts into
//! a container that has a claim. A file per claim, named by its UID: runtimes cache what a name meant.

use super::file::{self, FileError};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The first version that knows `hostPath`.
const VERSION: &str = "0.5.0";
/// Class of our devices; their vendor is the driver.
const CLASS: &str = "claim";

/// A device of a claim, as a container is to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Its name in the pool.
    pub(super) device: String,
    /// What the container gets for it.
    pub(super) edits: Edits,
}

/// What a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::devices) struct Edits {
    pub(super) env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) device_nodes: Vec<Node>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) mounts: Vec<Mount>,
    /// Names of devices that another vendor's specifications describe, which it gets as well.
    #[serde(skip)]
    pub(super) of_others: Vec<String>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    path: PathBuf,
    host_path: PathBuf,
    permissions: &'static str,
}

impl Node {
    /// One of the host's, whose folder of them is `dev`.
    pub(super) fn new(dev: &Path, node: &Path) -> Self {
        Self {
            path: Path::new("/dev").join(node),
            host_path: dev.join(node),
            permissions: "rw",
        }
    }
}

/// A file of the host that the container may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: [&'static str; 5],
}

impl Mount {
    pub(super) fn new(host: PathBuf, container: PathBuf) -> Self {
        Self {
            host_path: host,
            container_path: container,
            options: ["ro", "nosuid", "nodev", "rbind", "rprivate"],
        }
    }
}

/// The folder that the container runtime reads, and in it the files of one driver.
#[derive(Debug, Clone)]
pub(super) struct Specs {
    folder: PathBuf,
    driver: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'a str,
    kind: String,
    devices: Vec<Device<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device<'a> {
    name: String,
    container_edits: &'a Edits,
}

impl Specs {
    pub(super) fn open(folder: &Path, driver: &'static str) -> Result<Self, FileError> {
        file::prepare_folder(folder, driver)?;
        Ok(Self {
            folder: folder.to_owned(),
            driver,
        })
    }

    /// Writes the specification of a claim, whatever was there.
    pub(super) fn write(&self, uid: &str, devices: &[Given]) -> Result<(), FileError> {
        let devices = devices.iter().map(|given| Device {
            name: device_name(uid, &given.device),
            container_edits: &given.edits,
        });
        let spec = Spec {
            cdi_version: VERSION,
            kind: format!("{}/{CLASS}", self.driver),
            devices: devices.collect(),
        };
        let path = self.path(uid);
        let content = serde_json::to_vec_pretty(&spec).map_err(std::io::Error::from);
        // A reboot empties /run, the folder included.
        file::prepare_folder(&self.folder, self.driver)?;
        file::write(&path, &content.map_err(file::failed("describe", &path))?)
    }

    pub(super) fn remove(&self, uid: &str) -> Result<(), FileError> {
        file::remove(&self.path(uid))
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{}-{uid}.json", self.driver))
    }

    /// The names of a claim's device towards the container runtime.
    pub(super) fn ids(&self, uid: &str, given: &Given) -> Vec<String> {
        let own = format!("{}/{CLASS}={}", self.driver, device_name(uid, &given.device));
        [own].into_iter().chain(given.edits.of_others.clone()).collect()
    }
}

fn device_name(uid: &str, device: &str) -> String {
    format!("{uid}-{device}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_claim_is_a_file_with_a_device_each_and_is_written_anew_after_a_reboot() {
        let folder = tempfile::tempdir().unwrap();
        let cdi = folder.path().join("cdi");
        let specs = Specs::open(&cdi, "rdma.penstock.io").unwrap();
        let node = |node: &str| Node::new(Path::new("/host/dev"), Path::new(node));
        let given = Given {
            device: "mlx5-0".to_owned(),
            edits: Edits {
                env: vec!["PENSTOCK_RDMA_DEVICE_MLX5_0=mlx5_0".to_owned()],
                device_nodes: vec![node("infiniband/rdma_cm"), node("infiniband/uverbs3")],
                ..Edits::default()
            },
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
        assert_eq!(specs.ids("u1", &given), ["rdma.penstock.io/claim=u1-mlx5-0"]);
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
        Specs::open(folder.path(), "rdma.penstock.io").unwrap();
        assert!(other.exists() && !ours.exists());
    }
}
