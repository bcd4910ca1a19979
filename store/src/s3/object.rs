//! PutObject, GetObject, HeadObject, DeleteObject, DeleteObjects, CopyObject.

use super::{
    Front,
    body::{self, Beside, Incoming, Sent},
    convert::{self, Written},
    error, lend,
};
use crate::{
    engine::{Error, ObjectInfo, ObjectRef, Precondition, PutOptions},
    rdma::{Carried, Refusal},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header::LAST_MODIFIED};
use penstock_rdma::protocol::header;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        ChecksumType, CopyObjectInput, CopyObjectOutput, CopyObjectResult, DeleteObjectInput,
        DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error as DeleteError,
        GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, MetadataDirective,
        PutObjectInput, PutObjectOutput, TaggingDirective,
    },
    s3_error,
};

/// Deletions of one request that are under way at the same time; they share their commits.
const PARALLEL_DELETES: usize = 64;

pub(super) async fn put_object(
    front: &Front,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    error::refuse_any(&[
        (
            input.acl.is_some_and(|acl| acl.as_str() != "private"),
            "An ACL other than private",
        ),
        (
            input.grant_full_control.is_some()
                || input.grant_read.is_some()
                || input.grant_read_acp.is_some()
                || input.grant_write_acp.is_some(),
            "Granting access by ACL",
        ),
        (
            input.object_lock_legal_hold_status.is_some()
                || input.object_lock_mode.is_some()
                || input.object_lock_retain_until_date.is_some(),
            "Object lock",
        ),
        (
            input.sse_customer_algorithm.is_some()
                || input.sse_customer_key.is_some()
                || input.ssekms_key_id.is_some(),
            "Encryption with a given key",
        ),
        (input.server_side_encryption.is_some(), "Server-side encryption"),
        (
            input
                .storage_class
                .is_some_and(|class| class.as_str() != "STANDARD"),
            "A storage class other than STANDARD",
        ),
        (input.tagging.is_some_and(|tags| !tags.is_empty()), "Tagging"),
        (input.website_redirect_location.is_some(), "Website redirection"),
        (input.write_offset_bytes.is_some(), "Appending"),
        (input.expires.is_some(), "The header Expires"),
    ])?;
    let object = convert::object(&input.bucket, &input.key);
    let sent = Sent {
        content_md5: input.content_md5,
        crc32: input.checksum_crc32,
        crc32c: input.checksum_crc32c,
        crc64nvme: input.checksum_crc64nvme,
        sha1: input.checksum_sha1,
        sha256: input.checksum_sha256,
    };
    let beside = Beside {
        headers: &request.headers,
        extensions: &request.extensions,
        signer: request.credentials.as_ref(),
        trailers: request.trailing_headers,
    };
    let Incoming {
        body,
        options,
        computed,
        receipt,
    } = body::incoming(front, beside, input.body, input.content_length, sent)?;
    let options = PutOptions {
        headers: Written {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata,
        }
        .into_headers(),
        precondition: convert::precondition(input.if_match, input.if_none_match),
        size: options.size,
        tag_of: options.tag_of,
        crc64nvme: options.crc64nvme,
    };
    let stored = front.engine.put(&object, options, body).await;
    receipt.drained().await;
    let info = stored.map_err(error::answer)?;
    let sum = computed.take();
    let mut headers = last_modified(&info);
    headers.extend(receipt.headers(info.size));
    Ok(S3Response::with_headers(
        PutObjectOutput {
            e_tag: Some(convert::etag(&info.etag)),
            checksum_crc32: sum.checksum_crc32,
            checksum_crc32c: sum.checksum_crc32c,
            checksum_crc64nvme: body::crc64(info.crc64nvme),
            checksum_sha1: sum.checksum_sha1,
            checksum_sha256: sum.checksum_sha256,
            checksum_type: Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            ..Default::default()
        },
        headers,
    ))
}

/// S3 does not say when it acknowledged a write; our client keeps its listings consistent with it.
pub(super) fn last_modified(info: &ObjectInfo) -> HeaderMap {
    let date = convert::http_date(info.modified);
    date.into_iter().map(|date| (LAST_MODIFIED, date)).collect()
}

