//! How things are written.

use super::{
    Attributes, Checksum, Checksums, CustomerKey, Encrypted, Encryption, Headers, ObjectInfo, Pending,
    Version,
};
use std::{collections::BTreeMap, time::SystemTime};

/// What must hold of the object that is there now, for the operation to happen (RFC 9110, 13.1; S3 conditional writes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precondition {
    /// `If-Match`: the entity tag must be this one (`*`: there must be an object).
    pub if_match: Option<String>,
    /// `If-None-Match`: the entity tag must not be this one (`*`: there must be no object).
    pub if_none_match: Option<String>,
    /// It must be encrypted with this key of the customer's, which is needed to read it; without one with none.
    pub key: Option<CustomerKey>,
}

/// What the entity tag of bytes is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TagOf {
    /// Their MD5, as S3 clients expect.
    #[default]
    Md5,
    /// Their CRC64NVME and length, which are known anyway: MD5 takes longer than all else that a write asks of a processor.
    Crc64,
}

/// How a part is written.
#[derive(Debug, Clone, Default)]
pub struct PartOptions {
    /// How many bytes the body must have, where the caller knows; a different count stores nothing.
    pub size: Option<u64>,
    /// What its entity tag is made of. Other engines than [`Local`](crate::local::Local) have their own way.
    pub tag_of: TagOf,
    /// CRC-64/NVME that the body must have, where the caller knows; another one stores nothing ([`Error::BadDigest`]).
    pub crc64nvme: Option<u64>,
    /// Other checksums to keep.
    pub checksums: Pending,
    /// The key of the customer's that its upload was begun with.
    pub key: Option<CustomerKey>,
}

/// How an object is written.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Headers to keep with it.
    pub headers: Headers,
    /// Checked atomically with the write.
    pub precondition: Precondition,
    /// How many bytes the body must have, where the caller knows; a different count stores nothing.
    pub size: Option<u64>,
    /// What its entity tag is made of. Other engines than [`Local`](crate::local::Local) have their own way.
    pub tag_of: TagOf,
    /// CRC-64/NVME that the body must have, where the caller knows; another one stores nothing ([`Error::BadDigest`]).
    pub crc64nvme: Option<u64>,
    /// What few objects have, save their checksums and parts.
    pub attributes: Attributes,
    /// Other checksums to keep.
    pub checksums: Pending,
    /// How it is to be encrypted.
    pub encryption: Option<Encryption>,
}

/// How a multipart upload is begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadOptions {
    /// Headers of the object.
    pub headers: Headers,
    /// What few objects have, save their checksums and parts.
    pub attributes: Attributes,
    /// The checksum that the object shall have, and whether it is one of the checksums of the parts.
    pub checksum: Option<(Checksum, bool)>,
    /// How the object is to be encrypted.
    pub encryption: Option<Encryption>,
}

/// How a multipart upload was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// The checksum that the object shall have, and whether it is one of the checksums of the parts.
    pub checksum: Option<(Checksum, bool)>,
    /// How the object is encrypted.
    pub encryption: Option<Encrypted>,
}

impl From<Headers> for UploadOptions {
    fn from(headers: Headers) -> Self {
        Self {
            headers,
            ..Self::default()
        }
    }
}

/// What a copy is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Headers in place of the source's.
    pub headers: Option<Headers>,
    /// Tags in place of the source's.
    pub tags: Option<BTreeMap<String, String>>,
    /// Retention and legal hold, which are never copied, and `Expires` and redirection, which are with the headers.
    pub attributes: Attributes,
    /// Checksums in place of the source's, of the same bytes.
    pub checksums: Option<Checksums>,
    /// What must hold of the source, at the moment of the copy.
    pub source: Precondition,
    /// As `If-Modified-Since`.
    pub source_modified_since: Option<SystemTime>,
    /// As `If-Unmodified-Since`.
    pub source_unmodified_since: Option<SystemTime>,
    /// How the copy is to be encrypted, whatever the source is.
    pub encryption: Option<Encryption>,
    /// What must hold of what it replaces.
    pub precondition: Precondition,
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// What it is.
    pub info: ObjectInfo,
    /// The version that it was made of, where the engine says so.
    pub source: Option<Version>,
}

impl From<Option<Headers>> for CopyOptions {
    fn from(headers: Option<Headers>) -> Self {
        Self {
            headers,
            ..Self::default()
        }
    }
}

/// How a multipart upload is finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompleteOptions {
    /// Checked atomically with the write.
    pub precondition: Precondition,
    /// The length that the object must have.
    pub size: Option<u64>,
    /// The checksums that it must have.
    pub checksums: BTreeMap<Checksum, String>,
    /// Whether its checksum is to be one of those of its parts, as the upload must have been begun.
    pub is_composite: Option<bool>,
}

impl From<Precondition> for CompleteOptions {
    fn from(precondition: Precondition) -> Self {
        Self {
            precondition,
            ..Self::default()
        }
    }
}
