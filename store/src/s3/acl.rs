//! Access control lists: all is the owner's, and nobody else's. Rights are given by keys.

use super::{
    Front, convert, error,
    fields::grants,
    known::{self, named},
};

use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AccessControlPolicy, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput,
        Grant, Grantee, Permission, PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput,
        PutObjectAclOutput, Type,
    },
};

fn all_of_owner() -> Vec<Grant> {
    vec![Grant {
        grantee: Some(Grantee {
            display_name: Some(convert::OWNER.to_owned()),
            email_address: None,
            id: Some(convert::OWNER.to_owned()),
            type_: Type::from_static(Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
    }]
}

/// Whether a request asks for what is the case anyway.
fn is_private(canned: Option<&str>, policy: Option<&AccessControlPolicy>, is_granting: bool) -> bool {
    let of_owner = |policy: &AccessControlPolicy| {
        policy.grants.iter().flatten().all(|grant| {
            let id = grant.grantee.as_ref().and_then(|grantee| grantee.id.as_deref());
            id == Some(convert::OWNER)
        })
    };
    !is_granting && canned.is_none_or(|canned| canned == "private") && policy.is_none_or(of_owner)
}

pub(super) async fn get_bucket_acl(
    front: &Front,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let bucket = front.engine.bucket(&request.input.bucket).await;
    bucket.map_err(error::answer)?;
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(all_of_owner()),
        owner: Some(convert::owner()),
    }))
}

pub(super) async fn put_bucket_acl(
    front: &Front,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let is_granting = grants!(input, grant_write);
    let canned = input.acl.as_ref().map(|acl| acl.as_str());
    if !is_private(canned, input.access_control_policy.as_ref(), is_granting) {
        return Err(error::not_implemented("Granting access by ACL"));
    }
    front.engine.bucket(&input.bucket).await.map_err(error::answer)?;
    Ok(S3Response::new(PutBucketAclOutput {}))
}

pub(super) async fn get_object_acl(
    front: &Front,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    known::info(front, named!(input)).await?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(all_of_owner()),
        owner: Some(convert::owner()),
        ..Default::default()
    }))
}

pub(super) async fn put_object_acl(
    front: &Front,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let is_granting = grants!(input, grant_write);
    let canned = input.acl.as_ref().map(|acl| acl.as_str());
    if !is_private(canned, input.access_control_policy.as_ref(), is_granting) {
        return Err(error::not_implemented("Granting access by ACL"));
    }
    known::info(front, named!(input)).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}
