//! Operations on files: open, create, mknod, read, write, flush, fsync, release.

use super::{
    Found, Reply, Volume,
    content::{Content, Place},
    failure::Failure,
    locked,
    nodes::{Kind, Node},
    reader::Reader,
};
use crate::fuse::{Answer, Errno, OpenMode, Opened};
use penstock_store::engine::Lent;
use rustix::fs::OFlags;
use std::sync::{Arc, atomic::Ordering};

/// An open file.
pub(super) struct FileHandle {
    /// By whose number the kernel opened it; the path is that of its content.
    node: Arc<Node>,
    pub(super) content: Arc<Content>,
    append: bool,
    writable: bool,
    reader: Reader,
    mode: OpenMode,
}

async fn read_lent(lent: &Lent, offset: u64, size: u64) -> Result<Vec<bytes::Bytes>, Failure> {
    let length = size.min(lent.len().saturating_sub(offset));
    let mut piece = bytes::BytesMut::zeroed(usize::try_from(length).unwrap_or(0));
    let got = lent
        .read_into(&mut piece, offset)
        .await
        .map_err(Failure::Broken)?;
    piece.truncate(got);
    Ok(vec![piece.freeze()])
}

impl Volume {
    pub(super) fn file(&self, handle: u64) -> Result<Arc<FileHandle>, Errno> {
        locked(&self.files).get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// The content that whoever opens the node now shares: asks the storage node which version is there. Call with its path
    /// claimed.
    pub(super) async fn current(&self, node: &Arc<Node>) -> Result<Arc<Content>, Errno> {
        loop {
            let open = node.open_content();
            let before = open.as_ref().and_then(|content| content.settled());
            if let Some(content) = open.filter(|_| before.is_none()) {
                return Ok(content);
            }
            let path = node.path();
            let version = self
                .storage
                .head(&path)
                .await
                .map_err(|failure| failure.report("open", &path))?;
            match node.open_content() {
                Some(content) if content.is_dirty() || content.version() == version => return Ok(content),
                // The kernel looks the name up again (open(2) and truncate(2) do by themselves) and finds the new file.
                Some(_) if before.is_some_and(|before| self.part(node, &before, &version)) => {
                    return Err(Errno::STALE);
                }
                Some(_) => {}
                None => {
                    if node.tell(&version)
                        && let Some(notifier) = self.notifier.get()
                    {
                        notifier.attributes_changed(node.id);
                    }
                    // The kernel opens by number what it looked up by name a moment ago. What was put under the name since then
                    // is what opens, and shares its fate from now on.
                    let owner = self.nodes.owner(node);
                    let content = owner.open_or(Content::new(Arc::clone(&owner), version.clone()));
                    let content = node.open_or(content);
                    if content.is_dirty() || content.version() == version {
                        return Ok(content);
                    }
                }
            }
        }
    }

    async fn opened(
        &self,
        node: &Arc<Node>,
        path: &str,
        content: Arc<Content>,
        flags: OFlags,
    ) -> Result<Opened, Errno> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let only_reads = !flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        let lent = match only_reads && self.backer.is_usable() {
            true => content.lent(&self.storage, path).await,
            false => None,
        };
        let file = lent.as_ref().and_then(Lent::as_file);
        let mode = node
            .modes
            .open(&self.backer, self.notifier.get(), &content, file)
            .await;
        let Some(mode) = mode else {
            return Err(self.leave_to_readers(node));
        };
        let file = FileHandle {
            node: Arc::clone(node),
            content,
            append: flags.contains(OFlags::APPEND),
            writable: flags.intersects(OFlags::WRONLY | OFlags::RDWR),
            reader: Reader::default(),
            mode,
        };
        locked(&self.files).insert(handle, Arc::new(file));
        Ok(Opened { handle, mode })
    }

    /// Takes back a look-up that was counted for an answer which turned into a failure: the kernel is not told of the node, so
    /// it will not forget it.
    fn untold(&self, node: &Node, errno: Errno) -> Errno {
        self.nodes.forget(node.id, 1);
        errno
    }

    /// Whoever reads a file by passthrough keeps its version under the number that it has; its name gets another one, which the
    /// kernel finds when it looks again (open(2) and truncate(2) do by themselves).
    pub(super) fn leave_to_readers(&self, node: &Node) -> Errno {
        self.nodes.detach(node);
        Errno::STALE
    }

    pub(super) async fn open(&self, node: u64, flags: u32) -> Result<Opened, Errno> {
        let node = self.nodes.file(node)?;
        let (_claim, path) = self.claim(&node).await;
        self.open_claimed(&node, &path, OFlags::from_bits_retain(flags))
            .await
    }

    async fn open_claimed(&self, node: &Arc<Node>, path: &str, flags: OFlags) -> Result<Opened, Errno> {
        // Before it is emptied.
        if flags.contains(OFlags::TRUNC) && node.modes.is_passing().await {
            return Err(self.leave_to_readers(node));
        }
        let content = self.current(node).await?;
        if flags.contains(OFlags::TRUNC) {
            let emptied = content.empty(&self.source(path)).await;
            emptied.map_err(|failure| failure.report("truncate", path))?;
        }
        self.opened(node, path, content, flags).await
    }

