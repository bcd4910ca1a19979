//! An open folder: its entries, page by page.

use super::{
    failure::Failure,
    nodes::Kind,
    storage::{Storage, Version},
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// Entries asked for at once.
const PAGE: usize = 1000;
/// Entries kept behind the place that is read, so that a reader may go back a little.
const BEHIND: usize = 2 * PAGE;

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// The version of a file; a folder has none.
    pub version: Option<Version>,
    /// When the storage node was asked; it may have changed since.
    pub asked: Instant,
}

impl Item {
    /// What it is.
    pub fn kind(&self) -> Kind {
        if self.version.is_some() {
            Kind::File
        } else {
            Kind::Folder
        }
    }
}

/// Reads a folder's entries in order. Memory stays small however many there are.
pub struct Listing {
    prefix: String,
    items: VecDeque<Item>,
    /// Place of the first of `items`.
    first: u64,
    after: Option<String>,
    complete: bool,
    marked: bool,
}

impl Listing {
    /// A listing from the beginning. `prefix` is empty or ends with a slash.
    pub fn new(prefix: String) -> Self {
        Self {
            prefix,
            items: VecDeque::new(),
            first: 0,
            after: None,
            complete: false,
            marked: false,
        }
    }

    /// Whether the folder's own object was seen.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// Whether the entry at a place is in memory.
    pub fn holds(&self, place: u64) -> bool {
        place >= self.first && place < self.first + self.items.len() as u64
    }

    /// The entry at a place, counted from 0; `None` behind the last one.
    pub async fn at(&mut self, storage: &Storage, place: u64) -> Result<Option<&Item>, Failure> {
        if place < self.first {
            *self = Self::new(std::mem::take(&mut self.prefix));
        }
        while place >= self.first + self.items.len() as u64 && !self.complete {
            self.load(storage).await?;
            while self.items.len() > BEHIND + PAGE && self.first + (BEHIND as u64) < place {
                self.items.pop_front();
                self.first += 1;
            }
        }
        let index = usize::try_from(place - self.first).unwrap_or(usize::MAX);
        Ok(self.items.get(index))
    }

    async fn load(&mut self, storage: &Storage) -> Result<(), Failure> {
        let asked = Instant::now();
        // `after` stays until the page is there: a page that fails or is given up is asked for again.
        let page = storage.list(&self.prefix, true, self.after.clone(), PAGE).await?;
        let mut found = BTreeMap::new();
        for (name, info) in page.objects {
            if name.is_empty() {
                self.marked = true;
            } else if is_name(&name) {
                found.insert(name, Some(Version::from(info)));
            }
        }
        for prefix in page.common_prefixes {
            let name = prefix.trim_end_matches('/');
            if is_name(name) && prefix.len() == name.len() + 1 {
                // Of a file and a folder with one name the folder is shown: there is more in it.
                found.insert(name.to_owned(), None);
            }
        }
        self.items.extend(
            found
                .into_iter()
                .map(|(name, version)| Item { name, version, asked }),
        );
        self.after = page.next;
        self.complete = self.after.is_none();
        Ok(())
    }
}

/// Whether a part of a key can be a file's name. Keys hold what names cannot: `a//b`, `./x`, NUL.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use penstock_store::{engine::Engine, local::Local};
    use std::{sync::Arc, time::Duration};

    async fn storage(keys: impl IntoIterator<Item = String>) -> (tempfile::TempDir, Storage) {
        let folder = tempfile::tempdir().unwrap();
        let engine = Local::open(folder.path()).await.unwrap();
        engine.create_bucket("bucket").await.unwrap();
        let storage = Storage::new(Arc::new(engine), "bucket", "", Duration::from_secs(10));
        for key in keys {
            storage.put_empty(&key, false).await.unwrap();
        }
        (folder, storage)
    }

    async fn names(listing: &mut Listing, storage: &Storage) -> Vec<String> {
        let (mut names, mut place) = (Vec::new(), 0);
        while let Some(item) = listing.at(storage, place).await.unwrap() {
            let slash = if item.kind() == Kind::Folder { "/" } else { "" };
            names.push(format!("{}{slash}", item.name));
            place += 1;
        }
        names
    }

    #[tokio::test]
    async fn files_and_folders_are_listed_once_and_what_cannot_be_a_name_is_not() {
        let keys = [
            "d/", "d/a", "d/b/c", "d/b/d", "d/x", "d/x/y", "d//odd", "d/./odd", "e",
        ];
        let (_folder, storage) = storage(keys.map(str::to_owned)).await;
        let mut listing = Listing::new("d/".into());
        assert_eq!(names(&mut listing, &storage).await, ["a", "b/", "x/"]);
        assert!(listing.is_marked());
    }

    #[tokio::test]
    async fn a_page_that_was_given_up_is_asked_for_again_and_nothing_comes_twice() {
        let keys = (0..2500).map(|number| format!("{number:05}"));
        let (_folder, storage) = storage(keys).await;
        // The second page takes a while, though now and then it is there at once.
        let mut attempts = 0;
        let mut listing = loop {
            let mut listing = Listing::new(String::new());
            assert_eq!(listing.at(&storage, 999).await.unwrap().unwrap().name, "00999");
            if listing.at(&storage, 1000).now_or_never().is_none() {
                break listing;
            }
            attempts += 1;
            assert!(attempts < 100, "no page was given up");
        };
        assert_eq!(listing.at(&storage, 1000).await.unwrap().unwrap().name, "01000");
        assert!(listing.at(&storage, 2500).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_large_folder_is_read_page_by_page_and_can_be_read_again() {
        let keys = (0..2500).map(|number| format!("{number:05}"));
        let (_folder, storage) = storage(keys).await;
        let mut listing = Listing::new(String::new());
        assert_eq!(listing.at(&storage, 2499).await.unwrap().unwrap().name, "02499");
        assert!(listing.at(&storage, 2500).await.unwrap().is_none());
        assert_eq!(names(&mut listing, &storage).await.len(), 2500);
    }
}
