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
mod listing;
mod modes;
mod nodes;
mod reader;
mod staging;
mod storage;

pub use failure::Failure;
pub use staging::{FolderError, Staging};
pub use storage::Storage;

use crate::{
    fuse::{
        Answer, Attributes, DirectoryPage, Entry, Errno, Filesystem, Notifier, OpenMode, Opened, Operation,
        Request, SetAttributes, Statfs,
    },
    metrics::Metrics,
    passthrough::Passthrough,
};
use claims::{Claim, Claims};
use content::{Content, Place, Source};
use futures::{StreamExt, stream};
use listing::Listing;
use modes::Backer;
use nodes::{Kind, Node, Nodes};
use penstock_store::engine::Lent;
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

struct FileHandle {
    /// By whose number the kernel opened it; the path is that of its content.
    node: Arc<Node>,
    content: Arc<Content>,
    append: bool,
    writable: bool,
    reader: Reader,
    mode: OpenMode,
}

enum Found {
    File(Version),
    Folder,
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

    /// What a file looks like of which this version was found: what is open here goes before what is stored there.
    fn file_attributes(&self, node: &Node, version: &Version) -> Attributes {
        let differs = |content: &Arc<Content>| content.is_dirty() || content.version() != *version;
        if let Some(content) = node.open_content().filter(differs) {
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
        let open = self.nodes.at(&path).map(|node| (node.settled(), node));
        let found = self.find(&path).await;
        match found.map_err(|failure| failure.report("look up", &path))? {
            Some(found) => {
                if let (Some((Some(before), node)), Found::File(version)) = (open, &found) {
                    self.part(&node, &before, version);
                }
                Ok(Answer::Entry(self.enter(&path, &found)))
            }
            None => Err(Errno::NOENT),
        }
    }

    /// A file that another node replaced while it is open here becomes two for the kernel, so that its cache never holds bytes
    /// of both under one number. `before` is the version that was open when the storage node was asked; says whether they
    /// were parted.
    fn part(&self, node: &Node, before: &Version, found: &Version) -> bool {
        // Uploaded from here meanwhile: what was found is of the past.
        let is_replaced = before != found && node.settled().as_ref() == Some(before);
        if is_replaced {
            self.nodes.detach(node);
        }
        is_replaced
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
        let (_claim, path) = self.claim(&node).await;
        let failed = |failure: Failure| failure.report("truncate", &path);
        let handle = change.handle.and_then(|id| self.file(id).ok());
        let content = match &handle {
            Some(handle) => Arc::clone(&handle.content),
            None if node.modes.is_passing().await => return Err(self.leave_to_readers(&node)),
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

    /// The content that whoever opens the node now shares: asks the storage node which version is there. Call with its path
    /// claimed.
    async fn current(&self, node: &Arc<Node>) -> Result<Arc<Content>, Errno> {
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

    /// Whoever reads a file by passthrough keeps its version under the number that it has; its name gets another one, which the
    /// kernel finds when it looks again (open(2) and truncate(2) do by themselves).
    fn leave_to_readers(&self, node: &Node) -> Errno {
        self.nodes.detach(node);
        Errno::STALE
    }

    async fn open(&self, node: u64, flags: u32) -> Result<Opened, Errno> {
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

    async fn create(&self, parent: u64, name: &str, flags: u32) -> Reply {
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
                let opened = self.opened(&node, &path, content, wanted).await?;
                Ok(Answer::Created(entry, opened))
            }
            // Somebody else was faster.
            Err(failure) if failure.is_precondition() && !wanted.contains(OFlags::EXCL) => {
                let node = self.nodes.look_up(&path, Kind::File);
                let opened = match self.open_claimed(&node, &path, wanted).await {
                    Ok(opened) => opened,
                    Err(errno) => {
                        // The kernel is not told of the node, so it will not forget it.
                        self.nodes.forget(node.id, 1);
                        return Err(errno);
                    }
                };
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
        let (_claim, path) = self.claim_child(parent, name).await?;
        match self.storage.put_empty(&path, true).await {
            Ok(version) => Ok(Answer::Entry(self.enter(&path, &Found::File(version)))),
            Err(failure) if failure.is_precondition() => Err(Errno::EXIST),
            Err(failure) => Err(failure.report("create", &path)),
        }
    }

    async fn read(&self, handle: u64, offset: u64, size: u32) -> Reply {
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

    async fn write(&self, handle: u64, offset: u64, data: bytes::Bytes, mapped: bool) -> Reply {
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

    async fn upload(&self, handle: &FileHandle) -> Result<(), Errno> {
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

    async fn fsync(&self, handle: u64) -> Reply {
        let handle = self.file(handle)?;
        self.upload(&handle).await.map(|()| Answer::Done)
    }

    async fn flush(&self, handle: u64) -> Reply {
        let handle = self.file(handle)?;
        // Whoever only read must not publish what somebody else has half written.
        if handle.writable {
            self.upload(&handle).await?;
        }
        Ok(Answer::Done)
    }

    async fn release(&self, handle: u64) -> Reply {
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

    // Folders

    fn opendir(&self, node: u64) -> Reply {
        let node = self.nodes.folder(node)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let listing = Arc::new(tokio::sync::Mutex::new(Listing::new(node.prefix())));
        locked(&self.folders).insert(handle, listing);
        Ok(Answer::Opened(Opened {
            handle,
            mode: OpenMode::Cached,
        }))
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
        let mut counted = false;
        loop {
            // Nothing is waited for once look-ups are counted: if the request is given up, the kernel never forgets them.
            if counted && !listing.holds(place - 2) {
                break;
            }
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
                let path = node.child(&item.name);
                let known = self.nodes.at(&path);
                // Uploaded from here after the page was listed, for example.
                let newer = known.and_then(|known| known.told_since(item.asked));
                let found = match &item.version {
                    Some(listed) => Found::File(newer.unwrap_or_else(|| listed.clone())),
                    None => Found::Folder,
                };
                let entry = self.enter(&path, &found);
                counted = true;
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
