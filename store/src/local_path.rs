//! The storage node's side of the path to clients on the same host: a Unix socket that speaks S3, and descriptors beside it.
//!
//! ```text
//! socket ─ who connects? ─ hyper over DescriptorStream ─ Service (s3s, SigV4, access) ─ Front ─ Engine::lend
//!                              │ Peer: what came along, what is lent, in the request's extensions
//! ```
//! A connection whose client has signed for it ([`bond`]) is answered one request without s3s: GetObject by descriptors.
//! `penstock_rdma::local` is the other end; `docs/local-path.md` says what it promises and what not.

mod bond;
mod handed;
mod identity;
mod peer;
mod socket;

pub(crate) use handed::handed;
pub use identity::{IdentityError, identity};
pub use peer::{Ledger, Limits};
pub(crate) use peer::{LentFiles, Peer};
pub use socket::{LocalServer, SocketError, SocketOptions};
