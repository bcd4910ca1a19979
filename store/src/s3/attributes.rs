//! Tags, locks, checksums and the like, between the S3 API's types and the engine's.

use super::{convert, error};
use crate::engine::{Attributes, Checksum, Checksums, LockMode, ObjectInfo, Period, Retention};
use http::StatusCode;
use percent_encoding::percent_decode_str;
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{
        self, ChecksumAlgorithm, ChecksumType, ObjectLockLegalHoldStatus, ObjectLockMode,
        ObjectLockRetentionMode, Tag, Timestamp,
    },
    s3_error,
};
use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

/// The S3 API's limits on tags: how many an object has, and how many a bucket.
pub(super) const MOST_OBJECT_TAGS: usize = 10;
pub(super) const MOST_BUCKET_TAGS: usize = 50;
const LONGEST_TAG: usize = 128;
const LONGEST_VALUE: usize = 256;

/// What a write says of its object beside headers.
#[derive(Default)]
pub(super) struct Given {
    pub tagging: Option<String>,
    pub mode: Option<ObjectLockMode>,
    pub until: Option<Timestamp>,
    pub hold: Option<ObjectLockLegalHoldStatus>,
    pub expires: Option<Timestamp>,
    pub redirect: Option<String>,
}

impl Given {
    pub fn read(self) -> S3Result<Attributes> {
        let retention = match (self.mode, self.until) {
            (None, None) => None,
            (Some(mode), Some(until)) => Some(retention(mode.as_str(), until).map_err(in_header)?),
            _ => {
                return Err(s3_error!(
                    InvalidArgument,
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
                ));
            }
        };
        if let Some(to) = &self.redirect
            && !["/", "http://", "https://"]
                .iter()
                .any(|begin| to.starts_with(begin))
        {
            return Err(error::coded(
                "InvalidRedirectLocation",
                StatusCode::BAD_REQUEST,
                "The website redirect location must begin with '/', 'http://' or 'https://'.",
            ));
        }
        Ok(Attributes {
            tags: self
                .tagging
                .as_deref()
                .map_or(Ok(BTreeMap::new()), tags_of_header)
                .map_err(in_header)?,
            retention,
            legal_hold: match self.hold.as_ref().map(ObjectLockLegalHoldStatus::as_str) {
                None => None,
                Some(status) => Some(holds(status).map_err(in_header)?),
            },
            expires: self.expires.and_then(http_date),
            redirect: self.redirect,
            ..Attributes::default()
        })
    }
}

/// What is malformed in a document is a bad argument in a header.
fn in_header(error: S3Error) -> S3Error {
    match error.code() {
        S3ErrorCode::MalformedXML => S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            error.message().unwrap_or_default().to_owned(),
        ),
        _ => error,
    }
}

fn http_date(time: Timestamp) -> Option<String> {
    let date = convert::http_date(system_time(time))?;
    date.to_str().ok().map(str::to_owned)
}

pub(super) fn system_time(time: Timestamp) -> SystemTime {
    time::OffsetDateTime::from(time).into()
}

/// A retention that begins now.
pub(super) fn retention(mode: &str, until: Timestamp) -> S3Result<Retention> {
    let until = system_time(until);
    if until <= SystemTime::now() {
        return Err(s3_error!(
            InvalidArgument,
            "The retain until date must be in the future!"
        ));
    }
    Ok(Retention {
        mode: lock_mode(mode)?,
        until,
    })
}

pub(super) fn lock_mode(text: &str) -> S3Result<LockMode> {
    match text {
        ObjectLockMode::GOVERNANCE => Ok(LockMode::Governance),
        ObjectLockMode::COMPLIANCE => Ok(LockMode::Compliance),
        _ => Err(malformed(
            "The retention mode is neither GOVERNANCE nor COMPLIANCE.",
        )),
    }
}

pub(super) fn lock_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => ObjectLockMode::GOVERNANCE,
        LockMode::Compliance => ObjectLockMode::COMPLIANCE,
    }
}

pub(super) fn retention_mode(mode: LockMode) -> ObjectLockRetentionMode {
    ObjectLockRetentionMode::from_static(lock_name(mode))
}

pub(super) fn hold_name(holds: bool) -> ObjectLockLegalHoldStatus {
    ObjectLockLegalHoldStatus::from_static(match holds {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    })
}

pub(super) fn holds(status: &str) -> S3Result<bool> {
    match status {
        ObjectLockLegalHoldStatus::ON => Ok(true),
        ObjectLockLegalHoldStatus::OFF => Ok(false),
        _ => Err(malformed("The legal hold is neither ON nor OFF.")),
    }
}

pub(super) fn malformed(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedXML, message)
}

