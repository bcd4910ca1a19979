//! A bucket, or a prefix in one, as a file system.
//!
//! ```text
//!  Request ──▶ Volume ──▶ nodes     what the kernel knows: number ↔ path
//!                 │  ├───▶ content   what an open file holds: a version, or a staged file that becomes the next one
//!                 │  └───▶ listing   an open folder, page by page
//!                 ▼
//!              storage ──▶ Engine   every call under a deadline
//! ```
//! Close-to-open consistency: every open asks the storage node, `close` and `fsync` return when the bytes are an object there.
//! Names and attributes may be up to [`VALID`] old in between. `docs/filesystem.md` is the user's side of this.

mod change;
mod claims;
mod content;
mod failure;
mod file;
mod folder;
mod listing;
mod look;
mod modes;
mod nodes;
mod reader;
mod staging;
mod storage;

pub use failure::Failure;
pub use staging::{FolderError, Staging};
pub use storage::Storage;

use crate::{
    fuse::{Answer, Errno, Filesystem, Notifier, Operation, Request},
    metrics::Metrics,
    passthrough::Passthrough,
};
use claims::{Claim, Claims};
use content::Source;
use file::FileHandle;
use futures::{StreamExt, stream};
use listing::Listing;
use modes::Backer;
use nodes::{Node, Nodes};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};
use storage::Version;

/// How long the kernel may believe names and attributes without asking. An open asks always.
const VALID: Duration = Duration::from_secs(1);
/// How long open files may take to be uploaded when their file system ends.
pub const DRAIN: Duration = Duration::from_secs(45);
/// How many of them are uploaded at the same time.
const DRAINED_AT_ONCE: usize = 8;

type Reply = Result<Answer, Errno>;

/// How files look: an object has no owner and no permissions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Look {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u32,
    /// Permission bits of folders.
    pub dir_mode: u32,
}

/// A mounted volume.
pub struct Volume {
    storage: Storage,
    staging: Staging,
    look: Look,
    metrics: Metrics,
    nodes: Nodes,
    claims: Claims,
    files: Mutex<HashMap<u64, Arc<FileHandle>>>,
    folders: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<Listing>>>>,
    next_handle: AtomicU64,
    notifier: OnceLock<Notifier>,
    backer: Backer,
    mounted: SystemTime,
}

enum Found {
    File(Version),
    Folder,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volume {
    /// A file system over a volume's objects.
    pub fn new(storage: Storage, staging: Staging, look: Look, metrics: Metrics) -> Self {
        Self {
            storage,
            staging,
            look,
            metrics,
            nodes: Nodes::new(),
            claims: Claims::default(),
            files: Mutex::default(),
            folders: Mutex::default(),
            next_handle: AtomicU64::new(1),
            notifier: OnceLock::new(),
            backer: Backer::default(),
            mounted: SystemTime::now(),
        }
    }

    /// Lets the kernel read files by itself that the storage node lent.
    #[must_use]
    pub fn passing(mut self, by: Passthrough) -> Self {
        self.backer = Backer::new(by);
        self
    }

    /// Uploads whatever open files hold that no object holds. What cannot be uploaded within the limit is put aside.
    pub async fn drain(&self, limit: Duration) {
        let handles: Vec<_> = locked(&self.files).values().cloned().collect();
        let uploads = stream::iter(&handles).for_each_concurrent(DRAINED_AT_ONCE, async |handle| {
            // What fails is told in the log, and kept below.
            let _kept = self.upload(handle).await;
        });
        if tokio::time::timeout(limit, uploads).await.is_err() {
            tracing::error!("open files could not be uploaded within {} s", limit.as_secs());
        }
        for handle in &handles {
            self.keep(handle);
        }
    }

    /// A node's path, and its claim: no name is changed as long as it is held.
    async fn claim(&self, node: &Node) -> (Claim<'_>, String) {
        self.claim_path(|| node.path()).await
    }

    /// As [`Self::claim`], of a name in a folder.
    async fn claim_child(&self, folder: u64, name: &str) -> Result<(Claim<'_>, String), Errno> {
        let folder = self.nodes.folder(folder)?;
        Ok(self.claim_path(|| folder.child(name)).await)
    }

    async fn claim_path(&self, path: impl Fn() -> String) -> (Claim<'_>, String) {
        loop {
            let now = path();
            let claim = self.claims.share(&now).await;
            // Whoever changed names meanwhile may have changed this one.
            if path() == now {
                return (claim, now);
            }
        }
    }

    fn source<'a>(&'a self, path: &'a str) -> Source<'a> {
        Source {
            storage: &self.storage,
            staging: &self.staging,
            path,
        }
    }

    fn keep(&self, handle: &FileHandle) {
        if let Some(staged) = handle.content.staged().filter(|_| handle.content.is_dirty()) {
            self.staging
                .keep(&staged, &self.storage.key(&handle.content.node().path()));
        }
    }

    async fn dispatch(&self, request: Request) -> Reply {
        let node = request.node;
        match request.operation {
            Operation::Lookup { name } => self.lookup(node, &name).await,
            Operation::Getattr { handle } => self.getattr(node, handle).await,
            Operation::Setattr { change } => self.setattr(node, change).await,
            Operation::Mknod { name, mode } => self.mknod(node, &name, mode).await,
            Operation::Mkdir { name } => self.mkdir(node, &name).await,
            Operation::Unlink { name } => self.unlink(node, &name).await,
            Operation::Rmdir { name } => self.rmdir(node, &name).await,
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => self.rename((node, &name), (new_parent, &new_name), flags).await,
            Operation::Open { flags } => self.open(node, flags).await.map(Answer::Opened),
            Operation::Create { name, flags } => self.create(node, &name, flags).await,
            Operation::Read { handle, offset, size } => self.read(handle, offset, size).await,
            Operation::Write {
                handle,
                offset,
                data,
                mapped,
            } => self.write(handle, offset, data, mapped).await,
            Operation::Flush { handle } => self.flush(handle).await,
            Operation::Fsync { handle } => self.fsync(handle).await,
            Operation::Release { handle } => self.release(handle).await,
            Operation::Opendir => self.opendir(node),
            Operation::Readdir {
                handle,
                offset,
                size,
                plus,
            } => self.readdir(node, handle, offset, size, plus).await,
            Operation::Releasedir { handle } => {
                locked(&self.folders).remove(&handle);
                Ok(Answer::Done)
            }
            Operation::Fsyncdir => Ok(Answer::Done),
            Operation::Statfs => Ok(Self::statfs()),
            // As link(2) and symlink(2) say of file systems without them.
            Operation::Link | Operation::Symlink => Err(Errno::PERM),
            Operation::Init { .. }
            | Operation::Destroy
            | Operation::Interrupt { .. }
            | Operation::Forget { .. }
            | Operation::Unknown { .. } => Err(Errno::NOSYS),
        }
    }
}

#[async_trait::async_trait]
impl Filesystem for Volume {
    fn started(&self, notifier: Notifier) {
        // A volume is mounted once.
        let _already_started = self.notifier.set(notifier);
    }

    async fn call(&self, request: Request) -> Reply {
        let name = request.operation.name();
        let reply = self.dispatch(request).await;
        self.metrics
            .operation(name, reply.as_ref().map(|_| ()).map_err(|errno| *errno));
        reply
    }

    fn forget(&self, nodes: &[(u64, u64)]) {
        for (node, lookups) in nodes {
            self.nodes.forget(*node, *lookups);
        }
    }
}

#[cfg(test)]
mod tests;
