//! The Controller service over an engine in a folder.

use super::{controller_server::Controller as _, *};
use crate::{
    attributes::REGISTRY_BUCKET,
    proto::csi::{
        CapacityRange, ListVolumesRequest, VolumeCapability, VolumeContentSource,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
    },
};
use futures::{StreamExt, stream};
use penstock_store::{
    engine::{Headers, ListQuery, ObjectRef, PutOptions},
    local::Local,
};
use tonic::Code;

struct Bench {
    controller: Controller,
    store: Local,
    _folder: tempfile::TempDir,
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = Local::open(folder.path()).await.unwrap();
    let engine = store.clone();
    Bench {
        controller: Controller::new(move |_| Ok(Arc::new(engine.clone()))),
        store,
        _folder: folder,
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn secrets() -> HashMap<String, String> {
    map(&[
        ("accessKeyId", "a"),
        ("secretAccessKey", "very-secret"),
        ("endpoint", "http://demo:9000"),
    ])
}

fn capability(access_type: AccessType, mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(access_type),
    }
}

fn mountable() -> VolumeCapability {
    capability(
        AccessType::Mount(MountVolume::default()),
        Mode::MultiNodeMultiWriter,
    )
}

fn wanting(name: &str, parameters: &[(&str, &str)]) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        volume_capabilities: vec![mountable()],
        parameters: map(parameters),
        secrets: secrets(),
        ..CreateVolumeRequest::default()
    }
}

fn sized(name: &str, required_bytes: i64, limit_bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        capacity_range: Some(CapacityRange {
            required_bytes,
            limit_bytes,
        }),
        ..wanting(name, &[])
    }
}

impl Bench {
    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.controller.create_volume(Request::new(request)).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    async fn refusal(&self, request: CreateVolumeRequest) -> (Code, String) {
        let status = self.create(request).await.unwrap_err();
        assert!(!status.message().contains("very-secret"));
        (status.code(), status.message().to_owned())
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: id.into(),
            secrets: secrets(),
        };
        self.controller
            .delete_volume(Request::new(request))
            .await
            .map(drop)
    }

    async fn validate(
        &self,
        id: &str,
        capability: VolumeCapability,
        context: &[(&str, &str)],
    ) -> Result<bool, Status> {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.into(),
            volume_capabilities: vec![capability],
            volume_context: map(context),
            secrets: secrets(),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        let answer = self
            .controller
            .validate_volume_capabilities(Request::new(request))
            .await?
            .into_inner();
        assert_eq!(answer.confirmed.is_none(), !answer.message.is_empty());
        Ok(answer.confirmed.is_some())
    }

    async fn put(&self, bucket: &str, key: &str) {
        let body = stream::iter([Ok("x".into())]).boxed();
        self.store
            .put(&ObjectRef::new(bucket, key), PutOptions::default(), body)
            .await
            .unwrap();
    }

    async fn buckets(&self) -> Vec<String> {
        self.store
            .buckets()
            .await
            .unwrap()
            .into_iter()
            .map(|bucket| bucket.name)
            .collect()
    }

    async fn keys(&self, bucket: &str) -> Vec<String> {
        let query = ListQuery {
            limit: 5000,
            ..ListQuery::default()
        };
        let page = self.store.list(bucket, &query).await.unwrap();
        page.objects.into_iter().map(|(key, _)| key).collect()
    }
}

#[tokio::test]
async fn a_claim_gets_a_bucket_of_its_name() {
    let bench = bench().await;
    let volume = bench
        .create(wanting("pvc-1", &[("uid", "1000"), ("fileMode", "0600")]))
        .await
        .unwrap();
    assert_eq!(volume.volume_id, "pvc-1");
    assert_eq!(
        volume.volume_context,
        map(&[("bucket", "pvc-1"), ("uid", "1000"), ("fileMode", "0600")])
    );
    assert_eq!(bench.buckets().await, [REGISTRY_BUCKET, "pvc-1"]);
    assert!(
        bench.keys("pvc-1").await.is_empty(),
        "a new volume shows no files"
    );
}

#[tokio::test]
async fn a_name_that_no_bucket_can_have_gets_one_nevertheless() {
    let bench = bench().await;
    let volume = bench.create(wanting("Sanity_Volume", &[])).await.unwrap();
    assert!(
        volume.volume_id.starts_with("sanity-volume-"),
        "{}",
        volume.volume_id
    );
    assert!(bench.buckets().await.contains(&volume.volume_id));
    bench.delete(&volume.volume_id).await.unwrap();
    assert_eq!(bench.buckets().await, [REGISTRY_BUCKET]);
}

