//! GetBucketVersioning, PutBucketVersioning, ListObjectVersions.

use super::{
    Front,
    attributes::{algorithm_of, checksum_type, malformed},
    convert, error,
};
use crate::engine::{BucketChange, Version, VersionQuery, Versioning};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        BucketVersioningStatus, CommonPrefix, DeleteMarkerEntry, GetBucketVersioningInput,
        GetBucketVersioningOutput, ListObjectVersionsInput, ListObjectVersionsOutput, MFADelete,
        ObjectVersion, ObjectVersionStorageClass, PutBucketVersioningInput, PutBucketVersioningOutput,
    },
    s3_error,
};

pub(super) async fn get_bucket_versioning(
    front: &Front,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let bucket = front.engine.bucket(&request.input.bucket).await;
    let status = match bucket.map_err(error::answer)?.versioning {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..Default::default()
    }))
}

pub(super) async fn put_bucket_versioning(
    front: &Front,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let wanted = input.versioning_configuration;
    if wanted
        .mfa_delete
        .is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED)
    {
        return Err(error::not_implemented("MFA delete"));
    }
    let state = match wanted.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        Some(_) => {
            return Err(malformed(
                "The state of versioning is neither Enabled nor Suspended.",
            ));
        }
        None => {
            return Err(s3_error!(
                IllegalVersioningConfigurationException,
                "The versioning configuration does not say a state."
            ));
        }
    };
    let changed = front
        .engine
        .change_bucket(&input.bucket, BucketChange::Versioning(state))
        .await;
    changed.map_err(error::answer)?;
    Ok(S3Response::new(PutBucketVersioningOutput {}))
}

pub(super) async fn list_object_versions(
    front: &Front,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_encoding(input.encoding_type.as_ref())?;
    let limit = convert::limit(input.max_keys, "max-keys")?;
    let encoding = input.encoding_type.as_ref();
    let key_marker = input.key_marker.clone().filter(|key| !key.is_empty());
    let version_marker = input.version_id_marker.clone().filter(|id| !id.is_empty());
    if version_marker.is_some() && key_marker.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let version: Option<Version> = version_marker.as_deref().map(convert::version_id).transpose()?;
    let query = VersionQuery {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
        after: key_marker.clone().map(|key| (key, version)),
        limit,
    };
    let page = front
        .engine
        .versions(&input.bucket, &query)
        .await
        .map_err(error::answer)?;
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for found in page.versions {
        let (key, version_id) = (
            Some(convert::encode(&found.key, encoding)),
            Some(found.version.to_string()),
        );
        let (is_latest, last_modified) = (Some(found.is_latest), Some(convert::timestamp(found.modified)));
        match found.object {
            Some(info) => versions.push(ObjectVersion {
                checksum_algorithm: Some(vec![algorithm_of(&info)]),
                checksum_type: Some(checksum_type(info.attributes.checksums.is_composite)),
                e_tag: Some(convert::etag(&info.etag)),
                is_latest,
                key,
                last_modified,
                owner: Some(convert::owner()),
                size: Some(convert::size(info.size)),
                storage_class: Some(ObjectVersionStorageClass::from_static(
                    ObjectVersionStorageClass::STANDARD,
                )),
                version_id,
                ..Default::default()
            }),
            None => markers.push(DeleteMarkerEntry {
                is_latest,
                key,
                last_modified,
                owner: Some(convert::owner()),
                version_id,
            }),
        }
    }
    let prefixes = page.common_prefixes.iter().map(|prefix| CommonPrefix {
        prefix: Some(convert::encode(prefix, encoding)),
    });
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: Some(prefixes.collect()),
        delete_markers: Some(markers),
        delimiter: input
            .delimiter
            .map(|delimiter| convert::encode(&delimiter, encoding)),
        encoding_type: input.encoding_type.clone(),
        is_truncated: Some(page.next.is_some()),
        key_marker: Some(convert::encode(key_marker.as_deref().unwrap_or(""), encoding)),
        max_keys: Some(i32::try_from(limit).unwrap_or(i32::MAX)),
        name: Some(input.bucket),
        next_key_marker: page.next.as_ref().map(|(key, _)| convert::encode(key, encoding)),
        next_version_id_marker: page
            .next
            .and_then(|(_, version)| version.map(|version| version.to_string())),
        prefix: Some(convert::encode(&query.prefix, encoding)),
        version_id_marker: Some(version_marker.unwrap_or_default()),
        versions: Some(versions),
        ..Default::default()
    }))
}
