//! Which files and folders the kernel knows, and by which numbers.

use super::{content::Content, modes::Modes, storage::Version};
use crate::fuse::Errno;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object.
    File,
    /// A common prefix of keys, or an empty object whose key ends with a slash.
    Folder,
}

/// A file or folder that the kernel has looked up.
pub struct Node {
    /// Its number, for the kernel; never used again.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    path: Mutex<String>,
    seen: Mutex<Option<(Instant, Version)>>,
    open: Mutex<Weak<Content>>,
    marked: AtomicBool,
    /// How its handles are open.
    pub modes: Modes,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn new(id: u64, kind: Kind, path: &str) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind,
            path: Mutex::new(path.to_owned()),
            seen: Mutex::new(None),
            open: Mutex::new(Weak::new()),
            marked: AtomicBool::new(false),
            modes: Modes::default(),
        })
    }

    /// Its path in the volume; empty for the root.
    pub fn path(&self) -> String {
        locked(&self.path).clone()
    }

    /// The path of `name` in this folder.
    pub fn child(&self, name: &str) -> String {
        let path = locked(&self.path);
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}/{name}")
        }
    }

    /// Prefix of the keys in this folder: its path with a slash, or nothing for the root.
    pub fn prefix(&self) -> String {
        prefix(&locked(&self.path))
    }

    /// The content that is open here, if any handle holds it.
    pub fn open_content(&self) -> Option<Arc<Content>> {
        locked(&self.open).upgrade()
    }

    /// Handles opened from now on share this content.
    pub fn set_open_content(&self, content: &Arc<Content>) {
        *locked(&self.open) = Arc::downgrade(content);
    }

    /// The content that is open here by now, or this one: handles opened from now on share it.
    pub fn open_or(&self, content: Arc<Content>) -> Arc<Content> {
        let mut open = locked(&self.open);
        open.upgrade().unwrap_or_else(|| {
            *open = Arc::downgrade(&content);
            content
        })
    }

    /// Notes which version the kernel is told of; says whether it was told of another one before.
    pub fn tell(&self, version: &Version) -> bool {
        let before = locked(&self.seen).replace((Instant::now(), version.clone()));
        before.is_some_and(|(_, before)| before != *version)
    }

    /// The version that the kernel was told of after a moment, if it was.
    pub fn told_since(&self, moment: Instant) -> Option<Version> {
        let seen = locked(&self.seen);
        let (_, version) = seen.as_ref().filter(|(told, _)| *told > moment)?;
        Some(version.clone())
    }

    /// The version that is open here, if nothing was written to it since.
    pub fn settled(&self) -> Option<Version> {
        self.open_content()?.settled()
    }

    /// Whether the folder is known to have an object of its own, so that it stays when its last file goes.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    /// Notes that the folder has an object of its own.
    pub fn set_marked(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }
}

/// Prefix of the keys in the folder at `path`.
pub fn prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    }
}

/// The folder that holds `path`.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// All nodes.
pub struct Nodes {
    table: Mutex<Table>,
}

struct Table {
    by_id: HashMap<u64, Slot>,
    /// Nodes that are where they were looked up: not removed, not replaced.
    by_path: HashMap<String, u64>,
    next: u64,
}

struct Slot {
    node: Arc<Node>,
    lookups: u64,
}

impl Nodes {
    /// The root alone.
    pub fn new() -> Self {
        let root = Node::new(crate::fuse::ROOT, Kind::Folder, "");
        root.set_marked();
        let slot = Slot {
            node: Arc::clone(&root),
            lookups: 1,
        };
        Self {
            table: Mutex::new(Table {
                by_id: HashMap::from([(root.id, slot)]),
                by_path: HashMap::from([(String::new(), root.id)]),
                next: root.id + 1,
            }),
        }
    }

    /// The node of a number that the kernel was given.
    pub fn get(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let table = locked(&self.table);
        table
            .by_id
            .get(&id)
            .map(|slot| Arc::clone(&slot.node))
            .ok_or(Errno::STALE)
    }

