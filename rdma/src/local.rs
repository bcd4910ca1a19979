//! The path between a client and a storage node on one host: S3 over a Unix socket, with descriptors in place of bytes.
//!
//! ```text
//!  client ── GET, x-penstock-lend ──────────────▶ storage node
//!         ◀── 200, x-penstock-lent, descriptors ── (read-only, of the data files)
//!  client ── PUT, x-penstock-handed, descriptor ─▶ (a sealed memfd or a file, which the node copies in)
//! ```
//! Requests are ordinary S3 with ordinary signatures, so there is no second authorisation; GetObject goes without its signature on
//! a connection that was signed for ([`CONNECT`]).
//! `docs/local-path.md` is the specification.
//!
//! Which descriptor belongs to which message is exact, because neither side begins a message before the one before it has
//! ended: descriptors travel with the first byte of a request or of an answer (`SCM_RIGHTS`), and are collected when its
//! headers are there.

mod bond;
mod copy;
mod file;
mod lent;
mod message;
mod pool;
mod stream;

pub(crate) use bond::Identity;
pub use file::file_body;
pub use lent::{Hold, Lent};
pub use message::{Extent, Handed, LentHeader};
pub(crate) use pool::{Answered, Failure, Local};
pub use stream::{DescriptorStream, Descriptors, MOST_DESCRIPTORS};

use http::HeaderName;

/// Bytes that a slow disk takes in a second: what is read as a file shows no progress, and is given the time it needs.
pub const SLOW_DISK: u64 = 8 << 20;
/// Asks a GET for descriptors: [`LEND_PREFERRED`] or [`LEND_ONLY`].
pub const LEND: HeaderName = HeaderName::from_static("x-penstock-lend");
/// Value of [`LEND`]: where nothing can be lent, the bytes come as a body.
pub const LEND_PREFERRED: &str = "prefer";
/// Value of [`LEND`]: where nothing can be lent, the request is refused with [`CANNOT_LEND`].
pub const LEND_ONLY: &str = "only";
/// The S3 error code of a refused [`LEND_ONLY`].
pub const CANNOT_LEND: &str = "PenstockCannotLend";
/// In an answer: which bytes of which descriptors are the body ([`LentHeader`]).
pub const LENT: HeaderName = HeaderName::from_static("x-penstock-lent");
/// In an answer that lends a whole object: its CRC-64/NVME, 16 hexadecimal digits. Readers of a body are told of damage by the
/// connection's end; readers of files compare for themselves.
pub const LENT_CRC64NVME: HeaderName = HeaderName::from_static("x-penstock-lent-crc64nvme");
/// In a PUT: which bytes of the descriptor that came along are the body ([`Handed`]).
pub const HANDED: HeaderName = HeaderName::from_static("x-penstock-handed");
/// In any request: leases that the client needs no longer, as numbers with commas between.
pub const RETURNED: HeaderName = HeaderName::from_static("x-penstock-returned");
/// Over the socket: what binds a connection to whoever signs for it. In an answer the connection's challenge, and once it was
/// signed, `;` and for how many seconds that holds. In a request the challenge, in `SignedHeaders` or, while that holds, in
/// place of a signature; a client that knows none yet says [`CONNECT_FIRST`].
pub const CONNECT: HeaderName = HeaderName::from_static("x-penstock-local-connect");
/// Value of [`CONNECT`]: asks for the challenge.
pub const CONNECT_FIRST: &str = "hello";
/// The S3 error code of a request without a signature that needs one.
pub const UNBOUND: &str = "PenstockUnbound";
/// In every answer: which storage node it is. Its socket is `<id>.sock` in the folder of sockets of its host.
pub const NODE_ID: HeaderName = HeaderName::from_static("x-penstock-node-id");
