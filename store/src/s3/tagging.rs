//! Tags of objects and of buckets.

use super::{
    Front,
    attributes::{self, MOST_BUCKET_TAGS, MOST_OBJECT_TAGS, set_of_tags, tags_of_set},
    config::TAGGING,
    convert, get,
};
use crate::engine::{Amendment, ObjectInfo, Precondition};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeleteObjectTaggingInput,
        DeleteObjectTaggingOutput, GetBucketTaggingInput, GetBucketTaggingOutput, GetObjectTaggingInput,
        GetObjectTaggingOutput, PutBucketTaggingInput, PutBucketTaggingOutput, PutObjectTaggingInput,
        PutObjectTaggingOutput, Tagging,
    },
};
use std::collections::BTreeMap;

async fn set(
    front: &Front,
    (bucket, key): (&str, &str),
    version: Option<&str>,
    tags: BTreeMap<String, String>,
) -> S3Result<ObjectInfo> {
    let object = convert::version(bucket, key, version)?;
    let amended = front.engine.amend(&object, Amendment::Tags(tags)).await;
    amended.map_err(|error| get::read_error(error, &Precondition::default()))
}

pub(super) async fn put_object_tagging(
    front: &Front,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let tags = tags_of_set(input.tagging.tag_set, MOST_OBJECT_TAGS)?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let info = set(front, at, input.version_id.as_deref(), tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput {
        version_id: attributes::version_id(&info),
    }))
}

pub(super) async fn get_object_tagging(
    front: &Front,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let object = convert::version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let info = front.engine.head(&object).await;
    let info = info.map_err(|error| get::read_error(error, &Precondition::default()))?;
    Ok(S3Response::new(GetObjectTaggingOutput {
        version_id: attributes::version_id(&info),
        tag_set: set_of_tags(info.attributes.tags),
    }))
}

pub(super) async fn delete_object_tagging(
    front: &Front,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let at = (input.bucket.as_str(), input.key.as_str());
    let info = set(front, at, input.version_id.as_deref(), BTreeMap::new()).await?;
    let answer = DeleteObjectTaggingOutput {
        version_id: attributes::version_id(&info),
    };
    Ok(S3Response::with_status(answer, http::StatusCode::NO_CONTENT))
}

pub(super) async fn put_bucket_tagging(
    front: &Front,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<S3Response<PutBucketTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let tags = tags_of_set(input.tagging.tag_set, MOST_BUCKET_TAGS)?;
    let tagging = Tagging {
        tag_set: set_of_tags(tags),
    };
    TAGGING.put(front, &input.bucket, Some(&tagging)).await?;
    Ok(S3Response::with_status(
        PutBucketTaggingOutput {},
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn get_bucket_tagging(
    front: &Front,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<S3Response<GetBucketTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let tagging = TAGGING.get(front, &input.bucket).await?;
    Ok(S3Response::new(GetBucketTaggingOutput {
        tag_set: tagging.tag_set,
    }))
}

pub(super) async fn delete_bucket_tagging(
    front: &Front,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    TAGGING.put(front, &input.bucket, None).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput {}))
}
