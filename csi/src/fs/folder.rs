//! Operations on folders: opendir, readdir.

use super::{Found, Reply, Volume, listing::Listing, locked, nodes::Kind};
use crate::fuse::{Answer, DirectoryPage, Errno, OpenMode, Opened};
use std::sync::{Arc, atomic::Ordering};

impl Volume {
    pub(super) fn opendir(&self, node: u64) -> Reply {
        let node = self.nodes.folder(node)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let listing = Arc::new(tokio::sync::Mutex::new(Listing::new(node.prefix())));
        locked(&self.folders).insert(handle, listing);
        Ok(Answer::Opened(Opened {
            handle,
            mode: OpenMode::Cached,
        }))
    }

    pub(super) async fn readdir(&self, node: u64, handle: u64, offset: u64, size: u32, plus: bool) -> Reply {
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
}
