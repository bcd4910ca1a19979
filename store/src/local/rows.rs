//! The rows of the index, encoded with postcard. Each is an enum of versions, so that a later one can be added beside it.

mod attributes;
mod bucket;
mod keys;

pub(super) use attributes::{Attribute, attributes_of, encryption_of, rows_of};
pub(super) use bucket::{BucketAttribute, BucketRow, BucketV2, LockModeRow, VersioningRow};
pub(super) use keys::{
    UPLOAD_ID, document_key, object_key, parse_version_key, part_key, prefix_of_versions, upload_key,
    version_key, versions_key,
};

use crate::engine::{Attributes, Checksum, Checksums, Encrypted, Headers, ObjectInfo, PartInfo, Version};
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

impl From<SystemTime> for Instant {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl Instant {
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    pub fn to_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }
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
    size: u64,
    etag: String,
    modified: Instant,
    crc64: u64,
    headers: HeadersRow,
    extents: Vec<Extent>,
}

/// Where a version stands among those of its key, newer ones having higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct VersionId {
    /// Microseconds since 1970 in the upper half, and what tells it from others in the lower.
    pub number: u128,
    /// Written while its bucket had no versions: S3 calls it `null`.
    pub is_null: bool,
}

impl VersionId {
    /// A new one, not yet put in order with others of the key.
    pub fn new(is_null: bool) -> Self {
        Self {
            number: u128::from(Instant::now().0) << 64 | u128::from(rand::random::<u64>() >> 1),
            is_null,
        }
    }

    pub fn is(self, version: Version) -> bool {
        self.to_version() == version
    }

    pub fn to_version(self) -> Version {
        match self.is_null {
            true => Version::Null,
            false => Version::Id(self.number),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectV2 {
    pub size: u64,
    pub etag: String,
    pub modified: Instant,
    pub crc64: u64,
    pub headers: HeadersRow,
    pub extents: Vec<Extent>,
    pub version: VersionId,
    pub more: Vec<Attribute>,
}

impl ObjectV2 {
    pub fn to_info(&self) -> ObjectInfo {
        ObjectInfo {
            size: self.size,
            etag: self.etag.clone(),
            modified: self.modified.to_time(),
            crc64nvme: Some(self.crc64),
            headers: self.headers.clone().into(),
            version: Some(self.version.to_version()),
            attributes: attributes_of(&self.more),
        }
    }

    pub fn encryption(&self) -> Option<Encrypted> {
        encryption_of(&self.more)
    }

    /// Takes the place of the attributes that are there.
    pub fn set(&mut self, attributes: &Attributes) {
        self.more = rows_of(attributes);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum ObjectRow {
    V1(ObjectV1),
    V2(ObjectV2),
}

impl From<ObjectRow> for ObjectV2 {
    fn from(row: ObjectRow) -> Self {
        match row {
            ObjectRow::V1(row) => Self {
                version: VersionId {
                    number: u128::from(row.modified.0) << 64,
                    is_null: true,
                },
                size: row.size,
                etag: row.etag,
                modified: row.modified,
                crc64: row.crc64,
                headers: row.headers,
                extents: row.extents,
                more: Vec::new(),
            },
            ObjectRow::V2(row) => row,
        }
    }
}

/// A version that is not the one that is read without naming any.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum VersionRow {
    Object(Box<ObjectRow>),
    Marker { modified: Instant, is_null: bool },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum UploadRow {
    V1 { started: Instant, headers: HeadersRow },
    V2(UploadV2),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UploadV2 {
    pub started: Instant,
    pub headers: HeadersRow,
    /// Of the object to be.
    pub more: Vec<Attribute>,
    /// Name of the checksum that was asked for, and whether it shall be one of the checksums of the parts.
    pub checksum: Option<(String, bool)>,
}

impl UploadV2 {
    /// The checksum that it was begun with, and whether it is one of the checksums of the parts.
    pub fn checksum(&self) -> Option<(Checksum, bool)> {
        let (name, is_composite) = self.checksum.as_ref()?;
        Some((Checksum::parse(name)?, *is_composite))
    }
}

impl From<UploadRow> for UploadV2 {
    fn from(row: UploadRow) -> Self {
        match row {
            UploadRow::V1 { started, headers } => Self {
                started,
                headers,
                more: Vec::new(),
                checksum: None,
            },
            UploadRow::V2(row) => row,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PartV1 {
    size: u64,
    digest: [u8; 16],
    modified: Instant,
    crc64: u64,
    extents: Vec<Extent>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PartV2 {
    pub size: u64,
    /// What its entity tag says in hexadecimal.
    pub digest: [u8; 16],
    pub modified: Instant,
    pub crc64: u64,
    pub extents: Vec<Extent>,
    /// Names and values in base64, beside the CRC64NVME.
    pub checksums: Vec<(String, String)>,
}

impl PartV2 {
    pub fn checksums(&self) -> Checksums {
        let known = self.checksums.iter();
        Checksums {
            of: known
                .filter_map(|(name, value)| Some((Checksum::parse(name)?, value.clone())))
                .collect(),
            is_composite: false,
        }
    }

    pub fn to_info(&self, number: u16) -> PartInfo {
        PartInfo {
            number,
            size: self.size,
            etag: hex::encode(self.digest),
            modified: self.modified.to_time(),
            crc64nvme: Some(self.crc64),
            checksums: self.checksums(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum PartRow {
    V1(PartV1),
    V2(PartV2),
}

impl From<PartRow> for PartV2 {
    fn from(row: PartRow) -> Self {
        match row {
            PartRow::V1(row) => Self {
                size: row.size,
                digest: row.digest,
                modified: row.modified,
                crc64: row.crc64,
                extents: row.extents,
                checksums: Vec::new(),
            },
            PartRow::V2(row) => row,
        }
    }
}

pub(super) fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(row)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
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
        let row = ObjectRow::V2(ObjectV2 {
            version: VersionId {
                number: 5,
                is_null: false,
            },
            more: vec![
                Attribute::Checksum("SHA256".to_owned(), "x".to_owned()),
                Attribute::LegalHold(true),
                Attribute::Encrypted(true, vec![7]),
            ],
            ..row.into()
        });
        assert_eq!(
            hex::encode(encode(&row).unwrap()),
            "01030165ac0201000000000000010200030105000301065348413235360178070108010107"
        );
    }

    #[test]
    fn what_is_not_known_of_old_rows_is_what_was_true_then() {
        let old = hex::decode("00030165ac02010000000000000102000301").unwrap();
        let row: ObjectV2 = decode::<ObjectRow>(&old).unwrap().into();
        assert_eq!(row.version.to_version(), Version::Null);
        assert!(row.more.is_empty());
    }
}
