//! The engine: where objects live, behind the S3 front door and under FUSE mounts.
//!
//! ```text
//!   S3 over HTTP ─┐            ┌─ Local   objects on this node's disk
//!                 ├─ Engine ───┤
//!   FUSE mount ───┘            └─ Remote  a Penstock storage node, over the client of `penstock-rdma`
//! ```
//! Consistency, for every implementation: a read that starts after a write was acknowledged sees that write
//! (strong read-after-write, listings included), and a write is either whole or absent.

mod attributes;
mod encryption;
mod error;
mod version;
mod write;

pub use attributes::{Amendment, Attributes, Checksum, Checksums, PartFacts, Pending};
pub use encryption::{CustomerKey, Encrypted, Encryption, Sealed};
pub(crate) use encryption::{DataKey, ServerKey};
pub use error::{Error, Marker};
pub use version::{
    DefaultRetention, DeleteOptions, Deleted, LockMode, NoVersion, Period, Retention, Version, VersionInfo,
    VersionPage, VersionQuery, Versioning,
};

pub use write::{
    Begun, CompleteOptions, Copied, CopyOptions, PartOptions, Precondition, PutOptions, TagOf, UploadOptions,
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
pub use penstock_rdma::local::{Extent, Hold, Lent, file_body};
use std::{collections::BTreeMap, fmt, fs::File, io, ops::Range, time::SystemTime};

/// Object bytes, in order. An `Err` item ends the stream: what was received until then is not the object.
pub type Body = BoxStream<'static, std::io::Result<Bytes>>;

/// The outcome of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The checksum that every engine keeps of an object, as [`Error::BadDigest`] calls it.
pub const CRC64NVME: &str = "x-amz-checksum-crc64nvme";

/// Where an object is: bucket and key, and which version is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Bucket name.
    pub bucket: String,
    /// Key: 1 to 1024 bytes of UTF-8.
    pub key: String,
    /// The version; without one the latest.
    pub version: Option<Version>,
}

impl ObjectRef {
    /// Names an object; nothing is checked until an engine is asked for it.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            version: None,
        }
    }

    /// This version of it.
    #[must_use]
    pub fn at(mut self, version: Option<Version>) -> Self {
        self.version = version;
        self
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)?;
        match self.version {
            Some(version) => write!(f, " (version {version})"),
            None => Ok(()),
        }
    }
}

/// A bucket as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Bucket name.
    pub name: String,
    /// When it was created.
    pub created: SystemTime,
    /// Whether it keeps what is replaced and deleted.
    pub versioning: Versioning,
    /// Whether objects can be locked, and how those are that say nothing.
    pub lock: Option<DefaultRetention>,
    /// The most bytes that may be in it.
    pub quota: Option<u64>,
}

/// What can be set of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketChange {
    /// Keeping versions, or not any more.
    Versioning(Versioning),
    /// Objects can be locked from now on, and those that say nothing are like this.
    Lock(DefaultRetention),
    /// The most bytes that may be in it.
    Quota(Option<u64>),
}

/// Headers that travel with an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `x-amz-meta-*`, without that prefix.
    pub metadata: BTreeMap<String, String>,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When this version was acknowledged.
    pub modified: SystemTime,
    /// CRC-64/NVME of the whole object, where it is known (see the S3 API, "Checking object integrity").
    pub crc64nvme: Option<u64>,
    /// Headers given at the write.
    pub headers: Headers,
    /// Which version it is, where the engine says so.
    pub version: Option<Version>,
    /// What few objects have.
    pub attributes: Attributes,
}

/// An opened object: what it is, which bytes of it follow, and the bytes.
pub struct Object {
    /// The whole object's facts.
    pub info: ObjectInfo,
    /// The byte range that `body` holds.
    pub range: Range<u64>,
    /// The bytes.
    pub body: Body,
}

/// An object opened to be read straight into memory that the caller has.
pub struct Opened {
    /// The whole object's facts.
    pub info: ObjectInfo,
    /// The byte range that `reader` holds.
    pub range: Range<u64>,
    /// The bytes, in order, and then the end. Blocks, so it is read off the async threads. An error, even one in place of
    /// the end, means that what was read is not the object.
    pub reader: Box<dyn Summed>,
}

