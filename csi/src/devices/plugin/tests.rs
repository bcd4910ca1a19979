//! The service, as kubelet calls it.

use super::*;
use crate::{
    devices::{
        nic::tests::nic_at,
        recorded::Recorded,
        source::Source as _,
        sysfs::Sysfs,
        watch::{self as watching},
    },
    grpc::tests::connect,
    proto::{
        deviceplugin::{
            ContainerAllocateRequest, ContainerPreferredAllocationRequest,
            device_plugin_client::DevicePluginClient,
        },
        registration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
    },
};
use penstock_service::Health;
use tonic::{Code, transport::Channel};

struct Served {
    options: Options,
    health: Health,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), ServeError>>,
    _folder: tempfile::TempDir,
}

async fn served(recorded: &Recorded, shares: u32) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        socket: folder.path().join("plugins/device-plugin.sock"),
        registry: folder.path().join("plugins_registry/reg.sock"),
        shares,
        dev: "/dev".into(),
    };
    let health = Health::default();
    let (flag, shutdown) = (health.flag("device plugin"), CancellationToken::new());
    let sysfs = Sysfs::new(recorded.root());
    let period = Duration::from_millis(10);
    let (nics, _looking) = watching::start(move || sysfs.nics(), period, shutdown.clone())
        .await
        .unwrap();
    let server = tokio::spawn(serve(
        options.clone(),
        nics,
        flag,
        Calls::default(),
        shutdown.clone(),
    ));
    Served {
        options,
        health,
        shutdown,
        server,
        _folder: folder,
    }
}

impl Served {
    async fn there(path: &Path) {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self) -> DevicePluginClient<Channel> {
        Self::there(&self.options.socket).await;
        DevicePluginClient::new(connect(self.options.socket.clone()).await.unwrap())
    }

