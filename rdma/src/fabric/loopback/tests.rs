//! That the fake refuses what a NIC refuses.

use super::*;
use crate::fabric::{Connection, Direction, Error, Exposed, Purpose, QpAddress, Remote, Window};

struct Pair {
    server: Arc<LoopbackDevice>,
    client: Arc<LoopbackDevice>,
    requester: Arc<dyn QueuePair>,
    responder: Arc<dyn QueuePair>,
}

fn connection(peer: QpAddress, local_psn: u32, peer_psn: u32) -> Connection {
    Connection {
        peer,
        local_psn,
        peer_psn,
        mtu: 1024,
        read_depth: 1,
    }
}

fn pair(network: &Network) -> Pair {
    let (server, client) = (network.device("server"), network.device("client"));
    let (requester, responder) = (server.queue_pair(1).unwrap(), client.queue_pair(1).unwrap());
    requester.connect(&connection(responder.address(), 1, 2)).unwrap();
    responder.connect(&connection(requester.address(), 2, 1)).unwrap();
    Pair {
        server,
        client,
        requester,
        responder,
    }
}

impl Pair {
    fn staging(&self, fill: u8) -> Memory {
        let mut memory = self
            .server
            .register(Pages::new(8192).unwrap(), Purpose::Staging)
            .unwrap();
        memory.fill(fill);
        memory
    }

    async fn exposed(&self, direction: Direction) -> Exposed {
        let memory = self
            .client
            .register(Pages::new(8192).unwrap(), Purpose::Windows)
            .unwrap();
        let responder = Arc::clone(&self.responder);
        responder.expose(memory, 100..300, direction).await.unwrap()
    }
}

fn at(window: Window, offset: u64) -> Remote {
    Remote {
        address: window.address.wrapping_add(offset),
        rkey: window.rkey,
    }
}

#[tokio::test]
async fn bytes_move_both_ways_and_nothing_beside_them_changes() {
    let pair = pair(&Network::new());
    let exposed = pair.exposed(Direction::Written).await;
    let window = exposed.window();
    let (_, written) = pair
        .requester
        .write(pair.staging(7), 0..50, at(window, 150), Some(9))
        .await;
    written.unwrap();
    assert_eq!(pair.responder.immediate().await.unwrap(), 9);
    let (memory, closed) = exposed.take_back().await;
    closed.unwrap();
    for (place, byte) in memory.iter().enumerate() {
        assert_eq!(*byte == 7, (250..300).contains(&place), "{place}");
    }
    let exposed = Arc::clone(&pair.responder)
        .expose(memory, 250..300, Direction::Read)
        .await
        .unwrap();
    let (memory, read) = pair
        .requester
        .read(pair.staging(0), 10..60, at(exposed.window(), 0))
        .await;
    read.unwrap();
    assert!(memory[10..60].iter().all(|byte| *byte == 7) && memory[60] == 0);
    drop((memory, exposed));
    assert!(
        !pair.responder.is_alive(),
        "a window that was dropped open kills its queue pair"
    );
    drop(pair.requester);
    drop(pair.responder);
    assert_eq!(pair.server.usage(), Usage::default());
    assert_eq!(pair.client.usage(), Usage::default());
}

#[tokio::test]
async fn what_was_not_opened_is_refused_and_ends_the_connection() {
    type Twist = fn(Remote) -> Remote;
    let twists: [(&str, Twist); 4] = [
        ("another key", |remote| Remote {
            rkey: remote.rkey ^ 1,
            ..remote
        }),
        ("before the window", |remote| Remote {
            address: remote.address - 1,
            ..remote
        }),
        ("past the window", |remote| Remote {
            address: remote.address + 1,
            ..remote
        }),
        ("around the end of all addresses", |remote| Remote {
            address: u64::MAX - 10,
            ..remote
        }),
    ];
    for (name, twist) in twists {
        let pair = pair(&Network::new());
        let exposed = pair.exposed(Direction::Written).await;
        let remote = twist(at(exposed.window(), 0));
        let (_, outcome) = pair.requester.write(pair.staging(1), 0..200, remote, None).await;
        assert!(matches!(outcome, Err(Error::Completion(_))), "{name}");
        assert!(!pair.requester.is_alive() && !pair.responder.is_alive(), "{name}");
        let memory = exposed.kill().await;
        assert!(memory.iter().all(|byte| *byte == 0), "{name}");
    }
}

#[tokio::test]
async fn rights_and_closing_are_kept() {
    let network = Network::new();
    let pair_ = pair(&network);
    let exposed = pair_.exposed(Direction::Read).await;
    let remote = at(exposed.window(), 0);
    let (_, outcome) = pair_.requester.write(pair_.staging(1), 0..1, remote, None).await;
    assert!(outcome.is_err(), "a window to read from is not written to");

    let pair_ = pair(&network);
    let exposed = pair_.exposed(Direction::Written).await;
    let remote = at(exposed.window(), 0);
    exposed.take_back().await.1.unwrap();
    let (_, outcome) = pair_.requester.write(pair_.staging(1), 0..1, remote, None).await;
    assert!(outcome.is_err(), "a window that was closed is closed");

    let (one, other) = (pair(&network), pair(&network));
    let exposed = one.exposed(Direction::Written).await;
    let (_, outcome) = other
        .requester
        .write(other.staging(1), 0..1, at(exposed.window(), 0), None)
        .await;
    assert!(outcome.is_err(), "a window belongs to one connection");
    let staging = one.staging(0);
    let refused = Arc::clone(&one.responder)
        .expose(staging, 0..1, Direction::Written)
        .await;
    assert!(refused.is_err(), "memory of another device cannot be opened");
}

#[tokio::test]
async fn a_peer_that_does_not_know_this_end_answers_nothing() {
    let network = Network::new();
    let (server, client) = (network.device("server"), network.device("client"));
    let (requester, responder) = (server.queue_pair(1).unwrap(), client.queue_pair(1).unwrap());
    requester.connect(&connection(responder.address(), 1, 2)).unwrap();
    responder.connect(&connection(requester.address(), 2, 3)).unwrap();
    let memory = server.register(Pages::new(1).unwrap(), Purpose::Staging).unwrap();
    let nowhere = Remote { address: 0, rkey: 0 };
    let (_, outcome) = requester.write(memory, 0..0, nowhere, None).await;
    assert!(matches!(outcome, Err(Error::Completion(_))));
}

#[tokio::test]
async fn a_caller_that_goes_away_kills_and_its_memory_goes_when_nothing_is_under_way() {
    let pair = pair(&Network::new());
    let exposed = pair.exposed(Direction::Written).await;
    pair.server.inject(0, Effect::Never);
    let writing = pair
        .requester
        .write(pair.staging(1), 0..1, at(exposed.window(), 0), None);
    let waiting = pair
        .requester
        .write(pair.staging(1), 0..1, at(exposed.window(), 0), None);
    drop(writing);
    assert!(!pair.requester.is_alive());
    let (memory, outcome) = waiting.await;
    assert!(matches!(outcome, Err(Error::Dead)));
    drop(memory);
    pair.requester.kill().await;
    assert_eq!(pair.server.usage().regions, 0);
}
