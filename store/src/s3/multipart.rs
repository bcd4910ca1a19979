//! CreateMultipartUpload, UploadPart, UploadPartCopy, CompleteMultipartUpload, AbortMultipartUpload, ListParts.

use super::{
    Front,
    attributes::{Sums, checksum_type, version_id},
    body::{self, Beside, Incoming, Sent},
    convert, copy,
    encryption::{self, Told, customer, encryption, source_customer},
    error,
    fields::{attributes, checksums, headers, other_class, refuse_unbuilt, with_sums},
    put,
};
use crate::engine::{
    ByteRange, Checksum, CompleteOptions, Encrypted, Error, PartOptions, PartRef, Pending, Precondition,
    UploadOptions,
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
        CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyPartResult,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, ListPartsInput, ListPartsOutput, Part,
        StorageClass, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

pub(super) async fn create_multipart_upload(
    front: &Front,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    refuse_unbuilt!(input, other_class!(input))?;
    let customer = customer!(request, input)?;
    let encryption = encryption!(front, input, customer.as_ref()).await?;
    let encryption_told = Told::asked(encryption.as_ref(), customer);
    let object = convert::object(&input.bucket, &input.key);
    let checksum = wanted_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
    let (checksum_algorithm, checksum_type) = told(checksum);
    let options = UploadOptions {
        headers: headers!(input),
        attributes: attributes!(input)?,
        checksum,
        encryption,
    };
    let id = front
        .engine
        .create_upload(&object, options)
        .await
        .map_err(error::answer)?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm,
        checksum_type,
        server_side_encryption: encryption_told.server,
        sse_customer_algorithm: encryption_told.algorithm,
        sse_customer_key_md5: encryption_told.md5,
        ..Default::default()
    }))
}

pub(super) async fn upload_part(
    front: &Front,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    encryption::refuse_header(&request.headers)?;
    let customer = customer!(request, input)?;
    let number = part_number(input.part_number)?;
    let object = convert::object(&input.bucket, &input.key);
    let begun = front.engine.begun_upload(&object, &input.upload_id).await;
    let begun = begun.map_err(error::answer)?;
    let declared = begun.checksum;
    let sent = Sent {
        content_md5: input.content_md5,
        checksums: checksums!(input),
        computing: declared.map(|(kind, _)| kind),
    };
    check_declared(declared, &sent, &request.headers)?;
    let beside = Beside {
        headers: &request.headers,
        extensions: &request.extensions,
        signer: request.credentials.as_ref(),
        trailers: request.trailing_headers,
    };
    let Incoming {
        body,
        mut options,
        receipt,
    } = body::incoming(front, beside, input.body, input.content_length, sent)?;
    options.key = customer.as_ref().map(|customer| customer.key.clone());
    let stored = front
        .engine
        .upload_part(&object, &input.upload_id, number, options, body)
        .await;
    receipt.drained().await;
    let part = stored.map_err(error::answer)?;
    let sums = Sums::from(part.checksums.clone(), part.crc64nvme);
    let told = Told::of(begun.encryption.as_ref(), customer);
    Ok(S3Response::with_headers(
        with_sums! { sums => UploadPartOutput {
            server_side_encryption: told.server,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.md5,
            e_tag: Some(convert::etag(&part.etag)),
            ..Default::default()
        } },
        receipt.headers(part.size),
    ))
}

