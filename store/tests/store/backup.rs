//! Backups that are made while the storage node writes, and data folders from them.

use crate::{body, bytes, pattern};
use penstock_rdma::admin::BackupRequest;
use penstock_service::CancellationToken;
use penstock_store::{
    backups::{BackupError, Backups},
    engine::{Engine, ListQuery, ObjectRef, Precondition, PutOptions},
    local::{Local, Manifest, OpenError, Progress, RestoreError, restore},
    metrics::Metrics,
    scrub::{Pace, Scrub},
};
use prometheus_client::registry::Registry;
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A folder on another file system than those of the other tests.
fn elsewhere() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

async fn put(engine: &Local, key: &str, seed: u64, length: usize) {
    let object = ObjectRef::new("bucket", key);
    let put = engine.put(&object, PutOptions::default(), body([pattern(seed, length)]));
    put.await.unwrap();
}

async fn read(engine: &Local, key: &str) -> Vec<u8> {
    let (object, any) = (ObjectRef::new("bucket", key), Precondition::default());
    bytes(engine.get(&object, None, &any).await.unwrap())
        .await
        .unwrap()
}

async fn filled(folder: &Path, objects: u64) -> Local {
    let engine = Local::open(folder).await.unwrap();
    engine.create_bucket("bucket").await.unwrap();
    for seed in 0..objects {
        put(&engine, &format!("k{seed}"), seed, 5000).await;
    }
    engine
}

async fn back_up(engine: &Local, to: &Path, base: Option<&Path>) -> (Manifest, Arc<Progress>) {
    let progress = Arc::new(Progress::default());
    let made = engine.back_up(
        to.to_owned(),
        base.map(Path::to_owned),
        Arc::clone(&progress),
        CancellationToken::new(),
    );
    (made.await.unwrap(), progress)
}

/// How many files there are below a folder.
fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

