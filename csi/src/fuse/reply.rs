//! Answers as values, and their bytes.

use super::abi::{self, Attributes, Dirent, EntryOut, OpenOut, Statfs};
use bytes::Bytes;
use std::time::Duration;
use zerocopy::IntoBytes;

/// What a request is answered with, unless with an error.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Answer {
    /// Done, and nothing to tell.
    Done,
    Entry(Entry),
    Attributes {
        attributes: Attributes,
        valid: Duration,
    },
    Opened(Opened),
    Created(Entry, Opened),
    /// File content, in order.
    Data(Vec<Bytes>),
    Written(u32),
    Directory(DirectoryPage),
    Statfs(Statfs),
}

/// A name that was looked up. Each one handed out counts as one look-up of its node.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Node id.
    pub node: u64,
    /// What `stat` shows.
    pub attributes: Attributes,
    /// How long the kernel may believe the name without asking.
    pub name_valid: Duration,
    /// How long the kernel may believe the attributes without asking.
    pub attributes_valid: Duration,
}

/// An opened file or folder.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Names the handle in later requests.
    pub handle: u64,
    /// How its bytes are read and written.
    pub mode: OpenMode,
}

/// How the bytes of an opened file are read and written. The kernel refuses (EIO) to have one file open in both modes, or
/// by passthrough from two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Through the kernel's cache of this file system.
    Cached,
    /// By the kernel, from the file that was registered under this number ([`super::backing`]).
    Passthrough(i32),
}

/// Folder entries as the kernel wants them, no longer than it asked for.
#[derive(Debug)]
pub struct DirectoryPage {
    bytes: Vec<u8>,
    limit: usize,
}

impl DirectoryPage {
    /// An empty page of at most `limit` bytes.
    pub fn new(limit: u32) -> Self {
        Self {
            bytes: Vec::new(),
            limit: limit as usize,
        }
    }

    /// Whether an entry with this name still fits; ask before its look-up is counted.
    pub fn fits(&self, name: &str, plus: bool) -> bool {
        let head = size_of::<Dirent>() + if plus { size_of::<EntryOut>() } else { 0 };
        self.bytes.len() + (head + name.len()).next_multiple_of(8) <= self.limit
    }

    /// Adds an entry; `next` is the offset at which reading goes on after it. `plus` carries a counted look-up, or `None`
    /// inside for a name whose attributes are not given (`.` and `..`).
    pub fn push(&mut self, node: u64, next: u64, name: &str, folder: bool, plus: Option<Option<Entry>>) {
        if let Some(entry) = plus {
            let out = entry.map_or_else(EntryOut::default, |entry| entry_out(&entry));
            self.bytes.extend_from_slice(out.as_bytes());
        }
        let head = Dirent {
            ino: node,
            off: next,
            namelen: u32::try_from(name.len()).unwrap_or(u32::MAX),
            // DT_DIR and DT_REG
            kind: if folder { 4 } else { 8 },
        };
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
}

fn entry_out(entry: &Entry) -> EntryOut {
    EntryOut {
        nodeid: entry.node,
        generation: 0,
        entry_valid: entry.name_valid.as_secs(),
        entry_valid_nsec: entry.name_valid.subsec_nanos(),
        attr_valid: entry.attributes_valid.as_secs(),
        attr_valid_nsec: entry.attributes_valid.subsec_nanos(),
        attr: entry.attributes,
    }
}

fn open_out(opened: Opened) -> OpenOut {
    let (open_flags, backing_id) = match opened.mode {
        OpenMode::Cached => (0, 0),
        OpenMode::Passthrough(id) => (abi::flag::FOPEN_PASSTHROUGH, id),
    };
    OpenOut {
        fh: opened.handle,
        open_flags,
        backing_id,
    }
}

impl Answer {
    /// The pieces of the reply's body.
    pub(super) fn into_pieces(self) -> Vec<Bytes> {
        let one = |bytes: &[u8]| vec![Bytes::copy_from_slice(bytes)];
        match self {
            Self::Done => Vec::new(),
            Self::Entry(entry) => one(entry_out(&entry).as_bytes()),
            Self::Attributes { attributes, valid } => one(abi::AttrOut {
                attr_valid: valid.as_secs(),
                attr_valid_nsec: valid.subsec_nanos(),
                dummy: 0,
                attr: attributes,
            }
            .as_bytes()),
            Self::Opened(opened) => one(open_out(opened).as_bytes()),
            Self::Created(entry, opened) => {
                let mut bytes = entry_out(&entry).as_bytes().to_vec();
                bytes.extend_from_slice(open_out(opened).as_bytes());
                vec![bytes.into()]
            }
            Self::Data(pieces) => pieces,
            Self::Written(size) => one(abi::WriteOut { size, padding: 0 }.as_bytes()),
            Self::Directory(page) => vec![page.bytes.into()],
            Self::Statfs(statfs) => one(statfs.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_page_never_outgrows_what_was_asked() {
        let mut page = DirectoryPage::new(64);
        assert!(page.fits("name", false));
        page.push(2, 1, "name", false, None);
        assert_eq!(page.bytes.len(), 32);
        assert!(page.fits("12345678", false));
        assert!(!page.fits("123456789", false));
        assert!(!page.fits("a", true));
    }
}
