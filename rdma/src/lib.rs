//! The client of a storage node: S3 commands over HTTP, and which way the bytes of each request travelled.
//!
//! ```text
//!   Client ── sign (SigV4) ── send (deadlines, retries) ──▶ storage node
//!     │
//!     ├─ bucket, object, list, multipart   one module per subject of the S3 API
//!     └─ Moved { via, bytes, elapsed }     what really carried the bytes, never what was hoped for
//! ```
//! Callers do not see the transport except in [`Moved`], so that another one than HTTP changes no caller.
#![deny(unsafe_code)]

pub mod admin;
mod client;
mod credentials;
mod endpoint;
mod error;
pub mod fabric;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gpu;
pub mod local;
pub mod protocol;
pub mod relay;
mod threads;
mod types;
pub mod verbs;
mod xml;

pub use client::{Client, Download, Fallback, Landed, Options, Sent};
pub use credentials::Credentials;
pub use endpoint::Endpoint;
pub use error::{Error, Result};
pub use types::{
    Bucket, Condition, Listing, ListingQuery, Moved, ObjectHead, ObjectHeaders, Part, PartId, Policy, Range,
    UnknownPolicy, Upload, Via, Way, Written,
};

/// What a writer wants the entity tag of an object or part to be made of; the only value is [`ETAG_OF_CRC64NVME`]. Without it
/// the tag is the MD5 that S3 clients expect, which takes longer to compute than everything else that a write asks of a processor.
pub const ETAG_OF: http::HeaderName = http::HeaderName::from_static("x-penstock-etag-of");

/// The tag holds the CRC64NVME and the length, and ends in `-1`, as those do that are no MD5.
pub const ETAG_OF_CRC64NVME: &str = "crc64nvme";

/// Where the storage node says the code of an error whose answer has no body.
pub const ERROR_CODE: http::HeaderName = http::HeaderName::from_static("x-penstock-error-code");
