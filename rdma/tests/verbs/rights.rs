//! What a peer may not do: it fails, ends the connection, and touches no byte.

use crate::world::{World, assert_same, connect, in_time, memory, open, options, place};
use penstock_rdma::{
    fabric::{Direction, Error, Memory, Purpose, QueuePair, Remote, Window},
    verbs::Options,
};
use std::{ops::Range, sync::Arc};

const LENGTH: usize = 64 << 10;
const WINDOW: Range<usize> = 4096..12288;

/// What a peer attempts.
#[derive(Debug, Clone, Copy)]
enum Attempt {
    Write(u64, usize),
    Read(u64, usize),
}

async fn attempt(
    world: &World,
    server: &Arc<dyn QueuePair>,
    at: Attempt,
    window: Window,
) -> Result<(), Error> {
    let staging = world.staging(LENGTH, 99);
    let before = staging.to_vec();
    let (staging, outcome) = match at {
        Attempt::Write(offset, length) => {
            let to = place(window, offset);
            in_time("write", server.write(staging, 0..length, to, None)).await
        }
        Attempt::Read(offset, length) => {
            in_time("read", server.read(staging, 0..length, place(window, offset))).await
        }
    };
    if outcome.is_err() {
        assert_same(&staging, &before);
    }
    outcome
}

/// Makes an attempt on a new connection with one window, and demands that it is refused without a trace.
async fn refused(options: &Options, direction: Direction, at: Attempt) {
    let world = World::with(options).await;
    let (client, server) = world.pair();
    let landing = world.landing(LENGTH, 1);
    let before = landing.to_vec();
    let exposed = client.clone().expose(landing, WINDOW, direction).await.unwrap();
    let outcome = attempt(&world, &server, at, exposed.window()).await;
    assert!(
        matches!(outcome, Err(Error::Completion(_))),
        "{direction:?} {at:?}: {outcome:?}"
    );
    assert!(!server.is_alive());
    let landing = in_time("kill", exposed.kill()).await;
    assert_same(&landing, &before);
    drop((landing, client, server));
    world.end().await;
}

