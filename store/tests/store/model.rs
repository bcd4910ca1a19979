//! Random operations on the local engine, compared with a map in memory, with the store opened anew in between.

use crate::{body, bytes, node::files, pattern, steps};
use penstock_store::{
    engine::{
        ByteRange, Engine, Error, Headers, ListQuery, ObjectRef, PartOptions, PartRef, Precondition,
        PutOptions,
    },
    local::Local,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Put(usize, usize, u64),
    PutIfAbsent(usize, u64),
    Delete(usize),
    Copy(usize, usize),
    Upload(usize, usize, u64),
    AbortedUpload(usize),
    Read(usize, u64, u64),
    List(usize, bool, usize),
    Reopen,
}

/// Few keys, so that steps meet; with prefixes of each other, so that listings are interesting.
const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a/c", "ab", "b/x", "c"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "a/b", "d"];

fn key() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..5000usize, 1 => 500_000..1_200_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), length(), any::<u64>()).prop_map(|(key, length, seed)| Step::Put(key, length, seed)),
        2 => (key(), any::<u64>()).prop_map(|(key, seed)| Step::PutIfAbsent(key, seed)),
        3 => key().prop_map(Step::Delete),
        3 => (key(), key()).prop_map(|(from, to)| Step::Copy(from, to)),
        2 => (key(), length(), any::<u64>()).prop_map(|(key, length, seed)| Step::Upload(key, length, seed)),
        1 => key().prop_map(Step::AbortedUpload),
        4 => (key(), 0..3000u64, 0..3000u64).prop_map(|(key, first, length)| Step::Read(key, first, length)),
        3 => (0..PREFIXES.len(), any::<bool>(), 1..5usize)
            .prop_map(|(prefix, delimited, limit)| Step::List(prefix, delimited, limit)),
        1 => Just(Step::Reopen),
    ]
}

#[test]
fn the_local_engine_behaves_as_a_map() {
    steps::play(16, step(), play);
}

async fn play(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    let mut model: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Put(key, length, seed) => {
                let content = pattern(seed, length);
                engine
                    .put(&object(key), PutOptions::default(), body([content.clone()]))
                    .await
                    .unwrap();
                model.insert(KEYS[key], content.to_vec());
            }
            Step::PutIfAbsent(key, seed) => {
                let options = PutOptions {
                    precondition: Precondition {
                        if_none_match: Some("*".to_owned()),
                        if_match: None,
                        key: None,
                    },
                    ..PutOptions::default()
                };
                let content = pattern(seed, 100);
                let outcome = engine.put(&object(key), options, body([content.clone()])).await;
                if model.contains_key(KEYS[key]) {
                    assert!(
                        matches!(outcome, Err(Error::PreconditionFailed(_))),
                        "{outcome:?}"
                    );
                } else {
                    outcome.unwrap();
                    model.insert(KEYS[key], content.to_vec());
                }
            }
            Step::Delete(key) => {
                engine.delete(&object(key)).await.unwrap();
                model.remove(KEYS[key]);
            }
            Step::Copy(from, to) => {
                let outcome = engine.copy(&object(from), &object(to), None.into()).await;
                match model.get(KEYS[from]).cloned() {
                    Some(content) => {
                        outcome.unwrap();
                        model.insert(KEYS[to], content);
                    }
                    None => assert!(matches!(outcome, Err(Error::NoSuchKey(_))), "{outcome:?}"),
                }
            }
            Step::Upload(key, length, seed) => {
                let content = pattern(seed, length);
                let target = object(key);
                let id = engine
                    .create_upload(&target, Headers::default().into())
                    .await
                    .unwrap();
                // The part is replaced once: its first bytes must not stay.
                engine
                    .upload_part(&target, &id, 1, PartOptions::default(), body(["first".into()]))
                    .await
                    .unwrap();
                let part = engine
                    .upload_part(&target, &id, 1, PartOptions::default(), body([content.clone()]))
                    .await
                    .unwrap();
                let parts = [PartRef {
                    number: 1,
                    etag: part.etag,
                    checksums: Default::default(),
                }];
                engine
                    .complete_upload(&target, &id, &parts, &Default::default())
                    .await
                    .unwrap();
                model.insert(KEYS[key], content.to_vec());
            }
            Step::AbortedUpload(key) => {
                let target = object(key);
                let id = engine
                    .create_upload(&target, Headers::default().into())
                    .await
                    .unwrap();
                engine
                    .upload_part(&target, &id, 1, PartOptions::default(), body(["x".into()]))
                    .await
                    .unwrap();
                engine.abort_upload(&target, &id).await.unwrap();
            }
            Step::Read(key, first, length) => read(&engine, key, first, length, model.get(KEYS[key])).await,
            Step::List(prefix, delimited, limit) => {
                list(&engine, PREFIXES[prefix], delimited, limit, &model).await
            }
            Step::Reopen => {
                drop(engine);
                engine = open(folder.path()).await;
            }
        }
    }
    drop(engine);
    let engine = open(folder.path()).await;
    list(&engine, "", false, 1000, &model).await;
    for (key, name) in KEYS.iter().enumerate() {
        read(&engine, key, 0, u64::MAX, model.get(name)).await;
    }
    let usage = engine.usage().unwrap();
    let bytes: usize = model.values().map(Vec::len).sum();
    assert_eq!((usage.objects, usage.bytes), (model.len() as u64, bytes as u64));
    engine.reclaimed().await;
    for name in KEYS {
        engine.delete(&ObjectRef::new("bucket", name)).await.unwrap();
    }
    engine.delete_bucket("bucket").await.unwrap();
    drop(engine);
    let engine = open(folder.path()).await;
    engine.reclaimed().await;
    assert!(
        files(&folder.path().join("data")).is_empty(),
        "data files are left without objects"
    );
}