/// What a writer has done: key `n` holds content `n`, keys are written one after the other, and one key says how many there are.
struct Sequence {
    begun: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

async fn write_on(engine: Local, sequence: Arc<Sequence>) {
    let mut next = 0;
    while !sequence.stop.load(Ordering::Relaxed) {
        sequence.begun.store(next, Ordering::SeqCst);
        put(&engine, &format!("s{next:08}"), next, 1000).await;
        put(&engine, "count", next, 3000).await;
        sequence.acknowledged.store(next, Ordering::SeqCst);
        next += 1;
    }
}

/// Several backups, each on both kinds of file systems, under writers that replace what they wrote: each shows one instant between its call and its
/// answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_shows_one_instant() {
    for target in [tempfile::tempdir().unwrap(), elsewhere()] {
        let source = tempfile::tempdir().unwrap();
        let engine = filled(source.path(), 0).await;
        let sequence = Arc::new(Sequence {
            begun: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let writer = tokio::spawn(write_on(engine.clone(), Arc::clone(&sequence)));
        let mut spans = Vec::new();
        let mut base = None;
        for round in 0..4 {
            let goal = (round + 1) * 20;
            while sequence.acknowledged.load(Ordering::SeqCst) < goal {
                assert!(!writer.is_finished());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let to = target.path().join(round.to_string());
            let before = sequence.acknowledged.load(Ordering::SeqCst);
            let (manifest, _) = back_up(&engine, &to, base.as_deref()).await;
            spans.push((before, sequence.begun.load(Ordering::SeqCst), manifest));
            base = Some(to);
        }
        sequence.stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
        for (round, (before, after, manifest)) in spans.into_iter().enumerate() {
            let folder = target.path().join(format!("restored-{round}"));
            let from = target.path().join(round.to_string());
            restore(&from, &folder, &Progress::default()).unwrap();
            let engine = Local::open(&folder).await.unwrap();
            let query = ListQuery {
                prefix: "s".into(),
                limit: 100_000,
                ..ListQuery::default()
            };
            let listed = engine.list("bucket", &query).await.unwrap().objects;
            let last = u64::try_from(listed.len()).unwrap() - 1;
            assert!((before..=after).contains(&last), "{before} {last} {after}");
            assert_eq!(manifest.objects, last + 2);
            for (at, found) in (0..).zip(&listed) {
                assert_eq!(found.0, format!("s{at:08}"), "none is missing between");
            }
            let count = read(&engine, "count").await;
            // The last key may have been written, and the count not yet.
            assert!(
                count == pattern(last, 3000) || count == pattern(last - 1, 3000),
                "{last}"
            );
            let scrub = Scrub::new(Arc::new(engine), Metrics::register(&mut Registry::default()));
            let found = scrub.pass(Pace::Full, &CancellationToken::new()).await.unwrap();
            assert_eq!((found.objects, found.broken), (manifest.objects, 0));
        }
    }
}

#[tokio::test]
async fn the_next_backup_copies_what_is_new_alone() {
    let (source, target) = (tempfile::tempdir().unwrap(), elsewhere());
    let engine = filled(source.path(), 10).await;
    let (one, two, three) = (
        target.path().join("1"),
        target.path().join("2"),
        target.path().join("3"),
    );
    let (_, progress) = back_up(&engine, &one, None).await;
    assert_eq!(progress.copied.load(Ordering::Relaxed), 50_000);
    put(&engine, "k0", 100, 7000).await;
    // A file of another length is not the file.
    let victim = fs::read_dir(one.join("data"))
        .unwrap()
        .flat_map(|slot| fs::read_dir(slot.unwrap().path()).unwrap());
    let victim = victim.map(|file| file.unwrap().path()).find(|path| {
        let at = source
            .path()
            .join("data")
            .join(path.strip_prefix(one.join("data")).unwrap());
        at.exists()
    });
    fs::write(victim.unwrap(), b"half").unwrap();
    let (_, progress) = back_up(&engine, &two, Some(&one)).await;
    assert_eq!(progress.copied.load(Ordering::Relaxed), 7000 + 5000);
    // The first can go; what the second has stays.
    fs::remove_dir_all(&one).unwrap();
    let (_, progress) = back_up(&engine, &three, Some(&one)).await;
    assert_eq!(progress.copied.load(Ordering::Relaxed), 9 * 5000 + 7000);
    let folder = target.path().join("restored");
    restore(&two, &folder, &Progress::default()).unwrap();
    let restored = Local::open(&folder).await.unwrap();
    for (key, seed, length) in [("k0", 100, 7000), ("k9", 9, 5000)] {
        assert!(read(&restored, key).await == pattern(seed, length), "{key}");
    }
}

#[tokio::test]
async fn a_backup_that_is_given_up_leaves_nothing() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = filled(source.path(), 3).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let given_up = engine.back_up(target.path().join("b"), None, Arc::default(), stop);
    assert!(given_up.await.is_err());
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    assert_eq!(files(&source.path().join("tmp")), 0);
    // What the folder holds already is not touched.
    fs::create_dir(target.path().join("b")).unwrap();
    fs::write(target.path().join("b/mine"), b"mine").unwrap();
    let refused = engine.back_up(
        target.path().join("b"),
        None,
        Arc::default(),
        CancellationToken::new(),
    );
    assert!(refused.await.is_err());
    assert_eq!(files(target.path()), 1);
}

#[tokio::test]
async fn what_the_store_has_lost_is_counted_and_named() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = filled(source.path(), 3).await;
    put(&engine, "lost", 7, 9000).await;
    let lost = fs::read_dir(source.path().join("data"))
        .unwrap()
        .flat_map(|slot| fs::read_dir(slot.unwrap().path()).unwrap());
    let lost = lost
        .map(|file| file.unwrap().path())
        .find(|path| fs::metadata(path).unwrap().len() == 9000);
    fs::remove_file(lost.unwrap()).unwrap();
    let to = target.path().join("b");
    let (manifest, _) = back_up(&engine, &to, None).await;
    assert_eq!((manifest.objects, manifest.missing), (4, 1));
    let folder = target.path().join("restored");
    let progress = Progress::default();
    restore(&to, &folder, &progress).unwrap();
    assert_eq!(progress.missing.load(Ordering::Relaxed), 1);
    let restored = Arc::new(Local::open(&folder).await.unwrap());
    let scrub = Scrub::new(restored, Metrics::register(&mut Registry::default()));
    let found = scrub.pass(Pace::Full, &CancellationToken::new()).await.unwrap();
    assert_eq!((found.broken, found.objects_broken[0].key.as_str()), (1, "lost"));
}

#[tokio::test]
async fn a_restore_that_broke_off_is_no_data_folder_and_can_be_done_again() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = filled(source.path(), 3).await;
    let (to, folder) = (target.path().join("b"), target.path().join("restored"));
    back_up(&engine, &to, None).await;
    // A file where a folder has to be made: the disk refuses in the middle.
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("data"), b"").unwrap();
    let error = restore(&to, &folder, &Progress::default()).unwrap_err();
    assert!(
        matches!(error, RestoreError::Folder(_) | RestoreError::BrokeOff { .. }),
        "{error}"
    );
    fs::remove_file(folder.join("data")).unwrap();
    fs::write(folder.join("restoring"), b"").unwrap();
    fs::create_dir_all(folder.join("data/00")).unwrap();
    fs::write(folder.join("data/00/half"), b"half").unwrap();
    fs::write(folder.join("index.redb"), b"half").unwrap();
    let refused = Local::open(&folder).await.err().unwrap();
    assert!(matches!(refused, OpenError::HalfRestored { .. }));
    assert!(refused.to_string().contains("restore` again"), "{refused}");
    fs::write(folder.join("master-key"), b"kept").unwrap();
    restore(&to, &folder, &Progress::default()).unwrap();
    assert_eq!(fs::read(folder.join("master-key")).unwrap(), b"kept");
    let restored = Local::open(&folder).await.unwrap();
    assert_eq!(restored.usage().unwrap().objects, 3);
    drop(restored);
    // What there is, is never overwritten.
    let error = restore(&to, &folder, &Progress::default()).unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_backup_is_not_restored() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = filled(source.path(), 1).await;
    let (to, folder) = (target.path().join("b"), target.path().join("restored"));
    back_up(&engine, &to, None).await;
    let none = restore(source.path(), &folder, &Progress::default()).unwrap_err();
    assert!(matches!(none, RestoreError::NoBackup { .. }), "{none}");
    let manifest = fs::read_to_string(to.join("backup.json")).unwrap();
    fs::write(
        to.join("backup.json"),
        manifest.replace("\"format\": 3", "\"format\": 4"),
    )
    .unwrap();
    let newer = restore(&to, &folder, &Progress::default()).unwrap_err();
    assert!(
        matches!(newer, RestoreError::NewerFormat { found: 4, .. }),
        "{newer}"
    );
    fs::write(to.join("backup.json"), "{").unwrap();
    let unreadable = restore(&to, &folder, &Progress::default()).unwrap_err();
    assert!(
        matches!(unreadable, RestoreError::Unreadable { .. }),
        "{unreadable}"
    );
    assert!(!folder.exists());
    // A store in use.
    fs::write(to.join("backup.json"), manifest).unwrap();
    let in_use = restore(&to, source.path(), &Progress::default()).unwrap_err();
    assert!(
        matches!(in_use, RestoreError::Folder(OpenError::InUse { .. })),
        "{in_use}"
    );
}

