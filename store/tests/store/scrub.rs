//! What a disk has spoiled is found, and nothing else is told of.

use crate::{body, pattern};
use penstock_service::CancellationToken;
use penstock_store::{
    engine::{BucketChange, DeleteOptions, Engine, ObjectRef, PartOptions, PartRef, PutOptions, Versioning},
    local::Local,
    metrics::Metrics,
    scrub::{Pace, Scrub},
};
use prometheus_client::registry::Registry;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

fn files_of(folder: &Path, size: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_of(&path, size));
        } else if std::fs::metadata(&path).unwrap().len() == size {
            found.push(path);
        }
    }
    found
}

/// Changes one byte of the one data file of this size.
fn spoil(folder: &Path, size: u64) {
    let files = files_of(&folder.join("data"), size);
    assert_eq!(files.len(), 1, "{files:?}");
    let mut content = std::fs::read(&files[0]).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::write(&files[0], content).unwrap();
}

async fn put(engine: &Local, bucket: &str, key: &str, length: usize) {
    let object = ObjectRef::new(bucket, key);
    let put = engine.put(&object, PutOptions::default(), body([pattern(1, length)]));
    put.await.unwrap();
}

#[tokio::test]
async fn what_is_spoiled_or_gone_is_found_in_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Local::open(folder.path()).await.unwrap();
    let scrub = Scrub::new(
        Arc::new(engine.clone()),
        Metrics::register(&mut Registry::default()),
    );
    let stop = CancellationToken::new();
    for bucket in ["plain", "versioned"] {
        engine.create_bucket(bucket).await.unwrap();
    }
    let change = BucketChange::Versioning(Versioning::Enabled);
    engine.change_bucket("versioned", change).await.unwrap();
    for (key, length) in [
        ("empty", 0),
        ("good", 5000),
        ("spoiled", 70_001),
        ("gone", 60_001),
    ] {
        put(&engine, "plain", key, length).await;
    }
    put(&engine, "versioned", "k", 50_001).await;
    put(&engine, "versioned", "k", 40_001).await;
    engine
        .delete_with(&ObjectRef::new("versioned", "k"), &DeleteOptions::default())
        .await
        .unwrap();
    let multi = ObjectRef::new("plain", "multi");
    let upload = engine
        .create_upload(&multi, penstock_store::engine::Headers::default().into())
        .await
        .unwrap();
    let mut parts = Vec::new();
    for (number, length) in [(1, 5 << 20), (2, 30_001)] {
        let content = body([pattern(u64::from(number), length)]);
        let part = engine
            .upload_part(&multi, &upload, number, PartOptions::default(), content)
            .await
            .unwrap();
        parts.push(PartRef {
            number,
            etag: part.etag,
            checksums: std::collections::BTreeMap::new(),
        });
    }
    engine
        .complete_upload(
            &multi,
            &upload,
            &parts,
            &penstock_store::engine::CompleteOptions::default(),
        )
        .await
        .unwrap();

    let clean = scrub.pass(Pace::Full, &stop).await.unwrap();
    assert_eq!((clean.objects, clean.broken, clean.running), (7, 0, false));
    assert_eq!(
        clean.bytes,
        5000 + 70_001 + 60_001 + 50_001 + 40_001 + (5 << 20) + 30_001
    );
    assert!(clean.started.is_some() && clean.finished.is_some());

    spoil(folder.path(), 70_001);
    spoil(folder.path(), 50_001);
    spoil(folder.path(), 30_001);
    std::fs::remove_file(&files_of(&folder.path().join("data"), 60_001)[0]).unwrap();
    let found = scrub.pass(Pace::Full, &stop).await.unwrap();
    let mut named: Vec<_> = found
        .objects_broken
        .iter()
        .map(|object| {
            (
                object.bucket.as_str(),
                object.key.as_str(),
                object.version == "null",
            )
        })
        .collect();
    named.sort_unstable();
    let expected = [
        ("plain", "gone", true),
        ("plain", "multi", true),
        ("plain", "spoiled", true),
        ("versioned", "k", false),
    ];
    assert_eq!(named, expected);
    assert_eq!((found.objects, found.broken), (7, 4));
    assert!(found.objects_broken.iter().all(|object| !object.cause.is_empty()));
    assert_eq!(scrub.told(), found);
}

#[tokio::test]
async fn it_keeps_to_its_pace_and_stops_when_it_is_to() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Local::open(folder.path()).await.unwrap();
    engine.create_bucket("bucket").await.unwrap();
    put(&engine, "bucket", "k", 4 << 20).await;
    let scrub = Scrub::new(Arc::new(engine), Metrics::register(&mut Registry::default()));
    let stop = CancellationToken::new();
    let begun = Instant::now();
    scrub.pass(Pace::Limited(4 << 20), &stop).await.unwrap();
    assert!(
        begun.elapsed() > Duration::from_millis(700),
        "{:?}",
        begun.elapsed()
    );

    let running = tokio::spawn(scrub.clone().run(Duration::MAX, Pace::Full, stop.clone()));
    assert!(scrub.ask());
    while scrub.told().running {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scrub.told().objects, 1);
    stop.cancel();
    running.await.unwrap();
    // Without anybody who does it, it stays asked for.
    assert!(scrub.ask() && !scrub.ask());
}
