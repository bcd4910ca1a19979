//! What a request by RDMA is refused with (`docs/protocol.md`, "Errors").

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use penstock_rdma::{
    fabric,
    protocol::{ParseError, code, header},
};
use s3s::{S3Error, S3ErrorCode};

/// Why bytes do not move by RDMA. Each is the outcome of a request that has nothing under way any more.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Malformed(#[from] ParseError),
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error(
        "the header {0} is not signed; list every x-amz-rdma-* header once in the SignedHeaders of the Authorization header"
    )]
    Unsigned(String),
    #[error(
        "x-amz-rdma-gateway does not hold: it is not this storage node's gateway's, or was made for another request"
    )]
    NotTheGateway,
    #[error("a gateway carries the bytes of GET and PUT, and of nothing else")]
    NotCarried,
    #[error("there is no such reading; it was released, or forgotten, or is not yours")]
    NoSuchReading,
    #[error("a request with x-amz-rdma-token has no body; send Content-Length: 0")]
    Body,
    #[error("{needed} bytes were asked for, and the window holds {size}; nothing was written")]
    WindowTooSmall { needed: u64, size: u32 },
    #[error("there is no such RDMA session; it ended, was never made, or is not yours")]
    NoSuchSession,
    #[error("the x-amz-rdma-seq of this session was used already, or is too old")]
    Sequence,
    #[error("a session of this queue pair stands already")]
    Duplicate,
    #[error("{0}; come back later")]
    Busy(Limit),
    #[error("an RDMA operation failed: {0}; the session is dead and nothing was stored")]
    Failed(fabric::Error),
    #[error("the peer cannot be connected to: {0}")]
    Peer(fabric::Error),
    #[error("the object could not be read; the storage node's log says why")]
    Read,
    #[error("this storage node cannot take the bytes by RDMA; send them as a body")]
    NotSupported,
    #[error("this storage node does not speak {}", penstock_rdma::protocol::NAME)]
    Unsupported,
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Limit {
    #[error("the access key has as many RDMA sessions as it may have")]
    SessionsPerKey,
    #[error("the storage node has as many RDMA sessions as it may have")]
    Sessions,
    #[error("the RDMA device has no queue pair left")]
    QueuePairs,
    #[error("the port of the RDMA device is down")]
    Port,
    #[error("the session has as many requests under way as it may have")]
    InFlight,
    #[error("all staging memory is in use")]
    Staging,
}

impl Refusal {
    /// One word for the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Missing(_) | Self::Body | Self::NotCarried => "malformed",
            Self::Unsigned(_) => "unsigned",
            Self::NotTheGateway => "gateway",
            Self::NoSuchReading => "no_reading",
            Self::WindowTooSmall { .. } => "window",
            Self::NoSuchSession => "no_session",
            Self::Sequence | Self::Duplicate => "sequence",
            Self::Busy(Limit::SessionsPerKey | Limit::Sessions) => "sessions",
            Self::Busy(Limit::QueuePairs) => "queue_pairs",
            Self::Busy(Limit::Port) => "port",
            Self::Busy(Limit::InFlight) => "in_flight",
            Self::Busy(Limit::Staging) => "staging",
            Self::Failed(_) => "failed",
            Self::Peer(_) => "peer",
            Self::Read => "read",
            Self::NotSupported | Self::Unsupported => "unsupported",
        }
    }

    fn code(&self) -> (S3ErrorCode, StatusCode) {
        let ours = |name: &'static str| S3ErrorCode::Custom(name.into());
        match self {
            Self::Malformed(_) | Self::Missing(_) | Self::Body | Self::NotCarried | Self::Peer(_) => {
                (ours(code::INVALID_TOKEN), StatusCode::BAD_REQUEST)
            }
            Self::Unsigned(_) | Self::NotTheGateway => (S3ErrorCode::AccessDenied, StatusCode::FORBIDDEN),
            Self::NoSuchReading => (ours(code::NO_SUCH_READING), StatusCode::NOT_FOUND),
            Self::WindowTooSmall { .. } => (ours(code::WINDOW_TOO_SMALL), StatusCode::BAD_REQUEST),
            Self::NoSuchSession => (ours(code::NO_SUCH_SESSION), StatusCode::NOT_FOUND),
            Self::Sequence | Self::Duplicate => (ours(code::SEQUENCE_CONFLICT), StatusCode::CONFLICT),
            Self::Busy(_) => (S3ErrorCode::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
            Self::Failed(_) => (ours(code::TRANSFER_FAILED), StatusCode::INTERNAL_SERVER_ERROR),
            Self::Read => (S3ErrorCode::InternalError, StatusCode::INTERNAL_SERVER_ERROR),
            Self::NotSupported | Self::Unsupported => {
                (ours(code::NOT_SUPPORTED), StatusCode::NOT_IMPLEMENTED)
            }
        }
    }

    /// The answer. Its `x-amz-rdma-reply` tells the client that it comes from here, after the drain, and not from a proxy.
    pub fn answer(&self) -> S3Error {
        let (code, status) = self.code();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.insert(header::REPLY, HeaderValue::from(status.as_u16()));
        match self {
            Self::Busy(_) => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::WindowTooSmall { needed, .. } => {
                headers.insert(header::NEEDED, HeaderValue::from(*needed));
            }
            Self::Unsupported => {
                let status = HeaderValue::from_static(penstock_rdma::protocol::UNSUPPORTED);
                headers.insert(header::PROTOCOL_STATUS, status);
            }
            _ => {}
        }
        let mut answer = S3Error::with_message(code, self.to_string());
        answer.set_status_code(status);
        answer.set_headers(headers);
        answer
    }
}