pub(super) async fn get_object(
    front: &Front,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_version(input.version_id.as_deref())?;
    error::refuse_any(&[
        (input.part_number.is_some(), "Reading by part number"),
        (
            input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            "Encryption with a given key",
        ),
    ])?;
    let owner = request
        .credentials
        .as_ref()
        .map(|signer| signer.access_key.as_str());
    let carried = request.extensions.get::<Carried>();
    let tokened = match carried {
        Some(carried) => Some(carried.tokened.clone()),
        None => front
            .rdma
            .tokened(&request.headers, owner)
            .map_err(|refusal| refusal.answer())?,
    };
    let object = convert::object(&input.bucket, &input.key);
    let precondition = convert::precondition(input.if_match, input.if_none_match);
    let range = input.range.map(convert::range);
    let asked = lend::asked(&request.headers, &request.extensions)?;
    let check = |info: &ObjectInfo| {
        let (since, before) = (input.if_modified_since.clone(), input.if_unmodified_since.clone());
        convert::check_dates(&object, info, &precondition, since, before)
            .map_err(|error| read_error(error, &tag_of(info)))
    };
    let status = if range.is_some() { 206 } else { 200 };
    let (mut delivered, mut headers) = (None, HeaderMap::new());
    if let Some(tokened) = &tokened {
        if let Some(carried) = carried {
            let asked = (&object, range, &precondition);
            let begun = front
                .rdma
                .begin(carried, &*front.engine, asked, |info| {
                    check(info).map_err(lend::Error::from)
                })
                .await;
            let begun = begun.map_err(|error| match error {
                lend::Error::Engine(error) => read_error(error, &precondition),
                lend::Error::Refused(answer) => answer,
            })?;
            if let Some(begun) = begun {
                headers = begun.headers;
                delivered = Some((begun.info, begun.range));
            }
        } else if front.rdma.delivers() {
            let opened = front.engine.open(&object, range, &precondition).await;
            let opened = opened.map_err(|error| read_error(error, &precondition))?;
            check(&opened.info)?;
            let (info, bytes) = (opened.info.clone(), opened.range.clone());
            match front.rdma.deliver(tokened, opened).await {
                Ok(moved) => {
                    headers = moved.headers(status, info.crc64nvme);
                    delivered = Some((info, bytes));
                }
                Err(Refusal::NotSupported) => {}
                Err(refusal) => return Err(refusal.answer()),
            }
        }
        if delivered.is_none() {
            if !tokened.fallback {
                return Err(Refusal::NotSupported.answer());
            }
            headers.insert(header::REPLY, HeaderValue::from_static("501"));
        }
    }
    let (info, bytes, mut source) = match delivered {
        // They are where they belong.
        Some((info, bytes)) => (info, bytes, lend::Bytes::Body(None)),
        None => {
            let opened = lend::open(front, &object, range, &precondition, asked).await;
            let opened = opened.map_err(|error| match error {
                lend::Error::Engine(error) => read_error(error, &precondition),
                lend::Error::Refused(answer) => answer,
            })?;
            check(&opened.info)?;
            (opened.info, opened.range, opened.bytes)
        }
    };
    let content_range = range.map(|_| {
        let (first, last) = (bytes.start, bytes.end.saturating_sub(1));
        format!("bytes {first}-{last}/{}", info.size)
    });
    let whole = content_range.is_none() && input.checksum_mode.is_some();
    let metadata = convert::metadata(&info);
    let (body, length) = source.of_answer(front, &bytes);
    let mut answer = S3Response::with_headers(
        GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body,
            cache_control: info.headers.cache_control,
            checksum_crc64nvme: body::crc64(info.crc64nvme).filter(|_| whole),
            checksum_type: whole.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            content_disposition: info.headers.content_disposition,
            content_encoding: info.headers.content_encoding,
            content_language: info.headers.content_language,
            content_length: Some(convert::size(length)),
            content_range,
            content_type: Some(
                info.headers
                    .content_type
                    .unwrap_or_else(|| convert::DEFAULT_TYPE.to_owned()),
            ),
            e_tag: Some(convert::etag(&info.etag)),
            last_modified: Some(convert::timestamp(info.modified)),
            metadata,
            ..Default::default()
        },
        headers,
    );
    source.lend(front, &mut answer)?;
    Ok(answer)
}

