//! What the storage node refuses, and what goes wrong on the way, as errors of an engine.

use crate::engine::{Error, ObjectRef, body_error};
use penstock_rdma as rdma;

/// What a request was about, to give an S3 error code its object back.
pub(super) struct About<'a> {
    bucket: &'a str,
    key: &'a str,
    upload: &'a str,
}

impl<'a> About<'a> {
    pub fn bucket(bucket: &'a str) -> Self {
        Self {
            bucket,
            key: "",
            upload: "",
        }
    }

    pub fn object(object: &'a ObjectRef) -> Self {
        Self {
            bucket: &object.bucket,
            key: &object.key,
            upload: "",
        }
    }

    pub fn upload(object: &'a ObjectRef, upload: &'a str) -> Self {
        Self {
            upload,
            ..Self::object(object)
        }
    }
}

/// The engine's error for a failure of the client.
pub(super) fn failed(error: rdma::Error, about: &About<'_>) -> Error {
    let object = || ObjectRef::new(about.bucket, about.key);
    match error {
        rdma::Error::Refused {
            status,
            code,
            message,
        } => match code.as_str() {
            "NoSuchBucket" => Error::NoSuchBucket(about.bucket.to_owned()),
            "NotFound" if about.key.is_empty() => Error::NoSuchBucket(about.bucket.to_owned()),
            "NoSuchKey" | "NotFound" => Error::NoSuchKey(object()),
            "BucketAlreadyOwnedByYou" | "BucketAlreadyExists" => Error::BucketExists(about.bucket.to_owned()),
            "BucketNotEmpty" => Error::BucketNotEmpty(about.bucket.to_owned()),
            "InvalidBucketName" => Error::InvalidBucketName {
                name: about.bucket.to_owned(),
                cause: "the storage node refuses it",
            },
            "KeyTooLongError" => Error::InvalidKey {
                key: about.key.chars().take(64).collect(),
                cause: "it is longer than 1024 bytes",
            },
            "QuotaExceeded" => Error::QuotaExceeded(about.bucket.to_owned()),
            "PreconditionFailed" => Error::PreconditionFailed(object()),
            "NotModified" => Error::NotModified(object()),
            "InvalidRange" => Error::InvalidRange {
                size: first_number(&message),
            },
            "NoSuchUpload" => Error::NoSuchUpload(about.upload.to_owned()),
            "InvalidPart" => Error::InvalidPart(part_number(&message)),
            "InvalidPartOrder" => Error::InvalidPartOrder,
            "EntityTooSmall" => Error::PartTooSmall(part_number(&message)),
            "BadDigest" | "XAmzContentChecksumMismatch" => Error::BadDigest("checksum"),
            "InvalidArgument" | "InvalidRequest" => Error::InvalidArgument(message),
            "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
                Error::AccessDenied(format!("{code}: {message}"))
            }
            "InsufficientStorage" => Error::NoSpace(object().to_string()),
            _ => Error::Internal {
                doing: "answered a request",
                source: rdma::Error::Refused {
                    status,
                    code,
                    message,
                }
                .into(),
            },
        },
        rdma::Error::Unreachable { endpoint, source } => Error::Unreachable { endpoint, source },
        rdma::Error::Stalled { ref endpoint, .. } => Error::Unreachable {
            endpoint: endpoint.clone(),
            source: error.into(),
        },
        rdma::Error::NoFastPath { ref endpoint, .. } => Error::Unreachable {
            endpoint: endpoint.clone(),
            source: error.into(),
        },
        rdma::Error::Body(source) => body_error(source),
        rdma::Error::Length { expected, got } => Error::IncompleteBody { expected, got },
        rdma::Error::Invalid(cause) => Error::InvalidArgument(cause),
        rdma::Error::Malformed { .. }
        | rdma::Error::Damaged
        | rdma::Error::Lent(_)
        | rdma::Error::Fabric(_)
        | rdma::Error::Gpu(_) => Error::Internal {
            doing: "answered a request",
            source: error.into(),
        },
    }
}

/// The first number in a message of ours, as the part in "part 3 was not uploaded"; 0 when another server words it otherwise.
fn first_number(message: &str) -> u64 {
    let digits = message
        .split(|c: char| !c.is_ascii_digit())
        .find(|run| !run.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn part_number(message: &str) -> u16 {
    u16::try_from(first_number(message)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_becomes_the_error_of_what_was_asked() {
        let refused = |code: &str, message: &str| rdma::Error::Refused {
            status: 400,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let object = ObjectRef::new("b", "k");
        let about = About::upload(&object, "u");
        assert!(matches!(failed(refused("NoSuchKey", ""), &about), Error::NoSuchKey(o) if o == object));
        assert!(
            matches!(failed(refused("NotFound", ""), &About::bucket("b")), Error::NoSuchBucket(b) if b == "b")
        );
        let invalid = Error::InvalidPart(12).to_string();
        assert!(matches!(
            failed(refused("InvalidPart", &invalid), &about),
            Error::InvalidPart(12)
        ));
        assert!(matches!(
            failed(refused("SlowDown", ""), &about),
            Error::Internal { .. }
        ));
    }
}
