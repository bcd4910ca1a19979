//! What happens in the middle of a large read: objects that are replaced, slices that fail, storage nodes that are busy.

use super::{MIB, Read, START, crc, memory_of, read};
use crate::{
    matrix::put,
    setup::{BUCKET, Faulty, client_of, eventually, impatient, pattern},
};
use penstock_rdma::{
    Client, Condition, Error, Policy, Via,
    fabric::{Device, Memory, loopback::Effect},
};
use penstock_store::rdma::Limits;
use std::{
    fs,
    future::Future,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;

/// The slices have 1 MiB, then 8, 8, 6 and 5 MiB at a time, and then 3, 3, 2, 2 and 2.
const SIZE: usize = 40 * MIB;
/// Operations of the first slice, and of the four that follow it.
const FIRST: u64 = 1;
const FOUR: u64 = 27;

async fn whole(client: &Client, memory: Memory) -> (Memory, Read) {
    read(client, "k", None, &Condition::default(), memory, SIZE).await
}

/// A storage node with an object `k`, and a client that has no other way than RDMA.
async fn start(limits: Limits) -> (Faulty, Client, Vec<u8>) {
    let faulty = Faulty::start(limits).await;
    let content = pattern(1, SIZE);
    put(&faulty.node.client(None, Policy::Off), "k", &content).await;
    let client = faulty.client(Policy::Require);
    (faulty, client, content)
}

fn expect(memory: &Memory, outcome: Read, content: &[u8], via: Via) {
    let (head, moved) = outcome.unwrap();
    assert!(memory[START..START + content.len()] == *content, "other bytes");
    assert_eq!((head.size, moved.bytes), (SIZE as u64, content.len() as u64));
    assert_eq!(moved.checksum, Some(crc(content)));
    assert_eq!(moved.via, via);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_requests_are_under_way_at_a_time() {
    let (faulty, client, content) = start(Limits::default()).await;
    let memory = memory_of(&client, SIZE).await;
    let (go, held) = watch::channel(false);
    faulty.server.inject(FIRST, Effect::Hold(held));
    let (in_use, most) = (|| faulty.node.rdma.staging_in_use(), 8 * MIB as u64);
    let look = async {
        // One request has two chunks at most.
        eventually("four requests have memory", || in_use() == most).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(in_use(), most);
        assert_eq!(faulty.node.rdma.sessions(), 1);
        go.send_replace(true);
    };
    let ((memory, outcome), ()) = tokio::join!(whole(&client, memory), look);
    expect(&memory, outcome, &content, Via::Rdma);
    assert_eq!(faulty.server.operations(), SIZE as u64 / MIB as u64);
    drop(memory);
    client.disconnect().await;
    drop(client);
    faulty.leaves_nothing().await;
}

/// Lets the `after`-th next operation wait until the object has been replaced by one of another pattern.
fn replace_at(faulty: &Faulty, after: u64, seed: u64) -> impl Future<Output = ()> {
    let (go, held) = watch::channel(false);
    faulty.server.inject(after, Effect::Hold(held));
    let at = faulty.server.operations() + after;
    async move {
        eventually("slices are under way", || faulty.server.operations() > at).await;
        put(&faulty.node.client(None, Policy::Off), "k", &pattern(seed, SIZE)).await;
        go.send_replace(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_in_the_middle_is_read_anew() {
    let (faulty, client, _) = start(Limits::default()).await;
    let memory = memory_of(&client, SIZE).await;
    let replaced = replace_at(&faulty, FIRST + 1, 2);
    let ((memory, outcome), ()) = tokio::join!(whole(&client, memory), replaced);
    expect(&memory, outcome, &pattern(2, SIZE), Via::Rdma);
    assert!(
        faulty.server.operations() > SIZE as u64 / MIB as u64,
        "nothing was read twice"
    );
    // Unless its reader wants the one that was there.
    let etag = client.head(BUCKET, "k").await.unwrap().etag;
    let only = Condition {
        if_match: Some(etag),
        if_none_match: None,
    };
    let replaced = replace_at(&faulty, FIRST + 1, 3);
    let asked = read(&client, "k", None, &only, memory, SIZE);
    let ((_, outcome), ()) = tokio::join!(asked, replaced);
    assert_eq!(outcome.unwrap_err().code(), Some("PreconditionFailed"));
    assert_eq!(faulty.node.rdma.sessions(), 1, "nobody lost a session by it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_all_the_time_is_read_in_one_request() {
    let (faulty, client, _) = start(Limits::default()).await;
    let memory = memory_of(&client, SIZE).await;
    let rounds: Vec<_> = (0..4)
        .map(|round| replace_at(&faulty, round * (FIRST + FOUR) + FIRST, 2 + round))
        .collect();
    let replace = async {
        for round in rounds {
            round.await;
        }
    };
    let ((memory, outcome), ()) = tokio::join!(whole(&client, memory), replace);
    expect(&memory, outcome, &pattern(5, SIZE), Via::Rdma);
    let once = SIZE as u64 / MIB as u64;
    assert_eq!(faulty.server.operations(), 4 * (FIRST + FOUR) + once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_that_fails_is_read_again_with_the_others() {
    let (faulty, client, content) = start(impatient()).await;
    let mut memory = memory_of(&client, SIZE).await;
    for effect in [Effect::Fail, Effect::KillPeer, Effect::Never] {
        // In the first slice, in one in the middle, and in the last one.
        for at in [0, FIRST + 5, FIRST + FOUR + 3] {
            memory.fill(0xee);
            faulty.server.inject(at, effect.clone());
            let outcome;
            (memory, outcome) = whole(&client, memory).await;
            expect(&memory, outcome, &content, Via::Rdma);
            faulty.server.heal();
        }
    }
    assert_eq!(faulty.node.moved_by_http().0, 0);
    drop(memory);
    client.disconnect().await;
    drop(client);
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_that_fail_always_leave_the_memory_alone() {
    let (faulty, client, content) = start(impatient()).await;
    let prefer = faulty.client(Policy::Prefer);
    let fail = || {
        for at in (0..4000).step_by(2) {
            faulty.server.inject(at + 1, Effect::Fail);
        }
    };
    let memory = memory_of(&client, SIZE).await;
    fail();
    let (mut memory, outcome) = whole(&client, memory).await;
    assert_eq!(outcome.unwrap_err().code(), Some("RdmaTransferFailed"));
    // Whatever is still on its way has nowhere to land.
    memory.fill(0xee);
    faulty.node.rests().await;
    assert!(memory.iter().all(|byte| *byte == 0xee));
    drop(memory);
    fail();
    let (memory, outcome) = whole(&prefer, memory_of(&prefer, SIZE).await).await;
    expect(&memory, outcome, &content, Via::Http);
    drop(memory);
    client.disconnect().await;
    prefer.disconnect().await;
    drop((client, prefer));
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_is_busy_is_asked_in_one_request() {
    let few = |staging_bytes, in_flight| Limits {
        staging_bytes,
        in_flight,
        patience: Duration::from_millis(200),
        ..Limits::default()
    };
    // Memory for one request, or room for two.
    for (reason, refused, limits) in [
        ("staging", 3, few(MIB as u64, 64)),
        ("in_flight", 2, few(64 * MIB as u64, 2)),
    ] {
        let (faulty, client, content) = start(limits).await;
        let metric = format!("penstock_store_rdma_refusals_total{{reason=\"{reason}\"}}");
        let (go, held) = watch::channel(false);
        faulty.server.inject(FIRST, Effect::Hold(held));
        let refuse = async {
            eventually("the others are refused", || {
                faulty.node.metric(&metric) == refused
            })
            .await;
            go.send_replace(true);
        };
        let memory = memory_of(&client, SIZE).await;
        let ((memory, outcome), ()) = tokio::join!(whole(&client, memory), refuse);
        expect(&memory, outcome, &content, Via::Rdma);
        assert_eq!(faulty.node.metric(&metric), refused, "{reason}");
        assert_eq!(faulty.node.rdma.sessions(), 1, "nobody lost a session by it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_the_storage_node_cannot_have_is_not_needed_for_one_request() {
    let (faulty, client, content) = start(Limits::default()).await;
    // As much as one request uses.
    faulty.server.limit_registered(2 * MIB as u64);
    let (memory, outcome) = whole(&client, memory_of(&client, SIZE).await).await;
    expect(&memory, outcome, &content, Via::Rdma);
    drop((memory, client, faulty));
    // Without any the bytes come as a body, once, where they may.
    let (faulty, require, content) = start(Limits::default()).await;
    faulty.server.limit_registered(0);
    let (_, outcome) = whole(&require, memory_of(&require, SIZE).await).await;
    assert!(matches!(outcome, Err(Error::NoFastPath { .. })), "{outcome:?}");
    let prefer = faulty.client(Policy::Prefer);
    let (memory, outcome) = whole(&prefer, memory_of(&prefer, SIZE).await).await;
    expect(&memory, outcome, &content, Via::Http);
    assert_eq!(faulty.node.moved_by_http().0, SIZE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_noticed_in_every_slice_and_on_the_disk() {
    let (faulty, client, content) = start(Limits::default()).await;
    let mut memory = memory_of(&client, SIZE).await;
    for at in [0, FIRST + 9, FIRST + FOUR + 5] {
        faulty.server.inject(at, Effect::Corrupt);
        let outcome;
        (memory, outcome) = whole(&client, memory).await;
        assert!(matches!(outcome, Err(Error::Damaged)), "{at}: {outcome:?}");
    }
    let trusting = client_of(&faulty.node.endpoint, Some(faulty.device.clone()), |options| {
        options.policy = Policy::Require;
        options.verify = false;
    });
    let (memory, outcome) = whole(&trusting, memory).await;
    expect(&memory, outcome, &content, Via::Rdma);
    // A storage node compares only what it reads in one go: here no part of it, as it is one file.
    let one_part = client_of(&faulty.node.endpoint, None, |options| options.part_size = SIZE);
    put(&one_part, "k", &content).await;
    flip(&faulty.node.folder.path().join("data"));
    for client in [&client, &trusting] {
        let (_, outcome) = whole(client, memory_of(client, SIZE).await).await;
        assert!(matches!(outcome, Err(Error::Damaged)), "{outcome:?}");
    }
}

/// Makes one byte in the middle of the largest file another one.
fn flip(folder: &Path) {
    fn files(folder: &Path) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| {
                if path.is_dir() {
                    files(&path)
                } else {
                    vec![(path.metadata().unwrap().len(), path)]
                }
            })
            .collect()
    }
    let (length, path) = files(folder).into_iter().max().unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_nothing_under_way() {
    let (faulty, client, content) = start(impatient()).await;
    let memory = memory_of(&client, SIZE).await;
    let (_go, held) = watch::channel(false);
    faulty.server.inject(FIRST + 6, Effect::Hold(held));
    let given_up = tokio::time::timeout(Duration::from_millis(300), whole(&client, memory)).await;
    assert!(given_up.is_err());
    faulty.node.rests().await;
    eventually("its memory is free", || {
        let device: &dyn Device = &*faulty.device;
        device.usage().regions == 0
    })
    .await;
    let (memory, outcome) = whole(&client, memory_of(&client, SIZE).await).await;
    expect(&memory, outcome, &content, Via::Rdma);
    drop(memory);
    client.disconnect().await;
    drop(client);
    faulty.leaves_nothing().await;
}
