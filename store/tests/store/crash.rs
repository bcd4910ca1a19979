//! `kill -9` of the real process at random points under verified load, losses of power, and a disk that fails: every acknowledged write
//! is there byte for byte, no half object is, and no space is lost.

mod check;
mod faults;
mod load;
mod power;

use crate::{encryption::ENCRYPTING, node::Node, rounds};
use check::check;
use faults::{Disk, FAULTS, Fault};
use load::{Fates, Signals, WRITERS, Writer, content, impatient};
use penstock_rdma::{Client, Condition, Error, ObjectHeaders, Options};
use penstock_store::{
    engine::{Engine, ListQuery},
    local::Local,
};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// Data folders that are tried at the same time.
const LANES: u32 = 5;

/// What happens in a round, besides the kill at its end.
#[derive(Debug, Clone)]
struct Plan {
    /// What fails for a while, and how often in 65536.
    faults: Vec<(Fault, u32)>,
    /// Whether the disk loses what was not synced.
    loses_power: bool,
    /// How long the load goes on until the disk fails, while it does, and after that.
    times: [Duration; 3],
}

impl Plan {
    fn throw(random: u64) -> Self {
        let faults = match random % 16 {
            0..4 => Vec::new(),
            // All at once, each seldom.
            4..6 => FAULTS.into_iter().map(|fault| (fault, 300)).collect(),
            _ => {
                let fault = FAULTS[(random >> 8) as usize % FAULTS.len()];
                // Of all operations, of some, and of few.
                vec![(fault, [65536, 6000, 600][(random >> 16) as usize % 3])]
            }
        };
        let time = |shift: u32, most: u64| Duration::from_millis(20 + (random >> shift) % most);
        Self {
            faults,
            loses_power: random >> 40 & 1 == 1,
            times: [time(24, 150), time(32, 250), time(48, 300)],
        }
    }
}

/// One data folder, and what is known of it.
struct Lane {
    disk: Disk,
    fates: Vec<Fates>,
    acknowledged: u64,
}

impl Lane {
    /// With a bucket that encrypts what is written, or not.
    async fn new(encrypts: bool) -> Self {
        let disk = Disk::new();
        let node = Node::start(&disk.data(), &[]);
        for bucket in ["bucket", "other"] {
            node.client(impatient()).create_bucket(bucket).await.unwrap();
        }
        drop(node);
        if encrypts {
            let engine = Local::open(disk.data()).await.unwrap();
            engine.reclaimed().await;
            let document = Some(ENCRYPTING.as_bytes().to_vec());
            engine
                .set_document("bucket", "encryption", document)
                .await
                .unwrap();
        }
        Self {
            disk,
            fates: vec![Fates::new(); WRITERS as usize],
            acknowledged: 0,
        }
    }

