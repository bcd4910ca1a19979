//! The life of a volume, as kubelet and csi-provisioner call it, with files in it.

use crate::driver::Driver;
use hyper_util::rt::TokioIo;
use penstock_csi::proto::csi::{
    CreateVolumeRequest, DeleteVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Volume, VolumeCapability,
    controller_client::ControllerClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use std::{collections::HashMap, fs, io, path::PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

async fn connect(path: PathBuf) -> Channel {
    let dial = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(dial)
        .await
        .unwrap()
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// The calls of one volume.
struct Caller {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    secrets: HashMap<String, String>,
    staging: String,
}

impl Caller {
    async fn of(driver: &Driver) -> Self {
        let access = driver.access();
        Self {
            controller: ControllerClient::new(connect(driver.at("controller.sock")).await),
            node: NodeClient::new(connect(driver.at("node.sock")).await),
            secrets: map(&[
                ("accessKeyId", &access.access_key_id),
                ("secretAccessKey", &access.secret_access_key),
                ("endpoint", &access.endpoint),
            ]),
            staging: path(driver, "globalmount"),
        }
    }

    fn capability() -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode {
                mode: Mode::MultiNodeMultiWriter.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }
    }

    async fn create(&mut self, name: &str, parameters: &[(&str, &str)]) -> Volume {
        let request = CreateVolumeRequest {
            name: name.into(),
            volume_capabilities: vec![Self::capability()],
            parameters: map(parameters),
            secrets: self.secrets.clone(),
            ..CreateVolumeRequest::default()
        };
        self.controller
            .create_volume(request)
            .await
            .unwrap()
            .into_inner()
            .volume
            .unwrap()
    }

    async fn stage(&mut self, volume: &Volume) {
        let request = NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: self.staging.clone(),
            volume_capability: Some(Self::capability()),
            volume_context: volume.volume_context.clone(),
            secrets: self.secrets.clone(),
            ..NodeStageVolumeRequest::default()
        };
        self.node.node_stage_volume(request).await.unwrap();
    }

    async fn publish(&mut self, volume: &Volume, target: &str, readonly: bool) {
        let request = NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: self.staging.clone(),
            target_path: target.into(),
            volume_capability: Some(Self::capability()),
            volume_context: volume.volume_context.clone(),
            readonly,
            ..NodePublishVolumeRequest::default()
        };
        self.node.node_publish_volume(request).await.unwrap();
    }

    async fn unpublish(&mut self, volume: &Volume, target: &str) {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            target_path: target.into(),
        };
        self.node.node_unpublish_volume(request).await.unwrap();
    }

    async fn unstage(&mut self, volume: &Volume) {
        let request = NodeUnstageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: self.staging.clone(),
        };
        self.node.node_unstage_volume(request).await.unwrap();
    }

    async fn delete(&mut self, volume: &Volume) {
        let request = DeleteVolumeRequest {
            volume_id: volume.volume_id.clone(),
            secrets: self.secrets.clone(),
        };
        self.controller.delete_volume(request).await.unwrap();
    }
}

fn path(driver: &Driver, name: &str) -> String {
    driver.at(name).to_str().unwrap().to_owned()
}

/// File operations block, and what answers them are other processes: not on the runtime's thread.
async fn files<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap()
}

// Threads of their own for the connections, which would hold the driver up at its end if they slept with this test.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_written_in_a_pod_is_an_object_and_goes_with_its_volume() {
    let mut driver = Driver::start();
    let mut caller = Caller::of(&driver).await;
    let volume = caller.create("pvc-1", &[("bucket", "shared")]).await;
    let neighbour = caller.create("pvc-2", &[("bucket", "shared")]).await;
    let (writer, reader) = (path(&driver, "writer/mount"), path(&driver, "reader/mount"));
    caller.stage(&volume).await;
    caller.publish(&volume, &writer, false).await;
    caller.publish(&volume, &reader, true).await;

    let (written, read) = (PathBuf::from(&writer), PathBuf::from(&reader));
    let names = files(move || {
        fs::create_dir(written.join("folder"))?;
        fs::write(written.join("folder/file"), "hello")?;
        assert_eq!(fs::read_to_string(read.join("folder/file"))?, "hello");
        let refused = fs::write(read.join("other"), "no").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        let entries = fs::read_dir(read)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().map(|entry| entry.file_name()).collect::<Vec<_>>())
    });
    assert_eq!(
        names.await.unwrap(),
        ["folder"],
        "the marker of the volume's folder is no file in it"
    );
    assert!(
        driver
            .stored()
            .await
            .contains(&"shared/pvc-1/folder/file".to_owned())
    );

    for target in [&writer, &reader] {
        caller.unpublish(&volume, target).await;
    }
    caller.unstage(&volume).await;
    assert_eq!(driver.mounts(), Vec::<PathBuf>::new());
    caller.delete(&volume).await;
    let left = driver.stored().await;
    assert_eq!(
        left,
        [
            "penstock-volumes/",
            "penstock-volumes/pvc-2",
            "shared/",
            "shared/pvc-2/"
        ]
    );
    caller.delete(&neighbour).await;
    driver.must_be_sound();
}
