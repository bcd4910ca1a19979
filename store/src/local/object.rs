//! Objects: put, delete, copy, amend.

use super::{
    Inner, blocking,
    change::Change,
    index::{Index, Outcome},
    internal, lock, names, reencrypt,
    rows::{BucketV2, Instant, ObjectV2, VersionId, VersioningRow},
    write,
};
use crate::engine::{
    Amendment, Attributes, Body, Copied, CopyOptions, DeleteOptions, Deleted, Encrypted, Encryption, Error,
    Marker, ObjectInfo, ObjectRef, PartOptions, Precondition, PutOptions, Result, Version,
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// An object's row. Blocks.
pub(super) fn find(index: &Index, object: &ObjectRef) -> Result<ObjectV2> {
    if let Some(row) = index.object(object).map_err(internal("read the index"))? {
        return Ok(row);
    }
    if index
        .bucket(&object.bucket)
        .map_err(internal("read the index"))?
        .is_none()
    {
        return Err(Error::NoSuchBucket(object.bucket.clone()));
    }
    let marker = index.marker(object).map_err(internal("read the index"))?;
    Err(missing(object, marker))
}

/// What is not there, and perhaps a delete marker in its place.
fn missing(object: &ObjectRef, marker: Option<(Version, Instant)>) -> Error {
    match (marker, object.version) {
        (Some((version, modified)), _) => Error::Marker(Box::new(Marker {
            object: object.clone(),
            version,
            modified: modified.to_time(),
        })),
        (None, Some(_)) => Error::NoSuchVersion(object.clone()),
        (None, None) => Error::NoSuchKey(object.clone()),
    }
}

/// Whether a write may replace `current` (S3 API, "conditional writes"). A missing object is `NoSuchKey` for `If-Match`.
pub(super) fn check_write(
    object: &ObjectRef,
    precondition: &Precondition,
    current: Option<&ObjectV2>,
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
        attributes,
        checksums,
        encryption,
    } = options;
    let expected = PartOptions {
        size,
        tag_of,
        crc64nvme,
        checksums: checksums.clone(),
        key: None,
    };
    names::check_key(object)?;
    // What is refused anyway is refused before its bytes are taken. The commit checks again, atomically.
    {
        let (inner, object, precondition) = (Arc::clone(inner), object.clone(), precondition.clone());
        blocking(move || match find(&inner.index, &object) {
            Ok(row) => check_write(&object, &precondition, Some(&row)),
            Err(Error::NoSuchKey(_) | Error::Marker(_)) => check_write(&object, &precondition, None),
            Err(error) => Err(error),
        })
        .await?;
    }
    let (cipher, encryption) = inner.begin(encryption.as_ref())?;
    let mut stored = write::store(&inner.data, object, expected, cipher, body).await?;
    let mut row = ObjectV2 {
        size: stored.size,
        etag: stored.etag(),
        modified: Instant::now(),
        crc64: stored.crc64,
        headers: headers.into(),
        extents: stored.extents(),
        version: VersionId::new(true),
        more: Vec::new(),
    };
    row.set(&Attributes {
        checksums: checksums.take(),
        encryption,
        ..attributes
    });
    let object = object.clone();
    let change = inner.committer.change(stored.file.take(), move |change| {
        let bucket = match admit(change, &object, &precondition, row.size)? {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = lock::apply(&bucket, &mut row) {
            return Ok(Err(error));
        }
        change.refer(&row.extents)?;
        change.put_object(&bucket, &object, &mut row)?;
        Ok(Ok(info_of(&bucket, &row)))
    });
    change.await
}

/// What was written; buckets that never had versions name none.
pub(super) fn info_of(bucket: &BucketV2, row: &ObjectV2) -> ObjectInfo {
    let mut info = row.to_info();
    if bucket.versioning == VersioningRow::Never {
        info.version = None;
    }
    info
}

/// The bucket, if an object of this size may be written into it now.
pub(super) fn admit(
    change: &Change<'_>,
    object: &ObjectRef,
    precondition: &Precondition,
    size: u64,
) -> Outcome<Result<BucketV2>> {
    let Some(bucket) = change.bucket(&object.bucket)? else {
        return Ok(Err(Error::NoSuchBucket(object.bucket.clone())));
    };
    let current = change.current(object)?;
    if let Err(error) = check_write(object, precondition, current.as_ref()) {
        return Ok(Err(error));
    }
    let replaced = current.filter(|_| bucket.versioning == VersioningRow::Never);
    let grows = size.saturating_sub(replaced.map_or(0, |row| row.size));
    if let Some(quota) = bucket.quota()
        && grows > 0
        && change.bytes_in(&object.bucket)?.saturating_add(grows) > quota
    {
        return Ok(Err(Error::QuotaExceeded(object.bucket.clone())));
    }
    Ok(Ok(bucket))
}

pub(super) async fn delete(inner: &Inner, object: &ObjectRef, options: &DeleteOptions) -> Result<Deleted> {
    if object.version.is_some() && options.is_conditional() {
        return Err(Error::NotSupported("Deleting a version on a condition"));
    }
    let (object, options) = (object.clone(), options.clone());
    let change = inner.committer.change(None, move |change| {
        let Some(bucket) = change.bucket(&object.bucket)? else {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        };
        let found = change.object(&object)?;
        let row = found.as_ref().map(|(row, _)| row);
        if let Err(error) = check_deletion(&object, &options, row) {
            return Ok(Err(error));
        }
        let Some(version) = object.version else {
            let marker = change.put_marker(&bucket, &object)?;
            return Ok(Ok(Deleted {
                version: marker.map(VersionId::to_version),
                is_marker: marker.is_some(),
            }));
        };
        if let Some(row) = row
            && let Err(cause) = lock::may_go(row, options.bypasses_governance)
        {
            return Ok(Err(Error::Locked(object, cause)));
        }
        let was_marker = change.remove_version(&object, version)?;
        Ok(Ok(Deleted {
            version: Some(version),
            is_marker: was_marker == Some(true),
        }))
    });
    change.await
}

/// Whether an object may be deleted (S3 API, "conditional deletes").
fn check_deletion(object: &ObjectRef, options: &DeleteOptions, row: Option<&ObjectV2>) -> Result<()> {
    let DeleteOptions {
        if_match,
        size,
        modified,
        ..
    } = options;
    if !options.is_conditional() {
        return Ok(());
    }
    let Some(row) = row else {
        // What is gone already need not be deleted, but an entity tag asks for there being one.
        return match if_match {
            Some(_) => Err(Error::NoSuchKey(object.clone())),
            None => Ok(()),
        };
    };
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).ok();
    let holds = if_match.as_ref().is_none_or(|tag| tag == "*" || *tag == row.etag)
        && size.is_none_or(|size| size == row.size)
        && modified.is_none_or(|time| seconds(time) == seconds(row.modified.to_time()));
    match holds {
        true => Ok(()),
        false => Err(Error::PreconditionFailed(object.clone())),
    }
}