fn tag_of(info: &ObjectInfo) -> Precondition {
    Precondition {
        if_match: None,
        if_none_match: Some(info.etag.clone()),
    }
}

/// An answer to a read; a 304 carries the entity tag (RFC 9110, 15.4.5), a 416 the size.
pub(super) fn read_error(error: Error, asked: &Precondition) -> S3Error {
    let header = match &error {
        Error::NotModified(_) => asked
            .if_none_match
            .as_ref()
            .filter(|tag| *tag != "*")
            .map(|tag| ("etag", format!("\"{tag}\""))),
        Error::InvalidRange { size } => Some(("content-range", format!("bytes */{size}"))),
        _ => None,
    };
    let is_range = matches!(error, Error::InvalidRange { .. });
    let mut answer = error::answer(error);
    if let Some((name, value)) = header
        && let Ok(value) = value.parse()
    {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        if is_range {
            headers.insert("content-type", http::HeaderValue::from_static("application/xml"));
        }
        answer.set_headers(headers);
    }
    answer
}

/// An answer to HEAD has no body, so its code is in a header: else our client had to ask whether it is the bucket that is missing.
fn head_error(error: Error) -> S3Error {
    let mut answer = error::answer(error);
    if let Ok(code) = answer.code().as_str().parse() {
        answer.set_headers(HeaderMap::from_iter([(penstock_rdma::ERROR_CODE, code)]));
    }
    answer
}

pub(super) async fn head_object(
    front: &Front,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_version(input.version_id.as_deref())?;
    error::refuse_any(&[
        (input.part_number.is_some(), "Reading by part number"),
        (input.range.is_some(), "A range in HeadObject"),
        (
            input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            "Encryption with a given key",
        ),
    ])?;
    let object = convert::object(&input.bucket, &input.key);
    let precondition = convert::precondition(input.if_match, input.if_none_match);
    let info = front.engine.head(&object).await.map_err(head_error)?;
    check_tags(&object, &info, &precondition)
        .and_then(|()| {
            convert::check_dates(
                &object,
                &info,
                &precondition,
                input.if_modified_since,
                input.if_unmodified_since,
            )
        })
        .map_err(|error| read_error(error, &tag_of(&info)))?;
    let with_checksum = input.checksum_mode.is_some();
    let metadata = convert::metadata(&info);
    Ok(S3Response::new(HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        cache_control: info.headers.cache_control,
        checksum_crc64nvme: body::crc64(info.crc64nvme).filter(|_| with_checksum),
        checksum_type: with_checksum.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
        content_disposition: info.headers.content_disposition,
        content_encoding: info.headers.content_encoding,
        content_language: info.headers.content_language,
        content_length: Some(convert::size(info.size)),
        content_type: Some(
            info.headers
                .content_type
                .unwrap_or_else(|| convert::DEFAULT_TYPE.to_owned()),
        ),
        e_tag: Some(convert::etag(&info.etag)),
        last_modified: Some(convert::timestamp(info.modified)),
        metadata,
        ..Default::default()
    }))
}

fn check_tags(object: &ObjectRef, info: &ObjectInfo, asked: &Precondition) -> Result<(), Error> {
    let holds = |tag: &String| tag == "*" || *tag == info.etag;
    if asked.if_match.as_ref().is_some_and(|tag| !holds(tag)) {
        return Err(Error::PreconditionFailed(object.clone()));
    }
    if asked.if_none_match.as_ref().is_some_and(holds) {
        return Err(Error::NotModified(object.clone()));
    }
    Ok(())
}