    pub(super) async fn create(&self, parent: u64, name: &str, flags: u32) -> Reply {
        let wanted = OFlags::from_bits_retain(flags);
        let (_claim, path) = self.claim_child(parent, name).await?;
        match self.storage.put_empty(&path, true).await {
            Ok(version) => {
                // It was there before, was removed elsewhere, and is read here still.
                if let Some(before) = self.nodes.at(&path)
                    && before.modes.is_passing().await
                {
                    self.nodes.detach(&before);
                }
                let node = self.nodes.look_up(&path, Kind::File);
                node.tell(&version);
                let content = Content::new(Arc::clone(&node), version);
                node.set_open_content(&content);
                let entry = self.entry(&node, self.content_attributes(&node, &content));
                match self.opened(&node, &path, content, wanted).await {
                    Ok(opened) => Ok(Answer::Created(entry, opened)),
                    Err(errno) => Err(self.untold(&node, errno)),
                }
            }
            // Somebody else was faster.
            Err(failure) if failure.is_precondition() && !wanted.contains(OFlags::EXCL) => {
                let node = self.nodes.look_up(&path, Kind::File);
                let opened = match self.open_claimed(&node, &path, wanted).await {
                    Ok(opened) => opened,
                    Err(errno) => return Err(self.untold(&node, errno)),
                };
                let handle = self.file(opened.handle)?;
                let attributes = self.content_attributes(&node, &handle.content);
                Ok(Answer::Created(self.entry(&node, attributes), opened))
            }
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failure.report("create", &path)),
        }
    }

    pub(super) async fn mknod(&self, parent: u64, name: &str, mode: u32) -> Reply {
        // S_IFREG; devices, pipes and sockets cannot be objects.
        if mode & 0o170_000 != 0o100_000 {
            return Err(Errno::PERM);
        }
        let (_claim, path) = self.claim_child(parent, name).await?;
        match self.storage.put_empty(&path, true).await {
            Ok(version) => Ok(Answer::Entry(self.enter(&path, &Found::File(version)))),
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failure.report("create", &path)),
        }
    }

    pub(super) async fn read(&self, handle: u64, offset: u64, size: u32) -> Reply {
        let handle = self.file(handle)?;
        let size = u64::from(size);
        let pieces = loop {
            if let Some(staged) = handle.content.staged() {
                break staged.read(offset, size).await.map(|bytes| vec![bytes]);
            }
            let (version, path) = (handle.content.version(), handle.content.node().path());
            let storage = &self.storage;
            if let Some(lent) = handle.content.lent(storage, &path).await {
                break read_lent(&lent, offset, size).await;
            }
            let outcome = handle.reader.read(storage, &path, &version, offset, size).await;
            // Renamed, replaced or removed here meanwhile: the bytes are under the new name now, or on this node's disk.
            let has_moved = || handle.content.node().path() != path || handle.content.staged().is_some();
            match outcome {
                Err(failure) if failure.is_precondition() && has_moved() => {}
                outcome => break outcome,
            }
        };
        let pieces = pieces.map_err(|failure| failure.report("read", &handle.content.node().path()))?;
        self.metrics
            .read(pieces.iter().map(|piece| piece.len() as u64).sum());
        Ok(Answer::Data(pieces))
    }

    pub(super) async fn write(&self, handle: u64, offset: u64, data: bytes::Bytes, mapped: bool) -> Reply {
        let handle = self.file(handle)?;
        // The first write takes the object's bytes here, so its name must stay; the others need no name.
        let (_claim, path) = match handle.content.staged() {
            Some(_) => (None, handle.content.node().path()),
            None => {
                let (claim, path) = self.claim(handle.content.node()).await;
                (Some(claim), path)
            }
        };
        let place = if handle.append && !mapped {
            Place::End
        } else {
            Place::At(offset)
        };
        let length = data.len();
        let written = handle.content.write(&self.source(&path), place, data).await;
        written.map_err(|failure| failure.report("write", &path))?;
        self.metrics.written(length as u64);
        Ok(Answer::Written(u32::try_from(length).unwrap_or(u32::MAX)))
    }

    pub(super) async fn upload(&self, handle: &FileHandle) -> Result<(), Errno> {
        let (_claim, path) = self.claim(handle.content.node()).await;
        match handle.content.upload(&self.source(&path)).await {
            Ok(Some(version)) => {
                handle.content.node().tell(&version);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure.report("upload", &path)),
        }
    }

    pub(super) async fn fsync(&self, handle: u64) -> Reply {
        let handle = self.file(handle)?;
        self.upload(&handle).await.map(|()| Answer::Done)
    }

    pub(super) async fn flush(&self, handle: u64) -> Reply {
        let handle = self.file(handle)?;
        // Whoever only read must not publish what somebody else has half written.
        if handle.writable {
            self.upload(&handle).await?;
        }
        Ok(Answer::Done)
    }

    pub(super) async fn release(&self, handle: u64) -> Reply {
        let handle = locked(&self.files).remove(&handle).ok_or(Errno::BADF)?;
        handle
            .node
            .modes
            .close(&self.backer, self.notifier.get(), handle.mode)
            .await;
        let is_last = || {
            let files = locked(&self.files);
            !files
                .values()
                .any(|other| Arc::ptr_eq(&other.content, &handle.content))
        };
        // Dirty still: `close` told its caller of the failure, or a shared mapping was written to after it.
        if handle.content.is_dirty()
            && (handle.writable || is_last())
            && self.upload(&handle).await.is_err()
            && is_last()
        {
            self.keep(&handle);
        }
        Ok(Answer::Done)
    }
}
