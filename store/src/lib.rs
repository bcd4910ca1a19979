//! The storage node: an S3 server over an [`engine::Engine`].
//!
//! ```text
//!   server (HTTP, TLS) ─ s3 (front door) ─ engine::Engine ─┬─ local::Local    this node's disk
//!                                                          └─ remote::Remote  another storage node, over the client
//!                 access: who may do what   admin: keys, quotas, how much there is
//!   local_path (Unix socket) ─┘ lends the files of `Local` to clients on this host
//!
//!   gateway: S3 for clients on a node, passed on to a storage node as they signed it
//! ```
#![forbid(unsafe_code)]

pub mod access;
pub mod access_log;
pub mod admin;
pub mod backups;
pub mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gateway;
pub mod keys;
pub mod lifecycle;
pub mod local;
pub mod local_path;
pub mod metrics;
pub mod rdma;
pub mod remote;
pub mod s3;
pub mod scrub;
pub mod server;