/// A reader that knows the checksum of what was read. Whoever compares bytes with their checksum computes it anyway, and doing
/// so twice costs as much as reading them does.
pub trait Summed: io::Read + Send {
    /// CRC-64/NVME of all that was read until now.
    fn crc64nvme(&self) -> u64;
}

/// A body that ends with [`Error::BadDigest`] when it does not have its checksum, for engines that compute none. Those that do
/// compare it themselves.
pub fn compared(body: Body, crc64nvme: Option<u64>) -> Body {
    let Some(expected) = crc64nvme else {
        return body;
    };
    let state = Some((body, Digest::new(CrcAlgorithm::Crc64Nvme)));
    let compared = stream::unfold(state, move |state| async move {
        let (mut body, mut digest) = state?;
        match body.next().await {
            Some(Ok(piece)) => {
                digest.update(&piece);
                Some((Ok(piece), Some((body, digest))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None if digest.finalize() != expected => {
                Some((Err(io::Error::other(Error::BadDigest(CRC64NVME))), None))
            }
            None => None,
        }
    });
    compared.boxed()
}

/// A body's end, as an engine's error. Whoever gives a body may end it with one of his own, as [`Error::BadDigest`].
pub fn body_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Body(error),
    }
}

/// A body as a reader. It waits for the body's next piece on the thread that reads.
struct BodyReader {
    body: Body,
    piece: Bytes,
    digest: Digest,
    runtime: tokio::runtime::Handle,
}

impl io::Read for BodyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.body.next()) {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(into.len());
        let piece = self.piece.split_to(length);
        into[..length].copy_from_slice(&piece);
        self.digest.update(&piece);
        Ok(length)
    }
}

impl Summed for BodyReader {
    fn crc64nvme(&self) -> u64 {
        self.digest.finalize()
    }
}

/// An object whose bytes are lent as files in place of being read.
pub struct Loan {
    /// The whole object's facts.
    pub info: ObjectInfo,
    /// The byte range that the extents hold.
    pub range: Range<u64>,
    /// Read-only, each with an offset of its own. They stay what they are when the object is replaced or deleted.
    pub files: Vec<File>,
    /// The bytes, in order; their `file` is a place in `files`.
    pub extents: Vec<Extent>,
    /// To be dropped when the borrower is done.
    pub hold: Hold,
}

impl Loan {
    /// The bytes as something to read from.
    ///
    /// # Errors
    /// When a file is shorter than its extents.
    pub fn into_lent(self) -> std::io::Result<Lent> {
        Lent::new(self.files, self.extents, self.hold)
    }
}

/// Who borrows, and how much of what is deleted it may keep from being freed.
#[derive(Debug, Clone, Copy)]
pub struct Borrower {
    /// A user of this host.
    pub uid: u32,
    /// Bytes.
    pub held_limit: u64,
}

/// The outcome of [`Engine::lend`].
pub enum Lending {
    /// Here it is.
    Lent(Box<Loan>),
    /// It must be read ([`Engine::get`]); why, as a metric label.
    Refused(&'static str),
}

/// Which bytes are asked for (RFC 9110, 14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From `first` on, to `last` (inclusive) or the end.
    From {
        /// First byte.
        first: u64,
        /// Last byte, inclusive; beyond the end means the end.
        last: Option<u64>,
    },
    /// The last `length` bytes.
    Suffix {
        /// How many bytes.
        length: u64,
    },
}

impl ByteRange {
    /// The bytes of an object of `size` bytes that this range selects; `None` when it selects none (HTTP 416).
    pub fn of(self, size: u64) -> Option<Range<u64>> {
        match self {
            Self::From { first, last } if first < size => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                (first < end).then_some(first..end)
            }
            Self::Suffix { length } if length > 0 && size > 0 => Some(size.saturating_sub(length)..size),
            _ => None,
        }
    }
}

/// Which part of a bucket is listed (ListObjectsV2).
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that hold this after the prefix are rolled up into one common prefix each.
    pub delimiter: Option<String>,
    /// Only keys after this one, in byte order.
    pub start_after: Option<String>,
    /// At most this many keys and common prefixes together.
    pub limit: usize,
}

