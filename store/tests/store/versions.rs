//! Random operations on a bucket that keeps versions, compared with lists in memory, with the store opened anew in between; and
//! stores of an older format.

use crate::{body, bytes, node::files, pattern, steps};
use penstock_store::{
    engine::{
        BucketChange, DeleteOptions, Engine, Error, ListQuery, ObjectRef, Precondition, PutOptions, Version,
        VersionQuery, Versioning,
    },
    local::Local,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u64),
    Copy(usize, usize),
    Delete(usize),
    DeleteVersion(usize, usize),
    Turn(bool),
    ListVersions(usize),
    Reopen,
}

const KEYS: [&str; 4] = ["a", "a\0b", "a/b", "b"];

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), any::<u64>()).prop_map(|(key, seed)| Step::Put(key, seed)),
        2 => (key(), key()).prop_map(|(from, to)| Step::Copy(from, to)),
        3 => key().prop_map(Step::Delete),
        4 => (key(), 0..6usize).prop_map(|(key, at)| Step::DeleteVersion(key, at)),
        2 => any::<bool>().prop_map(Step::Turn),
        2 => (1..5usize).prop_map(Step::ListVersions),
        1 => Just(Step::Reopen),
    ]
}

#[test]
fn a_bucket_that_keeps_versions_behaves_as_lists_of_them() {
    steps::play(32, step(), play);
}

/// The newest last; `None` is a delete marker.
type History = Vec<(Version, Option<Vec<u8>>)>;

struct Model {
    keys: BTreeMap<&'static str, History>,
    state: Versioning,
}

impl Model {
    /// A new version, whose name the engine chose.
    fn add(&mut self, key: &'static str, version: Option<Version>, content: Option<Vec<u8>>) {
        let history = self.keys.entry(key).or_default();
        match self.state {
            Versioning::Never => {
                assert_eq!(version, None);
                history.clear();
                history.extend(content.map(|content| (Version::Null, Some(content))));
                return;
            }
            Versioning::Enabled => assert!(matches!(version, Some(Version::Id(_)))),
            Versioning::Suspended => {
                assert_eq!(version, Some(Version::Null));
                history.retain(|(version, _)| *version != Version::Null);
            }
        }
        history.push((version.unwrap(), content));
    }

    fn current(&self, key: &str) -> Option<&Vec<u8>> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// As a listing has them.
    fn listed(&self) -> Vec<(String, Version, bool, Option<u64>)> {
        let of_key = |(key, history): (&&str, &History)| {
            let newest = history.len().wrapping_sub(1);
            let key = (*key).to_owned();
            let versions = history.iter().enumerate().rev();
            versions
                .map(|(at, (version, content))| {
                    let size = content.as_ref().map(|content| content.len() as u64);
                    (key.clone(), *version, at == newest, size)
                })
                .collect::<Vec<_>>()
        };
        self.keys.iter().flat_map(of_key).collect()
    }
}

/// Nothing of a store that is opened again is still at work.
async fn open(folder: &std::path::Path) -> Local {
    let engine = Local::open(folder).await.unwrap();
    engine.reclaimed().await;
    engine
}

async fn play(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    let object = |key: usize| ObjectRef::new("bucket", KEYS[key]);
    let mut model = Model {
        keys: BTreeMap::new(),
        state: Versioning::Never,
    };
    for step in steps {
        match *step {
            Step::Put(key, seed) => {
                let content = pattern(seed, (seed % 3000) as usize);
                let (object, bytes) = (object(key), body([content.clone()]));
                let put = engine.put(&object, PutOptions::default(), bytes).await;
                model.add(KEYS[key], put.unwrap().version, Some(content.to_vec()));
            }
            Step::Copy(from, to) => {
                let copied = engine.copy(&object(from), &object(to), None.into()).await;
                match model.current(KEYS[from]).cloned() {
                    Some(content) => model.add(KEYS[to], copied.unwrap().info.version, Some(content)),
                    None => assert!(matches!(copied, Err(Error::NoSuchKey(_) | Error::Marker(_)))),
                }
            }
            Step::Delete(key) => {
                let deleted = engine
                    .delete_with(&object(key), &DeleteOptions::default())
                    .await
                    .unwrap();
                assert_eq!(deleted.is_marker, model.state != Versioning::Never);
                model.add(KEYS[key], deleted.version, None);
            }
            Step::DeleteVersion(key, at) => {
                let history = model.keys.entry(KEYS[key]).or_default();
                let at = at.checked_rem(history.len()).unwrap_or(0);
                let (version, content) = match history.is_empty() {
                    true => (Version::Id(7), Some(Vec::new())),
                    false => history.remove(at),
                };
                let one = object(key).at(Some(version));
                let deleted = engine.delete_with(&one, &DeleteOptions::default()).await.unwrap();
                assert_eq!(
                    (deleted.version, deleted.is_marker),
                    (Some(version), content.is_none())
                );
                assert!(matches!(engine.head(&one).await, Err(Error::NoSuchVersion(_))));
            }
            Step::Turn(on) => {
                model.state = if on {
                    Versioning::Enabled
                } else {
                    Versioning::Suspended
                };
                let change = BucketChange::Versioning(model.state);
                engine.change_bucket("bucket", change).await.unwrap();
            }
            Step::ListVersions(limit) => list(&engine, &model, limit).await,
            Step::Reopen => {
                drop(engine);
                engine = open(folder.path()).await;
            }
        }
        compare(&engine, &model).await;
    }
    // Nothing is left of what is gone, and nothing is missing.
    let stored: usize = model
        .keys
        .values()
        .flatten()
        .filter(|(_, content)| content.is_some())
        .count();
    assert_eq!(engine.usage().unwrap().objects, stored as u64);
    for (key, history) in std::mem::take(&mut model.keys) {
        for (version, _) in history {
            let one = ObjectRef::new("bucket", key).at(Some(version));
            engine.delete_with(&one, &DeleteOptions::default()).await.unwrap();
        }
    }
    engine.delete_bucket("bucket").await.unwrap();
    drop(engine);
    drop(open(folder.path()).await);
    assert_eq!(files(&folder.path().join("data")).len(), 0);
}

