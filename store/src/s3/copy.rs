//! CopyObject.

use super::{
    Front,
    attributes::{Sums, system_time, version_id},
    body, convert,
    encryption::{Told, customer, encryption, source_customer},
    error,
    fields::{attributes, headers, other_class, refuse_unbuilt, with_sums},
    get,
};
use crate::engine::{
    Checksum, Checksums, Copied, CopyOptions, Error, ObjectRef, Pending, Precondition, body_error,
};
use futures::StreamExt;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{CopyObjectInput, CopyObjectOutput, CopyObjectResult, MetadataDirective, TaggingDirective},
    s3_error,
};

pub(super) async fn copy_object(
    front: &Front,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_owner(input.expected_source_bucket_owner.as_deref())?;
    refuse_unbuilt!(input, other_class!(input))?;
    let customer = customer!(request, input)?;
    let source_customer = source_customer!(request, input)?;
    let says_encryption = customer.is_some() || input.server_side_encryption.is_some();
    let encryption = encryption!(front, input, customer.as_ref()).await?;
    let mut from = convert::copy_source(&input.copy_source)?;
    let to = convert::object(&input.bucket, &input.key);
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(other) => return Err(s3_error!(InvalidArgument, "{other:?} is no metadata directive")),
    };
    let retags = match input.tagging_directive.as_ref().map(TaggingDirective::as_str) {
        None | Some(TaggingDirective::COPY) => false,
        Some(TaggingDirective::REPLACE) => true,
        Some(other) => return Err(s3_error!(InvalidArgument, "{other:?} is no tagging directive")),
    };
    let given = attributes!(input)?;
    if from == to && !replace && !retags && given.redirect.is_none() && !says_encryption {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing anything."
        ));
    }
    let headers = replace.then(|| headers!(input));
    let mut source = convert::precondition(input.copy_source_if_match, input.copy_source_if_none_match);
    source.key = source_customer.map(|customer| customer.key);
    let mut options = CopyOptions {
        headers,
        tags: retags.then(|| given.tags.clone()),
        attributes: given,
        checksums: None,
        source,
        encryption,
        source_modified_since: input.copy_source_if_modified_since.map(system_time),
        source_unmodified_since: input.copy_source_if_unmodified_since.map(system_time),
        precondition: conditions_of(&request.headers)?,
    };
    if let Some(algorithm) = &input.checksum_algorithm {
        recompute(front, &mut from, &mut options, algorithm.as_str()).await?;
    }
    let copied = front.engine.copy(&from, &to, options).await;
    let Copied { info, source } = copied.map_err(source_error)?;
    let sums = Sums::of(&info, true);
    let told = Told::of(info.attributes.encryption.as_ref(), customer);
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(with_sums! { sums => CopyObjectResult {
            checksum_type: sums.kind,
            e_tag: Some(convert::etag(&info.etag)),
            last_modified: Some(convert::timestamp(info.modified)),
        } }),
        copy_source_version_id: source.map(|version| version.to_string()),
        version_id: version_id(&info),
        server_side_encryption: told.server,
        sse_customer_algorithm: told.algorithm,
        sse_customer_key_md5: told.md5,
        ..Default::default()
    }))
}

/// Makes the copy have this checksum alone, which takes reading the source where it has another one.
async fn recompute(
    front: &Front,
    from: &mut ObjectRef,
    options: &mut CopyOptions,
    name: &str,
) -> S3Result<()> {
    let Some(kind) = Checksum::parse(name) else {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported."
        ));
    };
    let info = front.engine.head(from).await.map_err(source_error)?;
    let known = &info.attributes.checksums;
    if kind != Checksum::Crc64nvme && known.of.contains_key(&kind) && !known.is_composite {
        return Ok(());
    }
    // What is summed is what is copied.
    options.source.if_match.get_or_insert_with(|| info.etag.clone());
    from.version = info.version;
    if kind == Checksum::Crc64nvme {
        options.checksums = Some(Checksums::default());
        return Ok(());
    }
    let source = front.engine.get(from, None, &options.source).await;
    let pending = Pending::default();
    let mut body = body::summed(source.map_err(source_error)?.body, kind, pending.clone());
    while let Some(piece) = body.next().await {
        piece.map_err(|error| error::answer(body_error(error)))?;
    }
    options.checksums = Some(pending.take());
    Ok(())
}

/// An answer to a copy whose source cannot be read: there is no 304, and a delete marker that is named is a bad request.
pub(super) fn source_error(error: Error) -> S3Error {
    match error {
        Error::NotModified(object) => error::answer(Error::PreconditionFailed(object)),
        Error::Marker(marker) if marker.object.version.is_some() => s3_error!(
            InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version id."
        ),
        error => get::read_error(error, &Precondition::default()),
    }
}

/// `If-Match` and `If-None-Match` of the copy itself, which s3s does not read.
fn conditions_of(headers: &http::HeaderMap) -> S3Result<Precondition> {
    let read = |name: &http::HeaderName| {
        let value = headers.get(name).map(|value| value.to_str().map(str::trim));
        match value {
            None => Ok(None),
            Some(Ok(tag)) => Ok(Some(tag.trim_matches('"').to_owned())),
            Some(Err(_)) => Err(s3_error!(InvalidArgument, "{name} is no entity tag")),
        }
    };
    Ok(Precondition {
        if_match: read(&http::header::IF_MATCH)?,
        if_none_match: read(&http::header::IF_NONE_MATCH)?,
        key: None,
    })
}
