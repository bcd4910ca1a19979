//! What buckets say is to go by itself, goes (S3 API, "Managing the lifecycle of objects"): objects and delete markers, versions
//! that are not current, unfinished uploads.
//!
//! Nothing is remembered: each pass looks at what is there and at the rules as they are then. What is locked stays.

use crate::engine::{
    DeleteOptions, Engine, Error, ListQuery, ObjectInfo, ObjectRef, Result, UploadInfo, VersionInfo,
    VersionQuery,
};
use penstock_service::CancellationToken;
use s3s::{
    dto::{BucketLifecycleConfiguration, ExpirationStatus, LifecycleRule, Tag, Timestamp},
    xml::{Deserialize, Deserializer},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The document's name in a bucket.
pub(crate) const DOCUMENT: &str = "lifecycle";
/// What is listed at once.
const PAGE: usize = 1000;

/// What a pass removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects that are no longer current: deleted, or under a delete marker.
    pub objects: u64,
    /// Versions that were not current.
    pub versions: u64,
    /// Delete markers that nothing was under.
    pub markers: u64,
    /// Unfinished uploads.
    pub uploads: u64,
}

impl Removed {
    fn add(&mut self, more: Self) {
        self.objects += more.objects;
        self.versions += more.versions;
        self.markers += more.markers;
        self.uploads += more.uploads;
    }
}

/// Acts on the rules of all buckets.
pub struct Lifecycle {
    engine: Arc<dyn Engine>,
    /// How long a day is. Ages are rounded up to the end of one.
    day: Duration,
}

impl Lifecycle {
    /// With days of this length, which is 24 hours outside of tests.
    pub fn new(engine: Arc<dyn Engine>, day: Duration) -> Self {
        Self {
            engine,
            day: day.max(Duration::from_secs(1)),
        }
    }

    /// Passes until it is stopped, with so much time between.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            match self.pass(SystemTime::now()).await {
                Ok(removed) if removed == Removed::default() => {}
                Ok(removed) => tracing::info!(?removed, "what buckets let go was removed"),
                Err(error) => {
                    let cause = penstock_service::chain(&error);
                    tracing::warn!(
                        cause,
                        "lifecycle rules could not be acted on; they will be, with the next pass"
                    );
                }
            }
        }
    }

    /// Removes what is due `now`.
    ///
    /// # Errors
    /// When the engine fails; what was removed until then stays so.
    pub async fn pass(&self, now: SystemTime) -> Result<Removed> {
        let mut removed = Removed::default();
        for bucket in self.engine.buckets().await? {
            let Some(document) = self.engine.document(&bucket.name, DOCUMENT).await? else {
                continue;
            };
            match BucketLifecycleConfiguration::deserialize(&mut Deserializer::new(&document)) {
                Ok(configuration) => {
                    for rule in &configuration.rules {
                        if rule.status.as_str() == ExpirationStatus::ENABLED {
                            let of_rule = Acting {
                                engine: &*self.engine,
                                bucket: &bucket.name,
                                rule,
                                day: self.day,
                                now,
                            };
                            removed.add(of_rule.act().await?);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(bucket = bucket.name, %error, "the lifecycle rules cannot be read");
                }
            }
        }
        Ok(removed)
    }
}

/// One rule at work.
struct Acting<'a> {
    engine: &'a dyn Engine,
    bucket: &'a str,
    rule: &'a LifecycleRule,
    day: Duration,
    now: SystemTime,
}

