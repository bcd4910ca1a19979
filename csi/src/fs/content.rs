//! What an open file holds: one version of an object, or a staged file that becomes the next one.

use super::{
    failure::Failure,
    nodes::Node,
    staging::{Staged, Staging},
    storage::{Storage, Version},
};
use bytes::Bytes;
use penstock_store::engine::Lent;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

/// The bytes behind all handles of one node that were opened while the object did not change under them.
///
/// It begins as a version of an object. The first write stages it: from then on the staged file is the truth here, and
/// [`Content::upload`] makes it the object. Nothing is kept when the last handle lets go.
pub struct Content {
    node: Arc<Node>,
    version: Mutex<Version>,
    staged: Mutex<Option<Arc<Staged>>>,
    /// The files of the version it began as, if the storage node is on this host and lent them.
    lent: tokio::sync::OnceCell<Option<Lent>>,
    /// Staging, writing and uploading happen one at a time, so that an upload is one state of the file.
    turn: tokio::sync::Mutex<()>,
    unlinked: AtomicBool,
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To this offset.
    At(u64),
    /// To the end, wherever that is by now (`O_APPEND`).
    End,
}

impl Content {
    /// The content of a version of a node's file.
    pub fn new(node: Arc<Node>, version: Version) -> Arc<Self> {
        Arc::new(Self {
            node,
            version: Mutex::new(version),
            staged: Mutex::new(None),
            lent: tokio::sync::OnceCell::new(),
            turn: tokio::sync::Mutex::new(()),
            unlinked: AtomicBool::new(false),
        })
    }

    /// Whose file it is: its path is where the bytes come from and go to.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn version_lock(&self) -> MutexGuard<'_, Version> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn staged_lock(&self) -> MutexGuard<'_, Option<Arc<Staged>>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version it began as, or was last uploaded as.
    pub fn version(&self) -> Version {
        self.version_lock().clone()
    }

    /// The staged file, if it was written to.
    pub fn staged(&self) -> Option<Arc<Staged>> {
        self.staged_lock().clone()
    }

    /// Its bytes as files of the storage node, if that is on this host, and nothing was written since.
    pub async fn lent(&self, storage: &Storage, path: &str) -> Option<Lent> {
        if self.staged().is_some() {
            return None;
        }
        let lent = self
            .lent
            .get_or_try_init(|| async { storage.lend(path, &self.version()).await });
        // Whatever went wrong: reading in the ordinary way tells.
        lent.await.ok()?.clone()
    }

    /// Whether it holds what no object holds.
    pub fn is_dirty(&self) -> bool {
        !self.is_unlinked() && self.staged().is_some_and(|staged| staged.is_dirty())
    }

    /// Whether its name is gone, so that it never becomes an object.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// The version that an object holds of it, if nothing was written since.
    pub fn settled(&self) -> Option<Version> {
        (!self.is_dirty() && !self.is_unlinked()).then(|| self.version())
    }

    /// Length in bytes, and when it was last written.
    pub fn stat(&self) -> (u64, SystemTime) {
        match self.staged() {
            Some(staged) => (staged.size(), staged.modified()),
            None => {
                let version = self.version_lock();
                (version.size, version.modified)
            }
        }
    }

    /// The staged file, filled with the object's first `keep` bytes if it is made now. Call with the turn held.
    async fn stage(&self, from: &Source<'_>, keep: u64) -> Result<Arc<Staged>, Failure> {
        if let Some(staged) = self.staged() {
            return Ok(staged);
        }
        let staged = from.staging.create()?;
        let version = self.version();
        if keep > 0 {
            from.storage
                .fetch(from.path, &version, |offset, piece| {
                    let staged = Arc::clone(&staged);
                    async move { staged.fill(offset, piece).await }
                })
                .await?;
        }
        *self.staged_lock() = Some(Arc::clone(&staged));
        Ok(staged)
    }

    /// Writes.
    pub async fn write(&self, from: &Source<'_>, place: Place, data: Bytes) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let staged = self.stage(from, u64::MAX).await?;
        let offset = match place {
            Place::At(offset) => offset,
            Place::End => staged.size(),
        };
        staged.write(offset, data).await
    }

    /// Cuts or extends with zeros.
    pub async fn truncate(&self, from: &Source<'_>, size: u64) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        if self.staged().is_none() && self.version().size == size {
            return Ok(());
        }
        self.stage(from, size).await?.truncate(size).await
    }

    /// Empties it, even if it is empty: whoever opens with `O_TRUNC` makes a new version.
    pub async fn empty(&self, from: &Source<'_>) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        self.stage(from, 0).await?.truncate(0).await
    }

    /// Makes what was written the object at the source's path; returns the version if there was something to do.
    pub async fn upload(&self, from: &Source<'_>) -> Result<Option<Version>, Failure> {
        let _turn = self.turn.lock().await;
        let Some(staged) = self.staged().filter(|_| self.is_dirty()) else {
            return Ok(None);
        };
        let version = from.storage.put_staged(from.path, &staged).await?;
        staged.set_dirty(false);
        *self.version_lock() = version.clone();
        Ok(Some(version))
    }

    /// The name is about to go: takes the bytes here first, so that whoever has it open keeps them. Bytes that another node
    /// replaced or deleted are gone already, which is no reason to keep the name.
    pub async fn unlink(&self, from: &Source<'_>) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        match self.stage(from, u64::MAX).await {
            Err(failure) if failure.is_precondition() => {}
            outcome => drop(outcome?),
        }
        self.unlinked.store(true, Ordering::Release);
        Ok(())
    }

    /// The name stayed after all.
    pub fn relink(&self) {
        self.unlinked.store(false, Ordering::Release);
    }
}

/// Where a content's bytes come from and go to.
pub struct Source<'a> {
    /// The volume's objects.
    pub storage: &'a Storage,
    /// The node's disk.
    pub staging: &'a Staging,
    /// The file's path now.
    pub path: &'a str,
}
