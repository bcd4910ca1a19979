//! The protocol `s3rdma-rc-1`: what its headers say, for both ends. Nothing here sends or receives anything.
//!
//! ```text
//!   POST /.s3rdma-rc/connect   QpToken, Psn, Offer  ──▶     ◀── SessionId, QpToken, Psn, Grant
//!   GET, PUT on an object      WindowToken, sequence ──▶    ◀── reply, bytes transferred, Checksum
//!     carried by a gateway     and GatewaySignature  ──▶    ◀── and ReadingId, where there is more to ask for
//! ```
//! The specification is `docs/protocol.md`. Whatever a peer sent is parsed here, strictly: one spelling of everything, no
//! value out of its bounds, and an error that names the header. Tokens and session ids open memory, so their `Debug` does
//! not show them.

mod caps;
mod checksum;
mod gateway;
mod hex;
mod psn;
mod reading;
mod reply;
mod sequence;
mod session_id;
mod token;

pub use caps::{Grant, Offer};
pub use checksum::Checksum;
pub use gateway::GatewaySignature;
pub use psn::Psn;
pub use reading::{ReadingId, length};
pub use reply::{CONNECTED, reply_code};
pub use sequence::{SequenceWindow, Stale, sequence_number};
pub use session_id::SessionId;
pub use token::{QpToken, WindowToken};

/// The name of the protocol in `x-amz-rdma-protocol`.
pub const NAME: &str = "s3rdma-rc-1";
/// The name that no bucket has; the paths below it belong to the protocol.
pub const RESERVED: &str = ".s3rdma-rc";
/// Where sessions are made.
pub const CONNECT: &str = "/.s3rdma-rc/connect";
/// Where sessions are ended.
pub const DISCONNECT: &str = "/.s3rdma-rc/disconnect";
/// Where gateways ask for more of an object that they began to read.
pub const READ: &str = "/.s3rdma-rc/read";
/// Where they say that they want no more of it.
pub const RELEASE: &str = "/.s3rdma-rc/release";
/// `x-amz-rdma-protocol-status` of a server that does not speak it.
pub const UNSUPPORTED: &str = "unsupported";

/// `x-amz-rdma-fallback` of a client that takes no body.
pub const NO_FALLBACK: &str = "no";

/// Names of headers. All of a request must be signed.
pub mod header {
    use http::HeaderName;

    /// What the names of all headers of the protocol begin with.
    pub const PREFIX: &str = "x-amz-rdma-";
    /// [`super::QpToken`] of connect, [`super::WindowToken`] of requests on objects.
    pub const TOKEN: HeaderName = HeaderName::from_static("x-amz-rdma-token");
    /// [`super::NAME`].
    pub const PROTOCOL: HeaderName = HeaderName::from_static("x-amz-rdma-protocol");
    /// [`super::UNSUPPORTED`], beside a reply of 501.
    pub const PROTOCOL_STATUS: HeaderName = HeaderName::from_static("x-amz-rdma-protocol-status");
    /// [`super::Psn`].
    pub const PSN: HeaderName = HeaderName::from_static("x-amz-rdma-psn");
    /// [`super::Offer`] and [`super::Grant`].
    pub const CAPS: HeaderName = HeaderName::from_static("x-amz-rdma-caps");
    /// [`super::SessionId`].
    pub const SESSION: HeaderName = HeaderName::from_static("x-amz-rdma-session");
    /// Sequence number of a request on an object, decimal.
    pub const SEQUENCE: HeaderName = HeaderName::from_static("x-amz-rdma-seq");
    /// Whether bytes moved by RDMA: the HTTP status if they did, 501 if not.
    pub const REPLY: HeaderName = HeaderName::from_static("x-amz-rdma-reply");
    /// How many bytes moved by RDMA, decimal.
    pub const BYTES: HeaderName = HeaderName::from_static("x-amz-rdma-bytes-transferred");
    /// [`super::Checksum`] of the bytes that moved.
    pub const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-rdma-checksum");
    /// [`super::Checksum`] of the whole object, of which the bytes that moved may be a part.
    pub const OBJECT_CHECKSUM: HeaderName = HeaderName::from_static("x-amz-rdma-object-checksum");
    /// `no` in a GET whose client takes no body: what cannot go by RDMA is refused then.
    pub const FALLBACK: HeaderName = HeaderName::from_static("x-amz-rdma-fallback");
    /// [`super::GatewaySignature`]: a gateway's own, beside the signature of the client whose request it carries.
    pub const GATEWAY: HeaderName = HeaderName::from_static("x-amz-rdma-gateway");
    /// Of a gateway's GET: how many bytes there must be for them to go by RDMA, decimal; fewer go as a body.
    pub const LEAST: HeaderName = HeaderName::from_static("x-amz-rdma-least");
    /// Length of the body that the client of a gateway gets, decimal. The bytes that moved are its beginning.
    pub const TOTAL: HeaderName = HeaderName::from_static("x-amz-rdma-total-length");
    /// [`super::ReadingId`], where there is more to ask for.
    pub const READING: HeaderName = HeaderName::from_static("x-amz-rdma-reading");
    /// Which bytes of a reading are asked for: those from here on, decimal.
    pub const OFFSET: HeaderName = HeaderName::from_static("x-amz-rdma-offset");
    /// Bytes that the window would have needed, decimal, beside [`super::code::WINDOW_TOO_SMALL`].
    pub const NEEDED: HeaderName = HeaderName::from_static("x-amz-rdma-object-size");
}

/// S3 error codes of the protocol.
pub mod code {
    /// 400: a header of the protocol is missing or malformed.
    pub const INVALID_TOKEN: &str = "InvalidRdmaToken";
    /// 400: the window does not hold what was asked for; nothing was written.
    pub const WINDOW_TOO_SMALL: &str = "RdmaWindowTooSmall";
    /// 404: the session is unknown, ended, or another principal's.
    pub const NO_SUCH_SESSION: &str = "NoSuchRdmaSession";
    /// 404: the reading is unknown, released, or another principal's.
    pub const NO_SUCH_READING: &str = "NoSuchRdmaReading";
    /// 409: the sequence number was used or is too old.
    pub const SEQUENCE_CONFLICT: &str = "RdmaSequenceConflict";
    /// 500: an RDMA operation failed; the session is dead, and nothing was stored.
    pub const TRANSFER_FAILED: &str = "RdmaTransferFailed";
    /// 501: the server cannot take the bytes by RDMA; send them as a body.
    pub const NOT_SUPPORTED: &str = "RDMANotSupported";
    /// 503: a limit is reached; come back after `Retry-After`.
    pub const SLOW_DOWN: &str = "SlowDown";
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {cause}")]
pub struct ParseError {
    /// Which header, and which field of it where it has several.
    pub field: &'static str,
    /// Which rule it breaks. Never holds what was sent.
    pub cause: &'static str,
}

impl ParseError {
    const fn new(field: &'static str, cause: &'static str) -> Self {
        Self { field, cause }
    }
}