/// One page of a listing, in byte order of keys.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Keys with their facts (`headers` may be empty: listings do not carry them).
    pub objects: Vec<(String, ObjectInfo)>,
    /// Rolled-up prefixes, each ending with the delimiter.
    pub common_prefixes: Vec<String>,
    /// Where the next page starts (`start_after` of the next query); `None` on the last page.
    pub next: Option<String>,
}

/// The common prefix that a key is rolled up in.
pub(crate) fn group_of(key: &str, prefix: &str, delimiter: &str) -> Option<String> {
    let rest = key.strip_prefix(prefix)?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{prefix}{}", &rest[..end]))
}

/// A part of an upload as its finisher names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRef {
    /// 1 to 10 000.
    pub number: u16,
    /// Entity tag that the part's upload answered.
    pub etag: String,
    /// Checksums that its upload answered.
    pub checksums: BTreeMap<Checksum, String>,
}

/// A part that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// 1 to 10 000.
    pub number: u16,
    /// Length in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When it was acknowledged.
    pub modified: SystemTime,
    /// CRC-64/NVME, where it is known.
    pub crc64nvme: Option<u64>,
    /// Other checksums that its writer asked for.
    pub checksums: Checksums,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// Key that it will write.
    pub key: String,
    /// Upload id.
    pub id: String,
    /// When it was begun.
    pub started: SystemTime,
    /// The checksum that it was begun with, and whether it is one of the checksums of the parts.
    pub checksum: Option<(Checksum, bool)>,
}

