//! A storage node and its clients, all in this process.

use penstock_rdma::{
    Client, Credentials, Options, Policy,
    fabric::{
        Device, Rails,
        loopback::{LoopbackDevice, Network},
    },
    verbs,
};
use penstock_service::CancellationToken;
use penstock_store::{
    access::{KeyRing, MasterKey},
    admin::Admin,
    local::Local,
    metrics::Metrics,
    rdma::{Limits, Rdma},
    s3::{Parts, Service},
    server::Server,
};
use prometheus_client::registry::Registry;
use std::{
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

pub const ACCESS: &str = "test-access-key";
pub const SECRET: &str = "test-secret-key";
pub const BUCKET: &str = "bucket";
/// The identity of gateways.
pub const GATE: &str = "gateway-key";
pub const GATE_SECRET: &str = "gateway-secret";

/// Where devices come from.
pub enum Fabric {
    Loopback(Network),
    /// The RDMA device of this machine, opened anew for each end: as far from each other as client and storage node are.
    Verbs,
}

impl Fabric {
    /// The fabric that this run is for.
    pub fn of_this_run() -> Self {
        match std::env::var("PENSTOCK_TEST_FABRIC").as_deref() {
            Err(_) | Ok("loopback") => Self::Loopback(Network::new()),
            Ok("verbs") => Self::Verbs,
            Ok(other) => panic!("PENSTOCK_TEST_FABRIC={other} is no fabric; use loopback or verbs"),
        }
    }

    pub fn device(&self, name: &str) -> Arc<dyn Device> {
        match self {
            Self::Loopback(network) => network.device(name),
            Self::Verbs => verbs::open(&verbs::Options {
                // A peer is given up after a second.
                timeout: 15,
                ..verbs::Options::default()
            })
            .expect("an RDMA device"),
        }
    }
}

/// A storage node that serves on loopback HTTP. It ends with the test.
pub struct Node {
    pub endpoint: String,
    pub rdma: Rdma,
    registry: Registry,
    stop: CancellationToken,
    served: JoinHandle<()>,
    engine: Arc<Local>,
    pub folder: Arc<tempfile::TempDir>,
}

impl Node {
    /// A node with RDMA by `device`, or without, and one bucket.
    pub async fn start(device: Option<Arc<dyn Device>>, limits: Limits) -> Self {
        Self::start_over(device.map(|device| Rails::of([device])), limits).await
    }

    pub async fn start_over(rails: Option<Rails>, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let engine = Local::open(folder.path()).await.unwrap();
        let node = Self::serve(Arc::new(folder), Arc::new(engine), anywhere, rails, limits).await;
        node.client(None, Policy::Off)
            .create_bucket(BUCKET)
            .await
            .unwrap();
        node
    }

    /// Another one before the same store.
    pub async fn beside(&self, device: Option<Arc<dyn Device>>, limits: Limits) -> Self {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let rails = device.map(|device| Rails::of([device]));
        Self::serve(
            Arc::clone(&self.folder),
            Arc::clone(&self.engine),
            anywhere,
            rails,
            limits,
        )
        .await
    }

    async fn serve(
        folder: Arc<tempfile::TempDir>,
        engine: Arc<Local>,
        address: SocketAddr,
        rails: Option<Rails>,
        limits: Limits,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let rdma = match rails {
            Some(rails) => Rdma::new(rails, limits, metrics.clone()),
            None => Rdma::off(metrics.clone()),
        };
        let rdma = rdma.with_gateway(Credentials::new(GATE, GATE_SECRET));
        let master = MasterKey::load(None, folder.path()).unwrap();
        let ring = KeyRing::open(&master, Arc::clone(&engine) as _).await.unwrap();
        let door = Service::of(Parts {
            engine: Arc::clone(&engine) as _,
            root: Credentials::new(ACCESS, SECRET),
            region: "us-east-1".to_owned(),
            metrics: metrics.clone(),
            rdma: rdma.clone(),
            admin: Some(Admin::new(Arc::new(ring), Local::clone(&engine))),
            domains: Vec::new(),
            access_log: None,
        });
        let server = Server::bind(address, None, door, metrics, 1024).await.unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let stop = CancellationToken::new();
        Self {
            endpoint,
            rdma,
            registry,
            served: tokio::spawn(server.run(stop.clone())),
            stop,
            engine,
            folder,
        }
    }

    /// Ends it, as a pod ends: what is under way breaks off.
    pub async fn end(&self) {
        self.stop.cancel();
        self.rdma.shut_down().await;
        eventually("the storage node ends", || self.served.is_finished()).await;
    }

    /// Ends it and starts another one with its data at its address.
    pub async fn restart(self, device: Option<Arc<dyn Device>>, limits: Limits) -> Self {
        // What it still holds ends with it.
        self.end().await;
        let address = self.endpoint.trim_start_matches("http://").parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        drop(self);
        let engine = Local::open(folder.path()).await.unwrap();
        let rails = device.map(|device| Rails::of([device]));
        Self::serve(Arc::new(folder), Arc::new(engine), address, rails, limits).await
    }

    /// A client that waits little and gives up early.
    pub fn client(&self, device: Option<Arc<dyn Device>>, policy: Policy) -> Client {
        client(&self.endpoint, device, policy)
    }

    /// A metric, as `/metrics` shows it; 0 where it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Object bytes that went to and came from clients by RDMA.
    pub fn moved_by_rdma(&self) -> (u64, u64) {
        let count = |name: &str| self.metric(&format!("penstock_store_{name}_bytes_total{{via=\"rdma\"}}"));
        (count("sent"), count("received"))
    }

    /// The same by HTTP.
    pub fn moved_by_http(&self) -> (u64, u64) {
        let count = |name: &str| self.metric(&format!("penstock_store_{name}_bytes_total{{via=\"http\"}}"));
        (count("sent"), count("received"))
    }

    /// Files below `data` and `tmp`: what is stored, and what was not cleaned up.
    pub fn files(&self) -> usize {
        fn below(folder: &std::path::Path) -> usize {
            std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| if path.is_dir() { below(&path) } else { 1 })
                .sum()
        }
        below(&self.folder.path().join("data")) + below(&self.folder.path().join("tmp"))
    }

    /// Connections that it has open.
    pub fn connections(&self) -> u64 {
        self.metric("penstock_store_connections")
    }

    /// Waits until the engine has cleaned up what was cut, and demands that so many files are left.
    pub async fn keeps_files(&self, count: usize, when: &str) {
        self.rests().await;
        let what = format!("{count} files are left ({when})");
        eventually(&what, || self.files() == count).await;
    }

    /// Waits until nothing is in use between disk and fabric.
    pub async fn rests(&self) {
        eventually("staging memory comes back", || self.rdma.staging_in_use() == 0).await;
    }

    /// Waits until no session is left.
    pub async fn forgets(&self, device: &Arc<dyn Device>) {
        eventually("sessions end", || self.rdma.sessions() == 0).await;
        eventually("queue pairs go", || device.usage().queue_pairs == 0).await;
        self.rests().await;
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn client(endpoint: &str, device: Option<Arc<dyn Device>>, policy: Policy) -> Client {
    client_of(endpoint, device, |options| options.policy = policy)
}

/// A client with other options than most.
pub fn client_of(
    endpoint: &str,
    device: Option<Arc<dyn Device>>,
    change: impl FnOnce(&mut Options),
) -> Client {
    let mut options = Options {
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(5),
        retries: 2,
        part_size: 5 << 20,
        rails: device.map(|device| Rails::of([device])),
        ..Options::default()
    };
    change(&mut options);
    client_as(endpoint, Credentials::new(ACCESS, SECRET), options)
}

/// A client that signs with another key than most.
pub fn client_as(endpoint: &str, credentials: Credentials, options: Options) -> Client {
    Client::new(endpoint.parse().unwrap(), credentials, options).unwrap()
}

/// A node and one client's device on the loopback fabric, whose faults the test injects.
pub struct Faulty {
    pub node: Node,
    pub server: Arc<LoopbackDevice>,
    pub device: Arc<LoopbackDevice>,
    pub network: Network,
}

impl Faulty {
    pub async fn start(limits: Limits) -> Self {
        let network = Network::new();
        let (server, device) = (network.device("server"), network.device("client"));
        Self {
            node: Node::start(Some(server.clone()), limits).await,
            server,
            device,
            network,
        }
    }

    pub fn client(&self, policy: Policy) -> Client {
        self.node.client(Some(self.device.clone()), policy)
    }

    /// After the clients have gone: nothing is left of them at either end.
    pub async fn leaves_nothing(&self) {
        let server: Arc<dyn Device> = self.server.clone();
        self.node.forgets(&server).await;
        eventually("the client's queue pairs go", || {
            self.device.usage().queue_pairs == 0
        })
        .await;
        eventually("the client's memory goes", || self.device.usage().regions == 0).await;
    }
}

/// Operations that do not end fail soon.
pub fn impatient() -> Limits {
    Limits {
        operation: Duration::from_millis(300),
        patience: Duration::from_millis(200),
        ..Limits::default()
    }
}

pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    within(Duration::from_secs(20), what, holds).await;
}

pub async fn within(limit: Duration, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends what would else wait for ever.
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it takes longer than a minute")
}

/// `length` bytes that differ from seed to seed and from place to place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
