//! What administrators ask of a storage node, below `/.penstock/v1` of its S3 address and signed with the root key
//! (`docs/storage-node.md`, "Administration"): the documents, in JSON, and the client's calls.

mod backups;

pub use backups::{BackupInfo, BackupList, BackupRequest, BackupStatus};

use crate::{Client, Result, client::admin::Call};
use http::Method;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The first segment of the paths, which no bucket can be called.
pub const RESERVED: &str = ".penstock";
/// What all paths begin with.
pub const BASE: &str = "/.penstock/v1";

/// What a key gives access to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scope {
    /// The name of a bucket, or the beginning of names and `*`.
    pub bucket: String,
    /// Keys of objects that begin with this; all if it is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What may be done with them.
    pub access: Access,
}

/// What may be done within a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Listing and reading.
    Read,
    /// Writing and deleting too.
    ReadWrite,
}

impl Scope {
    /// Whether it is of this bucket.
    pub fn covers(&self, bucket: &str) -> bool {
        match self.bucket.strip_suffix('*') {
            Some(beginning) => bucket.starts_with(beginning),
            None => self.bucket == bucket,
        }
    }

    /// Whether it lets write.
    pub fn writes(&self) -> bool {
        self.access == Access::ReadWrite
    }
}

/// A key that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRequest {
    /// What it is for, and what bucket policies call it; no two keys have the same.
    pub name: String,
    /// What it gives access to.
    pub scopes: Vec<Scope>,
    /// When it ends (RFC 3339); never, without.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyInfo {
    /// The access key.
    pub access_key_id: String,
    /// As in [`KeyRequest`].
    pub name: String,
    /// As in [`KeyRequest`].
    pub scopes: Vec<Scope>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// When it ends, or has ended.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<OffsetDateTime>,
}

/// A key that was made. Its secret is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewKey {
    /// What is told of it later too.
    #[serde(flatten)]
    pub info: KeyInfo,
    /// The secret key.
    pub secret_access_key: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// All keys beside the root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// By name.
    pub keys: Vec<KeyInfo>,
}

/// How much a storage node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Version of the storage node's software.
    pub version: String,
    /// Objects in all buckets, every version counted.
    pub objects: u64,
    /// Their bytes; copies count each.
    pub bytes: u64,
    /// Bytes free on the disk, where the node has one.
    pub disk_free: Option<u64>,
    /// Size of the disk in bytes, likewise.
    pub disk_size: Option<u64>,
    /// By name.
    pub buckets: BTreeMap<String, BucketStats>,
}

/// How much a bucket holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketStats {
    /// Objects, every version counted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

/// How a look at everything that is stored goes, or went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubStatus {
    /// Whether it is under way.
    pub running: bool,
    /// When it began; never, if there was none since the start of the storage node.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub started: Option<OffsetDateTime>,
    /// When it had seen everything.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub finished: Option<OffsetDateTime>,
    /// Objects that were compared with their checksums, every version counted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them are not what was written.
    pub broken: u64,
    /// Which ones, but for those beyond a thousand.
    pub objects_broken: Vec<BrokenObject>,
}

/// An object that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenObject {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its version; `null` where it has no name.
    pub version: String,
    /// What is wrong.
    pub cause: String,
}

/// The most bytes that a bucket may hold; no limit, without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Of all versions together.
    pub bytes: Option<u64>,
}

impl Client {
    /// Makes a key.
    ///
    /// # Errors
    /// `InvalidRequest`, `KeyAlreadyExists`, `AccessDenied` for all but the root key, and transport failures.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<NewKey> {
        self.administer(Call::with(Method::POST, "keys", request)?).await
    }

    /// All keys beside the root key.
    ///
    /// # Errors
    /// `AccessDenied` and transport failures.
    pub async fn keys(&self) -> Result<Vec<KeyInfo>> {
        let list: KeyList = self.administer(Call::new(Method::GET, "keys")).await?;
        Ok(list.keys)
    }

    /// Takes a key away. From then on it gives access to nothing.
    ///
    /// # Errors
    /// `NoSuchKey`, `AccessDenied` and transport failures.
    pub async fn revoke_key(&self, access_key: &str) -> Result<()> {
        self.order(Call::new(Method::DELETE, "keys").of(access_key)).await
    }

    /// How much there is.
    ///
    /// # Errors
    /// `AccessDenied` and transport failures.
    pub async fn stats(&self) -> Result<Stats> {
        self.administer(Call::new(Method::GET, "stats")).await
    }

    /// Has everything that is stored compared with its checksums.
    ///
    /// # Errors
    /// `ScrubInProgress`, `AccessDenied` and transport failures.
    pub async fn start_scrub(&self) -> Result<()> {
        self.order(Call::new(Method::POST, "scrub")).await
    }

    /// How that goes, or what the last one found.
    ///
    /// # Errors
    /// `AccessDenied` and transport failures.
    pub async fn scrub_status(&self) -> Result<ScrubStatus> {
        self.administer(Call::new(Method::GET, "scrub")).await
    }

    /// Sets the most bytes that a bucket may hold.
    ///
    /// # Errors
    /// `NoSuchBucket`, `AccessDenied` and transport failures.
    pub async fn set_quota(&self, bucket: &str, quota: Quota) -> Result<()> {
        self.order(Call::with(Method::PUT, "quotas", &quota)?.of(bucket))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_as_they_are_told() {
        let request: KeyRequest = serde_json::from_str(
            r#"{"name":"ci","scopes":[{"bucket":"a-*","access":"read"},{"bucket":"b","prefix":"x/","access":"read-write"}],
                "expires":"2030-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert!(
            request.scopes[0].covers("a-1") && !request.scopes[0].covers("b") && !request.scopes[0].writes()
        );
        assert!(
            request.scopes[1].covers("b") && !request.scopes[1].covers("b2") && request.scopes[1].writes()
        );
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<KeyRequest>(&text).unwrap(), request);
        for bad in [
            r#"{"name":"ci"}"#,
            r#"{"name":"ci","scopes":[{"bucket":"b","access":"write"}]}"#,
            r#"{"name":"ci","scopes":[],"expiry":"2030-01-01T00:00:00Z"}"#,
            r#"{"name":"ci","scopes":[],"expires":"tomorrow"}"#,
        ] {
            assert!(serde_json::from_str::<KeyRequest>(bad).is_err(), "{bad}");
        }
    }
}
