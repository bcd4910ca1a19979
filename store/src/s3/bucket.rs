//! CreateBucket, HeadBucket, DeleteBucket, ListBuckets, GetBucketLocation.

use super::{Front, access, convert, error, fields::refuse_unbuilt, to_its_end};
use crate::{
    access::Principal,
    engine::{BucketChange, Versioning},
};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput,
        HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
    },
    s3_error,
};
use std::sync::Arc;

pub(super) async fn create_bucket(
    front: &Front,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let input = request.input;
    refuse_unbuilt!(input; grant_write)?;
    let lock = input.object_lock_enabled_for_bucket == Some(true);
    let created = front.engine.create_bucket(&input.bucket).await;
    created.map_err(error::answer)?;
    if lock {
        for change in [
            BucketChange::Versioning(Versioning::Enabled),
            BucketChange::Lock(None),
        ] {
            let changed = front.engine.change_bucket(&input.bucket, change).await;
            changed.map_err(error::answer)?;
        }
    }
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(format!("/{}", input.bucket)),
    }))
}

pub(super) async fn head_bucket(
    front: &Front,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    front
        .engine
        .bucket(&request.input.bucket)
        .await
        .map_err(error::answer)?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(front.region.clone()),
        ..Default::default()
    }))
}

pub(super) async fn delete_bucket(
    front: &Front,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let (front, bucket) = (front.clone(), request.input.bucket);
    let deleted = to_its_end(async move {
        let deleted = front.engine.delete_bucket(&bucket).await;
        front.authority.forget(&bucket);
        front.look_at_log(&bucket).await;
        deleted
    });
    deleted.await?.map_err(error::answer)?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) async fn list_buckets(
    front: &Front,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    // A key with scopes sees the buckets that they are of.
    let key = match access::principal_of(&request.extensions)? {
        Principal::Key(key) => Some(Arc::clone(key)),
        _ => None,
    };
    let input = request.input;
    if input.bucket_region.is_some_and(|region| region != front.region) {
        return Err(error::not_implemented("Listing the buckets of another region"));
    }
    let limit = match input.max_buckets {
        None => usize::MAX,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=10_000).contains(limit))
            .ok_or_else(|| s3_error!(InvalidArgument, "max-buckets must be between 1 and 10000"))?,
    };
    let prefix = input.prefix.as_deref().unwrap_or("");
    let after = input.continuation_token.as_deref().unwrap_or("");
    let mut buckets = front.engine.buckets().await.map_err(error::answer)?;
    buckets.retain(|bucket| {
        bucket.name.starts_with(prefix)
            && bucket.name.as_str() > after
            && key.as_ref().is_none_or(|key| key.covers(&bucket.name))
    });
    let more = buckets.len() > limit;
    buckets.truncate(limit);
    let last = buckets.last().map(|bucket| bucket.name.clone());
    let buckets = buckets
        .into_iter()
        .map(|bucket| Bucket {
            name: Some(bucket.name),
            creation_date: Some(convert::timestamp(bucket.created)),
            ..Default::default()
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        owner: Some(convert::owner()),
        continuation_token: last.filter(|_| more),
        prefix: input.prefix,
    }))
}

pub(super) async fn get_bucket_location(
    front: &Front,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    front
        .engine
        .bucket(&request.input.bucket)
        .await
        .map_err(error::answer)?;
    // us-east-1 is the one region that is said by saying nothing.
    let constraint =
        (front.region != "us-east-1").then(|| BucketLocationConstraint::from(front.region.clone()));
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint: constraint,
    }))
}
