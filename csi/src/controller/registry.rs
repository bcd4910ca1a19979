//! The volumes made here: one object per volume in a bucket of its own on the storage node.
//!
//! Not in the volume, where programs would see and could delete it, and not in Kubernetes, which may be made anew over the
//! same storage. An object per volume needs no lock: it is written only where there is none.

use super::{error::Error, storage::Storage};
use crate::attributes::{Attributes, REGISTRY_BUCKET};
use penstock_store::engine::ObjectRef;
use serde::{Deserialize, Serialize};

/// What is remembered of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The name that the CO gave it.
    pub name: String,
    /// Its size; 0 when none was asked for.
    pub capacity_bytes: i64,
    /// Where it is and how its files look.
    pub attributes: Attributes,
}

impl Record {
    /// The volume's id: where it is.
    pub(super) fn id(&self) -> String {
        let Attributes { bucket, prefix, .. } = &self.attributes;
        if prefix.is_empty() {
            bucket.clone()
        } else {
            format!("{bucket}/{prefix}")
        }
    }
}

/// The records of one storage node.
pub(super) struct Registry<'a> {
    storage: &'a Storage,
}

impl<'a> Registry<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Self { storage }
    }

    /// The record of a key.
    pub(super) async fn find(&self, key: &str) -> Result<Option<Record>, Error> {
        let object = object(key);
        let Some(bytes) = self.storage.read(&object).await? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(Error::Record { object, source }),
        }
    }

    /// Adds a record. Fails when there is one, which is then another process's: the caller has looked before.
    pub(super) async fn insert(&self, key: &str, record: &Record) -> Result<(), Error> {
        let object = object(key);
        let bytes = serde_json::to_vec(record).map_err(|source| Error::Record {
            object: object.clone(),
            source,
        })?;
        if self.storage.create(&object, bytes.clone()).await? {
            return Ok(());
        }
        self.storage.create_bucket(REGISTRY_BUCKET).await?;
        if self.storage.create(&object, bytes).await? {
            return Ok(());
        }
        Err(penstock_store::engine::Error::NoSuchBucket(REGISTRY_BUCKET.to_owned()).into())
    }

    /// Removes a record; fine when there is none.
    pub(super) async fn remove(&self, key: &str) -> Result<(), Error> {
        self.storage.delete(&object(key)).await
    }
}

fn object(key: &str) -> ObjectRef {
    ObjectRef::new(REGISTRY_BUCKET, key)
}
