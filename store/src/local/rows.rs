//! The rows of the index, encoded with postcard. Each is an enum of versions, so that a later one can be added beside it.

use crate::engine::{Headers, ObjectInfo, PartInfo};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A data file. Its first byte names its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct FileId(pub u128);

impl FileId {
    /// The folder under `data`.
    pub fn slot(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// The id that a file name stands for.
    pub fn parse(name: &str) -> Option<Self> {
        let well_formed = name.len() == 32 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| u128::from_str_radix(name, 16).ok().map(Self))?
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A run of bytes in a data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    pub file: FileId,
    pub offset: u64,
    pub length: u64,
    /// CRC-64/NVME of these bytes.
    pub crc64: u64,
}

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instant(pub u64);

impl Instant {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn to_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum BucketRow {
    V1 { created: Instant },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadersRow {
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_disposition: Option<String>,
    content_language: Option<String>,
    cache_control: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl From<Headers> for HeadersRow {
    fn from(headers: Headers) -> Self {
        Self {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_disposition: headers.content_disposition,
            content_language: headers.content_language,
            cache_control: headers.cache_control,
            metadata: headers.metadata,
        }
    }
}

impl From<HeadersRow> for Headers {
    fn from(row: HeadersRow) -> Self {
        Self {
            content_type: row.content_type,
            content_encoding: row.content_encoding,
            content_disposition: row.content_disposition,
            content_language: row.content_language,
            cache_control: row.cache_control,
            metadata: row.metadata,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectV1 {
    pub size: u64,
    pub etag: String,
    pub modified: Instant,
    pub crc64: u64,
    pub headers: HeadersRow,
    pub extents: Vec<Extent>,
}

impl ObjectV1 {
    pub fn to_info(&self) -> ObjectInfo {
        ObjectInfo {
            size: self.size,
            etag: self.etag.clone(),
            modified: self.modified.to_time(),
            crc64nvme: Some(self.crc64),
            headers: self.headers.clone().into(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum ObjectRow {
    V1(ObjectV1),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum UploadRow {
    V1 { started: Instant, headers: HeadersRow },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PartV1 {
    pub size: u64,
    /// What its entity tag says in hexadecimal.
    pub digest: [u8; 16],
    pub modified: Instant,
    pub crc64: u64,
    pub extents: Vec<Extent>,
}

impl PartV1 {
    pub fn to_info(&self, number: u16) -> PartInfo {
        PartInfo {
            number,
            size: self.size,
            etag: hex::encode(self.digest),
            modified: self.modified.to_time(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum PartRow {
    V1(PartV1),
}

pub(super) fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(row)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

/// The key of an object's row. Bucket names hold no NUL, so the first one ends the name, and keys keep their byte order.
pub(super) fn object_key(bucket: &str, key: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0], key.as_bytes()].concat()
}

/// The key of an upload's row; ids all have [`UPLOAD_ID`] bytes, so the key is what lies between.
pub(super) fn upload_key(bucket: &str, key: &str, id: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0], key.as_bytes(), &[0], id.as_bytes()].concat()
}

/// Length of an upload id.
pub(super) const UPLOAD_ID: usize = 32;

/// The key of a part's row.
pub(super) fn part_key(upload: &str, number: u16) -> Vec<u8> {
    [upload.as_bytes(), &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_its_id() {
        let id = FileId(0xab00_0000_0000_0000_0000_0000_0000_0001);
        assert_eq!(id.slot(), 0xab);
        assert_eq!(FileId::parse(&id.to_string()), Some(id));
        for no_id in [
            "",
            "lost+found",
            "AB000000000000000000000000000001",
            "+b000000000000000000000000000001",
        ] {
            assert_eq!(FileId::parse(no_id), None, "{no_id}");
        }
    }

    #[test]
    fn rows_keep_their_encoding() {
        // A store on disk is read by later versions: this encoding must never change, only get a new variant.
        let row = ObjectRow::V1(ObjectV1 {
            size: 3,
            etag: "e".to_owned(),
            modified: Instant(300),
            crc64: 1,
            headers: HeadersRow::default(),
            extents: vec![Extent {
                file: FileId(2),
                offset: 0,
                length: 3,
                crc64: 1,
            }],
        });
        assert_eq!(
            hex::encode(encode(&row).unwrap()),
            "00030165ac02010000000000000102000301"
        );
    }
}
