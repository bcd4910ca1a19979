//! Object lock: of buckets, retention, legal hold.

use super::{
    Front,
    attributes::{default_retention, hold_name, holds, malformed, retention, retention_mode},
    convert, error,
    known::{self, named},
};
use crate::engine::{Amendment, BucketChange, Period};
use http::StatusCode;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        DefaultRetention, GetObjectLegalHoldInput, GetObjectLegalHoldOutput, GetObjectLockConfigurationInput,
        GetObjectLockConfigurationOutput, GetObjectRetentionInput, GetObjectRetentionOutput,
        ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockRetention, ObjectLockRule,
        PutObjectLegalHoldInput, PutObjectLegalHoldOutput, PutObjectLockConfigurationInput,
        PutObjectLockConfigurationOutput, PutObjectRetentionInput, PutObjectRetentionOutput,
    },
};

pub(super) async fn get_object_lock_configuration(
    front: &Front,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let bucket = front.engine.bucket(&request.input.bucket).await;
    let Some(default) = bucket.map_err(error::answer)?.lock else {
        return Err(error::coded(
            "ObjectLockConfigurationNotFoundError",
            StatusCode::NOT_FOUND,
            "Object Lock configuration does not exist for this bucket",
        ));
    };
    let rule = default.map(|(mode, period)| ObjectLockRule {
        default_retention: Some(DefaultRetention {
            days: match period {
                Period::Days(days) => i32::try_from(days).ok(),
                Period::Years(_) => None,
            },
            mode: Some(retention_mode(mode)),
            years: match period {
                Period::Years(years) => i32::try_from(years).ok(),
                Period::Days(_) => None,
            },
        }),
    });
    Ok(S3Response::new(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule,
        }),
    }))
}

pub(super) async fn put_object_lock_configuration(
    front: &Front,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    let wanted = input.object_lock_configuration.unwrap_or_default();
    if wanted
        .object_lock_enabled
        .as_ref()
        .is_none_or(|enabled| enabled.as_str() != ObjectLockEnabled::ENABLED)
    {
        return Err(malformed("ObjectLockEnabled must be Enabled."));
    }
    let default = match wanted.rule {
        None => None,
        Some(rule) => match rule.default_retention {
            Some(default) => Some(default_retention(&default)?),
            None => return Err(malformed("A rule needs a DefaultRetention.")),
        },
    };
    let changed = front
        .engine
        .change_bucket(&input.bucket, BucketChange::Lock(default))
        .await;
    changed.map_err(error::answer)?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

/// Objects of a bucket that cannot lock any have nothing to say of it.
async fn must_lock(front: &Front, bucket: &str) -> S3Result<()> {
    let bucket = front.engine.bucket(bucket).await.map_err(error::answer)?;
    match bucket.lock {
        Some(_) => Ok(()),
        None => Err(error::no_lock()),
    }
}

pub(super) async fn put_object_retention(
    front: &Front,
    request: S3Request<PutObjectRetentionInput>,
) -> S3Result<S3Response<PutObjectRetentionOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    must_lock(front, &input.bucket).await?;
    let wanted = input.retention.unwrap_or_default();
    let retention = match (wanted.mode, wanted.retain_until_date) {
        (Some(mode), Some(until)) => Some(retention(mode.as_str(), until)?),
        // An empty document takes it back.
        (None, None) => None,
        _ => return Err(malformed("A retention has a mode and a date.")),
    };
    let amendment = Amendment::Retention {
        retention,
        bypasses_governance: input.bypass_governance_retention == Some(true),
    };
    known::amend(front, named!(input), amendment).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(super) async fn get_object_retention(
    front: &Front,
    request: S3Request<GetObjectRetentionInput>,
) -> S3Result<S3Response<GetObjectRetentionOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    must_lock(front, &input.bucket).await?;
    let info = known::info(front, named!(input)).await?;
    let Some(retention) = info.attributes.retention else {
        return Err(none_there());
    };
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(retention_mode(retention.mode)),
            retain_until_date: Some(convert::timestamp(retention.until)),
        }),
    }))
}

fn none_there() -> S3Error {
    error::coded(
        "NoSuchObjectLockConfiguration",
        StatusCode::NOT_FOUND,
        "The specified object does not have a ObjectLock configuration",
    )
}

pub(super) async fn put_object_legal_hold(
    front: &Front,
    request: S3Request<PutObjectLegalHoldInput>,
) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    must_lock(front, &input.bucket).await?;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let Some(status) = status else {
        return Err(malformed("A legal hold has a status."));
    };
    let amendment = Amendment::LegalHold(holds(status.as_str())?);
    known::amend(front, named!(input), amendment).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(super) async fn get_object_legal_hold(
    front: &Front,
    request: S3Request<GetObjectLegalHoldInput>,
) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    must_lock(front, &input.bucket).await?;
    let info = known::info(front, named!(input)).await?;
    let Some(holds) = info.attributes.legal_hold else {
        return Err(none_there());
    };
    Ok(S3Response::new(GetObjectLegalHoldOutput {
        legal_hold: Some(ObjectLockLegalHold {
            status: Some(hold_name(holds)),
        }),
    }))
}
