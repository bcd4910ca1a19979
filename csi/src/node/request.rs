//! What the kubelet's requests ask for, checked.

use crate::{
    access::Access,
    attributes::Attributes,
    events::PodRef,
    fs::Look,
    handover::Mount,
    proto::csi::{
        NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability,
        volume_capability::{AccessType, access_mode::Mode},
    },
};
use penstock_service::chain;
use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};
use tonic::Status;

/// Permissions where neither the StorageClass nor an fsGroup says something.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
/// Permissions with an fsGroup: the group writes, and new files belong to it.
const GROUP_FILE_MODE: u32 = 0o664;
const GROUP_DIR_MODE: u32 = 0o2775;

/// A checked NodePublishVolume request.
#[derive(Debug)]
pub struct Publish {
    /// Volume id.
    pub volume: String,
    /// Where it is staged.
    pub staging: PathBuf,
    /// Where the pod looks for it.
    pub target: PathBuf,
    /// Whether the pod may not write.
    pub read_only: bool,
    /// The pod, where the kubelet says it.
    pub pod: Option<PodRef>,
    group: Option<u32>,
    attributes: Attributes,
    secrets: HashMap<String, String>,
}

/// The volume id.
pub fn volume_id(id: &str) -> Result<String, Status> {
    if id.is_empty() {
        return Err(Status::invalid_argument("volume_id is missing"));
    }
    Ok(id.to_owned())
}

/// An absolute path without `..`.
pub fn path(field: &str, path: &str) -> Result<PathBuf, Status> {
    if path.is_empty() {
        return Err(Status::invalid_argument(format!("{field} is missing")));
    }
    let path = Path::new(path);
    if !path.is_absolute()
        || path
            .components()
            .any(|component| component == Component::ParentDir)
    {
        return Err(Status::invalid_argument(format!(
            "{field} {} is no absolute path",
            path.display()
        )));
    }
    // Without a slash at the end, as the mount table has it.
    Ok(path.components().collect())
}

/// The fsGroup, and whether the access mode allows writing.
fn capability(capability: Option<&VolumeCapability>) -> Result<(Option<u32>, bool), Status> {
    let capability = capability.ok_or_else(|| Status::invalid_argument("volume_capability is missing"))?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return Err(Status::invalid_argument(
                "volumes are file systems and no block devices",
            ));
        }
        None => return Err(Status::invalid_argument("volume_capability has no access_type")),
    };
    if let Some(flag) = mount.mount_flags.first() {
        return Err(Status::invalid_argument(format!(
            "mount option {flag:?} is not known: volumes take no mountOptions; remove them from the StorageClass or PersistentVolume"
        )));
    }
    let group = match mount.volume_mount_group.as_str() {
        "" => None,
        group => Some(
            group
                .parse()
                .map_err(|_| Status::invalid_argument(format!("fsGroup {group:?} is no number")))?,
        ),
    };
    let mode = capability
        .access_mode
        .as_ref()
        .map_or(Mode::Unknown, |mode| mode.mode());
    let read_only = matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly);
    Ok((group, read_only))
}

fn look(attributes: &Attributes, group: Option<u32>) -> Look {
    let shared = group.is_some();
    Look {
        uid: attributes.uid.unwrap_or(0),
        gid: attributes.gid.or(group).unwrap_or(0),
        file_mode: attributes
            .file_mode
            .unwrap_or(if shared { GROUP_FILE_MODE } else { FILE_MODE }),
        dir_mode: attributes
            .dir_mode
            .unwrap_or(if shared { GROUP_DIR_MODE } else { DIR_MODE }),
    }
}

fn attributes(context: &HashMap<String, String>) -> Result<Attributes, Status> {
    Attributes::parse(context).map_err(|error| Status::invalid_argument(chain(&error)))
}

fn mount(
    volume: &str,
    attributes: Attributes,
    group: Option<u32>,
    secrets: &HashMap<String, String>,
) -> Result<Mount, Status> {
    let access = Access::parse(secrets).map_err(|error| Status::invalid_argument(chain(&error)))?;
    Ok(Mount {
        volume: volume.to_owned(),
        look: look(&attributes, group),
        bucket: attributes.bucket,
        prefix: attributes.prefix,
        rdma: attributes.rdma,
        access,
    })
}

/// NodeStageVolume: the volume, where, and what.
pub fn stage(request: &NodeStageVolumeRequest) -> Result<(String, PathBuf, Mount), Status> {
    let volume = volume_id(&request.volume_id)?;
    let path = path("staging_target_path", &request.staging_target_path)?;
    let (group, _) = capability(request.volume_capability.as_ref())?;
    let mount = mount(
        &volume,
        attributes(&request.volume_context)?,
        group,
        &request.secrets,
    )?;
    Ok((volume, path, mount))
}

