//! What goes wrong in an engine.

use super::{ObjectRef, Version};
use std::time::SystemTime;

/// A delete marker in the place of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// What was asked for.
    pub object: ObjectRef,
    /// The delete marker.
    pub version: Version,
    /// When it was made.
    pub modified: SystemTime,
}

/// Why an engine operation failed. The S3 error codes are those of the S3 API, "Error responses".
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// S3 `NoSuchBucket`.
    #[error("there is no bucket {0:?}")]
    NoSuchBucket(String),
    /// S3 `BucketAlreadyOwnedByYou`.
    #[error("bucket {0:?} exists already")]
    BucketExists(String),
    /// S3 `BucketNotEmpty`.
    #[error("bucket {0:?} still holds objects or unfinished uploads; delete them first")]
    BucketNotEmpty(String),
    /// S3 `InvalidBucketName`.
    #[error("{name:?} is not a bucket name: {cause}")]
    InvalidBucketName {
        /// What was given.
        name: String,
        /// Which rule it breaks.
        cause: &'static str,
    },
    /// S3 `NoSuchKey`.
    #[error("there is no object {0}")]
    NoSuchKey(ObjectRef),
    /// S3 `NoSuchVersion`.
    #[error("there is no {0}")]
    NoSuchVersion(ObjectRef),
    /// The version that is meant says that the object was deleted: S3 `NoSuchKey`, or `MethodNotAllowed` where it was named.
    #[error("{} is a delete marker", .0.object)]
    Marker(Box<Marker>),
    /// S3 `AccessDenied`: retention or a legal hold forbids it.
    #[error("{0} is locked: {1}")]
    Locked(ObjectRef, &'static str),
    /// S3 `InvalidRequest`: objects of the bucket cannot be locked.
    #[error("objects of this bucket cannot be locked")]
    NoLock,
    /// S3 `QuotaExceeded`.
    #[error("bucket {0:?} has reached its quota; delete objects or raise it")]
    QuotaExceeded(String),
    /// S3 `InvalidBucketState`.
    #[error("the bucket cannot do that: {0}")]
    BucketState(&'static str),
    /// S3 `NotImplemented`: this engine cannot.
    #[error("{0} is not implemented")]
    NotSupported(&'static str),
    /// S3 `KeyTooLongError` and other keys that cannot be.
    #[error("the key {key:?} cannot be used: {cause}")]
    InvalidKey {
        /// What was given (shortened).
        key: String,
        /// Which rule it breaks.
        cause: &'static str,
    },
    /// S3 `InvalidRange`.
    #[error("the range lies outside the object of {size} bytes")]
    InvalidRange {
        /// Length of the object in bytes.
        size: u64,
    },
    /// S3 `PreconditionFailed`.
    #[error("a precondition does not hold for {0}")]
    PreconditionFailed(ObjectRef),
    /// HTTP 304.
    #[error("{0} was not modified")]
    NotModified(ObjectRef),
    /// S3 `IncompleteBody`.
    #[error("the body has {got} bytes, {expected} were announced; nothing was stored")]
    IncompleteBody {
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// S3 `BadDigest`.
    #[error("the body does not match the {0} sent with it; nothing was stored")]
    BadDigest(&'static str),
    /// S3 `NoSuchUpload`.
    #[error("there is no upload {0:?}; it was completed, aborted or never begun")]
    NoSuchUpload(String),
    /// S3 `InvalidPart`.
    #[error("part {0} was not uploaded or has another entity tag")]
    InvalidPart(u16),
    /// S3 `InvalidPartOrder`.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// S3 `EntityTooSmall`.
    #[error("part {0} is smaller than 5 MiB and not the last one")]
    PartTooSmall(u16),
    /// S3 `InvalidRequest`.
    #[error("{0}")]
    InvalidRequest(String),
    /// S3 `InvalidArgument`.
    #[error("{0}")]
    InvalidArgument(String),
    /// S3 `AccessDenied`, `InvalidAccessKeyId`, `SignatureDoesNotMatch`.
    #[error("access denied: {0}")]
    AccessDenied(String),
    /// The store's disk is full: S3 `InsufficientStorage` (507).
    #[error("no space is left for {0}; delete objects or give the storage node a larger disk")]
    NoSpace(String),
    /// The storage node cannot be reached or does not answer in time.
    #[error("the storage node at {endpoint} cannot be reached")]
    Unreachable {
        /// Its endpoint.
        endpoint: String,
        /// What went wrong on the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The body that the caller gave ended with an error.
    #[error("the body could not be read; nothing was stored")]
    Body(#[source] std::io::Error),
    /// The store itself failed: S3 `InternalError`.
    #[error("the store failed while it {doing}")]
    Internal {
        /// What it was doing, as "opened the index".
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
