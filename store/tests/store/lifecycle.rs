//! What buckets say is to go by itself goes when it is due, and nothing else does.

use crate::{body, pattern};
use penstock_store::{
    engine::{
        Attributes, BucketChange, DeleteOptions, Engine, LockMode, ObjectRef, PartOptions, PutOptions,
        Retention, VersionQuery, Versioning,
    },
    lifecycle::{Lifecycle, Removed},
    local::Local,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

struct Bucket {
    _folder: TempDir,
    engine: Local,
    begun: SystemTime,
}

impl Bucket {
    async fn with(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Local::open(folder.path()).await.unwrap();
        engine.create_bucket("bucket").await.unwrap();
        let document = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        engine
            .set_document("bucket", "lifecycle", Some(document.into_bytes()))
            .await
            .unwrap();
        Self {
            _folder: folder,
            engine,
            begun: SystemTime::now(),
        }
    }

    async fn versioned(rules: &str) -> Self {
        let bucket = Self::with(rules).await;
        let change = BucketChange::Versioning(Versioning::Enabled);
        bucket.engine.change_bucket("bucket", change).await.unwrap();
        bucket
    }

    async fn put(&self, key: &str, length: usize, attributes: Attributes) {
        let options = PutOptions {
            attributes,
            ..PutOptions::default()
        };
        let object = ObjectRef::new("bucket", key);
        let put = self.engine.put(&object, options, body([pattern(1, length)]));
        put.await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.engine.delete(&ObjectRef::new("bucket", key)).await.unwrap();
    }

    /// What a pass removes so many days after the bucket was made.
    async fn after(&self, days: u32) -> Removed {
        let lifecycle = Lifecycle::new(Arc::new(self.engine.clone()), DAY);
        lifecycle.pass(self.begun + DAY * days).await.unwrap()
    }

    /// Keys with versions, the newest first: its length, or nothing for a delete marker.
    async fn left(&self) -> Vec<(String, Option<u64>)> {
        let query = VersionQuery {
            limit: 1000,
            ..VersionQuery::default()
        };
        let page = self.engine.versions("bucket", &query).await.unwrap();
        let versions = page.versions.into_iter();
        versions
            .map(|version| (version.key, version.object.map(|info| info.size)))
            .collect()
    }
}

fn named(entries: &[(&str, Option<u64>)]) -> Vec<(String, Option<u64>)> {
    entries
        .iter()
        .map(|(key, size)| ((*key).to_owned(), *size))
        .collect()
}

fn tagged(value: &str) -> Attributes {
    Attributes {
        tags: BTreeMap::from([("keep".to_owned(), value.to_owned())]),
        ..Attributes::default()
    }
}

#[tokio::test]
async fn objects_go_at_the_end_of_their_last_day_and_only_those_that_the_rule_means() {
    let bucket = Bucket::with(
        "<Rule><Status>Enabled</Status><Filter><And><Prefix>log/</Prefix><Tag><Key>keep</Key><Value>no</Value></Tag>\
         <ObjectSizeGreaterThan>10</ObjectSizeGreaterThan></And></Filter><Expiration><Days>3</Days></Expiration></Rule>\
         <Rule><Status>Disabled</Status><Filter><Prefix></Prefix></Filter><Expiration><Days>1</Days></Expiration></Rule>",
    )
    .await;
    bucket.put("log/due", 11, tagged("no")).await;
    bucket.put("log/small", 10, tagged("no")).await;
    bucket.put("log/kept", 11, tagged("yes")).await;
    bucket.put("log/untagged", 11, Attributes::default()).await;
    bucket.put("other", 11, tagged("no")).await;
    assert_eq!(bucket.after(3).await, Removed::default());
    let removed = bucket.after(4).await;
    assert_eq!((removed.objects, removed.versions, removed.uploads), (1, 0, 0));
    let left = [
        ("log/kept", Some(11)),
        ("log/small", Some(10)),
        ("log/untagged", Some(11)),
        ("other", Some(11)),
    ];
    assert_eq!(bucket.left().await, named(&left));
}

#[tokio::test]
async fn a_date_ends_all_that_are_there_then() {
    let rule = |date: &str| {
        format!(
            "<Rule><Status>Enabled</Status><Prefix></Prefix><Expiration><Date>{date}</Date></Expiration></Rule>"
        )
    };
    let bucket = Bucket::with(&rule("2999-01-01T00:00:00Z")).await;
    bucket.put("a", 1, Attributes::default()).await;
    assert_eq!(bucket.after(400).await, Removed::default());
    let bucket = Bucket::with(&rule("2020-01-01T00:00:00Z")).await;
    bucket.put("a", 1, Attributes::default()).await;
    assert_eq!(bucket.after(0).await.objects, 1);
    assert!(bucket.left().await.is_empty());
}

#[tokio::test]
async fn where_versions_are_kept_an_object_gets_a_marker_and_old_versions_go_later() {
    let bucket = Bucket::versioned(
        "<Rule><Status>Enabled</Status><Prefix></Prefix><Expiration><Days>1</Days></Expiration>\
         <NoncurrentVersionExpiration><NoncurrentDays>5</NoncurrentDays>\
         <NewerNoncurrentVersions>1</NewerNoncurrentVersions></NoncurrentVersionExpiration></Rule>",
    )
    .await;
    for length in [1, 2, 3] {
        bucket.put("a", length, Attributes::default()).await;
    }
    assert_eq!(bucket.after(2).await.objects, 1);
    assert_eq!(
        bucket.left().await,
        named(&[("a", None), ("a", Some(3)), ("a", Some(2)), ("a", Some(1))])
    );
    assert_eq!(bucket.after(4).await, Removed::default());
    // The newest of those that are not current stays.
    assert_eq!(bucket.after(7).await.versions, 2);
    assert_eq!(bucket.left().await, named(&[("a", None), ("a", Some(3))]));
}

#[tokio::test]
async fn a_marker_that_nothing_is_under_goes_and_no_other() {
    let bucket = Bucket::versioned(
        "<Rule><Status>Enabled</Status><Prefix></Prefix><Expiration>\
         <ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule>",
    )
    .await;
    bucket.delete("alone").await;
    bucket.put("hidden", 1, Attributes::default()).await;
    bucket.delete("hidden").await;
    assert_eq!(bucket.after(0).await.markers, 1);
    assert_eq!(
        bucket.left().await,
        named(&[("hidden", None), ("hidden", Some(1))])
    );
}

#[tokio::test]
async fn what_is_locked_stays_until_it_is_not() {
    let bucket = Bucket::versioned(
        "<Rule><Status>Enabled</Status><Prefix></Prefix><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>\
         </NoncurrentVersionExpiration></Rule>",
    )
    .await;
    let lock = BucketChange::Lock(None);
    bucket.engine.change_bucket("bucket", lock).await.unwrap();
    let locked = Attributes {
        retention: Some(Retention {
            mode: LockMode::Governance,
            until: SystemTime::now() + DAY,
        }),
        ..Attributes::default()
    };
    bucket.put("a", 1, locked).await;
    bucket.put("a", 2, Attributes::default()).await;
    assert_eq!(bucket.after(9).await, Removed::default());
    assert_eq!(bucket.left().await.len(), 2);
    let query = VersionQuery {
        limit: 10,
        ..VersionQuery::default()
    };
    let old = bucket
        .engine
        .versions("bucket", &query)
        .await
        .unwrap()
        .versions
        .remove(1);
    let object = ObjectRef::new("bucket", "a").at(Some(old.version));
    let bypass = DeleteOptions {
        bypasses_governance: true,
        ..DeleteOptions::default()
    };
    bucket.engine.delete_with(&object, &bypass).await.unwrap();
}

#[tokio::test]
async fn uploads_that_nobody_finishes_go_with_their_parts() {
    let bucket = Bucket::with(
        "<Rule><Status>Enabled</Status><Filter><Prefix>in/</Prefix></Filter><AbortIncompleteMultipartUpload>\
         <DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>",
    )
    .await;
    for key in ["in/a", "out"] {
        let object = ObjectRef::new("bucket", key);
        let id = bucket
            .engine
            .create_upload(&object, Default::default())
            .await
            .unwrap();
        let part =
            bucket
                .engine
                .upload_part(&object, &id, 1, PartOptions::default(), body([pattern(1, 100)]));
        part.await.unwrap();
    }
    assert_eq!(bucket.after(2).await, Removed::default());
    assert_eq!(bucket.after(3).await.uploads, 1);
    let left = bucket.engine.uploads("bucket").await.unwrap();
    assert_eq!(
        left.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(),
        ["out"]
    );
}
