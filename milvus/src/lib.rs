//! A client of Milvus: what the operator asks of it, over its gRPC API version 1, which servers from 2.3 to 3.x have.
//!
//! ```text
//!   Collection (schema) ── create ──▶ Milvus ◀── import ── files in Milvus' own bucket
//!                                       │
//!                        Progress (rows indexed, pending) ── load ── search
//! ```
//! Errors of Milvus come inside successful answers; every call here looks for them.
#![forbid(unsafe_code)]

mod client;
mod error;
mod import;
pub mod proto;
mod schema;
mod search;
mod users;

pub use client::{Credentials, Milvus, Progress};
pub use error::{Error, Result};
pub use import::{Import, State};
pub use schema::{Collection, DataType, Field};
pub use search::{Hit, Id, Rows};