    /// What kubelet does when it finds the registration's socket.
    async fn register(&self) -> String {
        Self::there(&self.options.registry).await;
        let mut client = RegistrationClient::new(connect(self.options.registry.clone()).await.unwrap());
        let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(
            (info.r#type.as_str(), info.name.as_str()),
            ("DevicePlugin", RESOURCE)
        );
        assert_eq!(info.supported_versions, ["v1beta1"]);
        let status = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        client.notify_registration_status(status).await.unwrap();
        info.endpoint
    }

    async fn stopped(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
        assert!(
            !self.options.socket.exists() && !self.options.registry.exists(),
            "sockets stay behind"
        );
    }
}

fn healths(list: &ListAndWatchResponse) -> Vec<(&str, &str)> {
    list.devices
        .iter()
        .map(|device| (device.id.as_str(), device.health.as_str()))
        .collect()
}

#[tokio::test]
async fn a_node_without_devices_offers_nothing_until_the_first_one_comes() {
    let recorded = Recorded::empty();
    let served = served(&recorded, 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!served.options.registry.exists());
    assert!(served.health.report().await.is_ok(), "it is ready all the same");
    let recorded = recorded.with_soft_roce("rxe0", 0);
    assert_eq!(served.register().await, served.options.socket.to_str().unwrap());
    assert!(served.health.report().await.is_ok());
    drop(recorded);
    served.stopped().await;
}

#[tokio::test]
async fn health_is_told_both_ways_and_a_device_that_goes_and_comes_back_is_told_too() {
    let recorded = Recorded::empty()
        .with_connectx("mlx5_0", 0, "0000:81:00.0")
        .with_soft_roce("rxe0", 1);
    let served = served(&recorded, 2).await;
    let mut client = served.client().await;
    let mut lists = client.list_and_watch(Empty {}).await.unwrap().into_inner();
    let first = lists.message().await.unwrap().unwrap();
    let all = ["mlx5_0-0", "mlx5_0-1", "rxe0-0", "rxe0-1"];
    assert_eq!(healths(&first), all.map(|id| (id, "Healthy")));
    let numa: Vec<_> = first
        .devices
        .iter()
        .map(|device| device.topology.as_ref().map(|at| at.nodes[0].id))
        .collect();
    assert_eq!(numa, [Some(1), Some(1), None, None]);

    recorded.set_state("rxe0", 1, "1: DOWN");
    let down = lists.message().await.unwrap().unwrap();
    assert_eq!(
        healths(&down)[2..],
        [("rxe0-0", "Unhealthy"), ("rxe0-1", "Unhealthy")]
    );
    recorded.set_state("rxe0", 1, "4: ACTIVE");
    assert_eq!(lists.message().await.unwrap().unwrap(), first);

    recorded.remove("class/infiniband/rxe0");
    assert_eq!(
        healths(&lists.message().await.unwrap().unwrap()),
        [("mlx5_0-0", "Healthy"), ("mlx5_0-1", "Healthy")]
    );
    recorded.link("class/infiniband/rxe0", "devices/virtual/infiniband/rxe0");
    assert_eq!(lists.message().await.unwrap().unwrap(), first);
    served.stopped().await;
}

#[tokio::test]
async fn a_container_gets_the_nodes_of_its_devices_and_their_names() {
    let recorded = Recorded::empty()
        .with_connection_manager()
        .with_connectx("mlx5_0", 0, "0000:81:00.0")
        .with_soft_roce("rxe0", 1);
    let served = served(&recorded, 2).await;
    let mut client = served.client().await;
    let mut allocate = async |ids: &[&str]| {
        let asked = ContainerAllocateRequest {
            devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let request = AllocateRequest {
            container_requests: vec![asked],
        };
        let answer = client.allocate(request).await?;
        Ok::<_, Status>(answer.into_inner().container_responses.remove(0))
    };
    let given = allocate(&["rxe0-1", "mlx5_0-0", "rxe0-0"]).await.unwrap();
    let nodes: Vec<_> = given
        .devices
        .iter()
        .map(|node| (node.host_path.as_str(), node.permissions.as_str()))
        .collect();
    let expected = [
        "/dev/infiniband/rdma_cm",
        "/dev/infiniband/uverbs0",
        "/dev/infiniband/uverbs1",
    ];
    assert_eq!(nodes, expected.map(|path| (path, "rw")));
    assert!(
        given
            .devices
            .iter()
            .all(|node| node.container_path == node.host_path)
    );
    assert_eq!(given.envs[DEVICES_VARIABLE], "mlx5_0,rxe0");

    let gone = allocate(&["mlx5_9-0"]).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("mlx5_9-0"), "{gone}");
    let served_nics = served.client().await;
    recorded.set_state("mlx5_0", 1, "1: DOWN");
    let mut lists = { served_nics }
        .list_and_watch(Empty {})
        .await
        .unwrap()
        .into_inner();
    while healths(&lists.message().await.unwrap().unwrap())[0].1 == "Healthy" {}
    let unhealthy = allocate(&["mlx5_0-0"]).await.unwrap_err();
    assert_eq!(unhealthy.code(), Code::FailedPrecondition);
    assert!(unhealthy.message().contains("port 1 is down"), "{unhealthy}");
    drop(lists);
    served.stopped().await;
}

#[tokio::test]
async fn kubelet_asks_which_units_are_best_together() {
    let recorded = Recorded::empty()
        .with_connectx("mlx5_0", 0, "0000:81:00.0")
        .with_soft_roce("rxe0", 1);
    let served = served(&recorded, 2).await;
    let mut client = served.client().await;
    let options = client
        .get_device_plugin_options(Empty {})
        .await
        .unwrap()
        .into_inner();
    assert!(options.get_preferred_allocation_available);
    let asked = ContainerPreferredAllocationRequest {
        available_device_i_ds: ["mlx5_0-0", "mlx5_0-1", "rxe0-1"].map(str::to_owned).into(),
        must_include_device_i_ds: vec!["mlx5_0-1".to_owned()],
        allocation_size: 2,
    };
    let request = PreferredAllocationRequest {
        container_requests: vec![asked],
    };
    let answer = client
        .get_preferred_allocation(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.container_responses[0].device_i_ds, ["mlx5_0-1", "rxe0-1"]);
    served.stopped().await;
}

/// k8s-rdma-shared-dev-plugin#48, #74, #118: after a kubelet restart the node has no devices.
#[tokio::test]
async fn a_kubelet_that_no_longer_listens_is_asked_to_register_the_plugin_again() {
    let recorded = Recorded::empty().with_soft_roce("rxe0", 0);
    let served = served(&recorded, 1).await;
    served.register().await;
    let mut client = served.client().await;
    let lists = client.list_and_watch(Empty {}).await.unwrap().into_inner();
    // Its number alone says nothing: file systems give it to the next file.
    let made = || {
        std::fs::metadata(&served.options.registry)
            .and_then(|socket| socket.modified())
            .ok()
    };
    let before = made();
    assert!(served.health.report().await.is_ok());
    drop((lists, client));
    tokio::time::timeout(SILENCE * 3, async {
        while served.health.report().await.is_ok() || made().is_none_or(|now| Some(now) == before) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the registration's socket is made anew");
    served.register().await;
    assert!(served.health.report().await.is_ok());
    served.stopped().await;
}

#[test]
fn the_list_of_a_thousand_units_fits_a_message() {
    use prost::Message;
    let nics: Vec<_> = (0..16)
        .map(|number| nic_at(&format!("mlx5_{number}"), "pci0000:00", 0))
        .collect();
    let list = devices(&nics, 64);
    assert_eq!(list.devices.len(), 1024);
    // gRPC refuses messages of more than 4 MiB.
    assert!(list.encoded_len() < 1 << 20);
}
