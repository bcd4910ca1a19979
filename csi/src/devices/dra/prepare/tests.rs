//! The life of claims, with an API server that answers what it is told to.

use super::*;
use crate::devices::{
    dra::nic::NicHost,
    nic::{Nic, PortState, tests::nic},
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex as Shared,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;

/// The one claim of the API server, and how often it was read.
#[derive(Clone, Default)]
pub(in crate::devices::dra) struct ApiServer {
    claim: Arc<Shared<Option<ResourceClaim>>>,
    reads: Arc<AtomicUsize>,
    hangs: bool,
}

#[async_trait]
impl Claims for ApiServer {
    async fn get(&self, _namespace: &str, _name: &str) -> Result<Option<ResourceClaim>, kube::Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(self.claim.lock().unwrap().clone())
    }
}

/// A node with devices of a kind, of which the claim has the first.
pub(in crate::devices::dra) struct Node<K> {
    api: ApiServer,
    pub(in crate::devices::dra) devices: watch::Sender<Arc<Vec<K>>>,
    pub(in crate::devices::dra) folder: tempfile::TempDir,
}

impl<K: Offered> Node<K> {
    pub(in crate::devices::dra) fn with(devices: Vec<K>) -> Self {
        let node = Self {
            api: ApiServer::default(),
            devices: watch::Sender::new(Arc::new(devices)),
            folder: tempfile::tempdir().unwrap(),
        };
        node.claim(&json!([]));
        node
    }

    /// Has the first device allocated to the claim, which says how it is wanted.
    pub(in crate::devices::dra) fn claim(&self, config: &Value) {
        let device = self.devices.borrow()[0].name();
        let claim = claim::tests::claim(json!({"allocation": {"devices": {
            "results": [{"driver": K::DRIVER, "pool": "node1", "device": device, "request": "nic"}],
            "config": config,
        }}}));
        *self.api.claim.lock().unwrap() = Some(claim);
    }

    fn cdi(&self) -> PathBuf {
        self.folder.path().join("cdi")
    }

    /// A driver that starts on what is on disk.
    pub(in crate::devices::dra) fn driver_on(&self, host: K::Host) -> Preparer<ApiServer, K> {
        let checkpoint = Checkpoint::open(&self.folder.path().join("claims")).unwrap();
        Preparer {
            claims: self.api.clone(),
            node: "node1".to_owned(),
            devices: self.devices.subscribe(),
            host,
            specs: Specs::open(&self.cdi(), K::DRIVER).unwrap(),
            checkpoint: Mutex::new(checkpoint),
        }
    }

    pub(in crate::devices::dra) fn spec(&self) -> Option<Value> {
        let content = std::fs::read(self.cdi().join(format!("{}-u1.json", K::DRIVER))).ok()?;
        Some(serde_json::from_slice(&content).unwrap())
    }

    pub(in crate::devices::dra) fn nodes(&self) -> Vec<String> {
        let spec = self.spec().unwrap();
        let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"].clone();
        let path = |node: &Value| node["path"].as_str().unwrap().to_owned();
        nodes.as_array().into_iter().flatten().map(path).collect()
    }
}

impl Node<Nic> {
    fn new() -> Self {
        Self::with(vec![nic("mlx5_0"), nic("mlx5_1")])
    }

    fn driver(&self) -> Preparer<ApiServer, Nic> {
        self.driver_on(NicHost { dev: "/dev".into() })
    }

    fn break_link(&self) {
        self.devices.send_modify(|nics| {
            let mut broken = nics.to_vec();
            broken[0].ports[0].state = PortState::Down;
            *nics = Arc::new(broken);
        });
    }
}

pub(in crate::devices::dra) fn asked(uid: &str) -> Asked {
    Asked {
        namespace: "ns".to_owned(),
        name: "nic".to_owned(),
        uid: uid.to_owned(),
    }
}

#[tokio::test]
async fn preparing_and_giving_back_can_be_repeated() {
    let node = Node::new();
    let driver = node.driver();
    let first = driver.prepare(&asked("u1")).await.unwrap();
    assert_eq!(first[0].0.device, "mlx5-0");
    assert_eq!(first[0].1, ["rdma.penstock.io/claim=u1-mlx5-0"]);
    assert_eq!(driver.prepare(&asked("u1")).await.unwrap(), first);
    assert_eq!(
        node.api.reads.load(Ordering::SeqCst),
        1,
        "what is prepared is known here"
    );
    assert_eq!(
        node.nodes(),
        ["/dev/infiniband/rdma_cm", "/dev/infiniband/uverbs-mlx5_0"]
    );
    for _ in 0..2 {
        driver.unprepare(&asked("u1")).await.unwrap();
        assert!(node.spec().is_none());
    }
    driver.unprepare(&asked("never-prepared")).await.unwrap();
}

