//! GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus. What policies do is in `crate::access`.

use super::{Front, config, convert, error};
use crate::access::{POLICY, Policy};
use http::StatusCode;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketPolicyInput, DeleteBucketPolicyOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
        GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput, PolicyStatus, PutBucketPolicyInput,
        PutBucketPolicyOutput,
    },
    s3_error,
};

/// S3's limit, in bytes.
const LARGEST: usize = 20 << 10;

fn malformed(message: String) -> S3Error {
    error::coded("MalformedPolicy", StatusCode::BAD_REQUEST, message)
}

async fn find(front: &Front, bucket: &str) -> S3Result<String> {
    let found = front
        .engine
        .document(bucket, POLICY)
        .await
        .map_err(error::answer)?;
    let text = found.ok_or_else(|| {
        error::coded(
            "NoSuchBucketPolicy",
            StatusCode::NOT_FOUND,
            "The bucket policy does not exist",
        )
    })?;
    String::from_utf8(text).map_err(|error| s3_error!(error, InternalError))
}

pub(super) async fn get_bucket_policy(
    front: &Front,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let policy = Some(find(front, &request.input.bucket).await?);
    Ok(S3Response::new(GetBucketPolicyOutput { policy }))
}

pub(super) async fn put_bucket_policy(
    front: &Front,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    if input.policy.len() > LARGEST {
        return Err(malformed(format!("A policy has {LARGEST} bytes at most.")));
    }
    let policy = Policy::parse(input.policy.as_bytes(), &input.bucket);
    let policy = policy.map_err(|error| malformed(error.to_string()))?;
    // Nobody means a key that there is not; another one that is made later and called so would get the access.
    if let Some(name) = policy.names().find(|name| !front.authority.ring.has_name(name)) {
        return Err(malformed(format!(
            "Invalid principal in policy: there is no key with the name {name:?}."
        )));
    }
    let blocked = config::public_access_block(&*front.engine, &input.bucket).await?;
    if policy.is_public() && blocked.is_some_and(|blocked| blocked.block_public_policy == Some(true)) {
        return Err(s3_error!(
            AccessDenied,
            "The policy is public, and public policies are prevented by the BlockPublicPolicy setting in S3 Block Public Access."
        ));
    }
    front
        .keep(&input.bucket, POLICY, Some(input.policy.into_bytes()))
        .await?;
    Ok(S3Response::with_status(
        PutBucketPolicyOutput {},
        StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn delete_bucket_policy(
    front: &Front,
    request: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    front.keep(&request.input.bucket, POLICY, None).await?;
    Ok(S3Response::new(DeleteBucketPolicyOutput {}))
}

pub(super) async fn get_bucket_policy_status(
    front: &Front,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
    let bucket = request.input.bucket;
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let text = find(front, &bucket).await?;
    let policy = Policy::parse(text.as_bytes(), &bucket).map_err(|error| s3_error!(error, InternalError))?;
    Ok(S3Response::new(GetBucketPolicyStatusOutput {
        policy_status: Some(PolicyStatus {
            is_public: Some(policy.is_public()),
        }),
    }))
}