pub(super) async fn copy(
    inner: &Arc<Inner>,
    from: &ObjectRef,
    to: &ObjectRef,
    options: CopyOptions,
) -> Result<Copied> {
    names::check_key(to)?;
    match copy_row(inner, from, to, options.clone()).await? {
        Some(copied) => Ok(copied),
        None => reencrypt::copy(inner, from, to, options).await,
    }
}

/// Makes a copy of the same data files; `None` where its bytes are to be encrypted in another way than those of its source.
async fn copy_row(
    inner: &Inner,
    from: &ObjectRef,
    to: &ObjectRef,
    options: CopyOptions,
) -> Result<Option<Copied>> {
    let (from, to) = (from.clone(), to.clone());
    let change = inner.committer.change(None, move |change| {
        let Some(keeper) = change.bucket(&from.bucket)? else {
            return Ok(Err(Error::NoSuchBucket(from.bucket)));
        };
        let Some((mut row, _)) = change.object(&from)? else {
            let marker = change.marker(&from)?;
            return Ok(Err(missing(&from, marker)));
        };
        let encrypted = row.encryption();
        match (&encrypted, &options.encryption) {
            (None, None) | (Some(Encrypted::Server(_)), Some(Encryption::Server)) => {}
            _ => return Ok(Ok(None)),
        }
        if let Err(error) = Encrypted::check(encrypted.as_ref(), options.source.key.as_ref())
            .and_then(|()| check_source(&from, &options, &row.etag, row.modified.to_time()))
        {
            return Ok(Err(error));
        }
        let bucket = match admit(change, &to, &options.precondition, row.size)? {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(error)),
        };
        let source = info_of(&keeper, &row).version;
        row.modified = Instant::now();
        dress(&mut row, options);
        if let Err(error) = lock::apply(&bucket, &mut row) {
            return Ok(Err(error));
        }
        // The new references first: with `from` and `to` the same, its files must not die in between.
        change.refer(&row.extents)?;
        change.put_object(&bucket, &to, &mut row)?;
        let info = info_of(&bucket, &row);
        Ok(Ok(Some(Copied { info, source })))
    });
    change.await
}