    /// The folder of a number.
    pub fn folder(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let node = self.get(id)?;
        if node.kind == Kind::Folder {
            Ok(node)
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// The file of a number.
    pub fn file(&self, id: u64) -> Result<Arc<Node>, Errno> {
        let node = self.get(id)?;
        if node.kind == Kind::File {
            Ok(node)
        } else {
            Err(Errno::ISDIR)
        }
    }

    /// The node at a path, if the kernel knows one.
    pub fn at(&self, path: &str) -> Option<Arc<Node>> {
        let table = locked(&self.table);
        let id = table.by_path.get(path)?;
        table.by_id.get(id).map(|slot| Arc::clone(&slot.node))
    }

    /// The node at a path, made if need be, with one more look-up counted.
    pub fn look_up(&self, path: &str, kind: Kind) -> Arc<Node> {
        let mut table = locked(&self.table);
        if let Some(id) = table.by_path.get(path).copied()
            && let Some(slot) = table.by_id.get_mut(&id)
            && slot.node.kind == kind
        {
            slot.lookups += 1;
            return Arc::clone(&slot.node);
        }
        let id = table.next;
        table.next += 1;
        let node = Node::new(id, kind, path);
        let slot = Slot {
            node: Arc::clone(&node),
            lookups: 1,
        };
        table.by_id.insert(id, slot);
        table.by_path.insert(path.to_owned(), id);
        node
    }

    /// The kernel drops this many look-ups of a node.
    pub fn forget(&self, id: u64, lookups: u64) {
        if id == crate::fuse::ROOT {
            return;
        }
        let mut table = locked(&self.table);
        let Some(slot) = table.by_id.get_mut(&id) else {
            return;
        };
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups == 0
            && let Some(slot) = table.by_id.remove(&id)
        {
            let path = slot.node.path();
            if table.by_path.get(&path) == Some(&id) {
                table.by_path.remove(&path);
            }
        }
    }

    /// What was at a path is there no more; whoever has it open keeps it.
    pub fn removed(&self, path: &str) {
        locked(&self.table).by_path.remove(path);
    }

    /// Another file is where this node was looked up; whoever has it open keeps it.
    pub fn detach(&self, node: &Node) {
        let mut table = locked(&self.table);
        let path = node.path();
        if table.by_path.get(&path) == Some(&node.id) {
            table.by_path.remove(&path);
        }
    }

    /// The file that has this node's name now: another one if it was put in its place, else (again) this one.
    pub fn owner(&self, node: &Arc<Node>) -> Arc<Node> {
        let mut table = locked(&self.table);
        let path = node.path();
        let found = table.by_path.get(&path).and_then(|id| table.by_id.get(id));
        match found.map(|slot| Arc::clone(&slot.node)) {
            Some(other) if other.kind == node.kind => return other,
            Some(_) => {}
            None => {
                table.by_path.insert(path, node.id);
            }
        }
        Arc::clone(node)
    }

    /// What was at `from`, and everything in it, is at `to` now.
    pub fn moved(&self, from: &str, to: &str) {
        let mut table = locked(&self.table);
        let inside = prefix(from);
        let moving: Vec<_> = table
            .by_path
            .iter()
            .filter(|(path, _)| *path == from || path.starts_with(&inside))
            .map(|(path, id)| (path.clone(), *id))
            .collect();
        for (path, _) in &moving {
            table.by_path.remove(path);
        }
        for (path, id) in moving {
            let new = format!("{to}{}", &path[from.len()..]);
            if let Some(slot) = table.by_id.get(&id) {
                new.clone_into(&mut locked(&slot.node.path));
            }
            table.by_path.insert(new, id);
        }
    }

    /// The nodes of files inside a folder's path that are open.
    pub fn open_under(&self, path: &str) -> Vec<Arc<Node>> {
        let inside = prefix(path);
        let table = locked(&self.table);
        let within = table.by_path.iter().filter(|(path, _)| path.starts_with(&inside));
        within
            .filter_map(|(_, id)| table.by_id.get(id))
            .filter(|slot| slot.node.open_content().is_some())
            .map(|slot| Arc::clone(&slot.node))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_as_long_as_the_kernel_counts_it() {
        let nodes = Nodes::new();
        let first = nodes.look_up("a", Kind::File);
        let again = nodes.look_up("a", Kind::File);
        assert_eq!(first.id, again.id);
        nodes.forget(first.id, 1);
        assert!(nodes.get(first.id).is_ok());
        nodes.forget(first.id, 1);
        assert_eq!(nodes.get(first.id).err(), Some(Errno::STALE));
        assert!(nodes.at("a").is_none());
        assert_ne!(
            nodes.look_up("a", Kind::File).id,
            first.id,
            "numbers are never used again"
        );
        nodes.forget(crate::fuse::ROOT, 99);
        assert!(nodes.get(crate::fuse::ROOT).is_ok());
    }

    #[test]
    fn moving_a_folder_moves_what_is_in_it_and_no_neighbour() {
        let nodes = Nodes::new();
        let inner = nodes.look_up("a/b/c", Kind::File);
        let neighbour = nodes.look_up("a-b", Kind::File);
        nodes.look_up("a", Kind::Folder);
        nodes.moved("a", "z");
        assert_eq!(inner.path(), "z/b/c");
        assert_eq!(neighbour.path(), "a-b");
        assert!(nodes.at("a").is_none());
        assert_eq!(nodes.at("z/b/c").unwrap().id, inner.id);
    }

    #[test]
    fn a_removed_name_can_be_something_else_while_the_old_one_is_held() {
        let nodes = Nodes::new();
        let file = nodes.look_up("x", Kind::File);
        nodes.removed("x");
        let folder = nodes.look_up("x", Kind::Folder);
        assert_ne!(file.id, folder.id);
        nodes.forget(file.id, 1);
        assert_eq!(
            nodes.at("x").unwrap().id,
            folder.id,
            "forgetting the old one leaves the new one"
        );
    }

    #[test]
    fn paths_have_parents_and_prefixes() {
        assert_eq!(parent("a/b/c"), "a/b");
        assert_eq!(parent("a"), "");
        assert_eq!(prefix(""), "");
        assert_eq!(prefix("a/b"), "a/b/");
    }
}