#[tokio::test]
async fn in_a_given_bucket_a_claim_gets_a_folder() {
    let bench = bench().await;
    let first = bench
        .create(wanting("pvc-1", &[("bucket", "shared")]))
        .await
        .unwrap();
    assert_eq!(first.volume_id, "shared/pvc-1");
    assert_eq!(
        first.volume_context,
        map(&[("bucket", "shared"), ("prefix", "pvc-1")])
    );
    let second = bench
        .create(wanting("pvc-2", &[("bucket", "shared"), ("prefix", "team/a/")]))
        .await
        .unwrap();
    assert_eq!(second.volume_id, "shared/team/a/pvc-2");
    assert_eq!(bench.keys("shared").await, ["pvc-1/", "team/a/pvc-2/"]);
}

#[tokio::test]
async fn the_same_request_again_gives_the_same_volume() {
    let bench = bench().await;
    for parameters in [&[][..], &[("bucket", "shared")]] {
        let name = format!("pvc-{}", parameters.len());
        let first = bench.create(wanting(&name, parameters)).await.unwrap();
        bench
            .put(&first.volume_context["bucket"], &format!("{name}/file"))
            .await;
        assert_eq!(bench.create(wanting(&name, parameters)).await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_call_that_ended_between_record_and_bucket_is_mended_by_the_next_one() {
    let bench = bench().await;
    for parameters in [&[][..], &[("bucket", "shared")]] {
        let request = wanting(&format!("pvc-{}", parameters.len()), parameters);
        let wanted = Wanted::parse(&request).unwrap();
        let storage = bench.controller.storage(&secrets()).unwrap();
        Registry::new(&storage)
            .insert(&wanted.key, &wanted.record())
            .await
            .unwrap();
        let volume = bench.create(request).await.unwrap();
        assert!(bench.validate(&volume.volume_id, mountable(), &[]).await.unwrap());
    }
    assert_eq!(bench.keys("shared").await, ["pvc-1/"]);
}

#[tokio::test]
async fn a_name_is_taken_for_another_size() {
    let bench = bench().await;
    let gib = 1 << 30;
    let volume = bench.create(sized("pvc-1", gib, gib)).await.unwrap();
    assert_eq!(volume.capacity_bytes, gib);
    assert_eq!(
        bench
            .create(sized("pvc-1", gib / 2, 0))
            .await
            .unwrap()
            .capacity_bytes,
        gib
    );
    for (required, limit) in [(2 * gib, 2 * gib), (2 * gib, 0), (0, gib / 2)] {
        let (code, told) = bench.refusal(sized("pvc-1", required, limit)).await;
        assert_eq!(code, Code::AlreadyExists);
        assert!(
            told.contains("\"pvc-1\"") && told.contains("1073741824"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_size_is_what_was_asked_for() {
    let bench = bench().await;
    assert_eq!(
        bench.create(sized("pvc-1", 0, 0)).await.unwrap().capacity_bytes,
        0
    );
    assert_eq!(
        bench.create(sized("pvc-1", 5, 0)).await.unwrap().capacity_bytes,
        0,
        "it has room for any size"
    );
    assert_eq!(
        bench.create(sized("pvc-2", 0, 7)).await.unwrap().capacity_bytes,
        7
    );
    for (required, limit) in [(-1, 0), (0, -1), (5, 4)] {
        assert_eq!(
            bench.refusal(sized("pvc-3", required, limit)).await.0,
            Code::OutOfRange
        );
    }
}

#[tokio::test]
async fn a_name_is_taken_for_other_parameters() {
    let bench = bench().await;
    bench.create(wanting("pvc-1", &[])).await.unwrap();
    for parameters in [&[("uid", "1")][..], &[("bucket", "shared")]] {
        assert_eq!(
            bench.refusal(wanting("pvc-1", parameters)).await.0,
            Code::AlreadyExists
        );
    }
    // What Kubernetes adds does not count.
    bench
        .create(wanting("pvc-1", &[("csi.storage.k8s.io/pvc/name", "x")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_somebody_else_made_becomes_no_volume() {
    let bench = bench().await;
    for bucket in ["pvc-1", "shared"] {
        bench.store.create_bucket(bucket).await.unwrap();
    }
    bench.put("shared", "pvc-2/file").await;
    for request in [wanting("pvc-1", &[]), wanting("pvc-2", &[("bucket", "shared")])] {
        let (code, told) = bench.refusal(request).await;
        assert_eq!(code, Code::AlreadyExists);
        assert!(told.contains("was not made for a volume"), "{told}");
    }
    for id in ["pvc-1", "shared/pvc-2", "shared"] {
        bench.delete(id).await.unwrap();
    }
    assert_eq!(bench.keys("shared").await, ["pvc-2/file"]);
    assert!(bench.buckets().await.contains(&"pvc-1".to_owned()));
}

#[tokio::test]
async fn a_bucket_that_cannot_be_leaves_no_record_behind() {
    let bench = bench().await;
    let (code, told) = bench.refusal(wanting("pvc-1", &[("bucket", "No_Bucket")])).await;
    assert_eq!(code, Code::InvalidArgument, "{told}");
    bench
        .create(wanting("pvc-1", &[("bucket", "a-bucket")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn deleting_a_volume_deletes_its_bucket_with_all_that_is_in_it() {
    let bench = bench().await;
    let id = bench.create(wanting("pvc-1", &[])).await.unwrap().volume_id;
    for number in 0..1100 {
        bench.put("pvc-1", &format!("folder/{number}")).await;
    }
    let upload = ObjectRef::new("pvc-1", "unfinished");
    bench
        .store
        .create_upload(&upload, Headers::default().into())
        .await
        .unwrap();
    bench.delete(&id).await.unwrap();
    assert_eq!(bench.buckets().await, [REGISTRY_BUCKET]);
    assert!(bench.keys(REGISTRY_BUCKET).await.is_empty());
    bench.delete(&id).await.unwrap();
}

#[tokio::test]
async fn deleting_a_folder_leaves_its_neighbours() {
    let bench = bench().await;
    for name in ["pvc-1", "pvc-10"] {
        bench
            .create(wanting(name, &[("bucket", "shared")]))
            .await
            .unwrap();
        bench.put("shared", &format!("{name}/file")).await;
        let upload = ObjectRef::new("shared", format!("{name}/unfinished"));
        bench
            .store
            .create_upload(&upload, Headers::default().into())
            .await
            .unwrap();
    }
    bench.put("shared", "pvc-1").await;
    bench.delete("shared/pvc-1").await.unwrap();
    assert_eq!(bench.keys("shared").await, ["pvc-1", "pvc-10/", "pvc-10/file"]);
    let uploads = bench.store.uploads("shared").await.unwrap();
    assert_eq!(uploads.len(), 1);
    assert_eq!(uploads[0].key, "pvc-10/unfinished");
}

#[tokio::test]
async fn an_id_that_is_not_exactly_a_volumes_deletes_nothing() {
    let bench = bench().await;
    bench
        .create(wanting("pvc-1", &[("bucket", "shared")]))
        .await
        .unwrap();
    bench.create(wanting("pvc-2", &[])).await.unwrap();
    let before = (bench.buckets().await, bench.keys("shared").await);
    for id in [
        "shared",
        "shared/",
        "/pvc-1",
        "pvc-1",
        "other/pvc-1",
        "shared/pvc-1/",
        "shared//pvc-1",
        "shared/../pvc-2",
        "shared/pvc-2",
        REGISTRY_BUCKET,
        "penstock-volumes/pvc-1",
        "..",
        "/",
        "Anything at all",
    ] {
        bench.delete(id).await.unwrap();
    }
    assert_eq!((bench.buckets().await, bench.keys("shared").await), before);
    assert_eq!(bench.keys(REGISTRY_BUCKET).await, ["pvc-1", "pvc-2"]);
    assert_eq!(bench.delete("").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_deletion_that_broke_off_is_taken_up_again() {
    let bench = bench().await;
    let id = bench.create(wanting("pvc-1", &[])).await.unwrap().volume_id;
    bench.store.delete_bucket("pvc-1").await.unwrap();
    bench.delete(&id).await.unwrap();
    assert!(bench.keys(REGISTRY_BUCKET).await.is_empty());
}

#[tokio::test]
async fn what_volumes_cannot_be_is_refused() {
    let bench = bench().await;
    let refused = async |change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut request = wanting("pvc-1", &[]);
        change(&mut request);
        let (code, told) = bench.refusal(request).await;
        assert_eq!(code, Code::InvalidArgument, "{told}");
        told
    };
    let block = capability(AccessType::Block(BlockVolume {}), Mode::SingleNodeWriter);
    let unknown = capability(AccessType::Mount(MountVolume::default()), Mode::Unknown);
    assert!(refused(&|request| request.name.clear()).await.contains("name"));
    assert!(
        refused(&|request| request.volume_capabilities.clear())
            .await
            .contains("volume_capabilities")
    );
    assert!(
        refused(&|request| request.volume_capabilities.push(block.clone()))
            .await
            .contains("block devices")
    );
    assert!(
        refused(&|request| request.volume_capabilities.push(unknown.clone()))
            .await
            .contains("access_mode")
    );
    assert!(
        refused(&|request| request.volume_content_source = Some(VolumeContentSource::default()))
            .await
            .contains("dataSource")
    );
    assert!(
        refused(&|request| request.mutable_parameters = map(&[("a", "b")]))
            .await
            .contains("mutable")
    );
    assert!(
        refused(&|request| request.parameters = map(&[("size", "1")]))
            .await
            .contains("\"size\"")
    );
    assert!(
        refused(&|request| request.parameters = map(&[("bucket", REGISTRY_BUCKET)]))
            .await
            .contains(REGISTRY_BUCKET)
    );
    assert!(
        refused(&|request| request.secrets.clear())
            .await
            .contains("provisioner-secret-name")
    );
    let deep = "x".repeat(123);
    assert!(
        refused(&|request| request.parameters = map(&[("bucket", "b"), ("prefix", &deep)]))
            .await
            .contains("shorter prefix")
    );
}

#[tokio::test]
async fn every_access_mode_will_do() {
    let bench = bench().await;
    let id = bench.create(wanting("pvc-1", &[])).await.unwrap().volume_id;
    for mode in 1..=7 {
        let mode = Mode::try_from(mode).unwrap();
        let capability = capability(AccessType::Mount(MountVolume::default()), mode);
        assert!(bench.validate(&id, capability, &[]).await.unwrap(), "{mode:?}");
    }
    let block = capability(AccessType::Block(BlockVolume {}), Mode::SingleNodeWriter);
    assert!(!bench.validate(&id, block, &[]).await.unwrap());
}

#[tokio::test]
async fn a_volume_that_is_not_there_is_not_found_and_a_static_one_is() {
    let bench = bench().await;
    bench.store.create_bucket("data").await.unwrap();
    assert!(
        bench
            .validate("my static volume", mountable(), &[("bucket", "data")])
            .await
            .unwrap()
    );
    for (id, context) in [
        ("pvc-1", &[][..]),
        ("my static volume", &[("bucket", "none")]),
        ("data", &[]),
    ] {
        assert_eq!(
            bench.validate(id, mountable(), context).await.unwrap_err().code(),
            Code::NotFound
        );
    }
}

#[tokio::test]
async fn a_second_call_for_a_volume_is_aborted() {
    let bench = bench().await;
    let _first = bench.controller.in_flight.begin("pvc-1").unwrap();
    assert_eq!(bench.refusal(wanting("pvc-1", &[])).await.0, Code::Aborted);
    assert_eq!(
        bench.delete("shared/pvc-1").await.unwrap_err().code(),
        Code::Aborted
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_and_nothing_is_deleted() {
    let bench = bench().await;
    let id = bench.create(wanting("pvc-1", &[])).await.unwrap().volume_id;
    bench.put(REGISTRY_BUCKET, "pvc-1").await;
    let status = bench.delete(&id).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        status
            .message()
            .starts_with("penstock-volumes/pvc-1 is no record"),
        "{}",
        status.message()
    );
    assert!(bench.buckets().await.contains(&id));
}

#[tokio::test]
async fn calls_without_an_implementation_say_so() {
    let bench = bench().await;
    let listed = bench
        .controller
        .list_volumes(Request::new(ListVolumesRequest::default()))
        .await;
    assert_eq!(listed.unwrap_err().code(), Code::Unimplemented);
    let can = bench
        .controller
        .controller_get_capabilities(Request::new(Default::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(can.capabilities.len(), 2);
}

#[tokio::test]
async fn a_storage_node_that_cannot_be_reached_is_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let controller = Controller::new(|access| Ok(Arc::new(access.engine()?)));
    let mut request = wanting("pvc-1", &[]);
    request.secrets.insert("endpoint".into(), endpoint.clone());
    let status = controller.create_volume(Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(&endpoint) && status.message().contains("refused"),
        "{}",
        status.message()
    );
}