impl Acting<'_> {
    async fn act(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let expiration = self.rule.expiration.as_ref();
        if expiration.is_some_and(|expiration| expiration.days.is_some() || expiration.date.is_some()) {
            removed.add(self.objects().await?);
        }
        let takes_markers =
            expiration.is_some_and(|expiration| expiration.expired_object_delete_marker == Some(true));
        if takes_markers || self.rule.noncurrent_version_expiration.is_some() {
            removed.add(self.versions(takes_markers).await?);
        }
        if let Some(abort) = &self.rule.abort_incomplete_multipart_upload {
            for upload in self.engine.uploads(self.bucket).await? {
                if upload.key.starts_with(self.prefix())
                    && self.is_due(upload.started, abort.days_after_initiation)
                {
                    removed.uploads += u64::from(self.abort(&upload).await?);
                }
            }
        }
        Ok(removed)
    }

    fn prefix(&self) -> &str {
        let filter = self.rule.filter.as_ref();
        let and = filter.and_then(|filter| filter.and.as_ref());
        let given = self
            .rule
            .prefix
            .as_deref()
            .or_else(|| filter.and_then(|filter| filter.prefix.as_deref()))
            .or_else(|| and.and_then(|and| and.prefix.as_deref()));
        given.unwrap_or("")
    }

    /// Whether a filter lets an object through, whose prefix was looked at already.
    fn fits(&self, info: &ObjectInfo) -> bool {
        let Some(filter) = &self.rule.filter else {
            return true;
        };
        let and = filter.and.as_ref();
        let has = |tag: &Tag| {
            let value = tag.key.as_ref().and_then(|key| info.attributes.tags.get(key));
            value.is_some() && value == tag.value.as_ref()
        };
        let above = filter
            .object_size_greater_than
            .or_else(|| and.and_then(|and| and.object_size_greater_than));
        let below = filter
            .object_size_less_than
            .or_else(|| and.and_then(|and| and.object_size_less_than));
        let size = i64::try_from(info.size).unwrap_or(i64::MAX);
        filter.tag.iter().all(has)
            && and.iter().flat_map(|and| and.tags.iter().flatten()).all(has)
            && above.is_none_or(|above| size > above)
            && below.is_none_or(|below| size < below)
    }

    /// Whether what began then has reached this age in days, at the end of a day.
    fn is_due(&self, since: SystemTime, days: Option<i32>) -> bool {
        let Some(days) = days.and_then(|days| u32::try_from(days).ok()) else {
            return false;
        };
        let day = self.day.as_micros();
        let age = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let end = (age + day * u128::from(days)).div_ceil(day) * day;
        self.now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros()
            >= end
    }

    fn is_expired(&self, modified: SystemTime) -> bool {
        let Some(expiration) = &self.rule.expiration else {
            return false;
        };
        let has_come = |date: Timestamp| SystemTime::from(time::OffsetDateTime::from(date)) <= self.now;
        self.is_due(modified, expiration.days) || expiration.date.clone().is_some_and(has_come)
    }

    async fn objects(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut query = ListQuery {
            prefix: self.prefix().to_owned(),
            limit: PAGE,
            ..ListQuery::default()
        };
        loop {
            let page = self.engine.list(self.bucket, &query).await?;
            for (key, info) in page.objects {
                if self.fits(&info) && self.is_expired(info.modified) {
                    // What was replaced since it was listed is another object.
                    let options = DeleteOptions {
                        if_match: Some(info.etag),
                        modified: Some(info.modified),
                        ..DeleteOptions::default()
                    };
                    let object = ObjectRef::new(self.bucket, key);
                    removed.objects += u64::from(self.delete(&object, &options).await?);
                }
            }
            match page.next {
                Some(next) => query.start_after = Some(next),
                None => return Ok(removed),
            }
        }
    }

    async fn versions(&self, takes_markers: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut query = VersionQuery {
            prefix: self.prefix().to_owned(),
            limit: PAGE,
            ..VersionQuery::default()
        };
        // All versions of one key, which may be on two pages.
        let mut history: Vec<VersionInfo> = Vec::new();
        loop {
            let page = self.engine.versions(self.bucket, &query).await?;
            for version in page.versions {
                if history.last().is_some_and(|last| last.key != version.key) {
                    removed.add(self.of_key(&history, takes_markers).await?);
                    history.clear();
                }
                history.push(version);
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        removed.add(self.of_key(&history, takes_markers).await?);
        Ok(removed)
    }

    /// The newest comes first.
    async fn of_key(&self, history: &[VersionInfo], takes_markers: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        let noncurrent = self.rule.noncurrent_version_expiration.as_ref();
        let kept = noncurrent
            .and_then(|noncurrent| noncurrent.newer_noncurrent_versions)
            .and_then(|kept| usize::try_from(kept).ok())
            .unwrap_or(0);
        let days = noncurrent.and_then(|noncurrent| noncurrent.noncurrent_days);
        let mut left = history.len();
        for (newer, version) in history.iter().zip(history.iter().skip(1)).skip(kept) {
            // It was current until the newer one came.
            let fits = version.object.as_ref().is_none_or(|info| self.fits(info));
            if fits && self.is_due(newer.modified, days) && self.remove(version).await? {
                removed.versions += 1;
                left -= 1;
            }
        }
        if let [newest, ..] = history
            && left == 1
            && takes_markers
            && newest.object.is_none()
            && self.remove(newest).await?
        {
            removed.markers += 1;
        }
        Ok(removed)
    }

    async fn remove(&self, version: &VersionInfo) -> Result<bool> {
        let object = ObjectRef::new(self.bucket, version.key.as_str()).at(Some(version.version));
        self.delete(&object, &DeleteOptions::default()).await
    }

    /// Whether it is gone; what changed meanwhile or is locked stays, and is looked at again with the next pass.
    async fn delete(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<bool> {
        match self.engine.delete_with(object, options).await {
            Ok(_) => Ok(true),
            Err(
                Error::PreconditionFailed(_)
                | Error::NoSuchKey(_)
                | Error::NoSuchVersion(_)
                | Error::Locked(..),
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn abort(&self, upload: &UploadInfo) -> Result<bool> {
        let object = ObjectRef::new(self.bucket, upload.key.as_str());
        match self.engine.abort_upload(&object, &upload.id).await {
            Ok(()) => Ok(true),
            Err(Error::NoSuchUpload(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
