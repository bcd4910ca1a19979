//! Why a request failed, so that a caller can tell "it said no" from "it did not answer".

use std::time::Duration;

/// The outcome of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage node answered, and refused (S3 API, "Error responses").
    #[error("the storage node answered {status} {code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// S3 error code, as `NoSuchKey`. Where an answer cannot carry one (HEAD, 304) it is made from the status:
        /// `NotFound`, `NotModified`, `PreconditionFailed`, `InvalidRange`, `AccessDenied`, `Http<status>`.
        code: String,
        /// What the node said.
        message: String,
    },
    /// No connection, or the connection broke before the answer was whole.
    #[error("the storage node at {endpoint} cannot be reached")]
    Unreachable {
        /// Its endpoint.
        endpoint: String,
        /// What went wrong on the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection stands, but nothing moved on it for too long.
    #[error("the storage node at {endpoint} made no progress for {} s", after.as_secs_f32())]
    Stalled {
        /// Its endpoint.
        endpoint: String,
        /// How long nothing moved.
        after: Duration,
    },
    /// The answer is not what the S3 API describes.
    #[error("the storage node at {endpoint} sent an answer that cannot be understood: {cause}")]
    Malformed {
        /// Its endpoint.
        endpoint: String,
        /// Which part of it.
        cause: String,
    },
    /// The bytes received do not have the checksum that was sent with them.
    #[error("the bytes received do not match their CRC-64/NVME; they were damaged on the way")]
    Damaged,
    /// A file that the storage node lent cannot be read.
    #[error("a file lent by the storage node cannot be read")]
    Lent(#[source] std::io::Error),
    /// The body that the caller gave ended with an error.
    #[error("the body could not be read; nothing was stored")]
    Body(#[source] std::io::Error),
    /// The body that the caller gave has another length than announced.
    #[error("the body has {got} bytes, {expected} were announced; nothing was stored")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// [`crate::Policy::Require`] holds, and no way but HTTP is there.
    #[error(
        "the bytes may not travel as an HTTP body, and there is no other way to the storage node at {endpoint}: {cause}; \
         make one work, or allow HTTP (policy prefer)"
    )]
    NoFastPath {
        /// Its endpoint.
        endpoint: String,
        /// Why none of the other ways is there.
        cause: String,
    },
    /// Memory for RDMA cannot be had.
    #[error(transparent)]
    Fabric(#[from] crate::fabric::Error),
    /// GPU memory could not be used.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::Error),
    /// The request cannot be made from what the caller gave.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The S3 error code, where the storage node answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}
