//! A bucket mounted for real: the kernel's FUSE client, our session and file system, the local engine. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod behaviour;
mod model;

use penstock_csi::{
    fs::{Look, Staging, Storage, Volume},
    fuse::Session,
    metrics::Metrics,
    node::mounts,
};
use penstock_store::{engine::Engine, local::Local};
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
        let path = self.folder.path().join(name);
        let metrics = Metrics::default();
        let staging =
            Staging::prepare(&self.folder.path().join(format!("{name}-state")), metrics.clone()).unwrap();
        let storage = Storage::new(self.engine.clone(), "bucket", "volume", Duration::from_secs(10));
        let look = Look {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
        };
        let volume = Volume::new(storage, staging, look, metrics.clone());
        let session = self.runtime.block_on(async {
            let device = mounts::mount_fuse(&path, "penstock:test").await.unwrap();
            let session = Session::start(device, Arc::new(volume)).await.unwrap();
            mounts::prove(&path).await.unwrap();
            session
        });
        Mounted {
            path,
            session,
            metrics,
            runtime: Arc::clone(&self.runtime),
        }
    }
}

/// A mount, which goes with its value.
struct Mounted {
    path: PathBuf,
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
                assert_eq!(self.metrics.staged_total(), 0, "a staged file was left");
            }
        });
    }
}
