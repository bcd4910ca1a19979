//! Operations that fail, hang, or outlive their request. Afterwards nothing is held, nothing half is stored, and others went on.

use crate::{
    matrix::put,
    raw::Peer,
    setup::{BUCKET, Faulty, client_of, eventually, impatient, in_time, pattern, within},
};
use futures::StreamExt;
use penstock_rdma::{
    Condition, Error, Policy, Via,
    fabric::{Device, Direction, loopback::Effect},
};
use penstock_store::rdma::Limits;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

const SIZE: usize = (4 << 20) + 12_345;

/// A request by hand whose window's memory can be looked at afterwards.
async fn one(faulty: &Faulty, method: &'static str, key: &str) -> (u16, String, Option<u8>) {
    let device: Arc<dyn Device> = faulty.device.clone();
    let peer = Peer::connect(&faulty.node.endpoint, &device).await;
    let direction = if method == "GET" {
        Direction::Written
    } else {
        Direction::Read
    };
    let exposed = Arc::clone(&peer.queue_pair)
        .expose(peer.memory(SIZE), 0..SIZE, direction)
        .await
        .unwrap();
    let token = peer.token(exposed.window());
    let path = format!("/{BUCKET}/{key}");
    let answer = in_time(async { peer.request(method, &path, &token, 1).sign().send().await }).await;
    let memory = exposed.kill().await;
    (answer.status, answer.code().to_owned(), memory.first().copied())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_that_fail_or_never_end_fail_the_request_and_leave_nothing() {
    let faulty = Faulty::start(impatient()).await;
    put(&faulty.node.client(None, Policy::Off), "k", &pattern(1, SIZE)).await;
    for method in ["GET", "PUT"] {
        for effect in [Effect::Fail, Effect::Never, Effect::KillPeer] {
            // The first, one in the middle, and the last.
            for operation in [0, 2, 4] {
                faulty.server.inject(operation, effect.clone());
                let key = if method == "GET" { "k" } else { "new" };
                let (status, code, _) = one(&faulty, method, key).await;
                assert_eq!(
                    (status, code.as_str()),
                    (500, "RdmaTransferFailed"),
                    "{method} {effect:?} {operation}"
                );
                faulty.server.heal();
                let server: Arc<dyn Device> = faulty.server.clone();
                faulty.node.forgets(&server).await;
                faulty
                    .node
                    .keeps_files(1, &format!("{method} {effect:?} {operation}"))
                    .await;
            }
        }
    }
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_in_the_middle_is_drained_and_keeps_its_session() {
    let faulty = Faulty::start(Limits::default()).await;
    put(&faulty.node.client(None, Policy::Off), "k", &pattern(1, SIZE)).await;
    let device: Arc<dyn Device> = faulty.device.clone();
    for method in ["GET", "PUT"] {
        let peer = Peer::connect(&faulty.node.endpoint, &device).await;
        let direction = if method == "GET" {
            Direction::Written
        } else {
            Direction::Read
        };
        let exposed = Arc::clone(&peer.queue_pair)
            .expose(peer.memory(SIZE), 0..SIZE, direction)
            .await
            .unwrap();
        let token = peer.token(exposed.window());
        let (go, held) = watch::channel(false);
        faulty.server.inject(1, Effect::Hold(held));
        let reached = faulty.server.operations() + 2;
        let key = if method == "GET" { "k" } else { "new" };
        let request = peer
            .request(method, &format!("/{BUCKET}/{key}"), &token, 1)
            .sign();
        let stream = request.begin().await;
        eventually("the second operation is under way", || {
            faulty.server.operations() >= reached
        })
        .await;
        let open = faulty.node.connections();
        drop(stream);
        eventually("the server sees the end of the connection", || {
            faulty.node.connections() < open
        })
        .await;
        assert!(
            faulty.node.rdma.staging_in_use() > 0,
            "what is under way is not given up"
        );
        go.send_replace(true);
        faulty.node.rests().await;
        let begun = faulty.server.operations() - reached;
        assert!(begun <= 2, "{begun} operations began after the client had gone");
        faulty.node.keeps_files(1, "no half an object").await;
        assert!(peer.queue_pair.is_alive(), "a clean drain kills no session");
        let again = peer
            .request("GET", &format!("/{BUCKET}/k"), &token, 2)
            .sign()
            .send()
            .await;
        let expected = if method == "GET" { 200 } else { 500 };
        assert_eq!(again.status, expected, "a window to read from is not written to");
        drop(exposed.kill().await);
        faulty.server.kill_all();
        let server: Arc<dyn Device> = faulty.server.clone();
        faulty.node.forgets(&server).await;
    }
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_while_an_operation_hangs_loses_its_session() {
    let faulty = Faulty::start(impatient()).await;
    put(&faulty.node.client(None, Policy::Off), "k", &pattern(1, SIZE)).await;
    let device: Arc<dyn Device> = faulty.device.clone();
    let peer = Peer::connect(&faulty.node.endpoint, &device).await;
    let exposed = Arc::clone(&peer.queue_pair)
        .expose(peer.memory(SIZE), 0..SIZE, Direction::Written)
        .await
        .unwrap();
    faulty.server.inject(1, Effect::Never);
    let reached = faulty.server.operations() + 2;
    let request = peer.request("GET", &format!("/{BUCKET}/k"), &peer.token(exposed.window()), 1);
    let stream = request.sign().begin().await;
    eventually("the second operation is under way", || {
        faulty.server.operations() >= reached
    })
    .await;
    drop(stream);
    let server: Arc<dyn Device> = faulty.server.clone();
    faulty.node.forgets(&server).await;
    drop(exposed.kill().await);
    drop(peer);
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_fails_takes_no_other_with_it() {
    let faulty = Faulty::start(impatient()).await;
    let (one_, other) = (
        faulty.client(Policy::Require),
        faulty
            .node
            .client(Some(faulty.network.device("other")), Policy::Require),
    );
    put(&one_, "k", &pattern(1, SIZE)).await;
    put(&other, "o", &pattern(2, SIZE)).await;
    let sessions = faulty.node.rdma.sessions();
    let (status, _, _) = {
        faulty.server.inject(2, Effect::Fail);
        one(&faulty, "GET", "k").await
    };
    assert_eq!(status, 500);
    assert_eq!(faulty.node.rdma.sessions(), sessions);
    for (client, key, seed) in [(&one_, "k", 1), (&other, "o", 2)] {
        let mut memory = client.memory(SIZE, None).await.unwrap();
        let outcome;
        (memory, outcome) = client
            .get_into_memory(BUCKET, key, None, &Condition::default(), memory, 0..SIZE)
            .await;
        assert_eq!(outcome.unwrap().1.via, Via::Rdma);
        assert!(memory[..SIZE] == pattern(seed, SIZE));
    }
    assert_eq!(
        faulty.node.rdma.sessions(),
        sessions,
        "no one had to connect again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_in_the_middle_frees_its_memory_and_the_client_connects_again() {
    let faulty = Faulty::start(impatient()).await;
    let client = faulty.client(Policy::Require);
    put(&client, "k", &pattern(1, SIZE)).await;
    let memory = client.memory(SIZE, None).await.unwrap();
    let (_go, held) = watch::channel(false);
    faulty.server.inject(1, Effect::Hold(held));
    let always = Condition::default();
    let reading = client.get_into_memory(BUCKET, "k", None, &always, memory, 0..SIZE);
    let given_up = tokio::time::timeout(Duration::from_millis(200), reading).await;
    assert!(given_up.is_err());
    faulty.node.rests().await;
    let memory = client.memory(SIZE, None).await.unwrap();
    let (memory, outcome) = client
        .get_into_memory(BUCKET, "k", None, &always, memory, 0..SIZE)
        .await;
    outcome.unwrap();
    assert!(memory[..SIZE] == pattern(1, SIZE));
    drop(memory);
    client.disconnect().await;
    drop(client);
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_change_on_the_way_are_noticed() {
    let faulty = Faulty::start(Limits::default()).await;
    let client = client_of(&faulty.node.endpoint, Some(faulty.device.clone()), |options| {
        options.policy = Policy::Require;
    });
    put(&client, "k", &pattern(1, SIZE)).await;
    faulty.server.inject(1, Effect::Corrupt);
    let mut download = client.get(BUCKET, "k", None, &Condition::default()).await;
    let error = match &mut download {
        Err(error) => Some(std::mem::replace(error, Error::Damaged)),
        Ok(download) => {
            let mut error = None;
            while let Some(piece) = download.body.next().await {
                error = error.or(piece.err());
            }
            error
        }
    };
    assert!(matches!(error, Some(Error::Damaged)), "{error:?}");
    faulty.server.heal();
    faulty.server.inject(1, Effect::Corrupt);
    let content = pattern(2, SIZE);
    let body = futures::stream::iter([Ok(bytes::Bytes::from(content))]);
    let refused = client
        .put(
            BUCKET,
            "new",
            Some(SIZE as u64),
            &penstock_rdma::ObjectHeaders::default(),
            &Condition::default(),
            body,
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some("BadDigest"), "{refused}");
    let missing = client.head(BUCKET, "new").await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staging_memory_is_bounded_and_shared_fairly() {
    let limits = Limits {
        staging_bytes: 4 << 20,
        patience: Duration::from_secs(20),
        ..Limits::default()
    };
    let faulty = Faulty::start(limits).await;
    let server: Arc<dyn Device> = faulty.server.clone();
    let work = (0..12_u64).map(|number| {
        let client = faulty.client(Policy::Require);
        let server = Arc::clone(&server);
        async move {
            let key = number.to_string();
            put(&client, &key, &pattern(number, SIZE)).await;
            let memory = client.memory(SIZE, None).await.unwrap();
            let (memory, outcome) = client
                .get_into_memory(BUCKET, &key, None, &Condition::default(), memory, 0..SIZE)
                .await;
            outcome.unwrap();
            assert!(memory[..SIZE] == pattern(number, SIZE));
            assert!(server.usage().registered_bytes <= 4 << 20);
            client.disconnect().await;
        }
    });
    in_time(futures::future::join_all(work)).await;
    faulty.node.forgets(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "staging memory comes back")]
async fn the_checks_of_this_suite_can_fail() {
    let faulty = Faulty::start(Limits::default()).await;
    put(&faulty.node.client(None, Policy::Off), "k", &pattern(1, SIZE)).await;
    faulty.server.inject(0, Effect::Never);
    let device: Arc<dyn Device> = faulty.device.clone();
    let peer = Peer::connect(&faulty.node.endpoint, &device).await;
    let exposed = Arc::clone(&peer.queue_pair)
        .expose(peer.memory(SIZE), 0..SIZE, Direction::Written)
        .await
        .unwrap();
    let request = peer.request("GET", &format!("/{BUCKET}/k"), &peer.token(exposed.window()), 1);
    let _stream = request.sign().begin().await;
    eventually("an operation is under way", || {
        faulty.node.rdma.staging_in_use() > 0
    })
    .await;
    // It hangs for 30 s, so its memory is not back in time.
    let back = || faulty.node.rdma.staging_in_use() == 0;
    within(Duration::from_secs(1), "staging memory comes back", back).await;
}
