//! From data files to a body. A reader keeps the bytes of the version it opened, whatever happens to the object.

use super::{
    Inner, blocking,
    cipher::{Decrypting, stored_length},
    data::{Data, Pins},
    internal, object,
    rows::{Extent, ObjectV2},
};
use crate::engine::{
    Body, ByteRange, DataKey, Encrypted, Error, Object, ObjectInfo, ObjectRef, Opened, Precondition, Result,
    Summed,
};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::{StreamExt, stream};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// Bytes read at once. One piece waits while the one before it is sent, which bounds the memory of one reader.
const PIECE: u64 = 512 << 10;
/// Bytes that are read into a caller's memory before the checksum looks at them: they are in the processor's cache then.
const CACHED: usize = 256 << 10;
/// An object that is replaced this often between looking it up and opening it is not read.
pub(super) const ATTEMPTS: usize = 16;

pub(super) async fn get(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
) -> Result<Object> {
    find(inner, object, range, precondition, false, |found| {
        Ok(Object {
            info: found.info,
            body: found.reader.into_body(found.range.end - found.range.start)?,
            range: found.range,
        })
    })
    .await
}

/// For bytes that are read straight into memory of the caller's.
pub(super) async fn open(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
) -> Result<Opened> {
    find(inner, object, range, precondition, false, opened).await
}

/// All bytes, as they are on the disk where only a customer could decrypt them.
pub(super) async fn open_to_compare(inner: &Arc<Inner>, object: &ObjectRef) -> Result<Opened> {
    find(inner, object, None, &Precondition::default(), true, opened).await
}

fn opened(mut found: Found) -> io::Result<Opened> {
    found.reader.sum = Some(Digest::new(CrcAlgorithm::Crc64Nvme));
    found.reader.open()?;
    Ok(Opened {
        info: found.info,
        range: found.range,
        reader: Box::new(found.reader),
    })
}

/// One version of an object, whose files stay while its reader lives.
struct Found {
    info: ObjectInfo,
    range: Range<u64>,
    reader: Reader,
}

async fn find<T: Send + 'static>(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
    to_compare: bool,
    then: impl Fn(Found) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let (inner, object, precondition) = (Arc::clone(inner), object.clone(), precondition.clone());
    blocking(move || {
        for _ in 0..ATTEMPTS {
            let mut row = object::find(&inner.index, &object)?;
            let info = inner.index.info(&object.bucket, &row);
            let info = info.map_err(internal("read the index"))?;
            let encrypted = row.encryption();
            let is_closed =
                |encrypted: &Encrypted| encrypted.is_customers() || inner.server_key.get().is_none();
            let key = if to_compare && encrypted.as_ref().is_some_and(is_closed) {
                as_stored(&mut row);
                None
            } else {
                inner.unlock(&object, encrypted.as_ref(), precondition.key.as_ref())?
            };
            check(&object, &precondition, &row)?;
            let range = match range {
                None => 0..row.size,
                Some(range) => range.of(row.size).ok_or(Error::InvalidRange { size: row.size })?,
            };
            let segments = segments(&row, &range);
            let pins = inner
                .data
                .pin(segments.iter().map(|segment| segment.extent.file).collect());
            // What was removed before it was pinned shows in the index: the object is another one then.
            if !same_files(&object::find(&inner.index, &object)?, &row) {
                continue;
            }
            let reader = Reader {
                data: Arc::clone(&inner.data),
                segments,
                key,
                current: None,
                sum: None,
                _pins: pins,
            };
            return then(Found { info, range, reader })
                .map_err(|error| internal("read a data file")(format!("{object}: {error}")));
        }
        Err(internal("opened an object")(format!(
            "{object} is replaced all the time"
        )))
    })
    .await
}

/// Makes a row say what is on the disk: the extents of what is encrypted are whole files.
fn as_stored(row: &mut ObjectV2) {
    for extent in &mut row.extents {
        extent.length = stored_length(extent.length);
    }
    row.size = row.extents.iter().map(|extent| extent.length).sum();
}

/// Data files are never written twice.
fn same_files(one: &ObjectV2, other: &ObjectV2) -> bool {
    let files = |extent: &Extent| extent.file;
    one.extents.iter().map(files).eq(other.extents.iter().map(files))
}

pub(super) fn check(object: &ObjectRef, precondition: &Precondition, row: &ObjectV2) -> Result<()> {
    if let Some(wanted) = &precondition.if_match
        && wanted != "*"
        && *wanted != row.etag
    {
        return Err(Error::PreconditionFailed(object.clone()));
    }
    match &precondition.if_none_match {
        Some(unwanted) if unwanted == "*" || *unwanted == row.etag => Err(Error::NotModified(object.clone())),
        _ => Ok(()),
    }
}

/// A part of an extent.
pub(super) struct Segment {
    pub extent: Extent,
    /// Relative to the extent.
    pub range: Range<u64>,
}

impl Segment {
    fn is_whole(&self) -> bool {
        self.range == (0..self.extent.length)
    }
}

pub(super) fn segments(row: &ObjectV2, range: &Range<u64>) -> VecDeque<Segment> {
    let mut segments = VecDeque::new();
    let mut at = 0;
    for extent in &row.extents {
        let (first, end) = (range.start.max(at), range.end.min(at + extent.length));
        if first < end {
            segments.push_back(Segment {
                extent: extent.clone(),
                range: first - at..end - at,
            });
        }
        at += extent.length;
    }
    segments
}

