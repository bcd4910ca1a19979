//! Versions of objects, and what keeps them from being deleted (S3 API, "Retaining multiple versions of objects with S3
//! Versioning" and "Locking objects with Object Lock").

use super::ObjectInfo;
use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

/// One version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The one that was written while its bucket had no versions.
    Null,
    /// One that has a name.
    Id(u128),
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Id(number) => write!(f, "{number:032x}"),
        }
    }
}

/// The text names no version that there could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no version id: it is \"null\" or 32 hexadecimal digits")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        if text == "null" {
            return Ok(Self::Null);
        }
        let well_formed = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).ok().filter(|_| well_formed);
        number.map(Self::Id).ok_or(NoVersion)
    }
}

/// Whether a bucket keeps what is replaced and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// It does not, and never did.
    #[default]
    Never,
    /// Each write makes a version.
    Enabled,
    /// It did, and keeps what it has.
    Suspended,
}

/// How strict a retention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Who has the right to may delete nevertheless.
    Governance,
    /// Nobody may delete, nor shorten it.
    Compliance,
}

/// Until when a version may not be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How strictly.
    pub mode: LockMode,
    /// Until when.
    pub until: SystemTime,
}

/// How long objects are locked by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Days.
    Days(u32),
    /// Years of 365 days.
    Years(u32),
}

impl Period {
    /// As a length of time.
    pub fn time(self) -> Duration {
        let days = match self {
            Self::Days(days) => u64::from(days),
            Self::Years(years) => u64::from(years) * 365,
        };
        Duration::from_secs(days * 86_400)
    }
}

/// What objects of a bucket that can be locked are when their writer says nothing.
pub type DefaultRetention = Option<(LockMode, Period)>;

/// A version, or that there is none any more, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Key.
    pub key: String,
    /// Its name.
    pub version: Version,
    /// Whether it is what is read without naming one.
    pub is_latest: bool,
    /// When it was written.
    pub modified: SystemTime,
    /// Its facts; `None` for a delete marker.
    pub object: Option<ObjectInfo>,
}

/// Which versions of a bucket are listed (ListObjectVersions).
#[derive(Debug, Clone, Default)]
pub struct VersionQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that hold this after the prefix are rolled up into one common prefix each.
    pub delimiter: Option<String>,
    /// Only what comes after this key, or after this version of it.
    pub after: Option<(String, Option<Version>)>,
    /// At most this many versions and common prefixes together.
    pub limit: usize,
}

/// One page of versions, by key, the newest of each first.
#[derive(Debug, Clone, Default)]
pub struct VersionPage {
    /// Versions and delete markers.
    pub versions: Vec<VersionInfo>,
    /// Rolled-up prefixes, each ending with the delimiter.
    pub common_prefixes: Vec<String>,
    /// Where the next page starts (`after` of the next query); `None` on the last page.
    pub next: Option<(String, Option<Version>)>,
}

/// How a deletion is done.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `If-Match`: the entity tag must be this one (`*`: there must be an object).
    pub if_match: Option<String>,
    /// The object must have this length.
    pub size: Option<u64>,
    /// The object must have been written at this time, to the second.
    pub modified: Option<SystemTime>,
    /// Retention of the mode `Governance` does not count.
    pub bypasses_governance: bool,
}

impl DeleteOptions {
    /// Whether it depends on what is there.
    pub fn is_conditional(&self) -> bool {
        self.if_match.is_some() || self.size.is_some() || self.modified.is_some()
    }
}

/// What a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// The version that was removed or, without one being named, the delete marker that was made.
    pub version: Option<Version>,
    /// Whether that is a delete marker.
    pub is_marker: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written_and_nothing_else_is() {
        for version in [Version::Null, Version::Id(0), Version::Id(u128::MAX)] {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for bad in [
            "",
            "NULL",
            "1",
            &"g".repeat(32),
            &"A".repeat(32),
            &"0".repeat(33),
            "+0000000000000000000000000000001",
        ] {
            assert_eq!(bad.parse::<Version>(), Err(NoVersion), "{bad}");
        }
    }
}
