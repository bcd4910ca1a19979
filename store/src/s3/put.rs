//! PutObject.

use super::{
    Front,
    attributes::{Given, Sums},
    body::{self, Beside, Incoming, Sent},
    convert::{self, Written},
    error,
};
use crate::engine::{ObjectInfo, PutOptions};
use http::{HeaderMap, header::LAST_MODIFIED};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{PutObjectInput, PutObjectOutput},
    s3_error,
};

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
        (input.write_offset_bytes.is_some(), "Appending"),
    ])?;
    let object = convert::object(&input.bucket, &input.key);
    let has_digest = input.content_md5.is_some()
        || request
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("x-amz-checksum-") || name.as_str() == "x-amz-trailer");
    let sent = Sent {
        content_md5: input.content_md5,
        crc32: input.checksum_crc32,
        crc32c: input.checksum_crc32c,
        crc64nvme: input.checksum_crc64nvme,
        sha1: input.checksum_sha1,
        sha256: input.checksum_sha256,
        computing: None,
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
        receipt,
    } = body::incoming(front, beside, input.body, input.content_length, sent)?;
    let attributes = Given {
        tagging: input.tagging,
        mode: input.object_lock_mode,
        until: input.object_lock_retain_until_date,
        hold: input.object_lock_legal_hold_status,
        expires: input.expires,
        redirect: input.website_redirect_location,
    }
    .read()?;
    if (attributes.retention.is_some() || attributes.legal_hold.is_some()) && !has_digest {
        return Err(s3_error!(
            InvalidRequest,
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
        ));
    }
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
        attributes,
        checksums: options.checksums,
    };
    let stored = front.engine.put(&object, options, body).await;
    receipt.drained().await;
    let info = stored.map_err(error::answer)?;
    let mut headers = last_modified(&info);
    headers.extend(receipt.headers(info.size));
    let sums = Sums::of(&info, true);
    Ok(S3Response::with_headers(
        PutObjectOutput {
            e_tag: Some(convert::etag(&info.etag)),
            version_id: info.version.map(|version| version.to_string()),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
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
