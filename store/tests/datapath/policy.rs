//! What happens where RDMA cannot be: a row of the table in `docs/protocol.md`, "Errors and fallback", per test.

use crate::{
    matrix::{all, put},
    raw::{Peer, Raw},
    setup::{BUCKET, Fabric, Faulty, Node, client, impatient, in_time, pattern},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use penstock_rdma::{
    Client, Condition, Error, ObjectHeaders, Policy, Range, Via,
    fabric::{Direction, loopback::Effect},
};
use penstock_store::rdma::Limits;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SIZE: usize = 3 << 20;

async fn try_put(client: &Client, key: &str, content: &[u8]) -> Result<Via, Error> {
    let body = stream::iter([Ok(Bytes::copy_from_slice(content))]);
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    let size = Some(content.len() as u64);
    let written = in_time(client.put(BUCKET, key, size, &headers, &always, body)).await?;
    Ok(written.moved.via)
}

async fn try_get(client: &Client, key: &str) -> Result<(Via, Vec<u8>), Error> {
    in_time(async {
        let download = client.get(BUCKET, key, None, &Condition::default()).await?;
        let via = download.via;
        Ok((via, all(download).await?))
    })
    .await
}

/// `prefer` moves the bytes by HTTP, and `require` says why it does not.
async fn falls_back(node: &Node, prefer: &Client, require: &Client) {
    let content = pattern(1, SIZE);
    assert_eq!(try_put(prefer, "k", &content).await.unwrap(), Via::Http);
    let (via, read) = try_get(prefer, "k").await.unwrap();
    assert!(via == Via::Http && read == content);
    let before = node.moved_by_http();
    for error in [
        try_put(require, "k2", &content).await.unwrap_err(),
        try_get(require, "k").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoFastPath { .. }), "{error}");
    }
    assert_eq!(
        node.moved_by_http(),
        before,
        "bytes went by HTTP against the policy"
    );
    let missing = require.head(BUCKET, "k2").await.unwrap_err();
    assert_eq!(missing.code(), Some("NoSuchKey"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_without_rdma() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(None, Limits::default()).await;
    let device = fabric.device("client");
    let prefer = node.client(Some(device.clone()), Policy::Prefer);
    let require = node.client(Some(device), Policy::Require);
    falls_back(&node, &prefer, &require).await;
    // Refusals are remembered: each client asked once, whatever it did since.
    let refused = "penstock_store_rdma_refusals_total{reason=\"unsupported\"}";
    assert_eq!(node.metric(refused), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_device_or_with_rdma_switched_off() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    falls_back(
        &node,
        &node.client(None, Policy::Prefer),
        &node.client(None, Policy::Require),
    )
    .await;
    let off = node.client(Some(fabric.device("client")), Policy::Off);
    assert_eq!(try_put(&off, "off", &pattern(2, SIZE)).await.unwrap(), Via::Http);
    assert_eq!(try_get(&off, "off").await.unwrap().0, Via::Http);
    assert_eq!(node.rdma.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn staging_memory_that_cannot_be_had() {
    let faulty = Faulty::start(Limits::default()).await;
    faulty.server.limit_registered(0);
    falls_back(
        &faulty.node,
        &faulty.client(Policy::Prefer),
        &faulty.client(Policy::Require),
    )
    .await;
    // All of an object comes as a body, not the window that was asked for.
    let (prefer, large) = (faulty.client(Policy::Prefer), pattern(2, 9 << 20));
    put(&prefer, "large", &large).await;
    let (via, read) = try_get(&prefer, "large").await.unwrap();
    assert!(via == Via::Http && read == large, "{} bytes came", read.len());
    // The session is fine, and so is what comes once there is memory.
    faulty.server.limit_registered(u64::MAX);
    let client = faulty.client(Policy::Require);
    assert_eq!(
        try_put(&client, "k3", &pattern(3, SIZE)).await.unwrap(),
        Via::Rdma
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_the_client_that_cannot_be_had() {
    let faulty = Faulty::start(Limits::default()).await;
    faulty.device.limit_registered(0);
    let content = pattern(1, SIZE);
    let prefer = faulty.client(Policy::Prefer);
    assert_eq!(try_put(&prefer, "k", &content).await.unwrap(), Via::Http);
    assert_eq!(try_get(&prefer, "k").await.unwrap().0, Via::Http);
    let require = faulty.client(Policy::Require);
    let error = try_get(&require, "k").await.unwrap_err();
    assert!(
        matches!(error, Error::Fabric(_)) && error.to_string().contains("limit of locked memory"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_lost_in_the_middle_of_an_object_is_told() {
    let faulty = Faulty::start(Limits::default()).await;
    let client = faulty.client(Policy::Prefer);
    // More than the windows that are asked for at once.
    let content = pattern(4, 48 << 20);
    put(&client, "large", &content).await;
    let mut download = in_time(client.get(BUCKET, "large", None, &Condition::default()))
        .await
        .unwrap();
    let first = in_time(download.body.next()).await.unwrap().unwrap();
    assert_eq!(download.fallback.via(download.via), Via::Rdma);
    // No session is left, and none can be made.
    faulty.server.limit_queue_pairs(0);
    faulty.server.kill_all();
    let fallback = download.fallback.clone();
    let rest = in_time(all(download)).await.unwrap();
    assert!([&first[..], &rest[..]].concat() == content);
    assert_eq!(fallback.via(Via::Rdma), Via::Http, "nobody was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_storage_node_ended() {
    let faulty = Faulty::start(Limits::default()).await;
    let client = faulty.client(Policy::Require);
    let content = pattern(1, SIZE);
    put(&client, "k", &content).await;
    // As after its restart: no session is left, and the client does not know.
    faulty.server.kill_all();
    assert!(
        try_get(&client, "k").await.unwrap().1 == content,
        "reconnected once"
    );
    client.disconnect().await;
    drop(client);
    faulty.leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_goes_down_and_comes_back() {
    let faulty = Faulty::start(Limits::default()).await;
    let content = pattern(1, SIZE);
    for port in [&faulty.server, &faulty.device] {
        let prefer = faulty.client(Policy::Prefer);
        assert_eq!(try_put(&prefer, "k", &content).await.unwrap(), Via::Rdma);
        port.set_active(false);
        assert_eq!(try_get(&prefer, "k").await.unwrap().0, Via::Http);
        let error = try_get(&faulty.client(Policy::Require), "k").await.unwrap_err();
        // Each end has its own words for it.
        let text = error.to_string();
        assert!(
            text.contains("is down") || text.contains("is not active"),
            "{text}"
        );
        port.set_active(true);
        // It is asked again after a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(try_get(&prefer, "k").await.unwrap(), (Via::Rdma, content.clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sessions_end_and_are_made_again() {
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let faulty = Faulty::start(limits).await;
    let client = faulty.client(Policy::Require);
    put(&client, "k", &pattern(1, SIZE)).await;
    assert!(faulty.node.rdma.sessions() > 0);
    crate::setup::eventually("idle sessions end", || faulty.node.rdma.sessions() == 0).await;
    assert!(try_get(&client, "k").await.unwrap().1 == pattern(1, SIZE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_fails_once_and_one_that_fails_always() {
    let faulty = Faulty::start(impatient()).await;
    let client = faulty.client(Policy::Require);
    let content = pattern(1, SIZE);
    put(&client, "k", &content).await;
    for effect in [Effect::Fail, Effect::KillPeer, Effect::Never] {
        faulty.server.inject(1, effect.clone());
        assert!(try_get(&client, "k").await.unwrap().1 == content, "{effect:?}");
        faulty.server.inject(1, effect.clone());
        assert_eq!(
            try_put(&client, "k", &content).await.unwrap(),
            Via::Rdma,
            "{effect:?}"
        );
        faulty.server.heal();
    }
    for operation in 0..2000 {
        faulty.server.inject(operation, Effect::Fail);
    }
    let error = try_put(&client, "other", &content).await.unwrap_err();
    assert_eq!(error.code(), Some("RdmaTransferFailed"), "{error}");
    assert_eq!(
        try_get(&client, "k").await.unwrap_err().code(),
        Some("RdmaTransferFailed")
    );
    let prefer = faulty.client(Policy::Prefer);
    assert_eq!(try_put(&prefer, "other", &content).await.unwrap(), Via::Http);
    assert_eq!(try_get(&prefer, "k").await.unwrap().0, Via::Http);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_storage_node() {
    let limits = Limits {
        sessions_per_key: 1,
        ..impatient()
    };
    let faulty = Faulty::start(limits).await;
    let first = faulty.client(Policy::Require);
    put(&first, "k", &pattern(1, SIZE)).await;
    let (prefer, require) = (faulty.client(Policy::Prefer), faulty.client(Policy::Require));
    assert_eq!(try_get(&prefer, "k").await.unwrap().0, Via::Http);
    let error = try_get(&require, "k").await.unwrap_err();
    assert!(error.to_string().contains("SlowDown"), "{error}");
    // The one with a session goes on with it.
    assert_eq!(try_get(&first, "k").await.unwrap().0, Via::Rdma);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_ranges_go_the_short_way_only_where_http_is_allowed() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let device = fabric.device("client");
    let (prefer, require) = (
        node.client(Some(device.clone()), Policy::Prefer),
        node.client(Some(device), Policy::Require),
    );
    put(&require, "k", &pattern(1, SIZE)).await;
    let range = Range::From {
        first: 5,
        last: Some(8),
    };
    for (client, via) in [(&prefer, Via::Http), (&require, Via::Rdma)] {
        let download = client
            .get(BUCKET, "k", Some(range), &Condition::default())
            .await
            .unwrap();
        assert_eq!(download.via, via);
        assert_eq!(all(download).await.unwrap(), pattern(1, SIZE)[5..9]);
    }
}

/// A server that knows S3 and nothing else. Keeps what it was asked.
async fn stranger(connect_answer: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut piece).await.unwrap() {
                        0 => return,
                        length => request.extend_from_slice(&piece[..length]),
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let head = if request.contains("/.s3rdma-rc/connect") {
                    connect_answer.to_owned()
                } else {
                    "HTTP/1.1 200 OK\r\nconnection: close\r\netag: \"e\"\r\ncontent-length: 5\r\n\
                     last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nhello"
                        .to_owned()
                };
                seen.lock().unwrap().push(request);
                stream.write_all(head.as_bytes()).await.unwrap();
            });
        }
    });
    (endpoint, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_ours_never_gets_a_token() {
    let fabric = Fabric::of_this_run();
    for connect_answer in [
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\nx-amz-rdma-protocol: s3rdma-rc-1\r\nx-amz-rdma-session: 1\r\n\r\n",
    ] {
        let (endpoint, asked) = stranger(connect_answer).await;
        let device = fabric.device("client");
        let prefer = client(&endpoint, Some(device.clone()), Policy::Prefer);
        for _ in 0..3 {
            let (via, bytes) = try_get(&prefer, "k").await.unwrap();
            assert_eq!((via, &bytes[..]), (Via::Http, &b"hello"[..]));
        }
        let require = client(&endpoint, Some(device), Policy::Require);
        let error = try_get(&require, "k").await.unwrap_err();
        assert!(matches!(error, Error::NoFastPath { .. }), "{error}");
        let asked = asked.lock().unwrap();
        let connects = asked.iter().filter(|request| request.contains("/connect"));
        assert_eq!(connects.count(), 2, "a refusal is remembered");
        for request in asked.iter().filter(|request| !request.contains("/connect")) {
            assert!(!request.contains("x-amz-rdma"), "{request}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_cannot_be_taken_stores_nothing_and_says_so() {
    let node = Node::start(None, Limits::default()).await;
    let token = "rc:0123456789abcdef0123456789abcdef:0000000000001000:00000010:00000001";
    let tokened = |method| {
        Raw::new(&node.endpoint, method, format!("/{BUCKET}/k"))
            .header("x-amz-rdma-token", token)
            .header("x-amz-rdma-seq", "1")
            .sign()
    };
    let answer = tokened("PUT").send().await;
    assert_eq!((answer.status, answer.code()), (501, "RDMANotSupported"));
    assert_eq!(answer.header("x-amz-rdma-reply"), "501");
    assert_eq!(answer.header("etag"), "");
    assert_eq!(node.files(), 0);
    put(&node.client(None, Policy::Prefer), "k", b"hello").await;
    let answer = tokened("GET").send().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert_eq!(answer.header("x-amz-rdma-reply"), "501");
    let answer = Raw::new(&node.endpoint, "GET", format!("/{BUCKET}/k"))
        .header("x-amz-rdma-token", token)
        .header("x-amz-rdma-seq", "2")
        .header("x-amz-rdma-fallback", "no")
        .sign()
        .send()
        .await;
    assert_eq!((answer.status, answer.code()), (501, "RDMANotSupported"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_immediate_comes_with_the_last_write_where_it_was_agreed_on() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    put(&node.client(None, Policy::Prefer), "k", &pattern(1, SIZE)).await;
    let offer = penstock_rdma::protocol::Offer {
        immediate: true,
        ..Default::default()
    };
    let device = fabric.device("client");
    let peer = Peer::try_connect(&node.endpoint, &device, &offer).await.unwrap();
    assert!(peer.grant.immediate);
    let exposed = Arc::clone(&peer.queue_pair)
        .expose(peer.memory(SIZE), 0..SIZE, Direction::Written)
        .await
        .unwrap();
    let sequence = 0x1_2345_6789;
    let token = peer.token(exposed.window());
    let answer = peer
        .request("GET", &format!("/{BUCKET}/k"), &token, sequence)
        .sign()
        .send()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(peer.queue_pair.immediate().await.unwrap(), 0x2345_6789);
    assert!(exposed.take_back().await.0[..SIZE] == pattern(1, SIZE));
}
