//! Multipart uploads. A completed one is its parts' extents in a row: no byte is moved.

use super::{
    Inner, blocking, internal, names, object,
    rows::{Instant, ObjectV1, PartV1},
    write,
};
use crate::engine::{
    Body, Error, Headers, ObjectInfo, ObjectRef, PartInfo, PartOptions, PartRef, Precondition, Result,
    UploadInfo,
};
use crc_fast::{CrcAlgorithm, checksum_combine};
use md5::{Digest, Md5};
use std::sync::Arc;

/// The S3 API's limits ("Amazon S3 multipart upload limits").
const MIN_PART: u64 = 5 << 20;
const MAX_NUMBER: u16 = 10_000;

pub(super) async fn create(inner: &Inner, object: &ObjectRef, headers: Headers) -> Result<String> {
    names::check_key(object)?;
    let id = format!("{:032x}", rand::random::<u128>());
    let object = object.clone();
    let change = inner.committer.change(None, move |change| {
        if !change.has_bucket(&object.bucket)? {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        }
        change.insert_upload(&object, &id, headers.into())?;
        Ok(Ok(id))
    });
    change.await
}

pub(super) async fn upload_part(
    inner: &Arc<Inner>,
    object: &ObjectRef,
    upload: &str,
    number: u16,
    options: PartOptions,
    body: Body,
) -> Result<PartInfo> {
    if !(1..=MAX_NUMBER).contains(&number) {
        return Err(Error::InvalidArgument(format!(
            "part number {number} is not between 1 and {MAX_NUMBER}"
        )));
    }
    find(inner, object, upload).await?;
    let mut stored = write::store(&inner.data, object, options, body).await?;
    let part = PartV1 {
        size: stored.size,
        digest: stored.digest,
        modified: Instant::now(),
        crc64: stored.crc64,
        extents: stored.extents(),
    };
    let (object, upload) = (object.clone(), upload.to_owned());
    let change = inner.committer.change(stored.file.take(), move |change| {
        if change.upload(&object, &upload)?.is_none() {
            return Ok(Err(Error::NoSuchUpload(upload)));
        }
        let info = part.to_info(number);
        change.replace_part(&upload, number, part)?;
        Ok(Ok(info))
    });
    change.await
}

pub(super) async fn complete(
    inner: &Inner,
    object: &ObjectRef,
    upload: &str,
    parts: &[PartRef],
    precondition: &Precondition,
) -> Result<ObjectInfo> {
    let (object, upload, wanted, precondition) = (
        object.clone(),
        upload.to_owned(),
        parts.to_vec(),
        precondition.clone(),
    );
    let change = inner.committer.change(None, move |change| {
        let Some(headers) = change.upload(&object, &upload)? else {
            return Ok(Err(Error::NoSuchUpload(upload)));
        };
        let chosen = match choose(&wanted, change.parts(&upload)?) {
            Ok(chosen) => chosen,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = object::check_write(&object, &precondition, change.object(&object)?.as_ref()) {
            return Ok(Err(error));
        }
        let mut row = join(chosen);
        row.headers = headers;
        // The object's references first, so that the files outlive the parts.
        change.refer(&row.extents)?;
        change.remove_upload(&object, &upload)?;
        change.replace_object(&object, &row)?;
        Ok(Ok(row.to_info()))
    });
    change.await
}

/// The parts that the finisher names, after every check of the S3 API on them.
fn choose(wanted: &[PartRef], mut uploaded: Vec<(u16, PartV1)>) -> Result<Vec<PartV1>> {
    if wanted.is_empty() {
        return Err(Error::InvalidArgument(
            "an upload needs at least one part".to_owned(),
        ));
    }
    if !wanted.is_sorted_by(|a, b| a.number < b.number) {
        return Err(Error::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(wanted.len());
    for (position, part) in wanted.iter().enumerate() {
        let found = uploaded.iter().position(|(number, _)| *number == part.number);
        let (_, row) = uploaded.swap_remove(found.ok_or(Error::InvalidPart(part.number))?);
        if hex::encode(row.digest) != part.etag.trim_matches('"') {
            return Err(Error::InvalidPart(part.number));
        }
        if row.size < MIN_PART && position + 1 < wanted.len() {
            return Err(Error::PartTooSmall(part.number));
        }
        chosen.push(row);
    }
    Ok(chosen)
}

fn join(parts: Vec<PartV1>) -> ObjectV1 {
    let mut md5 = Md5::new();
    let count = parts.len();
    let mut row = ObjectV1 {
        size: 0,
        etag: String::new(),
        modified: Instant::now(),
        crc64: 0,
        headers: Headers::default().into(),
        extents: Vec::new(),
    };
    for part in parts {
        md5.update(part.digest);
        row.crc64 = if row.size == 0 {
            part.crc64
        } else {
            checksum_combine(CrcAlgorithm::Crc64Nvme, row.crc64, part.crc64, part.size)
        };
        row.size += part.size;
        row.extents.extend(part.extents);
    }
    row.etag = format!("{}-{count}", hex::encode(md5.finalize()));
    row
}

pub(super) async fn abort(inner: &Inner, object: &ObjectRef, upload: &str) -> Result<()> {
    let (object, upload) = (object.clone(), upload.to_owned());
    let change = inner.committer.change(None, move |change| {
        if change.upload(&object, &upload)?.is_none() {
            return Ok(Err(Error::NoSuchUpload(upload)));
        }
        change.remove_upload(&object, &upload)?;
        Ok(Ok(()))
    });
    change.await
}

pub(super) async fn parts(inner: &Arc<Inner>, object: &ObjectRef, upload: &str) -> Result<Vec<PartInfo>> {
    find(inner, object, upload).await?;
    let (inner, upload) = (Arc::clone(inner), upload.to_owned());
    blocking(move || {
        let parts = inner.index.parts(&upload).map_err(internal("read the index"))?;
        Ok(parts.iter().map(|(number, part)| part.to_info(*number)).collect())
    })
    .await
}

pub(super) async fn uploads(inner: &Arc<Inner>, bucket: &str) -> Result<Vec<UploadInfo>> {
    let (inner, bucket) = (Arc::clone(inner), bucket.to_owned());
    blocking(move || {
        let found = inner.index.bucket(&bucket).map_err(internal("read the index"))?;
        if found.is_none() {
            return Err(Error::NoSuchBucket(bucket));
        }
        inner.index.uploads(&bucket).map_err(internal("read the index"))
    })
    .await
}

async fn find(inner: &Arc<Inner>, object: &ObjectRef, upload: &str) -> Result<()> {
    let (inner, object, upload) = (Arc::clone(inner), object.clone(), upload.to_owned());
    blocking(move || {
        let found = inner.index.has_upload(&object, &upload);
        match found.map_err(internal("read the index"))? {
            true => Ok(()),
            false => Err(Error::NoSuchUpload(upload)),
        }
    })
    .await
}
