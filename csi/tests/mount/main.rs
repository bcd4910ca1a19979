//! A bucket mounted for real: the kernel's FUSE client, our session and file system, the local engine. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour;
mod model;
mod passthrough;

use penstock_csi::{
    access::Access,
    fs::{Look, Staging, Storage, Volume},
    fuse::Session,
    metrics::Metrics,
    node::mounts,
    passthrough::Passthrough,
};
use penstock_service::CancellationToken;
use penstock_store::{engine::Engine, local::Local, s3::Service, server::Server};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A store with one bucket.
struct Store {
    engine: Arc<Local>,
    runtime: Arc<Runtime>,
    folder: TempDir,
}

struct StorageNode {
    ending: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl StorageNode {
    /// Returns when no request is answered any more.
    async fn ends(self) {
        self.ending.cancel();
        self.served.await.unwrap();
    }
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The tests block in system calls that this runtime answers.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let engine = runtime.block_on(async {
            let engine = Local::open(&folder.path().join("data")).await.unwrap();
            engine.create_bucket("bucket").await.unwrap();
            Arc::new(engine)
        });
        Self {
            engine,
            runtime: Arc::new(runtime),
            folder,
        }
    }

    fn mounted(&self, name: &str) -> Mounted {
        self.mount(name, self.engine.clone())
    }

    /// As [`Self::mounted`], but as in a cluster: over HTTP. The storage node ends when it is told to.
    fn mounted_over_http(&self, name: &str) -> (Mounted, StorageNode) {
        let access = |endpoint: String| Access {
            endpoint,
            region: "us-east-1".into(),
            access_key_id: "key".into(),
            secret_access_key: "secret".into(),
            ca_pem: None,
        };
        let ending = CancellationToken::new();
        let (remote, served) = self.runtime.block_on(async {
            let metrics =
                penstock_store::metrics::Metrics::register(&mut penstock_service::Admin::default().metrics);
            let root = penstock_rdma::Credentials::new("key", "secret");
            let service = Service::new(self.engine.clone(), root, "us-east-1".into(), metrics.clone());
            let anywhere = "127.0.0.1:0".parse().unwrap();
            let server = Server::bind(anywhere, None, service, metrics, 64).await.unwrap();
            let address = server.address().unwrap();
            let served = tokio::spawn(server.run(ending.clone()));
            (access(format!("http://{address}")).engine().unwrap(), served)
        });
        (self.mount(name, Arc::new(remote)), StorageNode { ending, served })
    }

    fn mount(&self, name: &str, engine: Arc<dyn Engine>) -> Mounted {
        self.mount_passing(name, engine, Passthrough::Off)
    }

    fn mount_passing(&self, name: &str, engine: Arc<dyn Engine>, passthrough: Passthrough) -> Mounted {
        let path = self.folder.path().join(name);
        let metrics = Metrics::default();
        let state = self.folder.path().join(format!("{name}-state"));
        let staging = Staging::prepare(&state, metrics.clone()).unwrap();
        let storage = Storage::new(engine, "bucket", "volume", Duration::from_secs(10));
        let look = Look {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
        };
        let volume = Volume::new(storage, staging, look, metrics.clone()).passing(passthrough);
        let volume = Arc::new(volume);
        let session = self.runtime.block_on(async {
            let device = mounts::mount_fuse(&path, "penstock:test").await.unwrap();
            let session = Session::start(device, volume.clone()).await.unwrap();
            mounts::prove(&path).await.unwrap();
            session
        });
        Mounted {
            path,
            state,
            volume: Some(volume),
            session,
            metrics,
            runtime: Arc::clone(&self.runtime),
        }
    }
}

/// A mount, which goes with its value.
struct Mounted {
    path: PathBuf,
    state: PathBuf,
    volume: Option<Arc<Volume>>,
    session: Session,
    metrics: Metrics,
    runtime: Arc<Runtime>,
}

impl Mounted {
    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            mounts::unmount(&self.path).await.unwrap();
            let ended = tokio::time::timeout(Duration::from_secs(10), self.session.ended()).await;
            if !std::thread::panicking() {
                ended.expect("the session ends with its mount");
                // The kernel need not have said that the last files are closed.
                drop(self.volume.take());
                assert_eq!(self.metrics.staged_total(), 0, "a staged file was left");
            }
        });
    }
}
