//! ListObjects (version 1) and ListObjectsV2.

use super::{
    Front,
    attributes::{algorithm_of, checksum_type},
    convert, error,
};
use crate::engine::{ListPage, ListQuery};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, ObjectStorageClass,
    },
    s3_error,
};

pub(super) async fn list_objects_v2(
    front: &Front,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_encoding(input.encoding_type.as_ref())?;
    let limit = convert::limit(input.max_keys, "max-keys")?;
    let encoding = input.encoding_type.as_ref();
    let start_after = match &input.continuation_token {
        Some(token) => Some(read_token(token)?),
        None => input.start_after.clone(),
    };
    let query = ListQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        start_after: start_after.filter(|after| !after.is_empty()),
        limit,
    };
    let page = front
        .engine
        .list(&input.bucket, &query)
        .await
        .map_err(error::answer)?;
    let next = page.next.as_ref().map(|next| BASE64_URL_SAFE_NO_PAD.encode(next));
    let count = page.objects.len() + page.common_prefixes.len();
    let with_owner = input.fetch_owner == Some(true);
    let (contents, prefixes) = entries(page, encoding, with_owner);
    Ok(S3Response::new(ListObjectsV2Output {
        common_prefixes: Some(prefixes),
        contents: Some(contents),
        continuation_token: input.continuation_token,
        delimiter: input
            .delimiter
            .map(|delimiter| convert::encode(&delimiter, encoding)),
        encoding_type: input.encoding_type.clone(),
        is_truncated: Some(next.is_some()),
        key_count: Some(i32::try_from(count).unwrap_or(i32::MAX)),
        max_keys: Some(i32::try_from(limit).unwrap_or(i32::MAX)),
        name: Some(input.bucket),
        next_continuation_token: next,
        prefix: Some(convert::encode(&query.prefix, encoding)),
        start_after: input.start_after.map(|after| convert::encode(&after, encoding)),
        ..Default::default()
    }))
}

pub(super) async fn list_objects(
    front: &Front,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_encoding(input.encoding_type.as_ref())?;
    let limit = convert::limit(input.max_keys, "max-keys")?;
    let encoding = input.encoding_type.as_ref();
    let query = ListQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        start_after: input.marker.clone().filter(|marker| !marker.is_empty()),
        limit,
    };
    let page = front
        .engine
        .list(&input.bucket, &query)
        .await
        .map_err(error::answer)?;
    let truncated = page.next.is_some();
    // Without a delimiter the last key is the marker, and S3 does not repeat it.
    let next = page
        .next
        .clone()
        .filter(|_| query.delimiter.is_some())
        .map(|next| convert::encode(&next, encoding));
    let (contents, prefixes) = entries(page, encoding, true);
    Ok(S3Response::new(ListObjectsOutput {
        common_prefixes: Some(prefixes),
        contents: Some(contents),
        delimiter: input
            .delimiter
            .map(|delimiter| convert::encode(&delimiter, encoding)),
        encoding_type: input.encoding_type.clone(),
        is_truncated: Some(truncated),
        marker: Some(convert::encode(input.marker.as_deref().unwrap_or(""), encoding)),
        max_keys: Some(i32::try_from(limit).unwrap_or(i32::MAX)),
        name: Some(input.bucket),
        next_marker: next,
        prefix: Some(convert::encode(&query.prefix, encoding)),
        ..Default::default()
    }))
}

fn entries(
    page: ListPage,
    encoding: Option<&EncodingType>,
    with_owner: bool,
) -> (Vec<Object>, Vec<CommonPrefix>) {
    let objects = page
        .objects
        .into_iter()
        .map(|(key, info)| Object {
            checksum_algorithm: Some(vec![algorithm_of(&info)]),
            checksum_type: Some(checksum_type(info.attributes.checksums.is_composite)),
            key: Some(convert::encode(&key, encoding)),
            e_tag: Some(convert::etag(&info.etag)),
            last_modified: Some(convert::timestamp(info.modified)),
            size: Some(convert::size(info.size)),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            owner: with_owner.then(convert::owner),
            ..Default::default()
        })
        .collect();
    let prefixes = page
        .common_prefixes
        .into_iter()
        .map(|prefix| CommonPrefix {
            prefix: Some(convert::encode(&prefix, encoding)),
        })
        .collect();
    (objects, prefixes)
}

fn read_token(token: &str) -> S3Result<String> {
    let key = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    key.and_then(|key| String::from_utf8(key).ok())
        .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect."))
}
