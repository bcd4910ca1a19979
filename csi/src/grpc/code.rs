//! The one table from what a storage node answers to gRPC codes.

use penstock_store::engine::Error;
use tonic::{Code, Status};

/// The gRPC code of a failure (CSI specification, "Error Scheme" and the errors of each call).
pub fn of(error: &Error) -> Code {
    match error {
        Error::NoSuchBucket(_)
        | Error::NoSuchKey(_)
        | Error::NoSuchVersion(_)
        | Error::Marker(_)
        | Error::NoSuchUpload(_) => Code::NotFound,
        Error::BucketExists(_) => Code::AlreadyExists,
        // Somebody still writes there: "Volume in use".
        Error::BucketNotEmpty(_) => Code::FailedPrecondition,
        Error::Locked(..) | Error::NoLock | Error::BucketState(_) => Code::FailedPrecondition,
        Error::NotSupported(_) => Code::Unimplemented,
        Error::InvalidBucketName { .. }
        | Error::InvalidKey { .. }
        | Error::InvalidArgument(_)
        | Error::InvalidRequest(_) => Code::InvalidArgument,
        // Somebody else was faster; the caller asks again.
        Error::PreconditionFailed(_) => Code::Aborted,
        // A storage node knows one key pair, which has all rights: whoever is denied has other secrets.
        Error::AccessDenied(_) => Code::Unauthenticated,
        Error::NoSpace(_) | Error::QuotaExceeded(_) => Code::ResourceExhausted,
        Error::Unreachable { .. } => Code::Unavailable,
        Error::NotModified(_)
        | Error::InvalidRange { .. }
        | Error::IncompleteBody { .. }
        | Error::BadDigest(_)
        | Error::InvalidPart(_)
        | Error::InvalidPartOrder
        | Error::PartTooSmall(_)
        | Error::Body(_)
        | Error::Internal { .. } => Code::Internal,
    }
}

/// A status whose message is an error with all its causes.
pub fn status(code: Code, error: &dyn std::error::Error) -> Status {
    Status::new(code, penstock_service::chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_node_that_cannot_be_reached_is_unavailable_and_the_message_says_why() {
        let error = Error::Unreachable {
            endpoint: "http://demo:9000".into(),
            source: "connection refused".into(),
        };
        let status = status(of(&error), &error);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            "the storage node at http://demo:9000 cannot be reached: connection refused"
        );
    }
}
