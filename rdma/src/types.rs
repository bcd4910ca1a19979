//! What requests carry and answers say.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// Which transport carried the bytes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// One-sided RDMA between the storage node and the memory of the client.
    Rdma,
    /// Descriptors lent or handed over on the same host.
    Shm,
    /// An ordinary HTTP body.
    Http,
}

impl Via {
    /// The name used as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Shm => "shm",
            Self::Http => "http",
        }
    }
}

/// Which ways the bytes of objects may travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Never as an HTTP body: by RDMA or over the same host's path, or the request fails.
    Require,
    /// As an HTTP body where there is no other way.
    #[default]
    Prefer,
    /// As an HTTP body always.
    Off,
}

/// What moved for a request: by which transport, how many bytes, in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The transport that carried them.
    pub via: Via,
    /// Object bytes, without protocol overhead.
    pub bytes: u64,
    /// From the first request to the last byte or acknowledgement.
    pub elapsed: Duration,
}

/// A bucket as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Bucket name.
    pub name: String,
    /// When it was created.
    pub created: SystemTime,
}

/// Headers that travel with an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
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
pub struct ObjectHead {
    /// Length of the whole object in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When it was written (whole seconds, except in listings).
    pub modified: SystemTime,
    /// CRC-64/NVME of the whole object, where the storage node says it.
    pub crc64nvme: Option<u64>,
    /// Headers given at the write; empty in listings.
    pub headers: ObjectHeaders,
}

/// Which bytes are asked for (RFC 9110, 14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From `first` to `last` (inclusive) or the end.
    From {
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: Option<u64>,
    },
    /// The last bytes.
    Suffix {
        /// How many.
        length: u64,
    },
}

/// What must hold of the object that is there now (RFC 9110, 13.1; S3 conditional requests).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-Match`: an entity tag without quotes, or `*`.
    pub if_match: Option<String>,
    /// `If-None-Match`: an entity tag without quotes, or `*`.
    pub if_none_match: Option<String>,
}

impl Condition {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Entity tag, without quotes.
    pub etag: String,
    /// CRC-64/NVME of the whole object, where the storage node says it.
    pub crc64nvme: Option<u64>,
    /// When it was acknowledged, by the storage node's clock where it says so.
    pub modified: SystemTime,
    /// What was sent.
    pub moved: Moved,
}

/// Which part of a bucket is listed (ListObjectsV2).
#[derive(Debug, Clone, Default)]
pub struct ListingQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that hold this after the prefix are rolled up.
    pub delimiter: Option<String>,
    /// Only keys after this one.
    pub start_after: Option<String>,
    /// Where the last page ended ([`Listing::next`]); wins over `start_after`.
    pub continuation: Option<String>,
    /// At most this many entries; the storage node may give fewer (S3: 1000).
    pub limit: usize,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Keys with their facts, in byte order.
    pub objects: Vec<(String, ObjectHead)>,
    /// Rolled-up prefixes, each ending with the delimiter.
    pub common_prefixes: Vec<String>,
    /// The continuation of the next page; `None` on the last.
    pub next: Option<String>,
}

/// A part as the finisher of an upload names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartId {
    /// 1 to 10 000.
    pub number: u16,
    /// Entity tag that its upload answered, without quotes.
    pub etag: String,
}

/// A part that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10 000.
    pub number: u16,
    /// Length in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When it was acknowledged.
    pub modified: SystemTime,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Key that it will write.
    pub key: String,
    /// Upload id.
    pub id: String,
    /// When it was begun.
    pub started: SystemTime,
}
