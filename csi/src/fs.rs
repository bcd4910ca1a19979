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
mod content;
mod failure;
mod listing;
mod nodes;
mod reader;
mod staging;
mod storage;

pub use failure::Failure;
pub use staging::{FolderError, Staging};
pub use storage::Storage;

use crate::{
    fuse::{
        Answer, Attributes, DirectoryPage, Entry, Errno, Filesystem, Notifier, Opened, Operation, Request,
        SetAttributes, Statfs,
    },
    metrics::Metrics,
};
use content::{Content, Place, Source};
use listing::Listing;
use nodes::{Kind, Node, Nodes};
use reader::Reader;
use rustix::fs::OFlags;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use storage::Version;

/// How long the kernel may believe names and attributes without asking. An open asks always.
const VALID: Duration = Duration::from_secs(1);
/// What programs are told to read and write at once.
const BLOCK: u32 = 1 << 20;
/// An object store has no size; programs that look for free space find 1 PiB.
const CAPACITY: u64 = 1 << 50;

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
    files: Mutex<HashMap<u64, Arc<FileHandle>>>,
    folders: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<Listing>>>>,
    next_handle: AtomicU64,
    notifier: OnceLock<Notifier>,
    mounted: SystemTime,
}

struct FileHandle {
    node: Arc<Node>,
    content: Arc<Content>,
    append: bool,
    reader: Reader,
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
            files: Mutex::default(),
            folders: Mutex::default(),
            next_handle: AtomicU64::new(1),
            notifier: OnceLock::new(),
            mounted: SystemTime::now(),
        }
    }

    /// Uploads whatever open files hold that no object holds. What cannot be uploaded is put aside.
    pub async fn drain(&self) {
        let handles: Vec<_> = locked(&self.files).values().cloned().collect();
        for handle in handles {
            if let Err(errno) = self.upload(&handle).await {
                tracing::error!(path = handle.node.path(), %errno, "an open file could not be uploaded before the end");
                self.keep(&handle);
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
            self.staging.keep(&staged, &self.storage.key(&handle.node.path()));
        }
    }

    // Looking

    fn attributes(&self, node: &Node, size: u64, modified: SystemTime) -> Attributes {
        let (seconds, nanos) = crate::fuse::since_epoch(modified);
        // S_IFDIR and S_IFREG
        let mode = match node.kind {
            Kind::Folder => 0o040_000 | self.look.dir_mode,
            Kind::File => 0o100_000 | self.look.file_mode,
        };
        Attributes {
            ino: node.id,
            size,
            blocks: size.div_ceil(512),
            atime: seconds,
            mtime: seconds,
            ctime: seconds,
            atimensec: nanos,
            mtimensec: nanos,
            ctimensec: nanos,
            mode,
            // Of a folder: how many folders are in it is not known, and 1 says so to find(1).
            nlink: 1,
            uid: self.look.uid,
            gid: self.look.gid,
            blksize: BLOCK,
            ..Attributes::default()
        }
    }

    fn folder_attributes(&self, node: &Node) -> Attributes {
        self.attributes(node, 4096, self.mounted)
    }

    fn content_attributes(&self, node: &Node, content: &Content) -> Attributes {
        let (size, modified) = content.stat();
        self.attributes(node, size, modified)
    }

    /// What a file looks like of which this version was found: what is being written here goes before what is stored there.
    fn file_attributes(&self, node: &Node, version: &Version) -> Attributes {
        if let Some(content) = node.open_content().filter(|content| content.is_dirty()) {
            return self.content_attributes(node, &content);
        }
        node.tell(version);
        self.attributes(node, version.size, version.modified)
    }

    fn entry(&self, node: &Node, attributes: Attributes) -> Entry {
        Entry {
            node: node.id,
            attributes,
            name_valid: VALID,
            attributes_valid: VALID,
        }
    }

    /// The entry of a path, with one look-up counted.
    fn enter(&self, path: &str, found: &Found) -> Entry {
        match found {
            Found::File(version) => {
                let node = self.nodes.look_up(path, Kind::File);
                self.entry(&node, self.file_attributes(&node, version))
            }
            Found::Folder => {
                let node = self.nodes.look_up(path, Kind::Folder);
                self.entry(&node, self.folder_attributes(&node))
            }
        }
    }

    async fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        if path.len() > storage::KEY_MAX {
            return Ok(None);
        }
        let inside = nodes::prefix(path);
        let (file, folder) = tokio::join!(self.storage.head(path), self.storage.any_under(&inside));
        if folder? {
            return Ok(Some(Found::Folder));
        }
        match file {
            Ok(version) => Ok(Some(Found::File(version))),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    async fn lookup(&self, parent: u64, name: &str) -> Reply {
        let path = self.nodes.folder(parent)?.child(name);
        match self
            .find(&path)
            .await
            .map_err(|failure| failure.report("look up", &path))?
        {
            Some(found) => Ok(Answer::Entry(self.enter(&path, &found))),
            None => Err(Errno::NOENT),
        }
    }

    async fn getattr(&self, node: u64, handle: Option<u64>) -> Reply {
        let node = self.nodes.get(node)?;
        let attributes = if node.kind == Kind::Folder {
            self.folder_attributes(&node)
        } else if let Some(handle) = handle.and_then(|id| self.file(id).ok()) {
            self.content_attributes(&node, &handle.content)
        } else {
            self.closed_attributes(&node).await?
        };
        Ok(Answer::Attributes {
            attributes,
            valid: VALID,
        })
    }

    /// What a file looks like to somebody who names it and has no handle.
    async fn closed_attributes(&self, node: &Node) -> Result<Attributes, Errno> {
        let open = node.open_content();
        if let Some(content) = open
            .as_ref()
            .filter(|content| content.is_dirty() || content.is_unlinked())
        {
            return Ok(self.content_attributes(node, content));
        }
        let path = node.path();
        match (self.storage.head(&path).await, open) {
            (Ok(version), _) => Ok(self.file_attributes(node, &version)),
            // Removed by somebody else, but open here: fstat must still work.
            (Err(failure), Some(content)) if failure.is_missing() => {
                Ok(self.content_attributes(node, &content))
            }
            (Err(failure), _) => Err(failure.report("stat", &path)),
        }
    }

    async fn setattr(&self, node: u64, change: SetAttributes) -> Reply {
        let node = self.nodes.get(node)?;
        let mode = if node.kind == Kind::Folder {
            self.look.dir_mode
        } else {
            self.look.file_mode
        };
        let differs = |wanted: Option<u32>, is: u32| wanted.is_some_and(|wanted| wanted != is);
        if differs(change.mode.map(|mode| mode & 0o7777), mode)
            || differs(change.uid, self.look.uid)
            || differs(change.gid, self.look.gid)
        {
            return Err(Errno::PERM);
        }
        let Some(size) = change.size else {
            return self.getattr(node.id, change.handle).await;
        };
        if node.kind == Kind::Folder {
            return Err(Errno::ISDIR);
        }
        let path = node.path();
        let failed = |failure: Failure| failure.report("truncate", &path);
        let handle = change.handle.and_then(|id| self.file(id).ok());
        let content = match &handle {
            Some(handle) => Arc::clone(&handle.content),
            None => self.current(&node).await?,
        };
        content
            .truncate(&self.source(&path), size)
            .await
            .map_err(failed)?;
        if handle.is_none() {
            content.upload(&self.source(&path)).await.map_err(failed)?;
        }
        Ok(Answer::Attributes {
            attributes: self.content_attributes(&node, &content),
            valid: VALID,
        })
    }

    fn statfs() -> Answer {
        let blocks = CAPACITY / u64::from(BLOCK);
        Answer::Statfs(Statfs {
            blocks,
            bfree: blocks,
            bavail: blocks,
            files: u64::from(u32::MAX),
            ffree: u64::from(u32::MAX),
            bsize: BLOCK,
            frsize: BLOCK,
            namelen: 255,
            ..Statfs::default()
        })
    }

    // Files

    fn file(&self, handle: u64) -> Result<Arc<FileHandle>, Errno> {
        locked(&self.files).get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// The content that whoever opens the node now shares: asks the storage node which version is there.
    async fn current(&self, node: &Arc<Node>) -> Result<Arc<Content>, Errno> {
        if let Some(content) = node
            .open_content()
            .filter(|content| content.is_dirty() || content.is_unlinked())
        {
            return Ok(content);
        }
        let path = node.path();
        let version = self
            .storage
            .head(&path)
            .await
            .map_err(|failure| failure.report("open", &path))?;
        if node.tell(&version)
            && let Some(notifier) = self.notifier.get()
        {
            notifier.attributes_changed(node.id);
        }
        // Asked again: it may have been written to meanwhile.
        match node.open_content() {
            Some(content) if content.is_dirty() || content.version() == version => Ok(content),
            _ => {
                let content = Content::new(version);
                node.set_open_content(&content);
                Ok(content)
            }
        }
    }

    fn opened(&self, node: Arc<Node>, content: Arc<Content>, flags: OFlags) -> Opened {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let file = FileHandle {
            node,
            content,
            append: flags.contains(OFlags::APPEND),
            reader: Reader::default(),
        };
        locked(&self.files).insert(handle, Arc::new(file));
        Opened { handle }
    }

    async fn open(&self, node: u64, flags: u32) -> Result<Opened, Errno> {
        let flags = OFlags::from_bits_retain(flags);
        let node = self.nodes.file(node)?;
        let content = self.current(&node).await?;
        if flags.contains(OFlags::TRUNC) {
            let path = node.path();
            let emptied = content.empty(&self.source(&path)).await;
            emptied.map_err(|failure| failure.report("truncate", &path))?;
        }
        Ok(self.opened(node, content, flags))
    }

    async fn create(&self, parent: u64, name: &str, flags: u32) -> Reply {
        let wanted = OFlags::from_bits_retain(flags);
        let path = self.nodes.folder(parent)?.child(name);
        match self.storage.put_empty(&path, true).await {
            Ok(version) => {
                let node = self.nodes.look_up(&path, Kind::File);
                node.tell(&version);
                let content = Content::new(version);
                node.set_open_content(&content);
                let entry = self.entry(&node, self.content_attributes(&node, &content));
                Ok(Answer::Created(entry, self.opened(node, content, wanted)))
            }
            // Somebody else was faster.
            Err(failure) if failure.is_precondition() && !wanted.contains(OFlags::EXCL) => {
                let node = self.nodes.look_up(&path, Kind::File);
                let opened = self.open(node.id, flags).await?;
                let handle = self.file(opened.handle)?;
                let attributes = self.content_attributes(&node, &handle.content);
                Ok(Answer::Created(self.entry(&node, attributes), opened))
            }
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failure.report("create", &path)),
        }
    }

    async fn mknod(&self, parent: u64, name: &str, mode: u32) -> Reply {
        // S_IFREG; devices, pipes and sockets cannot be objects.
        if mode & 0o170_000 != 0o100_000 {
            return Err(Errno::PERM);
        }
        let path = self.nodes.folder(parent)?.child(name);
        match self.storage.put_empty(&path, true).await {
            Ok(version) => Ok(Answer::Entry(self.enter(&path, &Found::File(version)))),
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failure.report("create", &path)),
        }
    }

    async fn read(&self, handle: u64, offset: u64, size: u32) -> Reply {
        let handle = self.file(handle)?;
        let pieces = match handle.content.staged() {
            Some(staged) => staged
                .read(offset, u64::from(size))
                .await
                .map(|bytes| vec![bytes]),
            None => {
                let version = handle.content.version();
                let path = handle.node.path();
                handle
                    .reader
                    .read(&self.storage, &path, &version, offset, u64::from(size))
                    .await
            }
        };
        let pieces = pieces.map_err(|failure| failure.report("read", &handle.node.path()))?;
        self.metrics
            .read(pieces.iter().map(|piece| piece.len() as u64).sum());
        Ok(Answer::Data(pieces))
    }

    async fn write(&self, handle: u64, offset: u64, data: bytes::Bytes) -> Reply {
        let handle = self.file(handle)?;
        let path = handle.node.path();
        let place = if handle.append {
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

    async fn upload(&self, handle: &FileHandle) -> Result<(), Errno> {
        let path = handle.node.path();
        match handle.content.upload(&self.source(&path)).await {
            Ok(Some(version)) => {
                handle.node.tell(&version);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure.report("upload", &path)),
        }
    }

    async fn flush(&self, handle: u64) -> Reply {
        let handle = self.file(handle)?;
        self.upload(&handle).await.map(|()| Answer::Done)
    }

    async fn release(&self, handle: u64) -> Reply {
        let handle = locked(&self.files).remove(&handle).ok_or(Errno::BADF)?;
        // Dirty still: `close` told its caller of the failure, or a shared mapping was written to after it.
        if handle.content.is_dirty()
            && self.upload(&handle).await.is_err()
            && Arc::strong_count(&handle.content) == 1
        {
            self.keep(&handle);
        }
        Ok(Answer::Done)
    }

    // Folders

    fn opendir(&self, node: u64) -> Reply {
        let node = self.nodes.folder(node)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let listing = Arc::new(tokio::sync::Mutex::new(Listing::new(node.prefix())));
        locked(&self.folders).insert(handle, listing);
        Ok(Answer::Opened(Opened { handle }))
    }

    async fn readdir(&self, node: u64, handle: u64, offset: u64, size: u32, plus: bool) -> Reply {
        let node = self.nodes.folder(node)?;
        let listing = locked(&self.folders).get(&handle).cloned().ok_or(Errno::BADF)?;
        let mut listing = listing.lock().await;
        let mut page = DirectoryPage::new(size);
        // An offset is the place of the next entry; `.` and `..` are the first two.
        let mut place = offset;
        while place < 2 {
            let name = if place == 0 { "." } else { ".." };
            if !page.fits(name, plus) {
                return Ok(Answer::Directory(page));
            }
            place += 1;
            page.push(node.id, place, name, true, plus.then_some(None));
        }
        loop {
            let item = match listing.at(&self.storage, place - 2).await {
                Ok(Some(item)) => item,
                Ok(None) => break,
                // What was read so far is good; the next call meets the failure again.
                Err(_) if place > offset => break,
                Err(failure) => return Err(failure.report("list", &node.path())),
            };
            if !page.fits(&item.name, plus) {
                break;
            }
            place += 1;
            let folder = item.kind() == Kind::Folder;
            if plus {
                let found = item.version.clone().map_or(Found::Folder, Found::File);
                let entry = self.enter(&node.child(&item.name), &found);
                page.push(entry.node, place, &item.name, folder, Some(Some(entry)));
            } else {
                // Numbers are given by look-ups; until then any will do that is not 0.
                let known = self
                    .nodes
                    .at(&node.child(&item.name))
                    .map_or(u64::MAX, |node| node.id);
                page.push(known, place, &item.name, folder, None);
            }
        }
        if listing.is_marked() {
            node.set_marked();
        }
        Ok(Answer::Directory(page))
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
            Operation::Write { handle, offset, data } => self.write(handle, offset, data).await,
            Operation::Flush { handle } | Operation::Fsync { handle } => self.flush(handle).await,
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