/// Where objects live.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Creates a bucket. [`Error::BucketExists`] when there is one of that name.
    async fn create_bucket(&self, bucket: &str) -> Result<()>;
    /// A bucket's facts. [`Error::NoSuchBucket`] when there is none.
    async fn bucket(&self, bucket: &str) -> Result<BucketInfo>;
    /// Deletes an empty bucket. [`Error::BucketNotEmpty`] when objects are in it.
    async fn delete_bucket(&self, bucket: &str) -> Result<()>;
    /// All buckets, by name.
    async fn buckets(&self) -> Result<Vec<BucketInfo>>;
    /// Changes what a bucket does.
    async fn change_bucket(&self, _bucket: &str, _change: BucketChange) -> Result<()> {
        Err(Error::NotSupported("Changing a bucket"))
    }
    /// A document that was put into a bucket, by its name in the S3 API (`cors`, `lifecycle`, …).
    async fn document(&self, _bucket: &str, _name: &'static str) -> Result<Option<Vec<u8>>> {
        Err(Error::NotSupported("A bucket's configuration"))
    }
    /// Puts a document into a bucket, or removes it.
    async fn set_document(
        &self,
        _bucket: &str,
        _name: &'static str,
        _document: Option<Vec<u8>>,
    ) -> Result<()> {
        Err(Error::NotSupported("A bucket's configuration"))
    }

    /// Writes an object: all of `body`, or nothing. Durable when it returns.
    async fn put(&self, object: &ObjectRef, options: PutOptions, body: Body) -> Result<ObjectInfo>;
    /// Opens an object for reading. The bytes are those of one version, even if it is replaced meanwhile.
    async fn get(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
    ) -> Result<Object>;
    /// As [`Engine::get`], for bytes that go straight into memory of the caller's. Engines that can do so without a copy
    /// replace this.
    async fn open(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
    ) -> Result<Opened> {
        let Object { info, range, body } = self.get(object, range, precondition).await?;
        let reader = BodyReader {
            body,
            piece: Bytes::new(),
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
            runtime: tokio::runtime::Handle::current(),
        };
        Ok(Opened {
            info,
            range,
            reader: Box::new(reader),
        })
    }
    /// All bytes of an object, to be compared with their checksum: nobody has to have a key, so what is read of what is encrypted
    /// may be as it lies on the disk.
    async fn open_to_compare(&self, object: &ObjectRef) -> Result<Opened> {
        self.open(object, None, &Precondition::default()).await
    }
    /// As [`Engine::get`], as files that the borrower reads by itself. Engines whose bytes are elsewhere refuse.
    async fn lend(
        &self,
        _object: &ObjectRef,
        _range: Option<ByteRange>,
        _precondition: &Precondition,
        _borrower: Borrower,
    ) -> Result<Lending> {
        Ok(Lending::Refused("elsewhere"))
    }
    /// Whether files travel as files, both ways: another process on this host has the bytes.
    fn takes_files(&self) -> bool {
        false
    }
    /// As [`Engine::put`], from a part of a file that does not change meanwhile.
    async fn put_file(
        &self,
        object: &ObjectRef,
        options: PutOptions,
        file: File,
        range: Range<u64>,
    ) -> Result<ObjectInfo> {
        let size = Some(range.end.saturating_sub(range.start));
        self.put(object, PutOptions { size, ..options }, file_body(file, range))
            .await
    }
    /// An object's facts.
    async fn head(&self, object: &ObjectRef) -> Result<ObjectInfo>;
    /// Removes an object or a version; succeeds when there is none. Where the bucket keeps versions and none is named, a delete
    /// marker becomes the latest one.
    async fn delete_with(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<Deleted>;
    /// As [`Engine::delete_with`], without conditions.
    async fn delete(&self, object: &ObjectRef) -> Result<()> {
        self.delete_with(object, &DeleteOptions::default())
            .await
            .map(drop)
    }
    /// Changes what is beside an object's bytes.
    async fn amend(&self, _object: &ObjectRef, _amendment: Amendment) -> Result<ObjectInfo> {
        Err(Error::NotSupported("Changing an object's attributes"))
    }
    /// Makes `to` the same bytes as `from`, without moving them where the engine can.
    async fn copy(&self, from: &ObjectRef, to: &ObjectRef, options: CopyOptions) -> Result<Copied>;
    /// One page of keys.
    async fn list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage>;
    /// One page of versions.
    async fn versions(&self, _bucket: &str, _query: &VersionQuery) -> Result<VersionPage> {
        Err(Error::NotSupported("Listing versions"))
    }

    /// Begins a multipart upload and names it.
    async fn create_upload(&self, object: &ObjectRef, options: UploadOptions) -> Result<String>;
    /// How an upload was begun.
    async fn begun_upload(&self, _object: &ObjectRef, _upload: &str) -> Result<Begun> {
        Ok(Begun::default())
    }
    /// Uploads (or replaces) one part; nothing is kept of a cut body.
    async fn upload_part(
        &self,
        object: &ObjectRef,
        upload: &str,
        number: u16,
        options: PartOptions,
        body: Body,
    ) -> Result<PartInfo>;
    /// Makes the object of the named parts, in their order.
    async fn complete_upload(
        &self,
        object: &ObjectRef,
        upload: &str,
        parts: &[PartRef],
        options: &CompleteOptions,
    ) -> Result<ObjectInfo>;
    /// Drops an upload and its parts.
    async fn abort_upload(&self, object: &ObjectRef, upload: &str) -> Result<()>;
    /// The parts of an upload, by number.
    async fn parts(&self, object: &ObjectRef, upload: &str) -> Result<Vec<PartInfo>>;
    /// The unfinished uploads of a bucket, by key.
    async fn uploads(&self, bucket: &str) -> Result<Vec<UploadInfo>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_selects_what_rfc_9110_says() {
        let from = |first, last| ByteRange::From { first, last };
        assert_eq!(from(0, None).of(10), Some(0..10));
        assert_eq!(from(3, Some(5)).of(10), Some(3..6));
        assert_eq!(from(3, Some(99)).of(10), Some(3..10));
        assert_eq!(from(10, None).of(10), None);
        assert_eq!(from(5, Some(3)).of(10), None);
        assert_eq!(from(0, Some(u64::MAX)).of(10), Some(0..10));
        assert_eq!(ByteRange::Suffix { length: 4 }.of(10), Some(6..10));
        assert_eq!(ByteRange::Suffix { length: 40 }.of(10), Some(0..10));
        assert_eq!(ByteRange::Suffix { length: 0 }.of(10), None);
        assert_eq!(from(0, None).of(0), None);
    }
}
