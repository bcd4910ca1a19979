//! What a volume is: the parameters of a StorageClass, and the `volumeAttributes` of a PersistentVolume made from them.
//!
//! ```text
//! StorageClass.parameters ──Parameters──▶ CreateVolume ──Attributes──▶ PersistentVolume ──Attributes──▶ NodeStageVolume
//! ```
//! The keys are the same in both. A PersistentVolume always names a bucket; a StorageClass without one makes a bucket per
//! claim.

use penstock_rdma::Policy;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The bucket in which the controller remembers the volumes that it made. No volume can be in it.
pub const REGISTRY_BUCKET: &str = "penstock-volumes";

const BUCKET: &str = "bucket";
const PREFIX: &str = "prefix";
const UID: &str = "uid";
const GID: &str = "gid";
const FILE_MODE: &str = "fileMode";
const DIR_MODE: &str = "dirMode";
const RDMA: &str = "rdma";
/// Says whose StorageClass it is; for people who read it.
const STORAGE_CLUSTER: &str = "storageCluster";
const KNOWN: [&str; 8] = [
    BUCKET,
    PREFIX,
    UID,
    GID,
    FILE_MODE,
    DIR_MODE,
    RDMA,
    STORAGE_CLUSTER,
];
/// What Kubernetes and its sidecars add to both maps.
const FOREIGN: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// Why attributes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// A key that does not exist, most often a slip of the pen.
    #[error("there is no attribute {key:?}; the known ones are {}", KNOWN.join(", "))]
    Unknown {
        /// The key given.
        key: String,
    },
    /// A value that its key cannot have.
    #[error("attribute {key} cannot be {value:?}: {cause}; give {remedy}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        cause: &'static str,
        /// What would be right.
        remedy: &'static str,
    },
    /// A key that must be there.
    #[error("attribute bucket is missing; give {0}")]
    NoBucket(&'static str),
}

/// Where a volume's objects are, and how its files look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Bucket name.
    pub bucket: String,
    /// Folder in the bucket, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// Owner of every file.
    pub uid: Option<u32>,
    /// Group of every file.
    pub gid: Option<u32>,
    /// Permissions of files, at most 0777.
    pub file_mode: Option<u32>,
    /// Permissions of folders, at most 0777.
    pub dir_mode: Option<u32>,
    /// Whether its bytes may travel by HTTP. Not said: they may, and nobody is told.
    pub rdma: Option<Policy>,
}

impl Attributes {
    /// Reads the attributes of a PersistentVolume (CSI: `volume_context`).
    ///
    /// # Errors
    /// See [`AttributeError`].
    pub fn parse(map: &HashMap<String, String>) -> Result<Self, AttributeError> {
        let Parameters { bucket, volume } = Parameters::parse(map)?;
        let remedy = "the name of the bucket to mount in the PersistentVolume's volumeAttributes";
        Ok(Self {
            bucket: bucket.ok_or(AttributeError::NoBucket(remedy))?,
            ..volume
        })
    }

    /// The attributes as the map that [`Attributes::parse`] reads.
    pub fn to_map(&self) -> HashMap<String, String> {
        let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
        let prefix = (!self.prefix.is_empty()).then(|| self.prefix.clone());
        [
            (BUCKET, Some(self.bucket.clone())),
            (PREFIX, prefix),
            (UID, self.uid.map(|id| id.to_string())),
            (GID, self.gid.map(|id| id.to_string())),
            (FILE_MODE, octal(self.file_mode)),
            (DIR_MODE, octal(self.dir_mode)),
            (RDMA, self.rdma.map(|policy| policy.name().to_owned())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }
}

/// What a StorageClass says of the volumes made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    bucket: Option<String>,
    /// Everything else; its bucket is empty.
    volume: Attributes,
}

impl Parameters {
    /// Reads the parameters of a StorageClass.
    ///
    /// # Errors
    /// See [`AttributeError`].
    pub fn parse(map: &HashMap<String, String>) -> Result<Self, AttributeError> {
        let foreign = |key: &str| FOREIGN.iter().any(|prefix| key.starts_with(prefix));
        if let Some(key) = map
            .keys()
            .filter(|key| !foreign(key) && !KNOWN.contains(&key.as_str()))
            .min()
        {
            return Err(AttributeError::Unknown { key: key.clone() });
        }
        let bucket = map.get(BUCKET).map(|text| bucket(text)).transpose()?;
        let prefix = map.get(PREFIX).map_or(Ok(String::new()), |text| prefix(text))?;
        if bucket.is_none() && !prefix.is_empty() {
            return Err(AttributeError::NoBucket("the bucket that the prefix is in"));
        }
        Ok(Self {
            bucket,
            volume: Attributes {
                bucket: String::new(),
                prefix,
                uid: id(map, UID)?,
                gid: id(map, GID)?,
                file_mode: mode(map, FILE_MODE)?,
                dir_mode: mode(map, DIR_MODE)?,
                rdma: policy(map)?,
            },
        })
    }

