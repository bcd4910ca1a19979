//! Between the S3 API's types and the engine's.

use super::error;
use crate::engine::{ByteRange, Headers, ObjectInfo, ObjectRef, Precondition, Version};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::{
    S3Result,
    dto::{self, ETag, ETagCondition, Timestamp, TimestampFormat},
    s3_error,
};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// What clients get of an object that was written without a type (S3 API, PutObject).
pub(super) const DEFAULT_TYPE: &str = "binary/octet-stream";
/// Everything belongs to the one root identity.
pub(super) const OWNER: &str = "penstock";

pub(super) fn owner() -> dto::Owner {
    dto::Owner {
        id: Some(OWNER.to_owned()),
        display_name: Some(OWNER.to_owned()),
    }
}

pub(super) fn object(bucket: &str, key: &str) -> ObjectRef {
    ObjectRef::new(bucket, key)
}

pub(super) fn etag(tag: &str) -> ETag {
    ETag::Strong(tag.to_owned())
}

pub(super) fn crc64(crc: u64) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

/// `None` for what is no such checksum, and so matches none.
pub(super) fn parse_crc64(text: &str) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

/// `*` or the tag without quotes.
pub(super) fn condition(condition: Option<ETagCondition>) -> Option<String> {
    condition.map(|condition| match condition {
        ETagCondition::Any => "*".to_owned(),
        ETagCondition::ETag(tag) => tag.into_value(),
    })
}

pub(super) fn precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> Precondition {
    Precondition {
        if_match: condition(if_match),
        if_none_match: condition(if_none_match),
        key: None,
    }
}

pub(super) fn range(range: dto::Range) -> ByteRange {
    match range {
        dto::Range::Int { first, last } => ByteRange::From { first, last },
        dto::Range::Suffix { length } => ByteRange::Suffix { length },
    }
}

/// Header fields that a write brings.
pub(super) struct Written {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    pub metadata: Option<dto::Metadata>,
}

impl Written {
    pub fn into_headers(self) -> Headers {
        Headers {
            content_type: self.content_type.filter(|value| !value.is_empty()),
            content_encoding: self.content_encoding.as_deref().and_then(without_chunking),
            content_disposition: self.content_disposition,
            content_language: self.content_language,
            cache_control: self.cache_control,
            metadata: self.metadata.into_iter().flatten().collect(),
        }
    }
}

/// `aws-chunked` says how the body travelled, not what it is.
fn without_chunking(encoding: &str) -> Option<String> {
    let rest: Vec<&str> = encoding
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!rest.is_empty()).then(|| rest.join(","))
}

pub(super) fn metadata(metadata: BTreeMap<String, String>) -> Option<dto::Metadata> {
    (!metadata.is_empty()).then(|| metadata.into_iter().collect())
}

/// `Expires` as it is kept.
pub(super) fn expires(kept: Option<String>) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, &kept?).ok()
}

/// `Content-Range` of some bytes of an object.
pub(super) fn content_range(bytes: &std::ops::Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", bytes.start, bytes.end.saturating_sub(1))
}

/// `If-Modified-Since` and `If-Unmodified-Since`, which count only where there is no entity tag to compare (RFC 9110,
/// 13.2.2).
pub(super) fn check_dates(
    object: &ObjectRef,
    info: &ObjectInfo,
    asked: &Precondition,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
) -> Result<(), crate::engine::Error> {
    // Dates in headers are whole seconds.
    let modified = seconds(timestamp(info.modified));
    if asked.if_match.is_none()
        && let Some(since) = unmodified_since
        && modified > seconds(since)
    {
        return Err(crate::engine::Error::PreconditionFailed(object.clone()));
    }
    if asked.if_none_match.is_none()
        && let Some(since) = modified_since
        && modified <= seconds(since)
    {
        return Err(crate::engine::Error::NotModified(object.clone()));
    }
    Ok(())
}

fn seconds(time: Timestamp) -> i64 {
    time::OffsetDateTime::from(time).unix_timestamp()
}

/// The date of an answer that is only known to the second.
pub(super) fn http_date(time: SystemTime) -> Option<http::HeaderValue> {
    // Before 1970 there were no objects; the formatter refuses such dates.
    let time = time.max(UNIX_EPOCH);
    http::HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok()
}

/// `bucket/key` of a copy's source, and the version of it.
pub(super) fn copy_source(source: &dto::CopySource) -> S3Result<ObjectRef> {
    match source {
        dto::CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => version(bucket, key, version_id.as_deref()),
        _ => Err(error::not_implemented("Copying from an access point")),
    }
}

/// An object, and perhaps a version of it.
pub(super) fn version(bucket: &str, key: &str, id: Option<&str>) -> S3Result<ObjectRef> {
    let id = id.map(version_id).transpose()?;
    Ok(object(bucket, key).at(id))
}

pub(super) fn version_id(text: &str) -> S3Result<Version> {
    if text.is_empty() {
        return Err(s3_error!(
            InvalidArgument,
            "Version id cannot be the empty string"
        ));
    }
    text.parse()
        .map_err(|_| s3_error!(InvalidArgument, "Invalid version id specified"))
}

pub(super) fn check_owner(expected: Option<&str>) -> S3Result<()> {
    match expected {
        None | Some(OWNER) => Ok(()),
        Some(_) => Err(s3_error!(
            AccessDenied,
            "The bucket has another owner than expected."
        )),
    }
}

/// A page's limit: at most 1000, as S3 has it.
pub(super) fn limit(asked: Option<i32>, name: &str) -> S3Result<usize> {
    match usize::try_from(asked.unwrap_or(1000)) {
        Ok(limit) => Ok(limit.min(1000)),
        Err(_) => Err(s3_error!(InvalidArgument, "{name} must not be negative")),
    }
}

/// What a query leaves as it is (RFC 3986, 2.3), and what a path does.
pub(super) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
pub(super) const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// What `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'*')
    .remove(b'/');

/// Applies `encoding-type`.
pub(super) fn encode(text: &str, encoding: Option<&dto::EncodingType>) -> String {
    match encoding {
        // As AWS does: a space is a plus, a plus is %2B.
        Some(_) => utf8_percent_encode(text, PLAIN).to_string().replace("%20", "+"),
        None => text.to_owned(),
    }
}

pub(super) fn check_encoding(encoding: Option<&dto::EncodingType>) -> S3Result<()> {
    match encoding.map(dto::EncodingType::as_str) {
        None | Some("url") => Ok(()),
        Some(other) => Err(s3_error!(
            InvalidArgument,
            "{other:?} is no encoding type; use url"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunked_is_not_part_of_the_object() {
        assert_eq!(without_chunking("aws-chunked"), None);
        assert_eq!(without_chunking("gzip,aws-chunked").as_deref(), Some("gzip"));
        assert_eq!(without_chunking("aws-chunked, gzip").as_deref(), Some("gzip"));
        assert_eq!(without_chunking("br").as_deref(), Some("br"));
        assert_eq!(without_chunking(""), None);
    }

    #[test]
    fn url_encoding_is_that_of_s3() {
        let url = dto::EncodingType::from_static(dto::EncodingType::URL);
        assert_eq!(encode("a b+c/ü\u{1}", Some(&url)), "a+b%2Bc/%C3%BC%01");
        assert_eq!(encode("a b", None), "a b");
    }
}
