//! Which claims are prepared, on disk: a file per claim in the driver's folder, so that each is written and removed by itself.
//!
//! The kubelet asks to unprepare a claim that the API server has forgotten already, and asks again for what it is not sure of;
//! so what was prepared must be known here, across crashes, reboots and upgrades.

use super::{
    claim::Allocated,
    file::{self, FileError, failed},
    offered::Parameters,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The version of the format. A newer one must keep reading this one: an upgrade happens under running pods.
const VERSION: u32 = 1;

/// A prepared claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Prepared<P> {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) devices: Vec<Allocated<P>>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    claim: serde_json::Value,
}

/// Why what is prepared cannot be known or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is in it.
    #[error("{} is no checkpoint of version {VERSION}: {why}; it is one of a newer version, or damaged: remove it when no pod on this node uses the claim", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The prepared claims of this node, and how their devices are wanted (`P`).
#[derive(Debug)]
pub(super) struct Checkpoint<P> {
    folder: PathBuf,
    claims: BTreeMap<String, Prepared<P>>,
}

impl<P: Parameters> Checkpoint<P> {
    /// Reads what is in `folder`, which is made. A file that cannot be read is left alone, with an error in the log: the other claims
    /// must go on.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointError> {
        file::prepare_folder(folder, "")?;
        let mut claims = BTreeMap::new();
        for path in file::list(folder)? {
            let Some(uid) = uid(&path) else { continue };
            match read(&path) {
                Ok(claim) => drop(claims.insert(uid, claim)),
                Err(error) => tracing::error!("{}", penstock_service::chain(&error)),
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            claims,
        })
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Prepared<P>> {
        self.claims.get(uid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Prepared<P>)> {
        self.claims.iter()
    }

    pub(super) fn insert(&mut self, uid: &str, claim: Prepared<P>) -> Result<(), CheckpointError> {
        let path = self.path(uid);
        let content = serde_json::to_value(&claim).and_then(|claim| {
            serde_json::to_vec(&File {
                version: VERSION,
                claim,
            })
        });
        let content = content.map_err(|error| CheckpointError::Content {
            path: path.clone(),
            why: error.to_string(),
        })?;
        file::write(&path, &content)?;
        self.claims.insert(uid.to_owned(), claim);
        Ok(())
    }

    pub(super) fn remove(&mut self, uid: &str) -> Result<(), CheckpointError> {
        file::remove(&self.path(uid))?;
        self.claims.remove(uid);
        Ok(())
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{uid}.json"))
    }
}

fn uid(path: &Path) -> Option<String> {
    let is_claim = path.extension() == Some(OsStr::new("json"));
    path.file_stem()
        .and_then(OsStr::to_str)
        .filter(|_| is_claim)
        .map(str::to_owned)
}

fn read<P: Parameters>(path: &Path) -> Result<Prepared<P>, CheckpointError> {
    let wrong = |why: String| CheckpointError::Content {
        path: path.to_owned(),
        why,
    };
    let content = fs::read(path).map_err(failed("read", path))?;
    let file: File = serde_json::from_slice(&content).map_err(|error| wrong(error.to_string()))?;
    if file.version != VERSION {
        return Err(wrong(format!("its version is {}", file.version)));
    }
    serde_json::from_value(file.claim).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::dra::nic::NicParameters;

    type Checkpoint = super::Checkpoint<NicParameters>;

    fn claim() -> Prepared<NicParameters> {
        Prepared {
            namespace: "ns".to_owned(),
            name: "nic".to_owned(),
            devices: vec![Allocated {
                request: "nic".to_owned(),
                pool: "node1".to_owned(),
                device: "mlx5-0".to_owned(),
                share_id: None,
                parameters: NicParameters::default(),
            }],
        }
    }

    #[test]
    fn what_is_prepared_is_known_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("claims");
        let mut checkpoint = Checkpoint::open(&place).unwrap();
        checkpoint.insert("u1", claim()).unwrap();
        checkpoint.insert("u2", claim()).unwrap();
        checkpoint.remove("u2").unwrap();
        checkpoint.remove("u2").unwrap();
        // A crash in the middle of a write.
        fs::write(place.join("u3.unfinished"), "{\"vers").unwrap();
        let again = Checkpoint::open(&place).unwrap();
        assert_eq!(again.iter().collect::<Vec<_>>(), [(&"u1".to_owned(), &claim())]);
        assert!(!place.join("u3.unfinished").exists());
    }

    #[test]
    fn the_format_is_this_one() {
        let folder = tempfile::tempdir().unwrap();
        // Written by version 0.1.0: it must be readable for ever.
        let text = r#"{"version":1,"claim":{"namespace":"ns","name":"nic","devices":[{"request":"nic","pool":"node1","device":"mlx5-0","parameters":{"connectionManager":true}}]}}"#;
        fs::write(folder.path().join("u1.json"), text).unwrap();
        assert_eq!(Checkpoint::open(folder.path()).unwrap().get("u1"), Some(&claim()));
    }

    #[test]
    fn what_cannot_be_read_is_left_alone_and_the_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
        checkpoint.insert("u1", claim()).unwrap();
        for (name, text) in [
            ("u2", "{\"version\":2,\"claim\":{}}"),
            ("u3", ""),
            ("u4", "{\"version\":1,\"claim\":{}}"),
        ] {
            let path = folder.path().join(format!("{name}.json"));
            fs::write(&path, text).unwrap();
            let error = read::<NicParameters>(&path).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("version 1"), "{error}");
        }
        let again = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(again.iter().count(), 1);
        assert!(folder.path().join("u2.json").exists());
    }
}