/// Gives a copy, whose row is that of its source, what it is to have of its own.
pub(super) fn dress(row: &mut ObjectV2, options: CopyOptions) {
    let mut attributes = row.to_info().attributes;
    if let Some(headers) = options.headers {
        row.headers = headers.into();
        attributes.expires = options.attributes.expires;
    }
    // Where to go is never copied.
    attributes.redirect = options.attributes.redirect;
    if let Some(tags) = options.tags {
        attributes.tags = tags;
    }
    if let Some(checksums) = options.checksums {
        attributes.checksums = checksums;
    }
    attributes.retention = options.attributes.retention;
    attributes.legal_hold = options.attributes.legal_hold;
    row.set(&attributes);
}

/// Whether a copy's source is what was asked for. All failures are `PreconditionFailed` (S3 API, CopyObject).
pub(super) fn check_source(
    from: &ObjectRef,
    options: &CopyOptions,
    etag: &str,
    modified: SystemTime,
) -> Result<()> {
    let CopyOptions {
        source,
        source_modified_since,
        source_unmodified_since,
        ..
    } = options;
    let is = |tag: &String| tag == "*" || tag == etag;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let written = seconds(modified);
    // Entity tags go before dates (RFC 9110, 13.2.2).
    let matches = match (&source.if_match, source_unmodified_since) {
        (Some(tag), _) => is(tag),
        (None, Some(since)) => written <= seconds(*since),
        (None, None) => true,
    };
    let differs = match (&source.if_none_match, source_modified_since) {
        (Some(tag), _) => !is(tag),
        (None, Some(since)) => written > seconds(*since),
        (None, None) => true,
    };
    match matches && differs {
        true => Ok(()),
        false => Err(Error::PreconditionFailed(from.clone())),
    }
}

pub(super) async fn amend(inner: &Inner, object: &ObjectRef, amendment: Amendment) -> Result<ObjectInfo> {
    let object = object.clone();
    let change = inner.committer.change(None, move |change| {
        let Some(bucket) = change.bucket(&object.bucket)? else {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        };
        let Some((mut row, is_current)) = change.object(&object)? else {
            let marker = change.marker(&object)?;
            return Ok(Err(missing(&object, marker)));
        };
        let mut attributes = row.to_info().attributes;
        match amendment {
            Amendment::Tags(tags) => attributes.tags = tags,
            Amendment::LegalHold(_) | Amendment::Retention { .. } if bucket.lock().is_none() => {
                return Ok(Err(Error::NoLock));
            }
            Amendment::LegalHold(holds) => attributes.legal_hold = Some(holds),
            Amendment::Retention {
                retention,
                bypasses_governance,
            } => {
                if let Err(cause) = lock::may_change(attributes.retention, retention, bypasses_governance) {
                    return Ok(Err(Error::Locked(object, cause)));
                }
                attributes.retention = retention;
            }
        }
        row.set(&attributes);
        let info = row.to_info();
        change.rewrite(&object, row, is_current)?;
        Ok(Ok(info))
    });
    change.await
}