struct Reader {
    data: Arc<Data>,
    segments: VecDeque<Segment>,
    /// Of what is decrypted.
    key: Option<DataKey>,
    current: Option<Current>,
    /// Of the extents that were read; `None` when nobody asks for it.
    sum: Option<Digest>,
    _pins: Pins,
}

struct Current {
    file: File,
    left: u64,
    /// Of what was read, where that is asked for or compared.
    digest: Option<Digest>,
    /// What is compared at the end, where the whole extent is read.
    whole: Option<Extent>,
    /// Where it is encrypted; each package is authenticated then, and the checksum of the extent is of the encrypted bytes.
    decrypting: Option<Decrypting>,
}

impl Reader {
    /// The bytes as a stream. What fits one piece is read now.
    fn into_body(mut self, length: u64) -> io::Result<Body> {
        if length <= PIECE {
            let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            while let Some(piece) = self.next_piece()? {
                if whole.is_empty() && piece.len() as u64 == length {
                    return Ok(stream::once(async { Ok(Bytes::from(piece)) }).boxed());
                }
                whole.extend_from_slice(&piece);
            }
            let pieces = (!whole.is_empty()).then(|| Ok(Bytes::from(whole)));
            return Ok(stream::iter(pieces).boxed());
        }
        // Opening the first file now tells the most likely failure before the answer begins.
        self.open()?;
        let step = |mut reader: Self| spawn_blocking(move || (reader.next_piece(), reader));
        let body = stream::unfold(Some(step(self)), move |reading| async move {
            match reading?.await {
                // Reading ahead begins while the consumer sends this piece.
                Ok((Ok(Some(piece)), reader)) => Some((Ok(Bytes::from(piece)), Some(step(reader)))),
                Ok((Ok(None), _)) => None,
                Ok((Err(error), _)) => Some((Err(error), None)),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        });
        Ok(body.boxed())
    }

    fn open(&mut self) -> io::Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        let Some(segment) = self.segments.pop_front() else {
            return Ok(());
        };
        let mut file = self.data.open_file(segment.extent.file)?;
        let offset = segment.extent.offset + segment.range.start;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        let decrypting = match &self.key {
            None => None,
            Some(key) => {
                let Extent { file, length, .. } = segment.extent;
                Some(Decrypting::new(key, file, length, segment.range.start)?)
            }
        };
        let compares = segment.is_whole() && decrypting.is_none();
        let digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        self.current = Some(Current {
            file,
            left: segment.range.end - segment.range.start,
            digest: (self.sum.is_some() || compares).then_some(digest),
            whole: compares.then_some(segment.extent),
            decrypting,
        });
        Ok(())
    }

    /// The next bytes, `None` at the end. Blocks.
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.open()?;
        let Some(current) = &mut self.current else {
            return Ok(None);
        };
        if let Some(decrypting) = &mut current.decrypting {
            let piece = decrypting.next(&current.file, current.left)?;
            self.took(&piece)?;
            return Ok(Some(piece));
        }
        let wanted = current.left.min(PIECE);
        let mut piece = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        // Unlike a read into a prepared buffer this does not fill it with zeros first.
        (&current.file).take(wanted).read_to_end(&mut piece)?;
        if (piece.len() as u64) < wanted {
            return Err(short());
        }
        self.took(&piece)?;
        Ok(Some(piece))
    }

    /// Counts what was read of the current file, and compares the checksum of an extent that was read as a whole.
    fn took(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        current.left -= piece.len() as u64;
        if let Some(digest) = &mut current.digest {
            digest.update(piece);
        }
        if current.left > 0 {
            return Ok(());
        }
        if let (Some(digest), Some(extent)) = (&current.digest, &current.whole)
            && digest.finalize() != extent.crc64
        {
            tracing::error!(file = %extent.file, "a data file does not match its checksum; its object is damaged");
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a data file does not match its checksum",
            ));
        }
        self.sum = self.summed();
        self.current = None;
        Ok(())
    }

    /// The checksum so far, if it is asked for.
    fn summed(&self) -> Option<Digest> {
        let mut sum = self.sum?;
        if let Some(digest) = self.current.as_ref().and_then(|current| current.digest) {
            // Putting two together takes as long as reading some hundred KiB.
            if sum.get_amount() == 0 {
                return Some(digest);
            }
            sum.combine(&digest);
        }
        Some(sum)
    }
}

impl Read for Reader {
    /// Straight from the file into the caller's memory. Blocks.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.open()?;
        let Some(current) = &mut self.current else {
            return Ok(0);
        };
        let room = into.len().min(CACHED);
        let wanted = usize::try_from(current.left).map_or(room, |left| left.min(room));
        if wanted == 0 {
            return Ok(0);
        }
        let length = match &mut current.decrypting {
            Some(decrypting) => decrypting.read(&current.file, current.left, &mut into[..wanted])?,
            None => current.file.read(&mut into[..wanted])?,
        };
        if length == 0 {
            return Err(short());
        }
        self.took(&into[..length])?;
        Ok(length)
    }
}

impl Summed for Reader {
    fn crc64nvme(&self) -> u64 {
        let sum = self.summed();
        sum.unwrap_or_else(|| Digest::new(CrcAlgorithm::Crc64Nvme))
            .finalize()
    }
}

fn short() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a data file is shorter than its row says",
    )
}
