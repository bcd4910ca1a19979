//! The storage node: an S3 server over an [`engine::Engine`].
#![forbid(unsafe_code)]

pub mod engine;
pub mod remote;
