//! DeleteObject, DeleteObjects.

use super::{Front, access, attributes::system_time, convert, error};
use crate::{
    access::Demand,
    access_log::note_deleted,
    engine::{DeleteOptions, Deleted},
};
use futures::{StreamExt, stream};
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
        Error as DeleteError,
    },
    s3_error,
};

/// Deletions of one request that are under way at the same time; they share their commits.
const PARALLEL: usize = 64;

pub(super) async fn delete_object(
    front: &Front,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    may_bypass(front, &input.bucket, input.bypass_governance_retention).await?;
    let object = convert::version(&input.bucket, &input.key, input.version_id.as_deref())?;
    let options = DeleteOptions {
        if_match: convert::condition(input.if_match),
        size: input.if_match_size.and_then(|size| u64::try_from(size).ok()),
        modified: input.if_match_last_modified_time.map(system_time),
        bypasses_governance: input.bypass_governance_retention == Some(true),
    };
    let deleted = front.engine.delete_with(&object, &options).await;
    let Deleted { version, is_marker } = deleted.map_err(error::answer)?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: is_marker.then_some(true),
        version_id: version.map(|version| version.to_string()),
        ..Default::default()
    }))
}

/// Where nothing can be locked there is nothing to bypass.
async fn may_bypass(front: &Front, bucket: &str, bypasses: Option<bool>) -> S3Result<()> {
    if bypasses != Some(true) {
        return Ok(());
    }
    let bucket = front.engine.bucket(bucket).await.map_err(error::answer)?;
    match bucket.lock {
        Some(_) => Ok(()),
        None => Err(s3_error!(
            InvalidArgument,
            "x-amz-bypass-governance-retention is only applicable to Object Lock enabled buckets."
        )),
    }
}

pub(super) async fn delete_objects(
    front: &Front,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let principal = access::principal_of(&request.extensions)?;
    let whence = access::Whence::of(&request.extensions);
    let situation = &whence.situation(principal, &request.uri, &request.headers);
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let quiet = input.delete.quiet == Some(true);
    let bypasses_governance = input.bypass_governance_retention == Some(true);
    if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
        return Err(s3_error!(MalformedXML, "A deletion names 1 to 1000 objects."));
    }
    front.engine.bucket(&input.bucket).await.map_err(error::answer)?;
    may_bypass(front, &input.bucket, input.bypass_governance_retention).await?;
    let bucket = input.bucket.as_str();
    let outcomes: Vec<_> = stream::iter(input.delete.objects)
        .map(|named| async move {
            let options = DeleteOptions {
                if_match: named.e_tag.map(|tag| tag.into_value()),
                size: named.size.and_then(|size| u64::try_from(size).ok()),
                modified: named.last_modified_time.map(system_time),
                bypasses_governance,
            };
            let outcome = match convert::version(bucket, &named.key, named.version_id.as_deref()) {
                // Here what can be no version is one that is not there.
                Err(_) => Err(S3Error::with_message(
                    S3ErrorCode::NoSuchVersion,
                    "The version ID specified in the request does not match an existing version.",
                )),
                Ok(object) => {
                    let mut demands = vec![Demand::deleting(bucket, &named.key, object.version.is_some())];
                    if bypasses_governance {
                        demands.push(Demand::bypassing(bucket, &named.key));
                    }
                    let mut situation = situation.clone();
                    situation.version.clone_from(&named.version_id);
                    match front.authority.allows(&demands, &situation).await {
                        Ok(true) => {
                            let deleted = front.engine.delete_with(&object, &options).await;
                            deleted.map_err(error::answer)
                        }
                        Ok(false) => Err(access::denied(situation.principal)),
                        Err(error) => Err(error::answer(error)),
                    }
                }
            };
            (named.key, named.version_id, outcome)
        })
        .buffered(PARALLEL)
        .collect()
        .await;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (key, version_id, outcome) in outcomes {
        note_deleted(&key, version_id.as_deref(), outcome.as_ref().err());
        match outcome {
            Ok(_) if quiet => {}
            Ok(done) => deleted.push(DeletedObject {
                key: Some(key),
                delete_marker: done.is_marker.then_some(true),
                delete_marker_version_id: done
                    .version
                    .filter(|_| done.is_marker)
                    .map(|version| version.to_string()),
                version_id: version_id.filter(|id| !id.is_empty()),
            }),
            Err(error) => errors.push(DeleteError {
                key: Some(key),
                version_id,
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..Default::default()
    }))
}
