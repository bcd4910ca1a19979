//! Engine errors as S3 errors (S3 API, "Error responses").

use super::body::RefusedBody;
use crate::{engine::Error, rdma::Refusal};
use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};
use std::borrow::Cow;

/// The answer for a failed engine operation. What is our own fault is logged with its causes, and answered without them.
pub(crate) fn answer(error: Error) -> S3Error {
    use S3ErrorCode as Code;
    let message = error.to_string();
    let code = match &error {
        Error::NoSuchBucket(_) => Code::NoSuchBucket,
        Error::BucketExists(_) => Code::BucketAlreadyOwnedByYou,
        Error::BucketNotEmpty(_) => Code::BucketNotEmpty,
        Error::InvalidBucketName { .. } => Code::InvalidBucketName,
        Error::NoSuchKey(_) => Code::NoSuchKey,
        Error::NoSuchVersion(_) => Code::NoSuchVersion,
        Error::Marker(marker) if marker.object.version.is_some() => Code::MethodNotAllowed,
        Error::Marker(_) => Code::NoSuchKey,
        Error::Locked(..) => Code::AccessDenied,
        Error::NoLock => return no_lock(),
        Error::BucketState(_) => Code::InvalidBucketState,
        Error::NotSupported(_) => Code::NotImplemented,
        Error::QuotaExceeded(_) => {
            return coded("QuotaExceeded", StatusCode::FORBIDDEN, message);
        }
        Error::InvalidKey { key, .. } if key.is_empty() => Code::InvalidRequest,
        Error::InvalidKey { .. } => Code::KeyTooLongError,
        Error::InvalidRange { .. } => Code::InvalidRange,
        Error::PreconditionFailed(_) => Code::PreconditionFailed,
        Error::NotModified(_) => Code::NotModified,
        Error::IncompleteBody { .. } => Code::IncompleteBody,
        Error::BadDigest(_) => Code::BadDigest,
        Error::NoSuchUpload(_) => Code::NoSuchUpload,
        Error::InvalidPart(_) => Code::InvalidPart,
        Error::InvalidPartOrder => Code::InvalidPartOrder,
        Error::PartTooSmall(_) => Code::EntityTooSmall,
        Error::InvalidArgument(_) => Code::InvalidArgument,
        Error::InvalidRequest(_) => Code::InvalidRequest,
        Error::AccessDenied(_) => Code::AccessDenied,
        Error::NoSpace(_) => {
            tracing::warn!(%error, "a write was refused");
            return coded("InsufficientStorage", StatusCode::INSUFFICIENT_STORAGE, message);
        }
        Error::Unreachable { .. } => {
            tracing::warn!(error = %penstock_service::chain(&error), "the engine cannot be reached");
            Code::ServiceUnavailable
        }
        Error::Body(source) => {
            if let Some(refusal) = source.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()) {
                return refusal.answer();
            }
            return match source
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<RefusedBody>())
            {
                Some(refused) => {
                    let mut answer = S3Error::with_message(refused.code(), refused.to_string());
                    // s3s knows no status for codes that it has no name for.
                    if answer.status_code().is_none() {
                        answer.set_status_code(StatusCode::BAD_REQUEST);
                    }
                    answer
                }
                None => S3Error::with_message(Code::IncompleteBody, message),
            };
        }
        Error::Internal { .. } => {
            tracing::error!(error = %penstock_service::chain(&error), "a request failed");
            return S3Error::with_message(Code::InternalError, "The storage node failed; its log says why.");
        }
    };
    S3Error::with_message(code, message)
}

/// An answer whose code has no name in s3s, or another status there.
pub(crate) fn coded(code: &str, status: StatusCode, message: impl Into<Cow<'static, str>>) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes())
        .unwrap_or_else(|| S3ErrorCode::Custom(code.to_owned().into()));
    let mut answer = S3Error::with_message(code, message);
    answer.set_status_code(status);
    answer
}

/// The answer to locks in a bucket that cannot lock.
pub(super) fn no_lock() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidRequest,
        "Bucket is missing Object Lock Configuration",
    )
}

/// The answer to what is asked for and not built.
pub(super) fn not_implemented(what: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, format!("{what} is not implemented."))
}

/// Refuses a request that asks for any of what is not built.
pub(super) fn refuse_any(asked: &[(bool, &str)]) -> Result<(), S3Error> {
    match asked.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(not_implemented(what)),
        None => Ok(()),
    }
}
