//! The gateway before a storage node: the same answers, the bytes by the way that was promised, and no part for the whole.

pub mod raw;

use crate::{
    body,
    local_path::Host,
    node::{ACCESS, Node, SECRET, files},
    pattern,
};
use futures::future::join_all;
use penstock_rdma::{
    Client, Condition, Credentials, Error, ObjectHeaders, Options, Policy, Range, relay::RelayOptions,
};
use penstock_service::CancellationToken;
use penstock_store::gateway::{GatewayMetrics, GatewayServer, Upstream};
use prometheus_client::registry::Registry;
use raw::{Answer, Request};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// A gateway in this process.
struct Gateway {
    endpoint: String,
    registry: Registry,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Gateway {
    async fn start(endpoint: &str, policy: Policy, socket: Option<PathBuf>) -> Self {
        let mut registry = Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        let upstream = Upstream {
            name: "test".into(),
            endpoint: endpoint.parse().unwrap(),
            options: RelayOptions {
                policy,
                local_socket: socket,
                connect_timeout: Duration::from_secs(2),
                ..RelayOptions::default()
            },
        };
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = GatewayServer::bind(anywhere, None, upstream, &metrics, Arc::new(Semaphore::new(64)))
            .await
            .unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let stop = CancellationToken::new();
        Self {
            endpoint,
            registry,
            served: tokio::spawn(server.run(stop.clone())),
            stop,
        }
    }

    /// Before a storage node whose socket it has.
    async fn local(host: &Host) -> Self {
        Self::start(&host.endpoint, Policy::Prefer, Some(host.socket.clone())).await
    }

    /// Before a storage node on another host.
    async fn remote(endpoint: &str) -> Self {
        Self::start(endpoint, Policy::Prefer, None).await
    }

    /// An ordinary client, which knows of no fast path.
    fn client(&self) -> Client {
        client(&self.endpoint)
    }

    fn moved(&self, direction: &str, via: &str) -> u64 {
        self.metric(&format!(
            r#"penstock_gateway_bytes_total{{upstream="test",direction="{direction}",via="{via}"}}"#
        ))
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn stop(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }
}

fn client(endpoint: &str) -> Client {
    let options = Options {
        policy: Policy::Off,
        retries: 0,
        ..Options::default()
    };
    Client::new(
        endpoint.parse().unwrap(),
        Credentials::new(ACCESS, SECRET),
        options,
    )
    .unwrap()
}

fn always() -> Condition {
    Condition::default()
}

async fn get(client: &Client, key: &str, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; length];
    client
        .get_into("bucket", key, None, &always(), &mut buffer)
        .await?;
    Ok(buffer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_right_both_ways_and_counted_by_what_carried_them() {
    let host = Host::start().await;
    let (near, far) = (Gateway::local(&host).await, Gateway::remote(&host.endpoint).await);
    for (gateway, read, write) in [(&near, "shm", "socket"), (&far, "http", "http")] {
        let client = gateway.client();
        let (mut sent, mut got) = (0, 0);
        for length in [0, 1, 70_000, 3 << 20] {
            let content = pattern(length as u64, length);
            client
                .put(
                    "bucket",
                    "object",
                    Some(length as u64),
                    &ObjectHeaders::default(),
                    &always(),
                    body([content.clone()]),
                )
                .await
                .unwrap();
            assert_eq!(get(&client, "object", length).await.unwrap(), content);
            (sent, got) = (sent + length as u64, got + length as u64);
        }
        let range = Range::From {
            first: 1_000_000,
            last: Some(2_000_000),
        };
        let mut part = vec![0; 1_000_001];
        client
            .get_into("bucket", "object", Some(range), &always(), &mut part)
            .await
            .unwrap();
        assert!(part == pattern(3 << 20, 3 << 20)[1_000_000..=2_000_000]);
        got += part.len() as u64;
        assert_eq!(
            (gateway.moved("read", read), gateway.moved("write", write)),
            (got, sent)
        );
    }
    assert_eq!(near.moved("read", "http") + near.moved("write", "http"), 0);
    assert_eq!(far.moved("read", "shm") + far.moved("write", "socket"), 0);
    // The storage node says the same.
    assert_eq!(
        host.metric(r#"sent_bytes_total{via="shm"}"#),
        near.moved("read", "shm")
    );
    near.stop().await;
    far.stop().await;
    // What was lent was given back.
    host.settles("lent_leases", 0).await;
}

/// What a client sees of an answer, without what differs from one moment to the next.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date" && name != "x-amz-request-id");
    headers.sort();
    (answer.status, headers, answer.body.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_tell_the_gateway_from_the_storage_node() {
    let host = Host::start().await;
    host.put("object", &pattern(1, 300_000)).await;
    let gateways = [Gateway::local(&host).await, Gateway::remote(&host.endpoint).await];
    let path = "/bucket/object";
    let requests: Vec<(&str, Request)> = vec![
        ("a whole object", Request::new("GET", path)),
        (
            "with its checksum",
            Request::new("GET", path).header("x-amz-checksum-mode", "ENABLED"),
        ),
        (
            "a range",
            Request::new("GET", path).header("range", "bytes=100-250000"),
        ),
        (
            "a range beyond the end",
            Request::new("GET", path).header("range", "bytes=300000-"),
        ),
        ("its facts", Request::new("HEAD", path)),
        ("nothing there", Request::new("GET", "/bucket/none")),
        ("nothing there, facts", Request::new("HEAD", "/bucket/none")),
        (
            "a listing",
            Request::new("GET", "/bucket?list-type=2&prefix=o%2B"),
        ),
        (
            "not modified",
            Request::new("GET", path).header("if-none-match", "*"),
        ),
        ("not built", Request::new("GET", "/bucket?versioning")),
        (
            "a path with odd bytes",
            Request::new("GET", "/bucket/a//..//%2e%2E/%C3%A4+b"),
        ),
        ("a wrong key", Request::new("GET", path).key("nobody", SECRET)),
        (
            "a wrong signature",
            Request::new("GET", path).key(ACCESS, "wrong"),
        ),
        ("unsigned", Request::new("GET", path).unsigned()),
        (
            "wants the connection to speak for it",
            Request::new("GET", path)
                .unsigned()
                .header("x-penstock-local-connect", "hello"),
        ),
        (
            "wants the connection to speak for it later",
            Request::new("GET", path).header("x-penstock-local-connect", "hello"),
        ),
        (
            "asks for descriptors itself",
            Request::new("GET", path).header("x-penstock-lend", "only"),
        ),
        (
            "says it handed one over",
            Request::new("PUT", "/bucket/new").header("x-penstock-handed", "0,10"),
        ),
        (
            "gives back what is not its",
            Request::new("GET", path).header("x-penstock-returned", "1,2,3"),
        ),
        (
            "a private header of the connection",
            Request::new("GET", path).header("keep-alive", "timeout=3"),
        ),
    ];
    for (what, request) in requests {
        // Signed for the host that is asked, as clients do.
        let direct = seen(&request.send(&host.endpoint).await);
        for gateway in &gateways {
            let through = seen(&request.send(&gateway.endpoint).await);
            assert!(
                through == direct,
                "{what}: {:?} {:?} through the gateway, {:?} {:?} directly",
                through.0,
                through.1,
                direct.0,
                direct.1
            );
        }
    }
    assert!(gateways[0].moved("read", "shm") > 0, "nothing was lent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_asked_for_only_when_the_storage_node_wants_it() {
    let host = Host::start().await;
    for gateway in [Gateway::local(&host).await, Gateway::remote(&host.endpoint).await] {
        let content = pattern(1, 100_000);
        let put = || Request::new("PUT", "/bucket/expected").header("expect", "100-continue");
        let refused = put().key(ACCESS, "wrong").body(&content);
        let mut stream = refused.begin_without_body(&gateway.endpoint).await;
        let answer = raw::read(&mut stream, "PUT").await;
        assert_eq!(answer.status, 403, "refused before the body was asked for");
        // Who was not asked does not send its body. What it sends next must not be taken for it.
        assert_eq!(answer.header("connection"), "close");
        let next = Request::new("GET", "/bucket?list-type=2").head("example");
        let _closed = stream.write_all(next.as_bytes()).await;
        assert!(
            !matches!(stream.read(&mut [0; 16]).await, Ok(1..)),
            "it was answered"
        );

        let taken = put().body(&content);
        let mut stream = taken.begin_without_body(&gateway.endpoint).await;
        let answer = raw::read(&mut stream, "PUT").await;
        assert_eq!(answer.status, 100);
        stream.write_all(&content).await.unwrap();
        let answer = raw::read(&mut stream, "PUT").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            get(&gateway.client(), "expected", content.len()).await.unwrap(),
            content
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_dies_in_an_answer_never_leaves_a_short_success() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &[]);
    let direct = client(&node.endpoint);
    direct.create_bucket("bucket").await.unwrap();
    let content = pattern(1, 64 << 20);
    direct
        .put(
            "bucket",
            "object",
            None,
            &ObjectHeaders::default(),
            &always(),
            body([content]),
        )
        .await
        .unwrap();
    let gateway = Gateway::remote(&node.endpoint).await;
    let mut stream = Request::new("GET", "/bucket/object")
        .begin(&gateway.endpoint)
        .await;
    // More is under way than buffers hold, so the end cannot have been sent.
    let mut first = vec![0; 1 << 20];
    stream.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    node.kill();
    let mut got = first.len() as u64;
    let ended = loop {
        match stream.read(&mut first).await {
            Ok(0) => break "closed",
            Ok(bytes) => got += bytes as u64,
            Err(_) => break "reset",
        }
    };
    assert!(got < 64 << 20, "{ended} after {got} bytes");
    assert_eq!(
        gateway.metric(r#"penstock_gateway_broken_bodies_total{upstream="test",side="upstream"}"#),
        1
    );

    // And what it is asked from then on it refuses, as S3 does.
    let answer = Request::new("GET", "/bucket/object")
        .send(&gateway.endpoint)
        .await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("<Code>ServiceUnavailable</Code>") && answer.header("retry-after") == "1",
        "{}",
        answer.text()
    );
    let put = Request::new("PUT", "/bucket/new").body(&pattern(2, 1000));
    assert_eq!(put.send(&gateway.endpoint).await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lent_outlives_the_storage_node_and_a_damaged_object_breaks_off() {
    let host = Host::start().await;
    let content = pattern(1, 48 << 20);
    host.put("object", &content).await;
    let gateway = Gateway::local(&host).await;
    let mut stream = Request::new("GET", "/bucket/object")
        .header("connection", "close")
        .begin(&gateway.endpoint)
        .await;
    let mut first = [0; 64];
    stream.read_exact(&mut first).await.unwrap();
    let folder = host.stop().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&content[content.len() - 1000..]));
    drop(folder);

    let host = Host::start().await;
    host.put("object", &content).await;
    let gateway = Gateway::local(&host).await;
    let found = files(&host.folder.path().join("data/data"));
    let [file] = &found[..] else {
        panic!("{found:?}");
    };
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let mut stream = Request::new("GET", "/bucket/object")
        .begin(&gateway.endpoint)
        .await;
    let mut all = Vec::new();
    let _reset_or_closed = stream.read_to_end(&mut all).await;
    assert!(
        all.starts_with(b"HTTP/1.1 200") && all.len() < 48 << 20,
        "{}",
        all.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_forbids_is_refused_and_not_sent_otherwise() {
    let host = Host::start().await;
    host.put("object", &pattern(1, 1000)).await;
    let nowhere = host.folder.path().join("none.sock");
    let gateway = Gateway::start(&host.endpoint, Policy::Require, Some(nowhere.clone())).await;
    let answer = Request::new("GET", "/bucket/object")
        .send(&gateway.endpoint)
        .await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("<Code>PenstockNoFastPath</Code>"),
        "{}",
        answer.text()
    );
    let prefers = Gateway::start(&host.endpoint, Policy::Prefer, Some(nowhere)).await;
    assert_eq!(
        get(&prefers.client(), "object", 1000).await.unwrap(),
        pattern(1, 1000)
    );
    assert_eq!(prefers.moved("read", "http"), 1000);
    let off = Gateway::start(&host.endpoint, Policy::Off, Some(host.socket.clone())).await;
    assert_eq!(
        get(&off.client(), "object", 1000).await.unwrap(),
        pattern(1, 1000)
    );
    assert_eq!(off.moved("read", "http"), 1000);
    let required = Gateway::start(&host.endpoint, Policy::Require, Some(host.socket.clone())).await;
    assert_eq!(
        get(&required.client(), "object", 1000).await.unwrap(),
        pattern(1, 1000)
    );
    assert_eq!(required.moved("read", "shm"), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_at_once_get_their_own_bytes() {
    let host = Host::start().await;
    for gateway in [Gateway::local(&host).await, Gateway::remote(&host.endpoint).await] {
        let work = (0..8_u64).map(|number| {
            let client = gateway.client();
            async move {
                for round in 0..4 {
                    let length = 200_000 + usize::try_from(number * 50_000 + round).unwrap();
                    let (key, content) = (format!("{number}-{round}"), pattern(number * 10 + round, length));
                    client
                        .put(
                            "bucket",
                            &key,
                            None,
                            &ObjectHeaders::default(),
                            &always(),
                            body([content.clone()]),
                        )
                        .await
                        .unwrap();
                    assert_eq!(get(&client, &key, length).await.unwrap(), content);
                }
            }
        });
        join_all(work).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_holds_only_what_buffers_hold() {
    const CLIENTS: u64 = 6;
    let host = Host::start().await;
    host.put("object", &pattern(1, 64 << 20)).await;
    for (gateway, via) in [
        (Gateway::local(&host).await, "shm"),
        (Gateway::remote(&host.endpoint).await, "http"),
    ] {
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            streams.push(
                Request::new("GET", "/bucket/object")
                    .begin(&gateway.endpoint)
                    .await,
            );
        }
        // Until no more moves: what the sockets take is in the kernel and not in the gateway.
        let mut before = u64::MAX;
        while before != gateway.moved("read", via) {
            before = gateway.moved("read", via);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(
            before > 0 && before < CLIENTS * (16 << 20),
            "{before} bytes were read ahead by {via}"
        );
        drop(streams);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_requests_end_and_takes_no_new_ones() {
    let host = Host::start().await;
    let content = pattern(1, 32 << 20);
    host.put("object", &content).await;
    let gateway = Gateway::local(&host).await;
    let mut stream = Request::new("GET", "/bucket/object")
        .begin(&gateway.endpoint)
        .await;
    let mut first = [0; 64];
    stream.read_exact(&mut first).await.unwrap();
    let address = gateway.endpoint.trim_start_matches("http://").to_owned();
    let stopping = tokio::spawn(gateway.stop());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&content[content.len() - 1000..]));
    stopping.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_shorter_than_it_says_is_not_made_whole() {
    // A storage node never does this; one that is cut off by something on the way does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        // The gateway asks too.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _some = stream.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nfew";
            stream.write_all(answer).await.unwrap();
        }
    });
    let gateway = Gateway::remote(&endpoint).await;
    let answer = tokio::spawn(async move {
        let mut stream = Request::new("GET", "/bucket/object")
            .begin(&gateway.endpoint)
            .await;
        let mut all = Vec::new();
        let _reset_or_closed = stream.read_to_end(&mut all).await;
        all
    });
    let all = tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(all).unwrap();
    assert!(
        text.contains("content-length: 1000") && text.len() < 1000,
        "{text}"
    );
}