/// The default retention of a bucket.
pub(super) fn default_retention(rule: &dto::DefaultRetention) -> S3Result<(LockMode, Period)> {
    let Some(mode) = &rule.mode else {
        return Err(malformed("A default retention needs a mode."));
    };
    let mode = lock_mode(mode.as_str())?;
    let (count, most, period): (i32, u32, fn(u32) -> Period) = match (rule.days, rule.years) {
        (Some(days), None) => (days, 36_500, Period::Days),
        (None, Some(years)) => (years, 100, Period::Years),
        _ => return Err(malformed("A default retention has either days or years.")),
    };
    match u32::try_from(count) {
        Ok(count) if (1..=most).contains(&count) => Ok((mode, period(count))),
        _ => Err(s3_error!(
            InvalidArgument,
            "Default retention period must be a positive integer value of at most 100 years."
        )),
    }
}

fn bad_header() -> S3Error {
    s3_error!(
        InvalidArgument,
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."
    )
}

fn tags_of_header(text: &str) -> S3Result<BTreeMap<String, String>> {
    let decode = |part: &str| {
        let part = part.replace('+', " ");
        let decoded = percent_decode_str(&part).decode_utf8();
        decoded
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| bad_header())
    };
    let (mut pairs, mut names) = (Vec::new(), HashSet::new());
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key)?, decode(value)?);
        if key.is_empty() || !names.insert(key.clone()) {
            return Err(bad_header());
        }
        pairs.push((key, value));
    }
    checked_tags(pairs, MOST_OBJECT_TAGS)
}

pub(super) fn tags_of_set(set: Vec<Tag>, most: usize) -> S3Result<BTreeMap<String, String>> {
    let mut pairs = Vec::with_capacity(set.len());
    for tag in set {
        match (tag.key, tag.value) {
            (Some(key), Some(value)) => pairs.push((key, value)),
            _ => return Err(malformed("A tag needs a key and a value.")),
        }
    }
    checked_tags(pairs, most)
}

fn checked_tags(pairs: Vec<(String, String)>, most: usize) -> S3Result<BTreeMap<String, String>> {
    if pairs.len() > most {
        return Err(error::coded(
            "BadRequest",
            StatusCode::BAD_REQUEST,
            format!("There cannot be more than {most} tags."),
        ));
    }
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        let plain = |text: &str| {
            text.chars()
                .all(|c| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c))
        };
        if key.starts_with("aws:") {
            return Err(s3_error!(
                InvalidTag,
                "System tags cannot be added/updated by requester"
            ));
        }
        if key.is_empty() || key.chars().count() > LONGEST_TAG || !plain(&key) {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > LONGEST_VALUE || !plain(&value) {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags.insert(key, value).is_some() {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key"
            ));
        }
    }
    Ok(tags)
}

pub(super) fn set_of_tags(tags: BTreeMap<String, String>) -> Vec<Tag> {
    let tags = tags.into_iter();
    tags.map(|(key, value)| Tag {
        key: Some(key),
        value: Some(value),
    })
    .collect()
}

/// The checksums of an object as its answers name them.
#[derive(Default)]
pub(super) struct Sums {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub kind: Option<ChecksumType>,
}

impl Sums {
    /// `None` for a wish that was not uttered.
    pub fn of(info: &ObjectInfo, wanted: bool) -> Self {
        if !wanted {
            return Self::default();
        }
        Self::from(info.attributes.checksums.clone(), info.crc64nvme)
    }

    pub fn from(checksums: Checksums, crc64nvme: Option<u64>) -> Self {
        let Checksums { mut of, is_composite } = checksums;
        Self {
            crc32: of.remove(&Checksum::Crc32),
            crc32c: of.remove(&Checksum::Crc32c),
            crc64nvme: crc64nvme.map(convert::crc64),
            sha1: of.remove(&Checksum::Sha1),
            sha256: of.remove(&Checksum::Sha256),
            kind: Some(checksum_type(is_composite)),
        }
    }
}

/// What a checksum is of.
pub(super) fn checksum_type(is_composite: bool) -> ChecksumType {
    ChecksumType::from_static(match is_composite {
        true => ChecksumType::COMPOSITE,
        false => ChecksumType::FULL_OBJECT,
    })
}

/// The checksum that an object's writer asked for, and else the one that all have.
pub(super) fn algorithm_of(info: &ObjectInfo) -> ChecksumAlgorithm {
    let asked = info.attributes.checksums.of.keys().next();
    ChecksumAlgorithm::from_static(asked.map_or(ChecksumAlgorithm::CRC64NVME, |kind| kind.name()))
}

/// The name of a version in an answer.
pub(super) fn version_id(info: &ObjectInfo) -> Option<String> {
    info.version.map(|version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_a_header_are_a_query() {
        let tags = tags_of_header("a=1&b%20c=%C3%BC+x&d").unwrap();
        let expected = [("a", "1"), ("b c", "ü x"), ("d", "")];
        assert!(tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
        assert_eq!(tags_of_header("").unwrap(), BTreeMap::new());
        for bad in ["=1", "a=1&a=2", "a=%FF", "a=!", &format!("{}=1", "k".repeat(129))] {
            assert!(tags_of_header(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..11).map(|n| format!("k{n}=v")).collect();
        assert!(tags_of_header(&many[..10].join("&")).is_ok());
        assert!(tags_of_header(&many.join("&")).is_err());
    }
}
