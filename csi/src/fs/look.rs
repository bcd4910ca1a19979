//! Operations that look: lookup, getattr, statfs; and setattr, which changes little but the size.

use super::{
    Found, Reply, VALID, Volume,
    content::Content,
    failure::Failure,
    nodes::{self, Kind, Node},
    storage::{self, Version},
};
use crate::fuse::{Answer, Attributes, Entry, Errno, SetAttributes, Statfs};
use std::{sync::Arc, time::SystemTime};

/// What programs are told to read and write at once.
const BLOCK: u32 = 1 << 20;
/// An object store has no size; programs that look for free space find 1 PiB.
const CAPACITY: u64 = 1 << 50;

impl Volume {
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

    pub(super) fn content_attributes(&self, node: &Node, content: &Content) -> Attributes {
        let (size, modified) = content.stat();
        self.attributes(node, size, modified)
    }

    /// What a file looks like of which this version was found: what is open here goes before what is stored there.
    pub(super) fn file_attributes(&self, node: &Node, version: &Version) -> Attributes {
        let differs = |content: &Arc<Content>| content.is_dirty() || content.version() != *version;
        if let Some(content) = node.open_content().filter(differs) {
            return self.content_attributes(node, &content);
        }
        node.tell(version);
        self.attributes(node, version.size, version.modified)
    }

    pub(super) fn entry(&self, node: &Node, attributes: Attributes) -> Entry {
        Entry {
            node: node.id,
            attributes,
            name_valid: VALID,
            attributes_valid: VALID,
        }
    }

    /// The entry of a path, with one look-up counted.
    pub(super) fn enter(&self, path: &str, found: &Found) -> Entry {
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

    pub(super) async fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
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

    pub(super) async fn lookup(&self, parent: u64, name: &str) -> Reply {
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
    pub(super) fn part(&self, node: &Node, before: &Version, found: &Version) -> bool {
        // Uploaded from here meanwhile: what was found is of the past.
        let is_replaced = before != found && node.settled().as_ref() == Some(before);
        if is_replaced {
            self.nodes.detach(node);
        }
        is_replaced
    }

    pub(super) async fn getattr(&self, node: u64, handle: Option<u64>) -> Reply {
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

    pub(super) async fn setattr(&self, node: u64, change: SetAttributes) -> Reply {
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

    pub(super) fn statfs() -> Answer {
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
}
