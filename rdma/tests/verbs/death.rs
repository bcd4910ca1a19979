//! Queue pairs that die: their memory comes back, when nothing can land in it any more.

use crate::world::{PATIENCE, Stream, World, assert_same, in_time, options, place};
use futures::future::join_all;
use penstock_rdma::{
    fabric::{Direction, Error, Purpose},
    verbs::Options,
};
use std::time::Duration;
use tokio::time::sleep;

const MIB: usize = 1 << 20;
/// Longer than packets under way could take to land.
const LATER: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_window_killed_in_mid_transfer_changes_no_more() {
    for options in [
        options(),
        Options {
            memory_windows: false,
            ..options()
        },
    ] {
        let world = World::with(&options).await;
        let (client, server) = world.pair();
        let landing = world.landing(Stream::SIZE, 1);
        let exposed = client
            .clone()
            .expose(landing, 0..Stream::SIZE, Direction::Written)
            .await
            .unwrap();
        let window = exposed.window();
        let streams = [10, 11, 12].map(|seed| {
            Stream::start(
                &server,
                world.staging(Stream::SIZE, seed),
                window,
                Direction::Written,
            )
        });
        streams[0].flows().await;
        let landing = in_time("kill", exposed.kill()).await;
        let then = landing.to_vec();
        sleep(LATER).await;
        assert_same(&landing, &then);
        for stream in streams {
            let (memory, error) = stream.ended().await;
            assert!(
                memory.len() == Stream::SIZE && matches!(error, Error::Completion(_) | Error::Dead),
                "{error}"
            );
        }
        assert!(!server.is_alive());
        drop((landing, client, server));
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requester_killed_in_mid_transfer_gets_its_memory_back() {
    let world = World::new().await;
    let (client, server) = world.pair_of(2, 4096);
    let landing = world.landing(Stream::SIZE, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..Stream::SIZE, Direction::Read)
        .await
        .unwrap();
    let window = exposed.window();
    // Two are under way, one waits for room.
    let streams = [1, 2, 3].map(|seed| {
        Stream::start(
            &server,
            world.staging(Stream::SIZE, seed),
            window,
            Direction::Read,
        )
    });
    streams[0].flows().await;
    in_time("kill", server.kill()).await;
    assert_eq!(world.server.usage().queue_pairs, 0, "killed is destroyed");
    let mut ended = Vec::new();
    for stream in streams {
        let (memory, error) = stream.ended().await;
        assert!(matches!(error, Error::Dead), "{error}");
        let then = memory.to_vec();
        ended.push((memory, then));
    }
    sleep(LATER).await;
    for (memory, then) in &ended {
        assert_same(memory, then);
    }
    let (memory, outcome) = server
        .read(world.staging(4096, 1), 0..4096, place(window, 0))
        .await;
    assert!(matches!(outcome, Err(Error::Dead)));
    // Killing it again is nothing, and the client's memory is its own once it is killed too.
    in_time("kill", server.kill()).await;
    let landing = in_time("kill", exposed.kill()).await;
    drop((landing, memory, ended, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_operation_kills_its_queue_pair_and_loses_nothing() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let landing = world.landing(Stream::SIZE, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..Stream::SIZE, Direction::Written)
        .await
        .unwrap();
    let window = exposed.window();
    let stream = Stream::start(
        &server,
        world.staging(Stream::SIZE, 2),
        window,
        Direction::Written,
    );
    stream.flows().await;
    let mut writes = (0..4)
        .map(|seed| {
            server.write(
                world.staging(Stream::SIZE, seed),
                0..Stream::SIZE,
                place(window, 0),
                None,
            )
        })
        .collect::<Vec<_>>();
    drop(writes.pop());
    assert!(!server.is_alive());
    drop(stream.ended().await);
    drop(join_all(writes).await);
    in_time("kill", server.kill()).await;
    assert_eq!(
        world.server.usage().registered_bytes,
        0,
        "the memory of the dropped operation is gone"
    );
    // Dropping what is exposed kills as well.
    drop(exposed);
    assert!(!client.is_alive());
    in_time("kill", client.kill()).await;
    assert_eq!(world.client.usage().registered_bytes, 0);
    drop((client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_dropped_before_it_is_polled_kills_too() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let exposed = client
        .clone()
        .expose(world.landing(4096, 1), 0..4096, Direction::Written)
        .await
        .unwrap();
    drop(server.write(world.staging(4096, 2), 0..4096, place(exposed.window(), 0), None));
    assert!(!server.is_alive());
    drop((exposed, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_vanishes_is_noticed() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let landing = world.landing(Stream::SIZE, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..Stream::SIZE, Direction::Read)
        .await
        .unwrap();
    let stream = Stream::start(
        &server,
        world.staging(Stream::SIZE, 2),
        exposed.window(),
        Direction::Read,
    );
    stream.flows().await;
    // Its queue pair is destroyed, and its memory unmapped.
    drop((exposed, client));
    let (memory, error) = stream.ended().await;
    assert!(matches!(error, Error::Completion(_)), "{error}");
    assert!(!server.is_alive());
    drop((memory, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_queue_pair_does_not_disturb_its_neighbours() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let exposed = client
        .clone()
        .expose(world.landing(MIB, 1), 0..MIB, Direction::Written)
        .await
        .unwrap();
    let window = exposed.window();
    let mut staging = world.staging(MIB, 2);
    for _ in 0..10 {
        let (victim, victims_peer) = world.pair();
        let hole = victims_peer.write(world.staging(4096, 3), 0..4096, place(window, 0), None);
        let (written, (_, refused)) =
            tokio::join!(server.write(staging, 0..MIB, place(window, 0), None), hole);
        written.1.unwrap();
        refused.unwrap_err();
        staging = written.0;
        drop((victim, victims_peer));
    }
    let landing = exposed.take_back().await.0;
    assert_same(&landing, &staging);
    drop((landing, staging, client, server));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_pair_lives_as_long_as_what_was_asked_of_it() {
    let world = World::new().await;
    let (client, server) = world.pair();
    let exposed = client
        .clone()
        .expose(world.landing(MIB, 1), 0..MIB, Direction::Written)
        .await
        .unwrap();
    let write = server.write(world.staging(MIB, 2), 0..MIB, place(exposed.window(), 0), None);
    drop(server);
    let (staging, outcome) = in_time("write", write).await;
    outcome.unwrap();
    // The server's queue pair is gone now; the client's memory is whole.
    crate::world::settled(&world.server, Duration::ZERO)
        .await
        .unwrap_err();
    let landing = exposed.take_back().await.0;
    assert_same(&landing, &staging);
    drop((landing, staging, client));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_outlives_its_device_handle() {
    let world = World::new().await;
    let device = crate::world::open(&options());
    let mut memory = crate::world::memory(&device, Purpose::Windows, MIB, 1);
    let queue_pair = device.queue_pair(1).unwrap();
    drop(device);
    memory[0] = 1;
    drop(memory);
    tokio::time::timeout(PATIENCE, queue_pair.kill()).await.unwrap();
    world.end().await;
}
