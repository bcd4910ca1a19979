//! GetBucketLifecycleConfiguration, PutBucketLifecycleConfiguration, DeleteBucketLifecycle. [`crate::lifecycle`] acts on them.

use super::{
    attributes::malformed,
    config::{LIFECYCLE, documents},
    error,
};
use s3s::{
    S3Result,
    dto::{
        BucketLifecycleConfiguration, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput,
        ExpirationStatus, GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput,
        LifecycleExpiration, LifecycleRule, LifecycleRuleFilter, PutBucketLifecycleConfigurationInput,
        PutBucketLifecycleConfigurationOutput, Timestamp,
    },
    s3_error,
};
use std::collections::HashSet;

/// The S3 API's limits.
const MOST_RULES: usize = 1000;
const LONGEST_ID: usize = 255;

documents! {
    LIFECYCLE:
        get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput) |found|
            GetBucketLifecycleConfigurationOutput { rules: Some(found.rules), ..Default::default() },
        put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput)
            lifecycle_configuration by checked,
        delete_bucket_lifecycle(DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput);
}

/// Checks the rules, and names those without a name.
fn checked(given: Option<BucketLifecycleConfiguration>) -> S3Result<BucketLifecycleConfiguration> {
    let Some(mut configuration) = given else {
        return Err(malformed("There is no lifecycle configuration."));
    };
    let rules = &mut configuration.rules;
    if rules.is_empty() || rules.len() > MOST_RULES {
        return Err(malformed("There are 1 to 1000 lifecycle rules."));
    }
    let mut names = HashSet::new();
    for rule in rules {
        check_rule(rule)?;
        let id = rule
            .id
            .get_or_insert_with(|| format!("{:032x}", rand::random::<u128>()))
            .clone();
        if id.chars().count() > LONGEST_ID {
            return Err(s3_error!(
                InvalidArgument,
                "ID length should not exceed allowed limit of 255"
            ));
        }
        if !names.insert(id) {
            return Err(s3_error!(
                InvalidArgument,
                "Rule ID must be unique. Found same ID for more than one rule"
            ));
        }
    }
    Ok(configuration)
}

fn check_rule(rule: &LifecycleRule) -> S3Result<()> {
    let known = [ExpirationStatus::ENABLED, ExpirationStatus::DISABLED];
    if !known.contains(&rule.status.as_str()) {
        return Err(malformed("The status of a rule is neither Enabled nor Disabled."));
    }
    if rule.transitions.is_some() || rule.noncurrent_version_transitions.is_some() {
        return Err(error::not_implemented("A transition to another storage class"));
    }
    let is_by_more = match (&rule.filter, &rule.prefix) {
        (Some(filter), None) => check_filter(filter)?,
        (None, Some(_)) => false,
        _ => return Err(malformed("A rule has a Filter, or the older Prefix.")),
    };
    if let Some(expiration) = &rule.expiration {
        check_expiration(expiration, is_by_more)?;
    }
    if let Some(noncurrent) = &rule.noncurrent_version_expiration {
        positive(noncurrent.noncurrent_days, "NoncurrentDays")?;
        if let Some(kept) = noncurrent.newer_noncurrent_versions
            && !(1..=100).contains(&kept)
        {
            return Err(s3_error!(
                InvalidArgument,
                "NewerNoncurrentVersions must be between 1 and 100"
            ));
        }
    }
    if let Some(abort) = &rule.abort_incomplete_multipart_upload {
        positive(abort.days_after_initiation, "DaysAfterInitiation")?;
        if is_by_more {
            return Err(s3_error!(
                InvalidRequest,
                "AbortIncompleteMultipartUpload cannot be specified with Tags or sizes"
            ));
        }
    }
    if rule.expiration.is_none()
        && rule.noncurrent_version_expiration.is_none()
        && rule.abort_incomplete_multipart_upload.is_none()
    {
        return Err(s3_error!(
            InvalidRequest,
            "At least one action needs to be specified in a rule"
        ));
    }
    Ok(())
}

fn positive(days: Option<i32>, name: &str) -> S3Result<()> {
    match days {
        Some(days) if days > 0 => Ok(()),
        _ => Err(s3_error!(InvalidArgument, "'{name}' must be a positive integer")),
    }
}

/// Whether it looks at more than the prefix.
fn check_filter(filter: &LifecycleRuleFilter) -> S3Result<bool> {
    let LifecycleRuleFilter {
        and,
        object_size_greater_than,
        object_size_less_than,
        prefix,
        tag,
    } = filter;
    let sizes = object_size_greater_than.is_some() || object_size_less_than.is_some();
    let given = [
        and.is_some(),
        object_size_greater_than.is_some(),
        object_size_less_than.is_some(),
        prefix.is_some(),
        tag.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(malformed("A filter has one condition, or several in And."));
    }
    let Some(and) = and else {
        return Ok(sizes || tag.is_some());
    };
    let tags = and.tags.as_ref().map_or(0, Vec::len);
    let conditions = usize::from(and.prefix.is_some())
        + tags
        + usize::from(and.object_size_greater_than.is_some())
        + usize::from(and.object_size_less_than.is_some());
    if conditions < 2 {
        return Err(malformed("And has at least two conditions."));
    }
    Ok(tags > 0 || and.object_size_greater_than.is_some() || and.object_size_less_than.is_some())
}

fn check_expiration(expiration: &LifecycleExpiration, is_by_more: bool) -> S3Result<()> {
    let LifecycleExpiration {
        date,
        days,
        expired_object_delete_marker: marker,
    } = expiration;
    match (date, days, marker) {
        (Some(date), None, None) if is_midnight(date.clone()) => Ok(()),
        (Some(_), None, None) => Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT")),
        (None, days @ Some(_), None) => positive(*days, "Days"),
        (None, None, Some(_)) if is_by_more => Err(s3_error!(
            InvalidRequest,
            "ExpiredObjectDeleteMarker cannot be specified with Tags or sizes"
        )),
        (None, None, Some(_)) => Ok(()),
        _ => Err(malformed(
            "An expiration has one of Days, Date and ExpiredObjectDeleteMarker.",
        )),
    }
}

fn is_midnight(date: Timestamp) -> bool {
    time::OffsetDateTime::from(date).unix_timestamp() % 86_400 == 0
}
