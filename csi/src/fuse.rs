//! The FUSE layer: a session over an already mounted `/dev/fuse` descriptor.
//!
//! ```text
//!  kernel ──read──▶ session (one reader) ──Operation──▶ a task per request ──▶ Filesystem
//!    ▲                                                         │
//!    └──────────────── one writev per reply ◀──Answer──────────┘
//! ```
//! Our own loop and not a crate, because a live connection must one day be taken over by another process without INIT
//! (`FUSE_NOTIFY_RESEND`), and because kernel passthrough is then one more reply flag. An operation goes in as a value and
//! its answer comes out as a value, so that what was done can be recorded.

mod abi;
pub mod backing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod init;
mod reply;
mod request;
mod session;

pub use abi::{Attributes, ROOT, Statfs};
pub use init::{InitError, MAX_WRITE, Negotiated};
pub use reply::{Answer, DirectoryPage, Entry, OpenMode, Opened};
pub(crate) use request::since_epoch;
pub use request::{Caller, Operation, Request, SetAttributes};
pub use session::{Filesystem, Notifier, Session, SessionError};

/// An error number as the caller of a system call sees it.
pub type Errno = rustix::io::Errno;
