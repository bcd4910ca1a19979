//! The rows of buckets.

use super::Instant;
use crate::engine::{LockMode, Period, Versioning};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::local) enum BucketRow {
    V1 { created: Instant },
    V2(BucketV2),
}

/// What writes must know of their bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) struct BucketV2 {
    pub created: Instant,
    pub versioning: VersioningRow,
    pub more: Vec<BucketAttribute>,
}

/// A later version appends to it, and never changes what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) enum BucketAttribute {
    /// Objects can be locked; those that say nothing are for this long.
    Lock(Option<(LockModeRow, PeriodRow)>),
    /// The most bytes that may be in it.
    Quota(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) enum VersioningRow {
    Never,
    Enabled,
    Suspended,
}

impl From<Versioning> for VersioningRow {
    fn from(state: Versioning) -> Self {
        match state {
            Versioning::Never => Self::Never,
            Versioning::Enabled => Self::Enabled,
            Versioning::Suspended => Self::Suspended,
        }
    }
}

impl From<VersioningRow> for Versioning {
    fn from(row: VersioningRow) -> Self {
        match row {
            VersioningRow::Never => Self::Never,
            VersioningRow::Enabled => Self::Enabled,
            VersioningRow::Suspended => Self::Suspended,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) enum PeriodRow {
    Days(u32),
    Years(u32),
}

impl From<Period> for PeriodRow {
    fn from(period: Period) -> Self {
        match period {
            Period::Days(days) => Self::Days(days),
            Period::Years(years) => Self::Years(years),
        }
    }
}

impl From<PeriodRow> for Period {
    fn from(row: PeriodRow) -> Self {
        match row {
            PeriodRow::Days(days) => Self::Days(days),
            PeriodRow::Years(years) => Self::Years(years),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) enum LockModeRow {
    Governance,
    Compliance,
}

impl From<LockMode> for LockModeRow {
    fn from(mode: LockMode) -> Self {
        match mode {
            LockMode::Governance => Self::Governance,
            LockMode::Compliance => Self::Compliance,
        }
    }
}

impl From<LockModeRow> for LockMode {
    fn from(row: LockModeRow) -> Self {
        match row {
            LockModeRow::Governance => Self::Governance,
            LockModeRow::Compliance => Self::Compliance,
        }
    }
}

impl BucketV2 {
    pub fn new() -> Self {
        Self {
            created: Instant::now(),
            versioning: VersioningRow::Never,
            more: Vec::new(),
        }
    }

    /// `None` where objects cannot be locked.
    pub fn lock(&self) -> Option<Option<(LockModeRow, PeriodRow)>> {
        self.more.iter().find_map(|attribute| match attribute {
            BucketAttribute::Lock(default) => Some(*default),
            BucketAttribute::Quota(_) => None,
        })
    }

    /// The most bytes that may be in it.
    pub fn quota(&self) -> Option<u64> {
        self.more.iter().find_map(|attribute| match attribute {
            BucketAttribute::Quota(bytes) => Some(*bytes),
            BucketAttribute::Lock(_) => None,
        })
    }
}

impl From<BucketRow> for BucketV2 {
    fn from(row: BucketRow) -> Self {
        match row {
            BucketRow::V1 { created } => Self {
                created,
                ..Self::new()
            },
            BucketRow::V2(row) => row,
        }
    }
}
