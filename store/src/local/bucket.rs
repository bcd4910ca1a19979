//! Buckets: create, delete, change, documents.

use super::{
    Inner, blocking, internal, names,
    rows::{BucketAttribute, BucketV2, VersioningRow},
};
use crate::engine::{BucketChange, Error, Result, Versioning};
use std::sync::Arc;

pub(super) async fn create(inner: &Inner, bucket: &str) -> Result<()> {
    names::check_bucket(bucket)?;
    let bucket = bucket.to_owned();
    let change = inner.committer.change(None, move |change| {
        if change.has_bucket(&bucket)? {
            return Ok(Err(Error::BucketExists(bucket)));
        }
        change.put_bucket(&bucket, BucketV2::new())?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn delete(inner: &Inner, bucket: &str) -> Result<()> {
    let bucket = bucket.to_owned();
    let change = inner.committer.change(None, move |change| {
        if !change.has_bucket(&bucket)? {
            return Ok(Err(Error::NoSuchBucket(bucket)));
        }
        if !change.is_empty(&bucket)? {
            return Ok(Err(Error::BucketNotEmpty(bucket)));
        }
        change.remove_bucket(&bucket)?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn change(inner: &Inner, bucket: &str, wanted: BucketChange) -> Result<()> {
    let bucket = bucket.to_owned();
    if matches!(wanted, BucketChange::Versioning(_)) {
        inner.index.set_has_versions();
    }
    let change = inner.committer.change(None, move |change| {
        let Some(mut row) = change.bucket(&bucket)? else {
            return Ok(Err(Error::NoSuchBucket(bucket)));
        };
        match wanted {
            BucketChange::Versioning(Versioning::Never) => {
                return Ok(Err(Error::BucketState(
                    "what has versions can only stop making more of them",
                )));
            }
            BucketChange::Versioning(Versioning::Suspended) if row.lock().is_some() => {
                return Ok(Err(Error::BucketState(
                    "a bucket whose objects can be locked keeps versions",
                )));
            }
            BucketChange::Versioning(state) => row.versioning = state.into(),
            BucketChange::Lock(_) if row.versioning != VersioningRow::Enabled => {
                return Ok(Err(Error::BucketState(
                    "objects can be locked only where versions are kept; enable versioning first",
                )));
            }
            BucketChange::Lock(default) => {
                row.more
                    .retain(|attribute| !matches!(attribute, BucketAttribute::Lock(_)));
                let default = default.map(|(mode, period)| (mode.into(), period.into()));
                row.more.push(BucketAttribute::Lock(default));
            }
            BucketChange::Quota(quota) => {
                row.more
                    .retain(|attribute| !matches!(attribute, BucketAttribute::Quota(_)));
                row.more.extend(quota.map(BucketAttribute::Quota));
            }
        }
        change.put_bucket(&bucket, row)?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn document(
    inner: &Arc<Inner>,
    bucket: &str,
    name: &'static str,
) -> Result<Option<Vec<u8>>> {
    let (inner, bucket) = (Arc::clone(inner), bucket.to_owned());
    blocking(move || {
        let found = inner.index.bucket(&bucket).map_err(internal("read the index"))?;
        if found.is_none() {
            return Err(Error::NoSuchBucket(bucket));
        }
        inner
            .index
            .document(&bucket, name)
            .map_err(internal("read the index"))
    })
    .await
}

pub(super) async fn set_document(
    inner: &Inner,
    bucket: &str,
    name: &'static str,
    document: Option<Vec<u8>>,
) -> Result<()> {
    let bucket = bucket.to_owned();
    let change = inner.committer.change(None, move |change| {
        if !change.has_bucket(&bucket)? {
            return Ok(Err(Error::NoSuchBucket(bucket)));
        }
        change.set_document(&bucket, name, document.as_deref())?;
        Ok(Ok(()))
    });
    change.await
}