async fn ended(backups: &Backups) -> Option<String> {
    let begun = Instant::now();
    loop {
        let last = backups.list().await.unwrap().last.unwrap();
        if !last.running {
            return last.error;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_kept_by_name_as_many_as_are_wanted() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = filled(source.path(), 3).await;
    let folder = target.path().join("backups");
    // What a crash has left goes, what is somebody else's stays.
    for other in [".a.partial/data", ".b.deleted", ".c.partial.d", "mine", ".hidden"] {
        fs::create_dir_all(folder.join(other)).unwrap();
    }
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let backups = Backups::open(folder.clone(), engine, metrics, CancellationToken::new());
    let backups = backups.await.unwrap();
    let names = || {
        let entries = fs::read_dir(&folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), [".c.partial.d", ".hidden", "mine"]);
    let named = |name: &str, keep| BackupRequest {
        name: Some(name.to_owned()),
        keep,
    };
    for name in ["", ".a", "a/b", "../a", "a b", "ü", &"a".repeat(129)] {
        let refused = backups.start(named(name, None)).await;
        assert!(matches!(refused, Err(BackupError::Name)), "{name}");
        assert!(
            matches!(backups.delete(name).await, Err(BackupError::Name)),
            "{name}"
        );
    }
    assert!(matches!(
        backups.start(named("a", Some(0))).await,
        Err(BackupError::Keep)
    ));
    for name in ["one", "two", "three"] {
        backups.start(named(name, None)).await.unwrap();
        assert_eq!(ended(&backups).await, None);
    }
    let again = backups.start(named("one", None)).await;
    assert!(matches!(again, Err(BackupError::Exists(name)) if name == "one"));
    let taken = backups.start(named("mine", None)).await;
    assert!(matches!(taken, Err(BackupError::Exists(_))));
    backups.start(named("four", Some(2))).await.unwrap();
    assert_eq!(ended(&backups).await, None);
    let list = backups.list().await.unwrap().backups;
    let found: Vec<_> = list.iter().map(|made| made.name.as_str()).collect();
    assert_eq!(found, ["three", "four"], "the oldest first");
    assert_eq!(list[1].objects, 3);
    backups.start(BackupRequest::default()).await.unwrap();
    assert_eq!(ended(&backups).await, None);
    let by_time = backups.list().await.unwrap().backups.pop().unwrap().name;
    assert!(
        by_time.starts_with("20") && by_time.ends_with('Z') && by_time.len() == 16,
        "{by_time}"
    );
    backups.delete("three").await.unwrap();
    for name in ["three", "mine"] {
        assert!(
            matches!(backups.delete(name).await, Err(BackupError::NotThere(_))),
            "{name}"
        );
    }
    assert!(folder.join("mine").exists());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let newest = text
        .lines()
        .find_map(|line| line.strip_prefix("penstock_store_backup_newest_timestamp_seconds "));
    assert!(newest.unwrap().parse::<u64>().unwrap() > 1_700_000_000, "{text}");
    // A disk that refuses.
    fs::create_dir(folder.join(".five.partial")).unwrap();
    fs::write(folder.join(".five.partial/index.redb"), b"").unwrap();
    backups.start(named("five", None)).await.unwrap();
    let error = ended(&backups).await.unwrap();
    assert!(error.contains("five"), "{error}");
    assert!(!folder.join("five").exists());
}