pub(super) async fn delete_object(
    front: &Front,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_version(input.version_id.as_deref())?;
    error::refuse_any(&[(
        input.if_match.is_some()
            || input.if_match_last_modified_time.is_some()
            || input.if_match_size.is_some(),
        "Conditional deletion",
    )])?;
    let object = convert::object(&input.bucket, &input.key);
    front.engine.delete(&object).await.map_err(error::answer)?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn delete_objects(
    front: &Front,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let quiet = input.delete.quiet == Some(true);
    if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML, "A deletion names 1 to 1000 objects."));
    }
    front.engine.bucket(&input.bucket).await.map_err(error::answer)?;
    let bucket = input.bucket.as_str();
    let outcomes: Vec<(String, S3Result<()>)> = stream::iter(input.delete.objects)
        .map(|named| async move {
            let conditional =
                named.e_tag.is_some() || named.last_modified_time.is_some() || named.size.is_some();
            let outcome = match convert::check_version(named.version_id.as_deref()) {
                Err(error) => Err(error),
                Ok(()) if conditional => Err(error::not_implemented("Conditional deletion")),
                Ok(()) => {
                    let object = convert::object(bucket, &named.key);
                    front.engine.delete(&object).await.map_err(error::answer)
                }
            };
            (named.key, outcome)
        })
        .buffered(PARALLEL_DELETES)
        .collect()
        .await;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (key, outcome) in outcomes {
        match outcome {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(DeletedObject {
                key: Some(key),
                ..Default::default()
            }),
            Err(error) => errors.push(DeleteError {
                key: Some(key),
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                ..Default::default()
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    }))
}

pub(super) async fn copy_object(
    front: &Front,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_owner(input.expected_source_bucket_owner.as_deref())?;
    error::refuse_any(&[
        (
            input.acl.is_some_and(|acl| acl.as_str() != "private"),
            "An ACL other than private",
        ),
        (
            input.grant_full_control.is_some()
                || input.grant_read.is_some()
                || input.grant_read_acp.is_some()
                || input.grant_write_acp.is_some(),
            "Granting access by ACL",
        ),
        (
            input.object_lock_legal_hold_status.is_some()
                || input.object_lock_mode.is_some()
                || input.object_lock_retain_until_date.is_some(),
            "Object lock",
        ),
        (
            input.sse_customer_algorithm.is_some()
                || input.copy_source_sse_customer_algorithm.is_some()
                || input.ssekms_key_id.is_some()
                || input.server_side_encryption.is_some(),
            "Server-side encryption",
        ),
        (
            input
                .storage_class
                .is_some_and(|class| class.as_str() != "STANDARD"),
            "A storage class other than STANDARD",
        ),
        (
            input.tagging.is_some_and(|tags| !tags.is_empty())
                || input
                    .tagging_directive
                    .is_some_and(|d| d.as_str() == TaggingDirective::REPLACE),
            "Tagging",
        ),
        (input.website_redirect_location.is_some(), "Website redirection"),
        (input.expires.is_some(), "The header Expires"),
        // It would have to hold at the very moment of the copy, which the engine cannot promise yet.
        (
            input.copy_source_if_match.is_some()
                || input.copy_source_if_none_match.is_some()
                || input.copy_source_if_modified_since.is_some()
                || input.copy_source_if_unmodified_since.is_some(),
            "A conditional copy",
        ),
    ])?;
    let from = convert::copy_source(&input.copy_source)?;
    let to = convert::object(&input.bucket, &input.key);
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(other) => return Err(s3_error!(InvalidArgument, "{other:?} is no metadata directive")),
    };
    if from == to && !replace {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing anything."
        ));
    }
    let headers = replace.then(|| {
        Written {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            metadata: input.metadata,
        }
        .into_headers()
    });
    let info = front
        .engine
        .copy(&from, &to, headers)
        .await
        .map_err(error::answer)?;
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(CopyObjectResult {
            e_tag: Some(convert::etag(&info.etag)),
            last_modified: Some(convert::timestamp(info.modified)),
            checksum_crc64nvme: body::crc64(info.crc64nvme),
            ..Default::default()
        }),
        ..Default::default()
    }))
}