#[tokio::test]
async fn a_driver_that_was_killed_knows_what_it_prepared_and_gives_it_back_when_the_claim_is_gone() {
    let node = Node::new();
    node.driver().prepare(&asked("u1")).await.unwrap();
    *node.api.claim.lock().unwrap() = None;
    let driver = node.driver();
    assert_eq!(driver.prepare(&asked("u1")).await.unwrap()[0].0.device, "mlx5-0");
    driver.unprepare(&asked("u1")).await.unwrap();
    assert!(node.spec().is_none());
    assert!(matches!(
        node.driver().prepare(&asked("u1")).await,
        Err(PrepareError::Gone(_))
    ));
}

/// kubernetes#141433: a pod is stuck for ever when its CDI file is not written again.
#[tokio::test]
async fn cdi_files_that_a_reboot_removed_are_written_again_with_the_device_nodes_of_now() {
    let node = Node::new();
    node.driver().prepare(&asked("u1")).await.unwrap();
    std::fs::remove_dir_all(node.cdi()).unwrap();
    let mut other = nic("mlx5_0");
    other.nodes = ["infiniband/uverbs7".into()].into();
    node.devices.send_replace(Arc::new(vec![other]));
    let driver = node.driver();
    driver.replay().await;
    assert_eq!(node.nodes(), ["/dev/infiniband/uverbs7"]);
    // And by the next call, when they go while the driver runs.
    std::fs::remove_dir_all(node.cdi()).unwrap();
    driver.prepare(&asked("u1")).await.unwrap();
    assert_eq!(node.nodes(), ["/dev/infiniband/uverbs7"]);
}

/// dra-driver-nvidia-gpu#1162: a prepare that is late brings back what was given back.
#[tokio::test]
async fn a_stale_prepare_after_unprepare_prepares_nothing() {
    let node = Node::new();
    let driver = node.driver();
    driver.prepare(&asked("u1")).await.unwrap();
    driver.unprepare(&asked("u1")).await.unwrap();
    let deallocated = claim::tests::claim(json!({}));
    *node.api.claim.lock().unwrap() = Some(deallocated);
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(
        matches!(error, PrepareError::Claim(ClaimError::NotAllocated(_))),
        "{error}"
    );
    // The name may be another claim's by now.
    node.claim(&json!([]));
    let error = driver.prepare(&asked("u0")).await.unwrap_err();
    assert!(
        matches!(error, PrepareError::Claim(ClaimError::Replaced { .. })),
        "{error}"
    );
    assert!(node.spec().is_none());
    assert_eq!(node.driver().checkpoint.lock().await.iter().count(), 0);
}

#[tokio::test]
async fn a_device_that_is_gone_or_unhealthy_is_not_prepared_and_who_has_it_keeps_it() {
    let node = Node::new();
    let driver = node.driver();
    driver.prepare(&asked("u1")).await.unwrap();
    node.break_link();
    driver
        .prepare(&asked("u1"))
        .await
        .expect("a container may restart");
    driver.unprepare(&asked("u1")).await.unwrap();
    let error = driver.prepare(&asked("u1")).await.unwrap_err().to_string();
    assert!(
        error.contains("mlx5-0") && error.contains("port 1 is down"),
        "{error}"
    );
    assert!(node.spec().is_none());

    node.devices.send_replace(Arc::new(vec![nic("mlx5_1")]));
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(matches!(error, PrepareError::NoDevice { .. }), "{error}");
    driver.unprepare(&asked("u1")).await.unwrap();
    assert_eq!(node.driver().checkpoint.lock().await.iter().count(), 0);
}

#[tokio::test]
async fn parameters_say_which_device_nodes_there_are() {
    let node = Node::new();
    let parameters = |on: Value| {
        let parameters = json!({"apiVersion": "rdma.penstock.io/v1alpha1", "kind": "NicParameters", "connectionManager": on});
        json!([{"source": "FromClaim", "opaque": {"driver": "rdma.penstock.io", "parameters": parameters}}])
    };
    node.claim(&parameters(json!(false)));
    let driver = node.driver();
    driver.prepare(&asked("u1")).await.unwrap();
    assert_eq!(node.nodes(), ["/dev/infiniband/uverbs-mlx5_0"]);
    driver.unprepare(&asked("u1")).await.unwrap();
    node.claim(&parameters(json!("no")));
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(
        matches!(error, PrepareError::Claim(ClaimError::Parameters { .. })),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_holds_nobody_for_long() {
    let mut node = Node::new();
    node.api.hangs = true;
    let driver = node.driver();
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(matches!(error, PrepareError::Slow(_)), "{error}");
    driver.unprepare(&asked("u1")).await.unwrap();
}

#[tokio::test]
async fn a_uid_is_no_path() {
    let node = Node::new();
    let driver = node.driver();
    for uid in ["", "../u1", "a/b", "."] {
        assert!(
            matches!(driver.prepare(&asked(uid)).await, Err(PrepareError::Uid(_))),
            "{uid}"
        );
        assert!(
            matches!(driver.unprepare(&asked(uid)).await, Err(PrepareError::Uid(_))),
            "{uid}"
        );
    }
}
