//! Multipart uploads. A completed one is its parts' extents in a row: no byte is moved.

use super::{
    Inner, blocking,
    change::Change,
    index::Outcome,
    internal, joined, lock, names, object,
    rows::{Instant, ObjectV2, PartV2, UploadV2, VersionId, encryption_of, rows_of},
    write::{self, Cipher},
};
use crate::engine::{
    Attributes, Begun, Body, Checksum, CompleteOptions, Encrypted, Error, ObjectInfo, ObjectRef, PartFacts,
    PartInfo, PartOptions, PartRef, Result, UploadInfo, UploadOptions,
};
use crc_fast::{CrcAlgorithm, checksum_combine};
use md5::{Digest, Md5};
use std::sync::Arc;

/// The S3 API's limits ("Amazon S3 multipart upload limits").
const MIN_PART: u64 = 5 << 20;
const MAX_NUMBER: u16 = 10_000;

pub(super) async fn create(inner: &Inner, object: &ObjectRef, options: UploadOptions) -> Result<String> {
    names::check_key(object)?;
    let (_made_again_for_each_part, encryption) = inner.begin(options.encryption.as_ref())?;
    let attributes = Attributes {
        encryption,
        ..options.attributes
    };
    let row = UploadV2 {
        started: Instant::now(),
        headers: options.headers.into(),
        more: rows_of(&attributes),
        checksum: options
            .checksum
            .map(|(kind, is_composite)| (kind.name().to_owned(), is_composite)),
    };
    let id = format!("{:032x}", rand::random::<u128>());
    let object = object.clone();
    let change = inner.committer.change(None, move |change| {
        let Some(bucket) = change.bucket(&object.bucket)? else {
            return Ok(Err(Error::NoSuchBucket(object.bucket)));
        };
        if bucket.lock().is_none() && lock::asks(&row.more) {
            return Ok(Err(Error::NoLock));
        }
        change.insert_upload(&object, &id, row)?;
        Ok(Ok(id))
    });
    change.await
}

pub(super) async fn begun(inner: &Arc<Inner>, object: &ObjectRef, upload: &str) -> Result<Begun> {
    let (inner, object, upload) = (Arc::clone(inner), object.clone(), upload.to_owned());
    blocking(move || {
        let found = inner.index.upload(&object, &upload);
        match found.map_err(internal("read the index"))? {
            Some(begun) => Ok(Begun {
                checksum: begun.checksum(),
                encryption: encryption_of(&begun.more),
            }),
            None => Err(Error::NoSuchUpload(upload)),
        }
    })
    .await
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
    let encrypted = begun(inner, object, upload).await?.encryption;
    let key = Encrypted::open_upload(encrypted.as_ref(), options.key.as_ref(), inner.server_key.get())?;
    let is_customers = encrypted.is_some_and(|encrypted| encrypted.is_customers());
    let cipher = key.map(|key| Cipher { key, is_customers });
    let checksums = options.checksums.clone();
    let mut stored = write::store(&inner.data, object, options, cipher, body).await?;
    let checksums = checksums.take().of.into_iter();
    let part = PartV2 {
        checksums: checksums
            .map(|(kind, value)| (kind.name().to_owned(), value))
            .collect(),
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
    options: &CompleteOptions,
) -> Result<ObjectInfo> {
    let (object, upload, wanted, options) =
        (object.clone(), upload.to_owned(), parts.to_vec(), options.clone());
    let change = inner.committer.change(None, move |change| {
        let Some(begun) = change.upload(&object, &upload)? else {
            let done = completed_before(change, &object, &wanted)?;
            return Ok(done.ok_or(Error::NoSuchUpload(upload)));
        };
        let joined = choose(&wanted, begun.checksum(), change.parts(&upload)?)
            .and_then(|chosen| join(chosen, begun, &options));
        let mut row = match joined {
            Ok(row) => row,
            Err(error) => return Ok(Err(error)),
        };
        let bucket = match object::admit(change, &object, &options.precondition, row.size)? {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = lock::apply(&bucket, &mut row) {
            return Ok(Err(error));
        }
        // The object's references first, so that the files outlive the parts.
        change.refer(&row.extents)?;
        change.remove_upload(&object, &upload)?;
        change.put_object(&bucket, &object, &mut row)?;
        Ok(Ok(object::info_of(&bucket, &row)))
    });
    change.await
}

/// The object, where it is what these parts make. A client whose answer was lost asks once more, and S3 answers as it
/// did the first time; the upload itself is gone by then.
fn completed_before(
    change: &Change<'_>,
    object: &ObjectRef,
    parts: &[PartRef],
) -> Outcome<Option<ObjectInfo>> {
    let digests = parts.iter().map(|part| hex::decode(part.etag.trim_matches('"')));
    let Ok(digests) = digests.collect::<std::result::Result<Vec<_>, _>>() else {
        return Ok(None);
    };
    let etag = etag_of_parts(digests.iter().map(Vec::as_slice));
    let Some(bucket) = change.bucket(&object.bucket)? else {
        return Ok(None);
    };
    let current = change.current(object)?.filter(|row| row.etag == etag);
    Ok(current.map(|row| object::info_of(&bucket, &row)))
}

/// As S3 makes it: the digest of the parts' digests, and how many they are.
fn etag_of_parts<'a>(digests: impl ExactSizeIterator<Item = &'a [u8]>) -> String {
    let (mut md5, count) = (Md5::new(), digests.len());
    digests.for_each(|digest| md5.update(digest));
    format!("{}-{count}", hex::encode(md5.finalize()))
}

/// The parts that the finisher names, after every check of the S3 API on them.
fn choose(
    wanted: &[PartRef],
    checksum: Option<(Checksum, bool)>,
    mut uploaded: Vec<(u16, PartV2)>,
) -> Result<Vec<PartV2>> {
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
        // What was not asked for when the part was uploaded is not known of it.
        let mut known = row.checksums().of;
        known.insert(Checksum::Crc64nvme, joined::base64_of(row.crc64));
        let differs =
            |(kind, value): (&Checksum, &String)| known.get(kind).is_some_and(|known| known != value);
        if part.checksums.iter().any(differs) {
            return Err(Error::InvalidPart(part.number));
        }
        if let Some((kind, true)) = checksum
            && !part.checksums.contains_key(&kind)
        {
            return Err(Error::InvalidRequest(format!(
                "the upload was begun with a {} checksum, and each part must be named with its own; it is missing for part {}",
                kind.name(),
                part.number
            )));
        }
        if row.size < MIN_PART && position + 1 < wanted.len() {
            return Err(Error::PartTooSmall(part.number));
        }
        chosen.push(row);
    }
    Ok(chosen)
}