async fn open(folder: &std::path::Path) -> Local {
    let engine = Local::open(folder).await.unwrap();
    engine.reclaimed().await;
    engine
}

fn object(key: usize) -> ObjectRef {
    ObjectRef::new("bucket", KEYS[key])
}

async fn read(engine: &Local, key: usize, first: u64, length: u64, expected: Option<&Vec<u8>>) {
    let range = ByteRange::From {
        first,
        last: Some(first.saturating_add(length)),
    };
    let opened = engine
        .get(&object(key), Some(range), &Precondition::default())
        .await;
    match expected {
        None => assert!(matches!(opened.err(), Some(Error::NoSuchKey(_)))),
        Some(content) => match range.of(content.len() as u64) {
            None => assert!(matches!(opened.err(), Some(Error::InvalidRange { .. }))),
            Some(range) => {
                let expected = &content[range.start as usize..range.end as usize];
                assert!(bytes(opened.unwrap()).await.unwrap() == expected);
            }
        },
    }
}

async fn list(engine: &Local, prefix: &str, delimited: bool, limit: usize, model: &BTreeMap<&str, Vec<u8>>) {
    let (mut keys, mut groups) = (Vec::new(), Vec::new());
    for key in model.keys().filter(|key| key.starts_with(prefix)) {
        match key[prefix.len()..].find('/').filter(|_| delimited) {
            Some(end) => groups.push(key[..prefix.len() + end + 1].to_owned()),
            None => keys.push((*key).to_owned()),
        }
    }
    groups.dedup();
    let mut query = ListQuery {
        prefix: prefix.to_owned(),
        delimiter: delimited.then(|| "/".to_owned()),
        start_after: None,
        limit,
    };
    let (mut listed, mut rolled) = (Vec::new(), Vec::new());
    loop {
        let page = engine.list("bucket", &query).await.unwrap();
        for (key, info) in page.objects {
            assert_eq!(info.size, model[key.as_str()].len() as u64);
            listed.push(key);
        }
        rolled.extend(page.common_prefixes);
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => break,
        }
    }
    assert_eq!(
        (listed, rolled),
        (keys, groups),
        "prefix {prefix:?}, delimited {delimited}, limit {limit}"
    );
}