pub(super) async fn upload_part_copy(
    front: &Front,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_owner(input.expected_source_bucket_owner.as_deref())?;
    encryption::refuse_header(&request.headers)?;
    let customer = customer!(request, input)?;
    let source_customer = source_customer!(request, input)?;
    let number = part_number(input.part_number)?;
    let from = convert::copy_source(&input.copy_source)?;
    let to = convert::object(&input.bucket, &input.key);
    let range = input.copy_source_range.as_deref().map(copy_range).transpose()?;
    let precondition = Precondition {
        if_match: convert::condition(input.copy_source_if_match),
        if_none_match: convert::condition(input.copy_source_if_none_match),
        key: source_customer.map(|customer| customer.key),
    };
    let source = front
        .engine
        .get(&from, range, &precondition)
        .await
        .map_err(copy::source_error)?;
    let source_version = source.info.version;
    convert::check_dates(
        &from,
        &source.info,
        &precondition,
        input.copy_source_if_modified_since,
        input.copy_source_if_unmodified_since,
    )
    .map_err(copy::source_error)?;
    if let Some(ByteRange::From { last: Some(last), .. }) = range
        && last >= source.info.size
    {
        return Err(s3_error!(
            InvalidRange,
            "The range lies outside the source of {} bytes.",
            source.info.size
        ));
    }
    let begun = front.engine.begun_upload(&to, &input.upload_id).await;
    let begun = begun.map_err(error::answer)?;
    let checksums = Pending::default();
    let options = PartOptions {
        size: Some(source.range.end - source.range.start),
        checksums: checksums.clone(),
        key: customer.as_ref().map(|customer| customer.key.clone()),
        ..PartOptions::default()
    };
    let body = match begun.checksum {
        Some((kind, _)) => body::summed(source.body, kind, checksums),
        None => source.body,
    };
    let part = front
        .engine
        .upload_part(&to, &input.upload_id, number, options, body)
        .await
        .map_err(error::answer)?;
    let sums = Sums::from(part.checksums.clone(), part.crc64nvme);
    let copied_version = source_version.map(|version| version.to_string());
    let told = Told::of(begun.encryption.as_ref(), customer);
    Ok(S3Response::new(UploadPartCopyOutput {
        server_side_encryption: told.server,
        sse_customer_algorithm: told.algorithm,
        sse_customer_key_md5: told.md5,
        copy_source_version_id: copied_version,
        copy_part_result: Some(with_sums! { sums => CopyPartResult {
            e_tag: Some(convert::etag(&part.etag)),
            last_modified: Some(convert::timestamp(part.modified)),
        } }),
        ..Default::default()
    }))
}

pub(super) async fn complete_multipart_upload(
    front: &Front,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    encryption::refuse_header(&request.headers)?;
    let customer = customer!(request, input)?;
    let listed = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .unwrap_or_default();
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "The list of parts is empty."));
    }
    let mut parts = Vec::with_capacity(listed.len());
    for part in listed {
        let (Some(number), Some(etag)) = (part.part_number, part.e_tag) else {
            return Err(s3_error!(MalformedXML, "A part needs a PartNumber and an ETag."));
        };
        parts.push(PartRef {
            number: part_number(number)?,
            etag: etag.into_value(),
            checksums: checksums!(part),
        });
    }
    let object = convert::object(&input.bucket, &input.key);
    if let Some(customer) = &customer {
        let begun = front.engine.begun_upload(&object, &input.upload_id).await;
        let checked = match begun {
            Ok(begun) => Encrypted::check_upload(begun.encryption.as_ref(), &customer.key),
            // Perhaps it was completed already; that is found out below.
            Err(Error::NoSuchUpload(_)) => Ok(()),
            Err(error) => Err(error),
        };
        checked.map_err(error::answer)?;
    }
    let options = CompleteOptions {
        precondition: convert::precondition(input.if_match, input.if_none_match),
        size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
        checksums: checksums!(input),
        is_composite: input
            .checksum_type
            .map(|kind| kind.as_str() == ChecksumType::COMPOSITE),
    };
    let info = front
        .engine
        .complete_upload(&object, &input.upload_id, &parts, &options)
        .await
        .map_err(error::answer)?;
    let headers = put::last_modified(&info);
    let sums = Sums::of(&info, true);
    Ok(S3Response::with_headers(
        with_sums! { sums => CompleteMultipartUploadOutput {
            server_side_encryption: Told::of(info.attributes.encryption.as_ref(), None).server,
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(convert::etag(&info.etag)),
            checksum_type: sums.kind,
            version_id: version_id(&info),
            ..Default::default()
        } },
        headers,
    ))
}

