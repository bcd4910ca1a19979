//! What only the local engine promises: durability, immutable files, and clear refusals to open.

use crate::{body, bytes, node::files, pattern};
use bytes::Bytes;
use futures::{StreamExt, stream};
use penstock_store::{
    engine::{Engine, Error, ObjectRef, Precondition, PutOptions},
    local::{Local, OpenError},
};
use std::{fs, time::Duration};

fn object(key: &str) -> ObjectRef {
    ObjectRef::new("bucket", key)
}

async fn opened(folder: &std::path::Path) -> Local {
    let local = Local::open(folder).await.unwrap();
    local.reclaimed().await;
    local
}

async fn put(engine: &Local, key: &str, content: Bytes) {
    engine
        .put(&object(key), PutOptions::default(), body([content]))
        .await
        .unwrap();
}

async fn read(engine: &Local, key: &str) -> std::io::Result<Vec<u8>> {
    bytes(
        engine
            .get(&object(key), None, &Precondition::default())
            .await
            .unwrap(),
    )
    .await
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    put(&engine, "a", pattern(1, 100_000)).await;
    let before = (engine.head(&object("a")).await.unwrap(), engine.usage().unwrap());
    drop(engine);
    let engine = opened(folder.path()).await;
    assert_eq!(engine.head(&object("a")).await.unwrap(), before.0);
    assert_eq!(read(&engine, "a").await.unwrap(), pattern(1, 100_000));
    let usage = engine.usage().unwrap();
    assert_eq!((usage.objects, usage.bytes), (before.1.objects, before.1.bytes));
    assert_eq!((usage.objects, usage.bytes), (1, 100_000));
}

#[tokio::test]
async fn a_copy_takes_no_space_and_the_last_one_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    put(&engine, "a", pattern(1, 100_000)).await;
    engine
        .copy(&object("a"), &object("b"), None.into())
        .await
        .unwrap();
    engine
        .copy(&object("b"), &object("b"), Some(Default::default()).into())
        .await
        .unwrap();
    let data = folder.path().join("data");
    assert_eq!(files(&data).len(), 1);
    engine.delete(&object("a")).await.unwrap();
    assert_eq!(read(&engine, "b").await.unwrap(), pattern(1, 100_000));
    put(&engine, "b", Bytes::new()).await;
    eventually(|| files(&data).is_empty()).await;
    assert_eq!(engine.usage().unwrap().bytes, 0);
}

#[tokio::test]
async fn a_reader_keeps_the_version_it_opened() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    let old = pattern(1, 4_000_000);
    put(&engine, "a", old.clone()).await;
    let data = folder.path().join("data");
    let read = files(&data);
    let reader = engine
        .get(&object("a"), None, &Precondition::default())
        .await
        .unwrap();
    put(&engine, "a", "new".into()).await;
    engine.delete(&object("a")).await.unwrap();
    // What nobody reads goes soon after the answer; the file that is read outlasts it.
    eventually(|| files(&data) == read).await;
    assert!(bytes(reader).await.unwrap() == old);
    eventually(|| files(&data).is_empty()).await;
}

#[tokio::test]
async fn a_cut_put_leaves_nothing_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    // One that ends with an error, and one whose caller goes away in the middle.
    let failing = stream::iter([Ok(pattern(1, 2_000_000)), Err(std::io::Error::other("cut"))]).boxed();
    assert!(
        engine
            .put(&object("a"), PutOptions::default(), failing)
            .await
            .is_err()
    );
    let endless = stream::iter([Ok(pattern(1, 2_000_000))])
        .chain(stream::pending())
        .boxed();
    let target = object("a");
    let abandoned = engine.put(&target, PutOptions::default(), endless);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), abandoned)
            .await
            .is_err()
    );
    let (tmp, data) = (folder.path().join("tmp"), folder.path().join("data"));
    eventually(|| files(&tmp).is_empty() && files(&data).is_empty()).await;
    assert!(matches!(
        engine.head(&object("a")).await,
        Err(Error::NoSuchKey(_))
    ));
}

#[tokio::test]
async fn what_a_crash_left_is_reclaimed_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    drop(opened(folder.path()).await);
    let orphan = folder.path().join("data/ab/ab000000000000000000000000000001");
    let foreign = folder.path().join("data/ab/README");
    let half = folder.path().join("tmp/ab000000000000000000000000000002");
    for path in [&orphan, &foreign, &half] {
        fs::write(path, "left over").unwrap();
    }
    let _engine = opened(folder.path()).await;
    assert!(!orphan.exists() && !half.exists() && foreign.exists());
}

#[tokio::test]
async fn a_damaged_data_file_is_not_served_as_if_it_were_whole() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    put(&engine, "a", pattern(1, 2_000_000)).await;
    let file = files(&folder.path().join("data")).remove(0);
    let mut content = fs::read(&file).unwrap();
    content[1_234_567] ^= 1;
    fs::write(&file, content).unwrap();
    let error = read(&engine, "a").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = opened(folder.path()).await;
    assert!(matches!(
        Local::open(folder.path()).await,
        Err(OpenError::InUse { .. })
    ));
    drop(first);
    Local::open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn closing_frees_the_folder_at_once_also_while_programs_are_started() {
    let folder = tempfile::tempdir().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    // A program that is being started holds copies of all descriptors for a moment.
    let starter = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            std::process::Command::new("true").status().unwrap();
        }
    });
    for _ in 0..100 {
        drop(opened(folder.path()).await);
    }
    drop(stop);
    starter.join().unwrap();
}

#[tokio::test]
async fn data_without_an_index_is_not_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let engine = opened(folder.path()).await;
    engine.create_bucket("bucket").await.unwrap();
    put(&engine, "a", "precious".into()).await;
    drop(engine);
    fs::rename(folder.path().join("index.redb"), folder.path().join("elsewhere")).unwrap();
    assert!(matches!(
        Local::open(folder.path()).await,
        Err(OpenError::IndexMissing { .. })
    ));
    assert_eq!(files(&folder.path().join("data")).len(), 1);
    fs::rename(folder.path().join("elsewhere"), folder.path().join("index.redb")).unwrap();
    assert_eq!(
        read(&opened(folder.path()).await, "a").await.unwrap(),
        b"precious"
    );
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(opened(folder.path()).await);
    {
        let database = redb::Database::create(folder.path().join("index.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
            .unwrap()
            .insert("format", 4)
            .unwrap();
        transaction.commit().unwrap();
    }
    let refused = Local::open(folder.path()).await;
    assert!(matches!(refused, Err(OpenError::NewerFormat { found: 4, .. })));
}

#[tokio::test]
async fn a_file_that_is_no_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("index.redb"), "not a database").unwrap();
    assert!(matches!(
        Local::open(folder.path()).await,
        Err(OpenError::Index { .. })
    ));
}

/// Waits for what happens in the background.
async fn eventually(holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to hold within 5 s");
}
