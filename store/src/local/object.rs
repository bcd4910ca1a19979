//! Buckets and objects: create, put, delete, copy.

use super::{
    Inner, blocking,
    index::Index,
    internal, names,
    rows::{HeadersRow, Instant, ObjectV1},
    write,
};
use crate::engine::{
    Body, Error, Headers, ObjectInfo, ObjectRef, PartOptions, Precondition, PutOptions, Result,
};
use std::sync::Arc;

pub(super) async fn create_bucket(inner: &Inner, bucket: &str) -> Result<()> {
    names::check_bucket(bucket)?;
    let bucket = bucket.to_owned();
    let change = inner.committer.change(None, move |change| {
        if change.has_bucket(&bucket)? {
            return Ok(Err(Error::BucketExists(bucket)));
        }
        change.insert_bucket(&bucket)?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn delete_bucket(inner: &Inner, bucket: &str) -> Result<()> {
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

/// An object's row. Blocks.
pub(super) fn find(index: &Index, object: &ObjectRef) -> Result<ObjectV1> {
    if let Some(row) = index.object(object).map_err(internal("read the index"))? {
        return Ok(row);
    }
    match index.bucket(&object.bucket).map_err(internal("read the index"))? {
        Some(_) => Err(Error::NoSuchKey(object.clone())),
        None => Err(Error::NoSuchBucket(object.bucket.clone())),
    }
}

/// Whether a write may replace `current` (S3 API, "conditional writes"). A missing object is `NoSuchKey` for `If-Match`.
pub(super) fn check_write(
    object: &ObjectRef,
    precondition: &Precondition,
    current: Option<&ObjectV1>,
) -> Result<()> {
    if let Some(wanted) = &precondition.if_match {
        match current {
            None => return Err(Error::NoSuchKey(object.clone())),
            Some(row) if wanted != "*" && *wanted != row.etag => {
                return Err(Error::PreconditionFailed(object.clone()));
            }
            Some(_) => {}
        }
    }
    if let (Some(unwanted), Some(row)) = (&precondition.if_none_match, current)
        && (unwanted == "*" || *unwanted == row.etag)
    {
        return Err(Error::PreconditionFailed(object.clone()));
    }
    Ok(())
}

pub(super) async fn put(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    options: PutOptions,
    body: Body,
) -> Result<ObjectInfo> {
    let PutOptions {
        headers,
        precondition,
        size,
        tag_of,
        crc64nvme,
    } = options;
    let expected = PartOptions {
        size,
        tag_of,
        crc64nvme,
    };
    names::check_key(object)?;
    // What is refused anyway is refused before its bytes are taken. The commit checks again, atomically.
    {
        let (inner, object, precondition) = (Arc::clone(inner), object.clone(), precondition.clone());
        blocking(move || match find(&inner.index, &object) {
            Ok(row) => check_write(&object, &precondition, Some(&row)),
            Err(Error::NoSuchKey(_)) => check_write(&object, &precondition, None),
            Err(error) => Err(error),
        })
        .await?;
    }
    let mut stored = write::store(&inner.data, object, expected, body).await?;
    let row = ObjectV1 {
        size: stored.size,
        etag: stored.etag(),
        modified: Instant::now(),
        crc64: stored.crc64,
        headers: headers.into(),
        extents: stored.extents(),
    };
    let object = object.clone();
    let change = inner.committer.change(stored.file.take(), move |change| {
        if !change.has_bucket(&object.bucket)? {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        }
        if let Err(error) = check_write(&object, &precondition, change.object(&object)?.as_ref()) {
            return Ok(Err(error));
        }
        change.refer(&row.extents)?;
        change.replace_object(&object, &row)?;
        Ok(Ok(row.to_info()))
    });
    change.await
}

pub(super) async fn delete(inner: &Inner, object: &ObjectRef) -> Result<()> {
    let object = object.clone();
    let change = inner.committer.change(None, move |change| {
        if !change.has_bucket(&object.bucket)? {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        }
        change.remove_object(&object)?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn copy(
    inner: &Inner,
    from: &ObjectRef,
    to: &ObjectRef,
    headers: Option<Headers>,
) -> Result<ObjectInfo> {
    names::check_key(to)?;
    let (from, to) = (from.clone(), to.clone());
    let headers: Option<HeadersRow> = headers.map(Into::into);
    let change = inner.committer.change(None, move |change| {
        for bucket in [&from.bucket, &to.bucket] {
            if !change.has_bucket(bucket)? {
                return Ok(Err(Error::NoSuchBucket(bucket.clone())));
            }
        }
        let Some(mut row) = change.object(&from)? else {
            return Ok(Err(Error::NoSuchKey(from)));
        };
        row.modified = Instant::now();
        if let Some(headers) = headers {
            row.headers = headers;
        }
        // The new references first: with `from` and `to` the same, its files must not die in between.
        change.refer(&row.extents)?;
        change.replace_object(&to, &row)?;
        Ok(Ok(row.to_info()))
    });
    change.await
}