/// NodePublishVolume.
pub fn publish(request: &NodePublishVolumeRequest) -> Result<Publish, Status> {
    let volume = volume_id(&request.volume_id)?;
    let target = path("target_path", &request.target_path)?;
    let (group, reader) = capability(request.volume_capability.as_ref())?;
    if request.staging_target_path.is_empty() {
        return Err(Status::failed_precondition(
            "the volume is not staged: staging_target_path is missing",
        ));
    }
    Ok(Publish {
        volume,
        staging: path("staging_target_path", &request.staging_target_path)?,
        target,
        read_only: request.readonly || reader,
        pod: PodRef::of(&request.volume_context),
        group,
        attributes: attributes(&request.volume_context)?,
        secrets: request.secrets.clone(),
    })
}

impl Publish {
    /// A node mounts a volume once, so all its pods there see the same owner and group.
    pub fn must_fit(&self, mounted: Look) -> Result<(), Status> {
        let wanted = look(&self.attributes, self.group);
        if self.group.is_none() || wanted.gid == mounted.gid {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "volume {} is mounted on this node for group {} and this pod asks for fsGroup {}: give all its pods the same fsGroup, \
             or set gid in the StorageClass",
            self.volume, mounted.gid, wanted.gid
        )))
    }

    /// What to mount when the staged mount is dead.
    pub fn remount(&self) -> Result<Mount, Status> {
        if self.secrets.is_empty() {
            return Err(Status::failed_precondition(format!(
                "volume {} is staged on this node, but the agent that served it has ended, and mounting it anew needs its keys: delete \
                 the pods that use it on this node, or name the Secret for node-publish too",
                self.volume
            )));
        }
        mount(&self.volume, self.attributes.clone(), self.group, &self.secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn mounting(group: &str, flags: &[&str], mode: Mode) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode.into() }),
            access_type: Some(AccessType::Mount(MountVolume {
                volume_mount_group: group.into(),
                mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                ..MountVolume::default()
            })),
        }
    }

    fn publishing(group: &str, mode: Mode) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: "v".into(),
            staging_target_path: "/stage/".into(),
            target_path: "/target".into(),
            volume_capability: Some(mounting(group, &[], mode)),
            volume_context: HashMap::from([("bucket".into(), "data".into())]),
            ..NodePublishVolumeRequest::default()
        }
    }

    #[test]
    fn an_fs_group_gives_the_group_the_right_to_write() {
        let wanted = publish(&publishing("1000", Mode::MultiNodeMultiWriter)).unwrap();
        let look = look(&wanted.attributes, wanted.group);
        assert_eq!((look.gid, look.file_mode, look.dir_mode), (1000, 0o664, 0o2775));
        assert!(!wanted.read_only);
        assert_eq!(wanted.staging, Path::new("/stage"));
        assert!(
            publish(&publishing("", Mode::MultiNodeReaderOnly))
                .unwrap()
                .read_only
        );
    }

    #[test]
    fn pods_of_one_node_must_share_the_group_of_a_volume() {
        let look = |gid| Look {
            uid: 0,
            gid,
            file_mode: 0o664,
            dir_mode: 0o2775,
        };
        let wanted = publish(&publishing("1000", Mode::MultiNodeMultiWriter)).unwrap();
        assert!(wanted.must_fit(look(1000)).is_ok());
        let refused = wanted.must_fit(look(2000)).unwrap_err();
        assert!(
            refused.message().contains("fsGroup 1000") && refused.message().contains("group 2000"),
            "{refused}"
        );
        let any = publish(&publishing("", Mode::MultiNodeMultiWriter)).unwrap();
        assert!(any.must_fit(look(2000)).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut NodePublishVolumeRequest)| {
            let mut request = publishing("", Mode::MultiNodeMultiWriter);
            change(&mut request);
            publish(&request).unwrap_err().message().to_owned()
        };
        assert!(refused(&|request| request.volume_id.clear()).contains("volume_id"));
        assert!(refused(&|request| request.target_path = "relative".into()).contains("relative"));
        assert!(refused(&|request| request.target_path = "/a/../b".into()).contains("target_path"));
        assert!(refused(&|request| request.volume_capability = None).contains("volume_capability"));
        let flags = refused(&|request| {
            request.volume_capability = Some(mounting("", &["noatime"], Mode::SingleNodeWriter))
        });
        assert!(flags.contains("noatime"), "{flags}");
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: None,
        };
        assert!(refused(&|request| request.volume_capability = Some(block.clone())).contains("block"));
    }

    #[test]
    fn without_keys_a_dead_mount_says_what_to_do() {
        let wanted = publish(&publishing("", Mode::MultiNodeMultiWriter)).unwrap();
        let told = wanted.remount().unwrap_err();
        assert!(told.message().contains("delete the pods"), "{told}");
    }
}
