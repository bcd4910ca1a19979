//! Backups that a storage node makes of itself.

use crate::{Client, Result, client::admin::Call};
use http::Method;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A backup that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Its name; the time, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// So many of the newest stay when it is made, itself counted; all, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
}

/// A backup that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupInfo {
    /// Its name, which is that of its folder.
    pub name: String,
    /// The instant it shows.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Objects, every version counted.
    pub objects: u64,
    /// Their bytes; copies count each.
    pub bytes: u64,
    /// Data files that the storage node had lost already.
    pub missing: u64,
}

/// How a backup goes, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// Its name.
    pub name: String,
    /// Whether it is under way.
    pub running: bool,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// Data files that it has to have; 0 while the index is copied.
    pub files: u64,
    /// Those that it has.
    pub done: u64,
    /// Bytes that were copied; what is linked costs none.
    pub copied: u64,
    /// Why it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupList {
    /// The one under way, or the last since the storage node was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<BackupStatus>,
    /// Those that are there, the oldest first.
    pub backups: Vec<BackupInfo>,
}

impl Client {
    /// Has a backup made.
    ///
    /// # Errors
    /// `InvalidRequest` for a name that is none, `BackupAlreadyExists`, `BackupInProgress`, `NotImplemented` where the storage node
    /// has no place for backups, `AccessDenied` and transport failures.
    pub async fn start_backup(&self, request: &BackupRequest) -> Result<BackupStatus> {
        self.administer(Call::with(Method::POST, "backups", request)?)
            .await
    }

    /// All backups, and how the one under way goes.
    ///
    /// # Errors
    /// `NotImplemented`, `AccessDenied` and transport failures.
    pub async fn backups(&self) -> Result<BackupList> {
        self.administer(Call::new(Method::GET, "backups")).await
    }

    /// Deletes a backup.
    ///
    /// # Errors
    /// `NoSuchBackup`, `NotImplemented`, `AccessDenied` and transport failures.
    pub async fn delete_backup(&self, name: &str) -> Result<()> {
        self.order(Call::new(Method::DELETE, "backups").of(name)).await
    }
}
