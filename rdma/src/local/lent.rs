//! What a storage node lent: read-only descriptors, and which of their bytes were asked for.

use super::{message::Extent, pool::Leases};
use crate::gpu::Mapped;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use rustix::{
    buffer::spare_capacity,
    io::{Errno, ReadWriteFlags},
};
use std::{
    any::Any,
    fs::File,
    io::{self, IoSliceMut},
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// What is in the page cache is copied faster than another thread is woken, up to about this many bytes.
const AT_ONCE: u64 = 64 << 10;

/// An object's bytes, or a range of them, as descriptors of the storage node's data files. They stay what they are when the
/// object is replaced or deleted. Cheap to clone; the lease ends with the last clone.
#[derive(Clone)]
pub struct Lent {
    inner: Arc<Inner>,
}

struct Inner {
    files: Vec<File>,
    extents: Vec<Extent>,
    length: u64,
    hold: Hold,
}

/// What must live as long as the descriptors are in use.
pub type Hold = Box<dyn Any + Send + Sync>;

/// Tells the storage node, with the next request on its connection, that the descriptors are closed.
pub(super) struct Lease {
    pub id: u64,
    pub leases: Arc<Leases>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.give_back(self.id);
    }
}

impl Lent {
    /// Files and which bytes of them are meant; `hold` is dropped when nobody uses them any more.
    ///
    /// # Errors
    /// When a file is shorter than the extents say.
    pub fn new(files: Vec<File>, extents: Vec<Extent>, hold: Hold) -> io::Result<Self> {
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(file.metadata()?.len());
        }
        let fits = |extent: &Extent| {
            let end = extent.offset.checked_add(extent.length);
            sizes
                .get(extent.file)
                .is_some_and(|size| end.is_some_and(|end| end <= *size))
        };
        if !extents.iter().all(fits) {
            return Err(io::Error::other("a lent file is shorter than its extent"));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                length: extents.iter().map(|extent| extent.length).sum(),
                files,
                extents,
                hold,
            }),
        })
    }

    /// The files, the extents and the hold, if nobody else has a clone.
    ///
    /// # Errors
    /// The value, when somebody has.
    pub fn into_parts(self) -> Result<(Vec<File>, Vec<Extent>, Hold), Self> {
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => Ok((inner.files, inner.extents, inner.hold)),
            Err(inner) => Err(Self { inner }),
        }
    }

    /// How many bytes were lent.
    pub fn len(&self) -> u64 {
        self.inner.length
    }

    /// Whether none were: the object, or the range of it, is empty.
    pub fn is_empty(&self) -> bool {
        self.inner.length == 0
    }

    /// The extents, in order; each names its file by its place in [`Lent::files`].
    pub fn extents(&self) -> &[Extent] {
        &self.inner.extents
    }

    /// The files, open for reading.
    pub fn files(&self) -> &[File] {
        &self.inner.files
    }

    /// The file whose bytes, all of them and nothing else, are what was lent.
    pub fn as_file(&self) -> Option<&File> {
        match (&self.inner.extents[..], &self.inner.files[..]) {
            ([extent], [file])
                if extent.offset == 0 && file.metadata().is_ok_and(|facts| facts.len() == extent.length) =>
            {
                Some(file)
            }
            _ => None,
        }
    }

    /// Reads from `offset` (in what was lent) until `buffer` is full or the end is reached; returns how many bytes. Blocks
    /// when the bytes are not in the page cache.
    ///
    /// # Errors
    /// When the disk fails, or a file has become shorter, which no storage node does.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_with(buffer, offset, ReadWriteFlags::empty())
    }

    /// As [`Lent::read_at`], if the bytes are in the page cache; else the error [`is_not_cached`].
    pub(super) fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_with(buffer, offset, ReadWriteFlags::NOWAIT)
    }

    fn read_with(&self, buffer: &mut [u8], offset: u64, flags: ReadWriteFlags) -> io::Result<usize> {
        let mut filled = 0;
        while let Some((file, at, left)) = self
            .place(offset + filled as u64)
            .filter(|_| filled < buffer.len())
        {
            let room = (buffer.len() - filled).min(usize::try_from(left).unwrap_or(usize::MAX));
            let room = &mut buffer[filled..filled + room];
            match rustix::io::preadv2(file, &mut [IoSliceMut::new(room)], at, flags) {
                Ok(0) => return Err(shortened()),
                Ok(got) => filled += got,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(filled)
    }

    /// The file and the place in it of the byte at `offset`, and how many bytes of its extent are left from there.
    fn place(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let mut at = 0;
        for extent in &self.inner.extents {
            let inside = offset - at;
            if inside < extent.length {
                let file = self.inner.files.get(extent.file)?;
                return Some((file, extent.offset + inside, extent.length - inside));
            }
            at += extent.length;
        }
        None
    }

    /// Maps `length` bytes from `offset` on, and says where they begin in the pages; `None` where they lie in several files.
    ///
    /// # Errors
    /// When a file cannot be mapped.
    pub(crate) fn map(&self, offset: u64, length: usize) -> io::Result<Option<(Mapped, usize)>> {
        match self.place(offset) {
            Some((file, at, left)) if length as u64 <= left => Mapped::new(file, at, length).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Lent::read_at`], without holding up the runtime: what is not in the page cache is read on another thread.
    ///
    /// # Errors
    /// As [`Lent::read_at`].
    pub async fn read_into(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        for piece in buffer.chunks_mut(PIECE as usize) {
            let at = offset + filled as u64;
            let got = match self.read_cached(piece, at) {
                Ok(got) => got,
                Err(error) if is_not_cached(&error) => {
                    let bytes = self.clone().piece(at, piece.len() as u64).await?;
                    piece[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                }
                Err(error) => return Err(error),
            };
            filled += got;
            if got < piece.len() {
                break;
            }
            tokio::task::consume_budget().await;
        }
        Ok(filled)
    }

    /// The bytes as a stream of pieces of up to 1 MiB.
    pub fn stream(&self) -> BoxStream<'static, io::Result<Bytes>> {
        if self.is_empty() {
            return stream::empty().boxed();
        }
        let (lent, length) = (self.clone(), self.len());
        if length <= AT_ONCE {
            return stream::once(async move {
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
                lent.read_into(&mut bytes, 0).await.map(|_| Bytes::from(bytes))
            })
            .boxed();
        }
        // Nothing is read before somebody asks: many want the files alone.
        let start = (None, 0, lent);
        stream::unfold(start, move |(reading, at, lent)| async move {
            if at >= length {
                return None;
            }
            let reading = reading.unwrap_or_else(|| lent.begin(at));
            match reading.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(bytes) => {
                    let next = at + bytes.len() as u64;
                    // Reading ahead begins while the consumer looks at this piece.
                    let ahead = (next < length).then(|| lent.begin(next));
                    Some((Ok(bytes), (ahead, next, lent)))
                }
                Err(error) => Some((Err(error), (None, length, lent))),
            }
        })
        .boxed()
    }

    fn begin(&self, at: u64) -> tokio::task::JoinHandle<io::Result<Bytes>> {
        tokio::spawn(self.clone().piece(at, PIECE))
    }

    /// Up to `length` bytes from `offset` on, read on a thread that may block.
    async fn piece(self, offset: u64, length: u64) -> io::Result<Bytes> {
        let reading = spawn_blocking(move || {
            let length = length.min(self.len().saturating_sub(offset));
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            while (bytes.len() as u64) < length {
                let Some((file, at, left)) = self.place(offset + bytes.len() as u64) else {
                    break;
                };
                let wanted = usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.capacity() - bytes.len());
                // Not set to zero first. A vector may have got more room than was asked for, so it is cut below.
                match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
                    Ok(0) => return Err(shortened()),
                    Ok(got) => bytes.truncate(bytes.len() - got + got.min(wanted)),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            bytes.truncate(usize::try_from(length).unwrap_or(0));
            Ok(Bytes::from(bytes))
        });
        reading.await.map_err(io::Error::other)?
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent")
            .field("files", &self.inner.files.len())
            .field("length", &self.inner.length)
            .finish_non_exhaustive()
    }
}

/// Not in memory, or on a file system that cannot tell.
pub(super) fn is_not_cached(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::AGAIN | Errno::OPNOTSUPP))
}

pub(super) fn shortened() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a lent file has become shorter")
}