    /// Plays a round and looks at everything after it; or what is wrong.
    async fn play(&mut self, plan: &Plan, random: u64) -> Result<(), String> {
        power::forget(&self.disk.record());
        let data = self.disk.data();
        let started = Node::start_in(&data, &[], self.disk.environment(random));
        let mut node = started.ok_or("the storage node does not start")?;
        let signals = Arc::new(Signals::default());
        let client = node.client(impatient());
        let writers: Vec<_> = std::mem::take(&mut self.fates)
            .into_iter()
            .zip(0..)
            .map(|(fates, number)| Writer {
                client: client.clone(),
                number,
                random: splitmix(random ^ number << 48),
                fates,
                signals: Arc::clone(&signals),
            })
            .map(|writer| tokio::spawn(writer.run()))
            .collect();
        tokio::time::sleep(plan.times[0]).await;
        let mut recovered = Ok(());
        if !plan.faults.is_empty() {
            self.fail(plan, &signals).await;
            recovered = recovers(&client).await;
            signals.index_failing.store(false, Ordering::SeqCst);
            signals.failing.store(false, Ordering::SeqCst);
        }
        tokio::time::sleep(plan.times[2]).await;
        signals.killed.store(true, Ordering::SeqCst);
        node.kill();
        let mut wrong = recovered.err();
        for writer in writers {
            match writer.await.unwrap() {
                Ok(fates) => self.fates.push(fates),
                Err(cause) => wrong = Some(cause),
            }
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        self.acknowledged += signals.acknowledged.load(Ordering::SeqCst);
        drop(node);
        if plan.loses_power {
            power::lose(&data, &self.disk.record(), random);
        }
        let node = Node::try_start(&data, &[]).ok_or("the storage node does not start again")?;
        check(&node.client(Options::default()), &mut self.fates, &data).await
    }

    /// That what was written is encrypted, or not: else the rounds would say nothing of that.
    async fn are_encrypted(&self, encrypts: bool) {
        let engine = Local::open(self.disk.data()).await.unwrap();
        let query = ListQuery {
            limit: 1000,
            ..ListQuery::default()
        };
        let page = engine.list("bucket", &query).await.unwrap();
        assert!(!page.objects.is_empty());
        for (key, info) in page.objects {
            assert_eq!(info.attributes.encryption.is_some(), encrypts, "{key}");
        }
    }

    async fn fail(&self, plan: &Plan, signals: &Signals) {
        let index = [
            Fault::IndexSync,
            Fault::IndexFull,
            Fault::IndexWrite,
            Fault::IndexGrow,
        ];
        if plan.faults.iter().any(|(fault, _)| index.contains(fault)) {
            signals.index_failing.store(true, Ordering::SeqCst);
        }
        signals.failing.store(true, Ordering::SeqCst);
        for (fault, chance) in &plan.faults {
            self.disk.arm(*fault, *chance);
        }
        tokio::time::sleep(plan.times[1]).await;
        self.disk.disarm();
    }
}

/// A storage node whose disk works again takes writes again, without a restart.
async fn recovers(client: &Client) -> Result<(), String> {
    let begun = Instant::now();
    while let Err(error) = put(client, "recovered", "new".into()).await {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("10 s after the disk works again: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Puts an object that no writer knows.
async fn put(client: &Client, key: &str, bytes: bytes::Bytes) -> Result<(), Error> {
    let size = Some(bytes.len() as u64);
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    let body = futures::stream::iter([Ok(bytes)]);
    let put = client.put("other", key, size, &headers, &always, body);
    put.await.map(drop)
}

/// Plays so many rounds in several data folders at once; says how much was acknowledged, and how often each fault happened.
async fn play(seed: u64, count: u32) -> Result<(u64, Vec<(Fault, u32)>), String> {
    let lanes = (0..LANES).map(|number| {
        tokio::spawn(async move {
            let encrypts = number % 2 == 1;
            let mut lane = Lane::new(encrypts).await;
            for round in (number..count).step_by(LANES as usize) {
                let random = splitmix(seed ^ u64::from(round) << 32);
                let plan = Plan::throw(random);
                let played = lane.play(&plan, random).await;
                played.map_err(|cause| format!("PENSTOCK_SEED={seed}, round {round}, {plan:?}: {cause}"))?;
            }
            lane.are_encrypted(encrypts).await;
            Ok::<_, String>((lane.acknowledged, lane.disk.happened()))
        })
    });
    let mut acknowledged = 0;
    let mut happened: Vec<(Fault, u32)> = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        let (count, faults) = lane.await.unwrap()?;
        acknowledged += count;
        for (number, (fault, times)) in faults.into_iter().enumerate() {
            match happened.get_mut(number) {
                Some(sum) => sum.1 += times,
                None => happened.push((fault, times)),
            }
        }
    }
    Ok((acknowledged, happened))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_by_kill_9_nor_by_a_disk_that_fails() {
    let seed = seed();
    println!("PENSTOCK_SEED={seed}");
    let (acknowledged, happened) = match play(seed, rounds(50, 1000)).await {
        Ok(played) => played,
        Err(cause) => panic!("{cause}"),
    };
    println!("{acknowledged} writes were acknowledged by a disk that worked; what happened: {happened:?}");
    assert!(
        acknowledged > 500,
        "the load was too small to show anything: {acknowledged}"
    );
    let kinds = happened.iter().filter(|(_, times)| *times > 0).count();
    assert!(kinds > FAULTS.len() / 2, "few faults happened: {happened:?}");
}

/// A disk that says that all is on it when nothing is: no storage survives that, so the checks have to notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checks_of_the_crash_tests_can_fail() {
    let plan = Plan {
        faults: Vec::new(),
        loses_power: true,
        times: [Duration::from_millis(300), Duration::ZERO, Duration::ZERO],
    };
    let mut noticed = 0;
    for random in 0..6 {
        let mut lane = Lane::new(false).await;
        lane.disk.arm(Fault::Lie, 65536);
        noticed += u32::from(lane.play(&plan, random).await.is_err());
    }
    assert!(noticed >= 3, "of six disks that lie {noticed} were noticed");

    let mut lane = Lane::new(false).await;
    lane.play(&plan, 1).await.unwrap();
    let data = lane.disk.data();
    let node = Node::start(&data, &[]);
    let client = node.client(Options::default());
    check(&client, &mut lane.fates, &data).await.unwrap();
    let lost = format!("{:032x}", 0xab_u128 << 120);
    std::fs::write(data.join("data/ab").join(&lost), "lost space").unwrap();
    let found = check(&client, &mut lane.fates, &data).await.unwrap_err();
    assert!(found.contains(&lost), "{found}");
    let changed = lane.fates.clone();
    let mut held = lane.fates.iter_mut().flatten();
    let (key, fate) = held.find(|(_, fate)| fate.acknowledged.is_some()).unwrap();
    let key = key.clone();
    fate.settle(fate.acknowledged.map(|number| number + 1));
    let found = check(&client, &mut lane.fates, &data).await.unwrap_err();
    assert!(found.starts_with(&key), "{found}");
    lane.fates = changed;
    for fates in &mut lane.fates {
        fates.remove(&key);
    }
    let found = check(&client, &mut lane.fates, &data).await.unwrap_err();
    assert!(found.contains("is listed"), "{found}");
}

/// A file system without a free byte, where even the index finds no room: what is there is read, and writes go on with space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_free_byte_is_read_and_written_when_there_is_space() {
    let Some(small) = Small::mount() else { return };
    let node = Node::start(&small.data(), &[]);
    let client = node.client(impatient());
    fill_up(&small, &client).await;
    is_full(&client).await;
    small.empty();
    for number in 0..10 {
        let key = format!("key-{number}");
        client.delete("other", &key).await.unwrap();
        assert_eq!(load::read(&client, "other", &key).await.unwrap(), None);
    }
    put(&client, "again", content(7)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_starts_on_a_disk_without_a_free_byte() {
    let Some(small) = Small::mount() else { return };
    let mut node = Node::start(&small.data(), &[]);
    fill_up(&small, &node.client(impatient())).await;
    node.kill();
    small.fill();
    let node = Node::start(&small.data(), &[]);
    let client = node.client(impatient());
    small.fill();
    is_full(&client).await;
    small.empty();
    put(&client, "again", content(7)).await.unwrap();
}

async fn fill_up(small: &Small, client: &Client) {
    client.create_bucket("other").await.unwrap();
    for number in 0..20 {
        let bytes = content(number * 64 + 7);
        put(client, &format!("key-{number}"), bytes).await.unwrap();
    }
    small.fill();
}

/// Writes are refused, and what was there before is read.
async fn is_full(client: &Client) {
    for number in 0..30 {
        match put(client, &format!("more-{number}"), content(number * 64 + 8)).await {
            Err(Error::Refused {
                status: 507, code, ..
            }) if code == "InsufficientStorage" => {}
            other => panic!("a write to a full disk: {other:?}"),
        }
        // What needs no data file needs the index, and may find room in it.
        let name = format!("copy-{number}");
        match client.copy(("other", "key-0"), ("other", &name), None).await {
            Ok(_) | Err(Error::Refused { status: 507, .. }) => {}
            Err(error) => panic!("a copy on a full disk: {error}"),
        }
        let key = format!("key-{}", number % 20);
        let found = load::read(client, "other", &key).await.unwrap();
        assert!(
            found == Some(content(number % 20 * 64 + 7).to_vec()),
            "{key} was not read from a full disk"
        );
    }
}

/// A small disk, and something else on it that takes all its space.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    fn mount() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounting a small disk needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (none, size) = (nix::mount::MsFlags::empty(), Some("size=32m"));
        nix::mount::mount(Some("none"), folder.path(), Some("tmpfs"), none, size).unwrap();
        Some(Self { folder })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn fill(&self) {
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("other"))
            .unwrap();
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.folder.path().join("other")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
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