pub(super) async fn abort_multipart_upload(
    front: &Front,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let object = convert::object(&input.bucket, &input.key);
    front
        .engine
        .abort_upload(&object, &input.upload_id)
        .await
        .map_err(error::answer)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(super) async fn list_parts(
    front: &Front,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let limit = convert::limit(input.max_parts, "max-parts")?;
    let after = input.part_number_marker.unwrap_or(0);
    let object = convert::object(&input.bucket, &input.key);
    let mut parts = front
        .engine
        .parts(&object, &input.upload_id)
        .await
        .map_err(error::answer)?;
    let begun = front.engine.begun_upload(&object, &input.upload_id).await;
    let (checksum_algorithm, checksum_type) = told(begun.map_err(error::answer)?.checksum);
    parts.retain(|part| i32::from(part.number) > after);
    let truncated = parts.len() > limit;
    parts.truncate(limit);
    let next = parts.last().map(|part| i32::from(part.number));
    let parts = parts
        .into_iter()
        .map(|part| {
            let sums = Sums::from(part.checksums, part.crc64nvme);
            with_sums! { sums => Part {
                part_number: Some(i32::from(part.number)),
                size: Some(convert::size(part.size)),
                e_tag: Some(convert::etag(&part.etag)),
                last_modified: Some(convert::timestamp(part.modified)),
            } }
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        checksum_algorithm,
        checksum_type,
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        is_truncated: Some(truncated),
        max_parts: Some(i32::try_from(limit).unwrap_or(i32::MAX)),
        next_part_number_marker: next.filter(|_| truncated),
        part_number_marker: Some(after),
        parts: Some(parts),
        owner: Some(convert::owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }))
}

/// The checksum of an upload, as listings tell it.
pub(super) fn told(checksum: Option<(Checksum, bool)>) -> (Option<ChecksumAlgorithm>, Option<ChecksumType>) {
    let Some((kind, is_composite)) = checksum else {
        return (None, None);
    };
    let algorithm = ChecksumAlgorithm::from_static(kind.name());
    (Some(algorithm), Some(checksum_type(is_composite)))
}

/// Whether a part comes with the checksum that its upload was begun with.
fn check_declared(
    declared: Option<(Checksum, bool)>,
    sent: &Sent,
    headers: &http::HeaderMap,
) -> S3Result<()> {
    let Some((kind, is_composite)) = declared else {
        return Ok(());
    };
    let announced = body::announced(headers);
    let named = sent.named(&announced);
    match named.iter().find(|name| **name != kind.header()) {
        Some(other) => Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected {}, and {other} came",
            kind.header()
        )),
        None if is_composite && named.is_empty() => Err(s3_error!(
            InvalidRequest,
            "The upload was created using a {} checksum, and each part must come with its own.",
            kind.name()
        )),
        None => Ok(()),
    }
}

/// The checksum that an object shall have, and whether it is one of those of its parts: SHA-1 and SHA-256 can be nothing else, the
/// others are so unless said otherwise, and CRC-64/NVME is there anyway (S3 API, CreateMultipartUpload).
fn wanted_checksum(
    algorithm: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(Checksum, bool)>> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            )),
        };
    };
    let is_composite = kind.map(|kind| kind.as_str() == ChecksumType::COMPOSITE);
    match (algorithm.as_str(), Checksum::parse(algorithm.as_str())) {
        (_, Some(checksum @ Checksum::Crc64nvme)) if is_composite != Some(true) => {
            Ok(Some((checksum, false)))
        }
        (_, Some(checksum @ (Checksum::Crc32 | Checksum::Crc32c))) => {
            Ok(Some((checksum, is_composite.unwrap_or(true))))
        }
        (_, Some(checksum @ (Checksum::Sha1 | Checksum::Sha256))) if is_composite != Some(false) => {
            Ok(Some((checksum, true)))
        }
        (name, _) => Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {name} checksum algorithm.",
            kind.map_or("given", ChecksumType::as_str)
        )),
    }
}

fn part_number(number: i32) -> S3Result<u16> {
    u16::try_from(number)
        .ok()
        .filter(|number| (1..=10_000).contains(number))
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and 10000, inclusive"
            )
        })
}

/// `bytes=first-last`, both given (S3 API, UploadPartCopy).
fn copy_range(text: &str) -> S3Result<ByteRange> {
    let parsed = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse::<u64>().ok()?)))
        .filter(|(first, last): &(u64, u64)| first <= last);
    match parsed {
        Some((first, last)) => Ok(ByteRange::From {
            first,
            last: Some(last),
        }),
        None => Err(s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )),
    }
}
