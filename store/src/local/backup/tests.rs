use super::*;
use crate::engine::{
    BucketChange, CompleteOptions, Engine, ObjectRef, PartOptions, PartRef, PutOptions, UploadOptions,
    VersionQuery, Versioning,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::time::{Duration, Instant};

fn content(seed: u8, length: usize) -> Bytes {
    (0..length)
        .map(|at| seed.wrapping_add((at % 251) as u8))
        .collect()
}

async fn put(local: &Local, object: &ObjectRef, content: Bytes) {
    let body = stream::iter([Ok(content)]).boxed();
    local.put(object, PutOptions::default(), body).await.unwrap();
}

async fn read(local: &Local, object: &ObjectRef) -> Vec<u8> {
    let found = local.get(object, None, &Default::default()).await.unwrap();
    let pieces: Vec<Bytes> = found.body.try_collect().await.unwrap();
    pieces.concat()
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Between the instant that a backup shows and the moment that it is written, everything goes.
#[tokio::test]
async fn a_backup_shows_one_instant_whatever_happens_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let local = Local::open(&data).await.unwrap();
    for bucket in ["plain", "versioned", "emptied"] {
        local.create_bucket(bucket).await.unwrap();
    }
    let change = BucketChange::Versioning(Versioning::Enabled);
    local.change_bucket("versioned", change).await.unwrap();
    let (small, large) = (ObjectRef::new("plain", "small"), ObjectRef::new("plain", "large"));
    let kept = ObjectRef::new("versioned", "k");
    let gone = ObjectRef::new("emptied", "k");
    for (seed, object, length) in [
        (1, &small, 10),
        (2, &large, 300_000),
        (3, &kept, 5000),
        (4, &gone, 6000),
    ] {
        put(&local, object, content(seed, length)).await;
    }
    put(&local, &kept, content(5, 5001)).await;
    let joined = ObjectRef::new("plain", "joined");
    let upload = local
        .create_upload(&joined, UploadOptions::default())
        .await
        .unwrap();
    let body = stream::iter([Ok(content(6, 7000))]).boxed();
    let part = local.upload_part(&joined, &upload, 1, PartOptions::default(), body);
    let part = part.await.unwrap();
    local.reclaimed().await;

    let snapshot = Snapshot::take(&local.inner).unwrap();
    assert!(Snapshot::take(&local.inner).is_err(), "one at a time");
    put(&local, &small, content(9, 10)).await;
    put(&local, &ObjectRef::new("plain", "later"), content(9, 11)).await;
    for object in [&large, &kept, &gone] {
        local.delete(object).await.unwrap();
    }
    local.abort_upload(&joined, &upload).await.unwrap();
    local.delete_bucket("emptied").await.unwrap();
    // Of five that went four were not versions: small, large, gone, and the part.
    let aside = || {
        let names = names_in(&data.join("tmp"));
        names.iter().filter(|name| name.starts_with("removed-")).count()
    };
    until("they are put aside", || aside() == 4).await;

    let to = folder.path().join("backup");
    let progress = Progress::default();
    let manifest = snapshot
        .write(&to, None, &progress, &CancellationToken::new())
        .unwrap();
    assert_eq!((manifest.objects, manifest.files, manifest.missing), (5, 6, 0));
    assert_eq!(manifest.bytes, 10 + 300_000 + 5000 + 5001 + 6000);
    assert_eq!(progress.copied.into_inner(), 0, "links cost nothing");
    until("they are removed", || aside() == 0).await;
    local.delete(&small).await.unwrap();
    let files = || {
        fs::read_dir(data.join("data"))
            .unwrap()
            .flat_map(|slot| names_in(&slot.unwrap().path()))
            .count()
    };
    // `later`, and two versions.
    until("what is deleted afterwards is removed at once", || files() == 3).await;
    drop(local);

    let restored = folder.path().join("restored");
    let progress = Progress::default();
    assert_eq!(restore(&to, &restored, &progress).unwrap(), manifest);
    assert_eq!(progress.missing.into_inner(), 0);
    let local = Local::open(&restored).await.unwrap();
    for (seed, object, length) in [
        (1, &small, 10),
        (2, &large, 300_000),
        (5, &kept, 5001),
        (4, &gone, 6000),
    ] {
        assert!(read(&local, object).await == content(seed, length), "{object}");
    }
    let versions = local
        .versions(
            "versioned",
            &VersionQuery {
                limit: 10,
                ..Default::default()
            },
        )
        .await
        .unwrap()
        .versions;
    assert_eq!(versions.len(), 2);
    let mut older = kept.clone();
    older.version = Some(versions[1].version);
    assert!(read(&local, &older).await == content(3, 5000));
    assert!(local.head(&ObjectRef::new("plain", "later")).await.is_err());
    let parts = [PartRef {
        number: 1,
        etag: part.etag,
        checksums: Default::default(),
    }];
    let options = CompleteOptions::default();
    let completed = local.complete_upload(&joined, &upload, &parts, &options);
    completed.await.unwrap();
    assert!(read(&local, &joined).await == content(6, 7000));
    assert_eq!(local.usage().unwrap().objects, 6);
}
