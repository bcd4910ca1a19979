//! Tags of objects and of buckets.

use super::{
    Front,
    attributes::{self, MOST_BUCKET_TAGS, MOST_OBJECT_TAGS, set_of_tags, tags_of_set},
    config::{TAGGING, documents},
    convert,
    known::{self, named},
};
use crate::engine::Amendment;
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

pub(super) async fn put_object_tagging(
    front: &Front,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let tags = tags_of_set(input.tagging.tag_set, MOST_OBJECT_TAGS)?;
    let info = known::amend(front, named!(input), Amendment::Tags(tags)).await?;
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
    let info = known::info(front, named!(input)).await?;
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
    let untagged = Amendment::Tags(BTreeMap::new());
    let info = known::amend(front, named!(input), untagged).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput {
        version_id: attributes::version_id(&info),
    }))
}

documents! {
    TAGGING:
        get_bucket_tagging(GetBucketTaggingInput => GetBucketTaggingOutput) |found|
            GetBucketTaggingOutput { tag_set: found.tag_set },
        put_bucket_tagging(PutBucketTaggingInput => PutBucketTaggingOutput) tagging by of_bucket,
        delete_bucket_tagging(DeleteBucketTaggingInput => DeleteBucketTaggingOutput);
}

fn of_bucket(given: Tagging) -> S3Result<Tagging> {
    let tags = tags_of_set(given.tag_set, MOST_BUCKET_TAGS)?;
    Ok(Tagging {
        tag_set: set_of_tags(tags),
    })
}
