//! PutObject.

use super::{
    Front,
    attributes::{Sums, version_id},
    body::{self, Beside, Incoming, Sent},
    convert,
    encryption::{Customer, Told, customer, encryption},
    error,
    fields::{attributes, checksums, headers, other_class, refuse_unbuilt, with_sums},
};
use crate::engine::{Encryption, ObjectInfo, PutOptions};
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
    let asked = asked(front, &request).await;
    let mut input = request.input;
    let (customer, encryption) = match asked {
        Ok(asked) => asked,
        Err(refusal) => {
            body::drain(input.body.take(), input.content_length).await;
            return Err(refusal);
        }
    };
    let object = convert::object(&input.bucket, &input.key);
    let has_digest = input.content_md5.is_some()
        || request
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("x-amz-checksum-") || name.as_str() == "x-amz-trailer");
    let sent = Sent {
        content_md5: input.content_md5,
        checksums: checksums!(input),
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
    let attributes = attributes!(input)?;
    if (attributes.retention.is_some() || attributes.legal_hold.is_some()) && !has_digest {
        return Err(s3_error!(
            InvalidRequest,
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
        ));
    }
    let options = PutOptions {
        headers: headers!(input),
        precondition: convert::precondition(input.if_match, input.if_none_match),
        size: options.size,
        tag_of: options.tag_of,
        crc64nvme: options.crc64nvme,
        attributes,
        checksums: options.checksums,
        encryption,
    };
    let stored = front.engine.put(&object, options, body).await;
    receipt.drained().await;
    let info = stored.map_err(error::answer)?;
    let mut headers = last_modified(&info);
    headers.extend(receipt.headers(info.size));
    let sums = Sums::of(&info, true);
    let told = Told::of(info.attributes.encryption.as_ref(), customer);
    Ok(S3Response::with_headers(
        with_sums! { sums => PutObjectOutput {
            checksum_type: sums.kind,
            e_tag: Some(convert::etag(&info.etag)),
            version_id: version_id(&info),
            server_side_encryption: told.server,
            sse_customer_algorithm: told.algorithm,
            sse_customer_key_md5: told.md5,
            ..Default::default()
        } },
        headers,
    ))
}

/// How the object is to be encrypted, and with which key of the customer's, where the request asks for nothing that is not built.
async fn asked(
    front: &Front,
    request: &S3Request<PutObjectInput>,
) -> S3Result<(Option<Customer>, Option<Encryption>)> {
    let input = &request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    refuse_unbuilt!(
        input,
        other_class!(input),
        (input.write_offset_bytes.is_some(), "Appending"),
    )?;
    let customer = customer!(request, input)?;
    let encryption = encryption!(front, input, customer.as_ref()).await?;
    Ok((customer, encryption))
}

/// S3 does not say when it acknowledged a write; our client keeps its listings consistent with it.
pub(super) fn last_modified(info: &ObjectInfo) -> HeaderMap {
    let date = convert::http_date(info.modified);
    date.into_iter().map(|date| (LAST_MODIFIED, date)).collect()
}
