//! The path between a client and a storage node on one host: bytes right, nothing out of reach, nothing held for ever.

mod content;
mod encrypted;
mod handed;
mod leases;
mod logged;
mod socket;

use crate::{
    body,
    node::{ACCESS, SECRET},
};
use penstock_rdma::{Client, Condition, Credentials, ObjectHeaders, Options, Policy, Range};
use penstock_service::CancellationToken;
use penstock_store::{
    access::{KeyRing, MasterKey},
    access_log::AccessLog,
    admin::Admin,
    engine::{Engine, ObjectRef, PutOptions},
    local::Local,
    local_path::{Ledger, Limits, LocalServer, SocketOptions},
    metrics::Metrics,
    rdma::Rdma,
    s3::{Parts, Service},
    server::Server,
};
use prometheus_client::registry::Registry;
use rustix::fs::MemfdFlags;
use std::{fs::File, io::Write, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

/// A storage node in this process, with a socket.
pub struct Host {
    pub folder: TempDir,
    engine: Local,
    log: AccessLog,
    pub endpoint: String,
    pub socket: PathBuf,
    registry: Registry,
    stop: CancellationToken,
    served: Vec<tokio::task::JoinHandle<()>>,
}

fn options_of(socket: PathBuf) -> SocketOptions {
    SocketOptions {
        path: socket,
        mode: 0o600,
        uids: Vec::new(),
        gids: Vec::new(),
        max_connections: 64,
    }
}

impl Host {
    pub async fn start() -> Self {
        Self::with(Limits::default(), |_| {}).await
    }

    async fn with(limits: Limits, change: impl FnOnce(&mut SocketOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Local::open(folder.path().join("data")).await.unwrap();
        engine.create_bucket("bucket").await.unwrap();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let root = Credentials::new(ACCESS, SECRET);
        let master = MasterKey::load(None, folder.path()).unwrap();
        engine.encrypt_with(&master);
        let ring = KeyRing::open(&master, Arc::new(engine.clone())).await.unwrap();
        let log = AccessLog::open(Arc::new(engine.clone()), metrics.clone())
            .await
            .unwrap();
        let service = Service::of(Parts {
            engine: Arc::new(engine.clone()),
            root,
            region: "us-east-1".into(),
            metrics: metrics.clone(),
            rdma: Rdma::off(metrics.clone()),
            admin: Some(Admin::new(Arc::new(ring), engine.clone())),
            domains: Vec::new(),
            access_log: Some(log.clone()),
        });
        let service = service.named(&"0123456789abcdef".repeat(2));
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(anywhere, None, service.clone(), metrics.clone(), 64)
            .await
            .unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let socket = folder.path().join("node.sock");
        let mut options = options_of(socket.clone());
        change(&mut options);
        let local =
            LocalServer::bind(options, service, Ledger::new(limits, metrics.clone()), metrics).unwrap();
        let stop = CancellationToken::new();
        let served = vec![
            tokio::spawn(server.run(stop.clone())),
            tokio::spawn(local.run(stop.clone())),
        ];
        Self {
            folder,
            engine,
            log,
            endpoint,
            socket,
            registry,
            stop,
            served,
        }
    }

    fn client(&self, options: Options) -> Client {
        client(&self.endpoint, options)
    }

    pub fn local(&self) -> Client {
        self.client(self.options())
    }

    fn options(&self) -> Options {
        Options {
            local_socket: Some(self.socket.clone()),
            policy: Policy::Require,
            ..Options::default()
        }
    }

    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("penstock_store_{name} ")));
        // One with labels is there once it has counted something.
        assert!(
            line.is_some() || name.contains('{'),
            "there is no metric {name}:\n{text}"
        );
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub async fn put(&self, key: &str, content: &bytes::Bytes) {
        let object = ObjectRef::new("bucket", key);
        self.engine
            .put(&object, PutOptions::default(), body([content.clone()]))
            .await
            .unwrap();
    }

    async fn delete(&self, key: &str) {
        self.engine.delete(&ObjectRef::new("bucket", key)).await.unwrap();
    }

    /// Waits until the metric has the value: a connection's end is noticed a moment later.
    pub async fn settles(&self, name: &str, value: u64) {
        for _ in 0..500 {
            if self.metric(name) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is {} and not {value}", self.metric(name));
    }

    /// Waits until so much deleted space is held: files are removed a moment after the answer.
    async fn holds(&self, bytes: u64) {
        for _ in 0..500 {
            if self.engine.held() == bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} bytes are held and not {bytes}", self.engine.held());
    }

    pub async fn stop(self) -> TempDir {
        self.stop.cancel();
        for served in self.served {
            served.await.unwrap();
        }
        self.folder
    }
}

fn client(endpoint: &str, options: Options) -> Client {
    Client::new(
        endpoint.parse().unwrap(),
        Credentials::new(ACCESS, SECRET),
        options,
    )
    .unwrap()
}

fn always() -> Condition {
    Condition::default()
}

fn plain() -> ObjectHeaders {
    ObjectHeaders::default()
}

fn from(first: u64, last: u64) -> Option<Range> {
    Some(Range::From {
        first,
        last: Some(last),
    })
}

fn memfd(content: &[u8]) -> File {
    let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all(content).unwrap();
    file
}
