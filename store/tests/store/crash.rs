//! `kill -9` of the real process at random points under verified load: every acknowledged write is there byte for byte, no
//! half object is, and no space is lost.

use crate::{
    encryption::ENCRYPTING,
    node::{Node, files},
    pattern, rounds,
};
use futures::stream;
use penstock_rdma::{Client, Condition, ListingQuery, ObjectHeaders, Options};
use penstock_store::{
    engine::{Engine, ListQuery},
    local::Local,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const WRITERS: u64 = 8;
const KEYS: u64 = 12;
const PART: usize = 5 << 20;

/// What a key may hold: content by version, `None` for no object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fate {
    acknowledged: Option<u64>,
    /// The operation that the crash cut: it may have happened or not.
    cut: Option<Option<u64>>,
}

fn content(key: &str, version: u64) -> bytes::Bytes {
    let seed = key.bytes().fold(version, |seed, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    let length = match seed % 32 {
        0 => PART + 1000,
        1..8 => 700_000 + (seed % 1_000_000) as usize,
        8 => 0,
        _ => (seed % 30_000) as usize,
    };
    pattern(seed, length)
}

fn impatient() -> Options {
    Options {
        retries: 0,
        part_size: PART,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_by_kill_9() {
    is_not_lost(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_that_is_encrypted_is_lost_by_kill_9() {
    is_not_lost(true).await;
}

async fn is_not_lost(is_encrypted: bool) {
    let seed = seed();
    println!("PENSTOCK_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut fates: Vec<BTreeMap<String, Fate>> = vec![BTreeMap::new(); WRITERS as usize];
    let mut acknowledged = 0;
    {
        let node = Node::start(folder.path(), &[]);
        node.client(impatient()).create_bucket("bucket").await.unwrap();
    }
    if is_encrypted {
        let engine = Local::open(folder.path()).await.unwrap();
        engine.reclaimed().await;
        let document = Some(ENCRYPTING.as_bytes().to_vec());
        engine
            .set_document("bucket", "encryption", document)
            .await
            .unwrap();
    }
    for round in 0..u64::from(rounds(5, 200)) {
        let mut node = Node::start(folder.path(), &[]);
        let client = node.client(impatient());
        let killed = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = fates
            .drain(..)
            .enumerate()
            .map(|(writer, fates)| {
                let random = seed ^ (round << 32) ^ (writer as u64) << 16;
                tokio::spawn(write(client.clone(), writer, random, fates, Arc::clone(&killed)))
            })
            .collect();
        let wait = 150 + splitmix(seed ^ round) % 900;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        killed.store(true, Ordering::SeqCst);
        node.kill();
        for writer in writers {
            let (written, count) = writer.await.unwrap();
            acknowledged += count;
            fates.push(written);
        }
        drop(node);

        let node = Node::start(folder.path(), &[]);
        let client = node.client(Options::default());
        check(&client, &mut fates, folder.path(), is_encrypted).await;
    }
    if is_encrypted {
        all_are_encrypted(folder.path()).await;
    }
    println!("{acknowledged} acknowledged writes survived");
    assert!(
        acknowledged > 50,
        "the load was too small to show anything: {acknowledged}"
    );
}

/// That what was written was encrypted: else the test would say nothing of that.
async fn all_are_encrypted(folder: &std::path::Path) {
    let engine = Local::open(folder).await.unwrap();
    let query = ListQuery {
        limit: 1000,
        ..ListQuery::default()
    };
    let page = engine.list("bucket", &query).await.unwrap();
    assert!(!page.objects.is_empty());
    for (key, info) in page.objects {
        assert!(info.attributes.encryption.is_some(), "{key}");
    }
}

/// Writes, overwrites and deletes its own keys until the storage node is gone.
async fn write(
    client: Client,
    writer: usize,
    mut random: u64,
    mut fates: BTreeMap<String, Fate>,
    killed: Arc<AtomicBool>,
) -> (BTreeMap<String, Fate>, u64) {
    let mut acknowledged = 0;
    loop {
        random = splitmix(random);
        let key = format!("writer-{writer}/key-{}", random % KEYS);
        let wanted = !(random >> 8).is_multiple_of(5);
        let version = wanted.then_some(random >> 20);
        let fate = fates.entry(key.clone()).or_insert(Fate {
            acknowledged: None,
            cut: None,
        });
        fate.cut = Some(version);
        let outcome = match version {
            Some(version) => {
                let body = content(&key, version);
                let size = Some(body.len() as u64);
                let pieces: Vec<_> = body
                    .chunks(100_000)
                    .map(|piece| Ok(body.slice_ref(piece)))
                    .collect();
                let (headers, always) = (ObjectHeaders::default(), Condition::default());
                let put = client.put("bucket", &key, size, &headers, &always, stream::iter(pieces));
                put.await.map(|_| ())
            }
            None => client.delete("bucket", &key).await,
        };
        if let Err(error) = outcome {
            assert!(killed.load(Ordering::SeqCst), "{key}: {error}");
            // The node is gone; the cut operation's fate is open.
            return (fates, acknowledged);
        }
        fate.acknowledged = version;
        fate.cut = None;
        acknowledged += 1;
    }
}

async fn check(
    client: &Client,
    fates: &mut [BTreeMap<String, Fate>],
    folder: &std::path::Path,
    is_encrypted: bool,
) {
    // Uploads that the crash cut hold their parts until somebody aborts them.
    for upload in client.uploads("bucket").await.unwrap() {
        client
            .abort_upload("bucket", &upload.key, &upload.id)
            .await
            .unwrap();
    }
    let mut bytes = 0;
    let mut expected = Vec::new();
    for (key, fate) in fates.iter_mut().flatten() {
        let found = read(client, key).await;
        let holds = |version: Option<u64>| found == version.map(|version| content(key, version).to_vec());
        let version = if holds(fate.acknowledged) {
            fate.acknowledged
        } else {
            match fate.cut {
                Some(version) if holds(version) => version,
                _ => panic!(
                    "{key} holds {:?} bytes, which is neither what was acknowledged nor what was cut: {fate:?}",
                    found.map(|found| found.len())
                ),
            }
        };
        *fate = Fate {
            acknowledged: version,
            cut: None,
        };
        if let Some(found) = found {
            bytes += found.len();
            if is_encrypted {
                // The tags of packages; parts are whole packages.
                bytes += 16 * found.len().div_ceil(64 << 10);
            }
            expected.push(key.clone());
        }
    }
    expected.sort();
    let mut listed = Vec::new();
    let mut query = ListingQuery {
        limit: 1000,
        ..ListingQuery::default()
    };
    loop {
        let page = client.list("bucket", &query).await.unwrap();
        listed.extend(page.objects.into_iter().map(|(key, _)| key));
        query.continuation = page.next;
        if query.continuation.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected, "the listing differs from what is there");

    let on_disk = || -> usize {
        let sizes = files(&folder.join("data"))
            .into_iter()
            .filter_map(|file| file.metadata().ok());
        sizes.map(|metadata| metadata.len() as usize).sum()
    };
    for _ in 0..500 {
        if on_disk() == bytes && files(&folder.join("tmp")).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "{} bytes lie in data for {bytes} bytes of objects; in tmp: {:?}",
        on_disk(),
        files(&folder.join("tmp"))
    );
}

async fn read(client: &Client, key: &str) -> Option<Vec<u8>> {
    let head = match client.head("bucket", key).await {
        Ok(head) => head,
        Err(error) if matches!(error.code(), Some("NotFound" | "NoSuchKey")) => return None,
        Err(error) => panic!("{key}: {error}"),
    };
    let mut buffer = vec![0; usize::try_from(head.size).unwrap()];
    client
        .get_into("bucket", key, None, &Condition::default(), &mut buffer)
        .await
        .unwrap();
    Some(buffer)
}

/// `PENSTOCK_SEED`, or a new one.
pub fn seed() -> u64 {
    match std::env::var("PENSTOCK_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    }
}

/// The next of a row of numbers (SplitMix64).
pub fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