async fn compare(engine: &Local, model: &Model) {
    for key in KEYS {
        let object = ObjectRef::new("bucket", key);
        let got = engine.get(&object, None, &Precondition::default()).await;
        match model.current(key) {
            Some(content) => assert!(bytes(got.unwrap()).await.unwrap() == *content, "{key}"),
            None => assert!(got.is_err(), "{key}"),
        }
        for (version, content) in model.keys.get(key).into_iter().flatten() {
            let one = object.clone().at(Some(*version));
            let got = engine.get(&one, None, &Precondition::default()).await;
            match content {
                Some(content) => assert!(bytes(got.unwrap()).await.unwrap() == *content, "{one}"),
                None => assert!(matches!(got, Err(Error::Marker(_))), "{one}"),
            }
        }
    }
    let query = ListQuery {
        limit: 100,
        ..ListQuery::default()
    };
    let page = engine.list("bucket", &query).await.unwrap();
    let shown = page.objects.iter().map(|(key, _)| key.as_str());
    let current = model
        .keys
        .keys()
        .copied()
        .filter(|key| model.current(key).is_some());
    assert!(shown.eq(current));
}

async fn list(engine: &Local, model: &Model, limit: usize) {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let query = VersionQuery {
            after: after.take(),
            limit,
            ..VersionQuery::default()
        };
        let page = engine.versions("bucket", &query).await.unwrap();
        assert!(page.versions.len() <= limit);
        found.extend(page.versions.into_iter().map(|info| {
            let size = info.object.map(|object| object.size);
            (info.key, info.version, info.is_latest, size)
        }));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(found, model.listed());
}

#[tokio::test]
async fn a_store_of_the_first_format_is_read_and_goes_on() {
    use redb::{Database, TableDefinition};
    const BYTES: fn(&'static str) -> TableDefinition<'static, &'static [u8], &'static [u8]> =
        TableDefinition::new;
    let folder = tempfile::tempdir().unwrap();
    {
        // What version 0.1 wrote: a bucket that was made 300 µs after 1970, and in it an empty object.
        let database = Database::create(folder.path().join("index.redb")).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut meta = write
                .open_table(TableDefinition::<&str, u64>::new("meta"))
                .unwrap();
            for (name, value) in [("format", 1), ("objects", 1), ("bytes", 3)] {
                meta.insert(name, value).unwrap();
            }
            let mut buckets = write
                .open_table(TableDefinition::<&str, &[u8]>::new("buckets"))
                .unwrap();
            buckets.insert("bucket", [0, 0xac, 0x02].as_slice()).unwrap();
            let row = hex(FIRST_FORMAT);
            let mut objects = write.open_table(BYTES("objects")).unwrap();
            objects.insert(b"bucket\0old".as_slice(), row.as_slice()).unwrap();
        }
        write.commit().unwrap();
    }
    let engine = open(folder.path()).await;
    let old = ObjectRef::new("bucket", "old");
    let info = engine.head(&old).await.unwrap();
    assert_eq!((info.size, info.etag.as_str(), info.version), (0, "e", None));
    let change = BucketChange::Versioning(Versioning::Enabled);
    engine.change_bucket("bucket", change).await.unwrap();
    let put = engine
        .put(&old, PutOptions::default(), body([pattern(1, 10)]))
        .await;
    assert!(matches!(put.unwrap().version, Some(Version::Id(_))));
    let before = engine.head(&old.clone().at(Some(Version::Null))).await.unwrap();
    assert_eq!((before.size, before.etag.as_str()), (0, "e"));
}

/// Size 0, entity tag `e`, written 300 µs after 1970, no checksum, no headers, no extents.
const FIRST_FORMAT: &str = "00000165ac020000000000000000";

fn hex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[tokio::test]
async fn a_bucket_takes_no_more_than_its_quota_and_frees_what_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    engine
        .change_bucket("bucket", BucketChange::Quota(Some(1000)))
        .await
        .unwrap();
    let put = async |engine: &Local, key: &str, length: usize| {
        let object = ObjectRef::new("bucket", key);
        engine
            .put(&object, PutOptions::default(), body([pattern(1, length)]))
            .await
    };
    put(&engine, "a", 600).await.unwrap();
    assert!(matches!(
        put(&engine, "b", 401).await,
        Err(Error::QuotaExceeded(_))
    ));
    assert!(engine.head(&ObjectRef::new("bucket", "b")).await.is_err());
    put(&engine, "b", 400).await.unwrap();
    // What replaces is counted for what it is more.
    put(&engine, "a", 600).await.unwrap();
    assert!(matches!(
        put(&engine, "a", 601).await,
        Err(Error::QuotaExceeded(_))
    ));
    drop(engine);
    engine = open(folder.path()).await;
    assert!(matches!(put(&engine, "c", 1).await, Err(Error::QuotaExceeded(_))));
    engine.delete(&ObjectRef::new("bucket", "b")).await.unwrap();
    put(&engine, "c", 1).await.unwrap();
    engine
        .change_bucket("bucket", BucketChange::Quota(None))
        .await
        .unwrap();
    put(&engine, "d", 5000).await.unwrap();
}