    /// The volume that a claim gets: the bucket `name`, or the folder `name` in the bucket given.
    pub fn volume(&self, name: &str) -> Attributes {
        let (bucket, prefix) = match &self.bucket {
            None => (name.to_owned(), String::new()),
            Some(bucket) if self.volume.prefix.is_empty() => (bucket.clone(), name.to_owned()),
            Some(bucket) => (bucket.clone(), format!("{}/{name}", self.volume.prefix)),
        };
        Attributes {
            bucket,
            prefix,
            ..self.volume.clone()
        }
    }
}

fn invalid(key: &'static str, value: &str, cause: &'static str, remedy: &'static str) -> AttributeError {
    AttributeError::Invalid {
        key,
        value: value.to_owned(),
        cause,
        remedy,
    }
}

fn bucket(text: &str) -> Result<String, AttributeError> {
    let refuse = |cause| Err(invalid(BUCKET, text, cause, "the name of a bucket for files"));
    match text {
        "" => refuse("it is empty"),
        REGISTRY_BUCKET => refuse("the driver keeps its list of volumes there"),
        // It becomes the first part of a volume's id.
        _ if text.contains('/') => refuse("it holds a slash"),
        _ => Ok(text.to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, AttributeError> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let refuse = |cause| Err(invalid(PREFIX, text, cause, "a folder like data/images"));
    for component in trimmed.split('/') {
        match component {
            // A slash at the beginning would be a folder without a name, which no file system can show.
            "" if !text.is_empty() => return refuse("it has a folder without a name in it"),
            "." | ".." => return refuse("it has a folder . or .. in it, which is none in a bucket"),
            _ => {}
        }
    }
    Ok(trimmed.to_owned())
}

fn id(map: &HashMap<String, String>, key: &'static str) -> Result<Option<u32>, AttributeError> {
    let Some(text) = map.get(key) else { return Ok(None) };
    // The highest number means "no id" to the kernel.
    match text.parse() {
        Ok(u32::MAX) | Err(_) => Err(invalid(key, text, "it is no id", "a number like 1000")),
        Ok(id) => Ok(Some(id)),
    }
}

fn policy(map: &HashMap<String, String>) -> Result<Option<Policy>, AttributeError> {
    let Some(text) = map.get(RDMA) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(policy) => Ok(Some(policy)),
        Err(_) => Err(invalid(RDMA, text, "it is no policy", "require, prefer or off")),
    }
}

fn mode(map: &HashMap<String, String>, key: &'static str) -> Result<Option<u32>, AttributeError> {
    let Some(text) = map.get(key) else { return Ok(None) };
    let digits = text
        .strip_prefix('0')
        .filter(|rest| rest.len() == 3)
        .unwrap_or(text);
    if digits.len() != 3 || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'7')) {
        return Err(invalid(
            key,
            text,
            "it is no octal mode up to 0777",
            "three octal digits like \"0644\"",
        ));
    }
    Ok(u32::from_str_radix(digits, 8).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn attributes_say_where_a_volume_is_and_how_its_files_look() {
        let given = map(&[
            ("bucket", "data"),
            ("prefix", "a/b/"),
            ("uid", "1000"),
            ("gid", "0"),
            ("fileMode", "0640"),
            ("dirMode", "750"),
            ("rdma", "require"),
            ("storageCluster", "default/demo"),
            ("csi.storage.k8s.io/pod.name", "p"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "x"),
        ]);
        let attributes = Attributes::parse(&given).unwrap();
        let expected = Attributes {
            bucket: "data".into(),
            prefix: "a/b".into(),
            uid: Some(1000),
            gid: Some(0),
            file_mode: Some(0o640),
            dir_mode: Some(0o750),
            rdma: Some(Policy::Require),
        };
        assert_eq!(attributes, expected);
        assert_eq!(Attributes::parse(&attributes.to_map()), Ok(expected));
    }

    #[test]
    fn only_what_is_given_is_handed_on() {
        let attributes = Attributes::parse(&map(&[("bucket", "data")])).unwrap();
        assert_eq!(attributes.to_map(), map(&[("bucket", "data")]));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let error = Attributes::parse(&map(&[("bucket", "b"), ("filemode", "0644")]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"filemode\"") && error.contains("fileMode"),
            "{error}"
        );
    }

    #[test]
    fn the_value_of_an_unknown_key_is_not_told() {
        let error = Attributes::parse(&map(&[("secretAccessKey", "hush")])).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_key_and_value() {
        for (key, value) in [
            ("bucket", ""),
            ("bucket", "a/b"),
            ("bucket", REGISTRY_BUCKET),
            ("prefix", "/"),
            ("prefix", "/a"),
            ("prefix", "a//b"),
            ("prefix", "a//"),
            ("prefix", "a/../b"),
            ("prefix", "."),
            ("uid", "root"),
            ("uid", "-1"),
            ("gid", "4294967295"),
            ("fileMode", "644x"),
            ("fileMode", "4755"),
            ("fileMode", "0o644"),
            ("dirMode", "0789"),
            ("dirMode", ""),
            ("rdma", "Require"),
            ("rdma", ""),
        ] {
            let mut given = map(&[("bucket", "b")]);
            given.insert(key.into(), value.into());
            let error = Attributes::parse(&given).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains(&format!("{value:?}")),
                "{key}={value}: {error}"
            );
        }
    }

    #[test]
    fn a_volume_names_its_bucket() {
        let error = Attributes::parse(&map(&[("uid", "1")])).unwrap_err().to_string();
        assert!(error.contains("bucket is missing"), "{error}");
    }

    #[test]
    fn a_class_without_a_bucket_makes_a_bucket_per_claim() {
        let volume = Parameters::parse(&map(&[("uid", "7")])).unwrap().volume("pvc-1");
        assert_eq!(
            (volume.bucket.as_str(), volume.prefix.as_str(), volume.uid),
            ("pvc-1", "", Some(7))
        );
    }

    #[test]
    fn a_class_with_a_bucket_makes_a_folder_per_claim() {
        let volume = |pairs: &[_]| Parameters::parse(&map(pairs)).unwrap().volume("pvc-1");
        assert_eq!(volume(&[("bucket", "b")]).prefix, "pvc-1");
        assert_eq!(
            volume(&[("bucket", "b"), ("prefix", "team")]).prefix,
            "team/pvc-1"
        );
        assert!(Parameters::parse(&map(&[("prefix", "team")])).is_err());
    }
}
