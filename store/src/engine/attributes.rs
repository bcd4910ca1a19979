//! What objects may have beside their bytes and headers.

use super::{Encrypted, Retention};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A checksum that S3 knows (S3 API, "Checking object integrity"). Every object has CRC-64/NVME besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checksum {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (iSCSI).
    Crc32c,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// CRC-64/NVME.
    Crc64nvme,
}

impl Checksum {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Sha1,
        Self::Sha256,
        Self::Crc64nvme,
    ];

    /// As the S3 API calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Crc64nvme => "CRC64NVME",
        }
    }

    /// The header that carries it.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
            Self::Crc64nvme => "x-amz-checksum-crc64nvme",
        }
    }

    /// What the S3 API calls so.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The checksums of an object or a part, in base64 of their big-endian bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checksums {
    /// By kind; CRC-64/NVME is not among them.
    pub of: BTreeMap<Checksum, String>,
    /// They are checksums of the checksums of the parts, and not of the bytes.
    pub is_composite: bool,
}

/// Checksums that are known when the body has ended: whoever gives the body fills them in before its end.
#[derive(Debug, Clone, Default)]
pub struct Pending(Arc<Mutex<Checksums>>);

impl Pending {
    /// Fills them in.
    pub fn fill(&self, checksums: Checksums) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checksums;
    }

    /// What was filled in.
    pub fn take(&self) -> Checksums {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is known of a part once it is one of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFacts {
    /// Length in bytes.
    pub size: u64,
    /// CRC-64/NVME.
    pub crc64nvme: u64,
    /// The checksum that its upload was begun with.
    pub checksum: Option<String>,
}

/// What few objects have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Tags, at most ten.
    pub tags: BTreeMap<String, String>,
    /// Checksums beside CRC-64/NVME that its writer asked for.
    pub checksums: Checksums,
    /// Its parts, where it was uploaded in parts.
    pub parts: Vec<PartFacts>,
    /// `Expires`.
    pub expires: Option<String>,
    /// `x-amz-website-redirect-location`.
    pub redirect: Option<String>,
    /// Until when it may not be deleted.
    pub retention: Option<Retention>,
    /// It may not be deleted until this is taken back; `None` where nobody ever spoke of it.
    pub legal_hold: Option<bool>,
    /// How its bytes are encrypted. The engine says so; who writes says [`Encryption`](super::Encryption).
    pub encryption: Option<Encrypted>,
}

/// A change of an object that leaves its bytes as they are, and makes no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amendment {
    /// Other tags in place of those that are there.
    Tags(BTreeMap<String, String>),
    /// Another retention, or none. Making it weaker needs `bypasses_governance`.
    Retention {
        /// The new one.
        retention: Option<Retention>,
        /// Whether one of the mode `Governance` may be made weaker.
        bypasses_governance: bool,
    },
    /// Puts a legal hold on it, or takes it back.
    LegalHold(bool),
}