fn join(parts: Vec<PartV2>, begun: UploadV2, options: &CompleteOptions) -> Result<ObjectV2> {
    let checksum = begun.checksum();
    if options
        .is_composite
        .is_some_and(|given| given != checksum.is_some_and(|(_, is_composite)| is_composite))
    {
        return Err(Error::InvalidRequest(
            "the upload was begun with a checksum of another type".to_owned(),
        ));
    }
    let mut row = ObjectV2 {
        size: 0,
        etag: String::new(),
        modified: Instant::now(),
        crc64: 0,
        headers: begun.headers,
        extents: Vec::new(),
        version: VersionId::new(true),
        more: begun.more,
    };
    let mut attributes = row.to_info().attributes;
    if let Some((kind, is_composite)) = checksum {
        attributes.checksums = joined::of_parts(kind, is_composite, &parts);
    }
    let of_part = |part: &PartV2| PartFacts {
        size: part.size,
        crc64nvme: part.crc64,
        checksum: checksum.and_then(|(kind, _)| part.checksums().of.remove(&kind)),
    };
    attributes.parts = parts.iter().map(of_part).collect();
    row.set(&attributes);
    row.etag = etag_of_parts(parts.iter().map(|part| part.digest.as_slice()));
    for part in parts {
        row.crc64 = if row.size == 0 {
            part.crc64
        } else {
            checksum_combine(CrcAlgorithm::Crc64Nvme, row.crc64, part.crc64, part.size)
        };
        row.size += part.size;
        row.extents.extend(part.extents);
    }
    if options.size.is_some_and(|size| size != row.size) {
        return Err(Error::InvalidRequest(format!(
            "the parts have {} bytes together, and not as many as x-amz-mp-object-size says",
            row.size
        )));
    }
    let mut have = attributes.checksums.of;
    have.insert(Checksum::Crc64nvme, joined::base64_of(row.crc64));
    let differs = |(kind, value): &(&Checksum, &String)| have.get(kind).is_some_and(|have| have != *value);
    if let Some((kind, _)) = options.checksums.iter().find(differs) {
        return Err(Error::BadDigest(kind.header()));
    }
    Ok(row)
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
    begun(inner, object, upload).await?;
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
