//! The storage node: an S3 server over an [`engine::Engine`].
//!
//! ```text
//!   s3 (front door) ──▶ engine::Engine ──┬─ local::Local    this node's disk: index.redb + immutable data files
//!                                        └─ remote::Remote  another storage node, over the client
//! ```
#![forbid(unsafe_code)]

pub mod engine;
pub mod local;
pub mod remote;