async fn both_kinds_refuse(direction: Direction, at: Attempt) {
    refused(&options(), direction, at).await;
    refused(
        &Options {
            memory_windows: false,
            ..options()
        },
        direction,
        at,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_to_be_read_cannot_be_written() {
    both_kinds_refuse(Direction::Read, Attempt::Write(0, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_to_be_written_cannot_be_read() {
    both_kinds_refuse(Direction::Written, Attempt::Read(0, 100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_past_the_end_of_a_window_can_be_reached() {
    let size = WINDOW.len();
    both_kinds_refuse(Direction::Written, Attempt::Write(size as u64 - 5, 6)).await;
    both_kinds_refuse(Direction::Written, Attempt::Write(0, size + 1)).await;
    both_kinds_refuse(Direction::Read, Attempt::Read(size as u64, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_before_the_start_of_a_window_can_be_reached() {
    both_kinds_refuse(Direction::Written, Attempt::Write(u64::MAX, 2)).await;
    both_kinds_refuse(Direction::Read, Attempt::Read(u64::MAX, 2)).await;
}

/// A window of one connection, and another connection of the same client.
async fn other_connection(options: &Options, same_device: bool) -> Result<(), Error> {
    let world = World::with(options).await;
    let (client, server) = world.pair();
    let elsewhere = open(options);
    let other_device = if same_device { &world.client } else { &elsewhere };
    let other_client = other_device.queue_pair(4).unwrap();
    let other_server = world.server.queue_pair(4).unwrap();
    connect(&other_client, &other_server, 4096);
    // The other connection allows writing too, to memory of its own.
    let own = memory(other_device, Purpose::Windows, LENGTH, 5);
    let own = other_client
        .clone()
        .expose(own, 0..LENGTH, Direction::Written)
        .await
        .unwrap();

    let landing = world.landing(LENGTH, 1);
    let before = landing.to_vec();
    let exposed = client
        .clone()
        .expose(landing, WINDOW, Direction::Written)
        .await
        .unwrap();
    let outcome = attempt(&world, &other_server, Attempt::Write(0, 100), exposed.window()).await;
    let landing = in_time("kill", exposed.kill()).await;
    if outcome.is_err() {
        assert_same(&landing, &before);
    }
    drop((own, landing, client, server, other_client, other_server));
    world.end().await;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_another_protection_domain_cannot_be_reached() {
    let outcome = other_connection(&options(), false).await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
    let outcome = other_connection(
        &Options {
            memory_windows: false,
            ..options()
        },
        false,
    )
    .await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_window_belongs_to_its_connection_alone() {
    let outcome = other_connection(&options(), true).await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
    // What memory windows are for: without them the whole device can use the key. So this test can fail.
    other_connection(
        &Options {
            memory_windows: false,
            ..options()
        },
        true,
    )
    .await
    .unwrap();
}

async fn taken_back(options: &Options) {
    let world = World::with(options).await;
    let (client, server) = world.pair();
    let landing = world.landing(LENGTH, 1);
    let exposed = client
        .clone()
        .expose(landing, WINDOW, Direction::Written)
        .await
        .unwrap();
    let window = exposed.window();
    attempt(&world, &server, Attempt::Write(0, 100), window)
        .await
        .unwrap();
    let (landing, outcome) = exposed.take_back().await;
    outcome.unwrap();
    let before = landing.to_vec();
    let outcome = attempt(&world, &server, Attempt::Write(0, 100), window).await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
    in_time("kill", client.kill()).await;
    assert_same(&landing, &before);
    drop((landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_taken_back_is_closed() {
    taken_back(&options()).await;
    taken_back(&Options {
        memory_windows: false,
        ..options()
    })
    .await;
}

async fn opened_often(options: &Options) {
    let world = World::with(options).await;
    let (client, server) = world.pair();
    let mut landing = world.landing(LENGTH, 1);
    let mut old = Vec::new();
    for round in 0..300_usize {
        let start = round * 7;
        let exposed = client
            .clone()
            .expose(landing, start..start + 100, Direction::Written)
            .await
            .unwrap();
        let window = exposed.window();
        assert_ne!(old.last().map(|last: &Window| last.rkey), Some(window.rkey));
        if round % 50 == 0 {
            attempt(&world, &server, Attempt::Write(0, 100), window)
                .await
                .unwrap();
        }
        old.push(window);
        let (memory, outcome) = exposed.take_back().await;
        outcome.unwrap();
        landing = memory;
    }
    // The keys of before do not open what is open now.
    let before = landing.to_vec();
    let exposed = client
        .clone()
        .expose(landing, 0..LENGTH, Direction::Written)
        .await
        .unwrap();
    let last = old.last().unwrap();
    let outcome = attempt(&world, &server, Attempt::Write(0, 100), *last).await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
    let landing: Memory = in_time("kill", exposed.kill()).await;
    assert_same(&landing, &before);
    drop((landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_opened_again_has_another_key() {
    opened_often(&options()).await;
    opened_often(&Options {
        memory_windows: false,
        ..options()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_memory_cannot_be_reached_by_its_local_key() {
    let world = World::new().await;
    let (client, server) = world.pair();
    // The client attacks: it writes to the server.
    let staging = world.staging(LENGTH, 1);
    let before = staging.to_vec();
    let key = staging.registration().lkey();
    let target = Remote {
        address: staging.address(),
        rkey: key,
    };
    let weapon = memory(&world.client, Purpose::Windows, LENGTH, 7);
    let (weapon, outcome) = in_time("write", client.write(weapon, 0..100, target, None)).await;
    assert!(matches!(outcome, Err(Error::Completion(_))), "{outcome:?}");
    in_time("kill", server.kill()).await;
    assert_same(&staging, &before);
    drop((staging, weapon, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_pair_that_exposed_nothing_lets_nothing_in() {
    let world = World::new().await;
    let (client, server) = world.pair();
    // Not even an immediate without bytes.
    let nothing = memory(&world.client, Purpose::Windows, 4096, 7);
    let (nothing, outcome) = in_time(
        "write",
        client.write(nothing, 0..0, Remote { address: 0, rkey: 0 }, Some(1)),
    )
    .await;
    assert!(outcome.is_err());
    assert!(matches!(
        in_time("immediate", server.immediate()).await,
        Err(Error::Dead)
    ));
    drop((nothing, client, server));
    world.end().await;
}
