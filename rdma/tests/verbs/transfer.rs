//! Bytes arrive where they should, and nowhere else.

use crate::world::{
    PATIENCE, World, assert_same, connect, difference, fill, in_time, memory, options, pattern, place,
    settled,
};
use futures::future::join_all;
use penstock_rdma::{
    fabric::{Direction, Error, Pages, Pool, Purpose},
    verbs::{Choice, Options},
};
use std::time::Duration;

const MIB: usize = 1 << 20;
const SIZES: [usize; 8] = [1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 8 * MIB];
/// Around what is transferred, so that what is written beside it is seen.
const MARGIN: usize = 67;

async fn every_size(options: &Options, mtu: Option<u16>) {
    let world = World::with(options).await;
    let (client, server) = world.pair_of(16, mtu.unwrap_or(world.client.info().mtu));
    for (seed, size) in SIZES.into_iter().enumerate() {
        let (from, to) = (MARGIN + seed, MARGIN + 3 * seed);
        let landing = world.landing(size + 4 * MARGIN, 1);
        let mut expected = landing.to_vec();
        let staging = world.staging(size + 4 * MARGIN, 100 + seed as u64);

        // A GET: the server writes.
        let exposed = client
            .clone()
            .expose(landing, to..to + size, Direction::Written)
            .await
            .unwrap();
        let write = server.write(staging, from..from + size, place(exposed.window(), 0), None);
        let (staging, outcome) = in_time("write", write).await;
        outcome.unwrap();
        let (landing, outcome) = exposed.take_back().await;
        outcome.unwrap();
        expected[to..to + size].copy_from_slice(&staging[from..from + size]);
        assert_same(&landing, &expected);

        // A PUT: the server reads it back elsewhere.
        let exposed = client
            .clone()
            .expose(landing, to..to + size, Direction::Read)
            .await
            .unwrap();
        let mut into = world.staging(size + 4 * MARGIN, 2);
        let mut expected = into.to_vec();
        fill(&mut into[from..from + size], 3);
        let (into, outcome) = in_time(
            "read",
            server.read(into, from..from + size, place(exposed.window(), 0)),
        )
        .await;
        outcome.unwrap();
        let (landing, outcome) = exposed.take_back().await;
        outcome.unwrap();
        expected[from..from + size].copy_from_slice(&landing[to..to + size]);
        assert_same(&into, &expected);
    }
    assert!(client.is_alive() && server.is_alive());
    drop((client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_is_written_and_read() {
    every_size(&options(), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_is_written_and_read_with_small_packets() {
    every_size(&options(), Some(1024)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_is_written_and_read_without_memory_windows() {
    let options = Options {
        memory_windows: false,
        ..options()
    };
    every_size(&options, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_is_written_and_read_over_ipv6() {
    let address = "fd09::1".parse().unwrap();
    let options = Options {
        choice: Choice {
            address: Some(address),
            ..Choice::default()
        },
        ..options()
    };
    assert_eq!(crate::world::open(&options).info().gid.to_string(), "fd09::1");
    every_size(&options, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_may_be_filled_piece_by_piece() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let landing = world.landing(4 * MIB, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..4 * MIB, Direction::Written)
        .await
        .unwrap();
    let writes = (0..16_usize).rev().map(|piece| {
        let staging = world.staging(MIB / 4, piece as u64);
        server.write(
            staging,
            0..MIB / 4,
            place(exposed.window(), (piece * MIB / 4) as u64),
            None,
        )
    });
    for (_, outcome) in join_all(writes.collect::<Vec<_>>()).await {
        outcome.unwrap();
    }
    let landing = exposed.take_back().await.0;
    for piece in 0..16 {
        assert_same(
            &landing[piece * MIB / 4..][..MIB / 4],
            &pattern(MIB / 4, piece as u64),
        );
    }
    drop((landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immediates_come_in_order_and_after_their_bytes() {
    let world = World::new().await;
    let (client, server) = world.pair_of(4, 4096);
    let landing = world.landing(64 << 10, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..64 << 10, Direction::Written)
        .await
        .unwrap();
    let window = exposed.window();
    // Many more than receives that the client has: the server is held back, and none is lost.
    let staging = (0..40_u64)
        .map(|seed| world.staging(64 << 10, seed))
        .collect::<Vec<_>>();
    let writes = staging.into_iter().enumerate().map(|(number, staging)| {
        let length = if number % 2 == 0 { 64 << 10 } else { 0 };
        server.write(
            staging,
            0..length,
            place(window, 0),
            Some(0xfeed_0000 + number as u32),
        )
    });
    let writes = tokio::spawn(join_all(writes.collect::<Vec<_>>()));
    for number in 0..40 {
        assert_eq!(
            in_time("immediate", client.immediate()).await.unwrap(),
            0xfeed_0000 + number
        );
    }
    for (_, outcome) in writes.await.unwrap() {
        outcome.unwrap();
    }
    let landing = exposed.take_back().await.0;
    assert_same(&landing, &pattern(64 << 10, 38));
    // One that nobody waits for ends nothing.
    assert!(
        tokio::time::timeout(Duration::from_millis(20), client.immediate())
            .await
            .is_err()
    );
    assert!(client.is_alive());
    client.kill().await;
    assert!(matches!(client.immediate().await, Err(Error::Dead)));
    drop((landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operations_than_fit_the_queue_wait_in_order() {
    let world = World::new().await;
    let (client, server) = world.pair_of(2, 4096);
    let landing = world.landing(4096, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..4096, Direction::Written)
        .await
        .unwrap();
    let staging = (0..64).map(|seed| world.staging(4096, seed)).collect::<Vec<_>>();
    let writes = staging
        .into_iter()
        .map(|staging| server.write(staging, 0..4096, place(exposed.window(), 0), None))
        .collect::<Vec<_>>();
    for (_, outcome) in join_all(writes).await {
        outcome.unwrap();
    }
    let landing = exposed.take_back().await.0;
    assert_same(&landing, &pattern(4096, 63));
    drop((landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_queue_pairs_move_bytes_at_the_same_time() {
    let world = World::new().await;
    let mut transfers = Vec::new();
    for seed in 0..100 {
        let (client, server) = world.pair_of(4, 4096);
        let (landing, staging) = (world.landing(64 << 10, 1), world.staging(64 << 10, seed));
        transfers.push(async move {
            let exposed = client
                .clone()
                .expose(landing, 0..64 << 10, Direction::Written)
                .await
                .unwrap();
            let (staging, outcome) = server
                .write(staging, 0..64 << 10, place(exposed.window(), 0), None)
                .await;
            outcome.unwrap();
            let landing = exposed.take_back().await.0;
            assert_same(&landing, &staging);
            (client, server)
        });
    }
    assert_eq!(world.client.usage().queue_pairs, 100);
    let pairs = in_time("transfers", join_all(transfers)).await;
    assert!(
        pairs
            .iter()
            .all(|(client, server)| client.is_alive() && server.is_alive())
    );
    drop(pairs);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_pool_serve_operation_after_operation() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let pool = Pool::new(world.server.clone(), Purpose::Staging, 64 << 10, 128 << 10);
    let landing = world.landing(64 << 10, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..64 << 10, Direction::Written)
        .await
        .unwrap();
    for seed in 0..20 {
        let mut chunk = pool.take().await.unwrap();
        fill(&mut chunk, seed);
        let (memory, slot) = chunk.into_memory();
        let (memory, outcome) = server
            .write(memory, 0..64 << 10, place(exposed.window(), 0), None)
            .await;
        outcome.unwrap();
        drop(slot.put_back(memory));
    }
    assert_eq!(world.server.usage().regions, 1);
    let landing = exposed.take_back().await.0;
    assert_same(&landing, &pattern(64 << 10, 19));
    drop((landing, client, server, pool));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_and_ends_nothing() {
    let world = World::new().await;
    let client = world.client.queue_pair(4).unwrap();
    let server = world.server.queue_pair(4).unwrap();
    let nowhere = penstock_rdma::fabric::Remote {
        address: 4096,
        rkey: 1,
    };
    let refused = |outcome: Result<(), Error>, why: &str| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    let (staging, outcome) = server.write(world.staging(4096, 1), 0..1, nowhere, None).await;
    refused(outcome, "not connected");
    let mut unfit = penstock_rdma::fabric::Connection {
        peer: client.address(),
        local_psn: 1,
        peer_psn: 1,
        mtu: 1000,
        read_depth: 1,
    };
    refused(server.connect(&unfit), "path MTU of 1000");
    assert!(server.is_alive());
    connect(&client, &server, 4096);
    unfit.mtu = 4096;
    refused(server.connect(&unfit), "connected already");

    let (staging, outcome) = server.write(staging, 4000..4097, nowhere, None).await;
    refused(outcome, "4000..4097 is not within its 4096 bytes");
    let foreign = memory(&world.client, Purpose::Staging, 4096, 1);
    let (foreign, outcome) = server.write(foreign, 0..1, nowhere, None).await;
    refused(outcome, "not registered with rxe0");
    let large = world
        .server
        .register(Pages::new(8 * MIB + 1).unwrap(), Purpose::Staging)
        .unwrap();
    let (large, outcome) = server.write(large, 0..8 * MIB + 1, nowhere, None).await;
    refused(outcome, "more than one operation can move");
    let landing = world.landing(4096, 1);
    let (landing, error) = client
        .clone()
        .expose(landing, 5..5, Direction::Read)
        .await
        .unwrap_err();
    refused(Err(error), "empty");
    assert!(client.is_alive() && server.is_alive());
    drop((staging, foreign, large, landing, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checks_of_this_suite_can_fail() {
    let world = World::new().await;
    let mut bytes = pattern(100, 1);
    assert_eq!(difference(&bytes, &pattern(100, 1)), None);
    bytes[99] ^= 1;
    assert!(
        difference(&bytes, &pattern(100, 1))
            .unwrap()
            .starts_with("byte 99")
    );
    assert!(difference(&bytes[1..], &pattern(100, 1)).is_some());
    assert!(difference(&pattern(100, 1), &pattern(100, 2)).is_some());

    let leaked = world.client.queue_pair(1).unwrap();
    let region = world.landing(4096, 1);
    let left = settled(&world.client, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(
        (left.queue_pairs, left.regions, left.registered_bytes),
        (1, 1, 4096)
    );
    drop((leaked, region));
    settled(&world.client, PATIENCE).await.unwrap();
    world.end().await;
}
