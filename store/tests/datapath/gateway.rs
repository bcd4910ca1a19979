//! A gateway between clients that know nothing of RDMA and a storage node on another host: the bytes go by RDMA, and neither
//! the client's signature nor the gateway's does the other's work.

use crate::{
    matrix::{all, get, put},
    raw::{Answer, Peer, Raw},
    setup::{
        ACCESS, BUCKET, Fabric, Faulty, GATE, GATE_SECRET, Node, SECRET, client_of, eventually, impatient,
        in_time, pattern,
    },
};
use aws_sigv4::{
    http_request::SignableBody,
    sign::v4::{calculate_signature, generate_signing_key},
};
use futures::future::join_all;
use penstock_rdma::{
    Condition, Credentials, Policy, Range,
    fabric::{
        Device, Direction, Exposed, Rails,
        loopback::{Effect, Network},
    },
    protocol::Offer,
    relay::{RelayMemory, RelayOptions, RelayRdma},
};
use penstock_service::CancellationToken;
use penstock_store::{
    gateway::{GatewayMetrics, GatewayServer, Upstream},
    rdma::Limits,
};
use prometheus_client::registry::Registry;
use s3s::crypto::{Checksum as _, Sha256};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

const WINDOW: usize = 4 << 20;

struct Gateway {
    endpoint: String,
    registry: Registry,
    stop: CancellationToken,
}

impl Gateway {
    async fn start(node: &Node, device: Arc<dyn Device>) -> Self {
        Self::start_with(
            &node.endpoint,
            Policy::Prefer,
            by_rdma(Rails::of([device]), identity()),
        )
        .await
    }

    async fn start_with(endpoint: &str, policy: Policy, rdma: RelayRdma) -> Self {
        let mut registry = Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        let upstream = Upstream {
            name: "test".into(),
            endpoint: endpoint.parse().unwrap(),
            options: RelayOptions {
                policy,
                connect_timeout: Duration::from_secs(2),
                rdma: Some(rdma),
                ..RelayOptions::default()
            },
        };
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = GatewayServer::bind(anywhere, None, upstream, &metrics, Arc::new(Semaphore::new(256)))
            .await
            .unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        Self {
            endpoint,
            registry,
            stop,
        }
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

    /// A client that knows of no fast path.
    fn client(&self) -> penstock_rdma::Client {
        client_of(&self.endpoint, None, |options| {
            options.policy = Policy::Off;
            // In one piece: the documents of an upload in parts are bodies too.
            options.part_size = 32 << 20;
        })
    }

    fn request(&self, method: &'static str, key: &str) -> Raw {
        Raw::new(&self.endpoint, method, format!("/{BUCKET}/{key}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn by_rdma(rails: Rails, identity: Credentials) -> RelayRdma {
    RelayRdma::new(rails, identity, RelayMemory::new(256 << 20))
}

fn identity() -> Credentials {
    Credentials::new(GATE, GATE_SECRET)
}

async fn start() -> (Fabric, Node, Gateway) {
    start_on(Fabric::of_this_run()).await
}

async fn start_on(fabric: Fabric) -> (Fabric, Node, Gateway) {
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let gateway = Gateway::start(&node, fabric.device("gateway")).await;
    (fabric, node, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_clients_that_know_nothing_of_it_move_by_rdma_both_ways() {
    let (_fabric, node, gateway) = start().await;
    let client = gateway.client();
    let (mut sent, mut read) = (0, 0);
    for length in [100_000, WINDOW, WINDOW + 1, (21 << 20) + 7] {
        let content = pattern(length as u64, length);
        in_time(put(&client, "k", &content)).await;
        assert!(in_time(get(&client, "k", None)).await.1 == content, "{length}");
        (sent, read) = (sent + length as u64, read + length as u64);
    }
    let content = pattern((21 << 20) + 7, (21 << 20) + 7);
    for (first, last) in [
        (1, 3 * WINDOW),
        (WINDOW - 1, WINDOW + 70_000),
        (WINDOW * 5, WINDOW * 50),
    ] {
        let range = Range::From {
            first: first as u64,
            last: Some(last as u64),
        };
        let got = in_time(get(&client, "k", Some(range))).await.1;
        let wanted = &content[first..content.len().min(last + 1)];
        assert!(got == wanted, "{first} to {last}");
        read += wanted.len() as u64;
    }
    // Both ends say the same, and that nothing went another way.
    assert_eq!(
        (gateway.moved("read", "rdma"), gateway.moved("write", "rdma")),
        (read, sent)
    );
    assert_eq!(node.moved_by_rdma(), (read, sent));
    assert_eq!(
        (gateway.moved("read", "http"), gateway.moved("write", "http")),
        (0, 0)
    );
    assert_eq!(node.moved_by_http(), (0, 0));
    assert_eq!(
        gateway.metric(r#"penstock_gateway_upstream_rdma{upstream="test"}"#),
        1
    );
    // What is small goes by HTTP, and what is empty.
    for length in [0, 1, 60_000] {
        let content = pattern(9, length);
        put(&client, "small", &content).await;
        assert!(get(&client, "small", None).await.1 == content);
    }
    assert_eq!(
        (gateway.moved("read", "http"), gateway.moved("write", "http")),
        (60_001, 60_001)
    );
    assert_eq!(node.moved_by_rdma(), (read, sent));
    eventually("objects are released", || node.rdma.readings() == 0).await;
    node.rests().await;
}

/// What a client sees, without what differs from moment to moment.
fn seen(answer: Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers: Vec<_> = answer.headers.into_iter().collect();
    headers.retain(|(name, _)| name != "date" && name != "x-amz-request-id");
    headers.sort();
    (answer.status, headers, answer.bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_tell_rdma_from_http() {
    let (_fabric, node, gateway) = start().await;
    put(&node.client(None, Policy::Off), "k", &pattern(1, 2 * WINDOW + 5)).await;
    let tag = get_tag(&node).await;
    let none: &[(&str, &str)] = &[];
    for (what, method, key, headers) in [
        ("whole", "GET", "k", none),
        ("its facts", "HEAD", "k", none),
        (
            "with a checksum",
            "GET",
            "k",
            &[("x-amz-checksum-mode", "ENABLED")],
        ),
        ("a range", "GET", "k", &[("range", "bytes=1000000-8000000")]),
        ("all of it as a range", "GET", "k", &[("range", "bytes=0-")]),
        ("the end", "GET", "k", &[("range", "bytes=-300000")]),
        ("a small range", "GET", "k", &[("range", "bytes=5-9")]),
        ("beyond the end", "GET", "k", &[("range", "bytes=99999999-")]),
        ("no range at all", "GET", "k", &[("range", "bytes=9-5")]),
        ("as it is", "GET", "k", &[("if-match", &tag)]),
        ("not as it is", "GET", "k", &[("if-match", "\"other\"")]),
        ("not modified", "GET", "k", &[("if-none-match", &tag)]),
        (
            "other headers",
            "GET",
            "k?response-content-type=text%2Fplain",
            none,
        ),
        ("nothing there", "GET", "none", none),
        ("a part of it", "GET", "k?partNumber=1", none),
        ("not built", "GET", "k?acl", none),
    ] {
        let ask = |endpoint: &str| {
            let mut request = Raw::new(endpoint, method, format!("/{BUCKET}/{key}"));
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            request
        };
        let direct = seen(ask(&node.endpoint).sign().send().await);
        let through = seen(in_time(async { ask(&gateway.endpoint).sign().send().await }).await);
        assert!(
            direct == through,
            "{what}: {:?} {:?} through the gateway, {:?} {:?} directly",
            through.0,
            through.1,
            direct.0,
            direct.1
        );
        for who in [("nobody", SECRET), (ACCESS, "wrong"), (GATE, GATE_SECRET)] {
            let direct = seen(ask(&node.endpoint).sign_as(who.0, who.1).send().await);
            let through = seen(ask(&gateway.endpoint).sign_as(who.0, who.1).send().await);
            assert!(direct == through && direct.0 == 403, "{what}: {who:?}");
        }
    }
    assert!(
        gateway.moved("read", "rdma") > 3 * (2 * WINDOW as u64),
        "nothing went by RDMA"
    );
}

async fn get_tag(node: &Node) -> String {
    let head = node.client(None, Policy::Off).head(BUCKET, "k").await.unwrap();
    format!("\"{}\"", head.etag)
}

/// A body in chunks that are signed one after the other.
fn chunked(content: &[u8], seed: &str, time: SystemTime) -> Vec<u8> {
    let sha256 = |bytes: &[u8]| {
        let mut hash = Sha256::new();
        hash.update(bytes);
        hex::encode(hash.finalize())
    };
    let key = generate_signing_key(SECRET, time, "us-east-1", "s3");
    let date = date_of(time);
    let (mut before, mut body) = (seed.to_owned(), Vec::new());
    for chunk in content.chunks(1 << 20).chain([&[][..]]) {
        let signed = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{}/us-east-1/s3/aws4_request\n{before}\n{}\n{}",
            &date[..8],
            sha256(b""),
            sha256(chunk)
        );
        before = calculate_signature(&key, signed.as_bytes());
        body.extend_from_slice(format!("{:x};chunk-signature={before}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body
}

fn date_of(time: SystemTime) -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    time::OffsetDateTime::from(time).format(format).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_what_the_client_signed_in_every_way_that_there_is() {
    let (_fabric, node, gateway) = start().await;
    let content = pattern(3, (2 << 20) + 17);
    let direct = node.client(None, Policy::Off);
    let now = SystemTime::now();
    let by_chunks = |key: &str, damage: bool| {
        let length = content.len().to_string();
        let request = gateway
            .request("PUT", key)
            .header("content-encoding", "aws-chunked")
            .header("x-amz-decoded-content-length", length);
        let hash = SignableBody::Precomputed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD".into());
        let (request, seed) = request.sign_body((ACCESS, SECRET), now, hash);
        let mut body = chunked(&content, &seed, now);
        if damage {
            body[1_500_000] ^= 1;
        }
        request.body(&body)
    };
    let answer = in_time(async { by_chunks("chunks", false).send().await }).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(get(&direct, "chunks", None).await.1 == content);
    let answer = by_chunks("damaged-chunk", true).send().await;
    assert_eq!((answer.status, answer.code()), (403, "SignatureDoesNotMatch"));

    let with_trailer = |key: &str, crc: u64| {
        let hash = SignableBody::StreamingUnsignedPayloadTrailer;
        let request = gateway
            .request("PUT", key)
            .header("content-encoding", "aws-chunked")
            .header("x-amz-trailer", "x-amz-checksum-crc64nvme")
            .header("x-amz-decoded-content-length", content.len().to_string());
        let (request, _) = request.sign_body((ACCESS, SECRET), now, hash);
        let crc = {
            use base64::Engine as _;
            base64::prelude::BASE64_STANDARD.encode(crc.to_be_bytes())
        };
        let mut body = format!("{:x}\r\n", content.len()).into_bytes();
        body.extend_from_slice(&content);
        body.extend_from_slice(format!("\r\n0\r\nx-amz-checksum-crc64nvme:{crc}\r\n\r\n").as_bytes());
        request.body(&body)
    };
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
    let answer = with_trailer("trailer", crc).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(get(&direct, "trailer", None).await.1 == content);
    let answer = with_trailer("wrong-trailer", crc ^ 1).send().await;
    assert_eq!(
        (answer.status, answer.code()),
        (400, "BadDigest"),
        "{}",
        answer.body
    );

    // The hash of the whole is signed, and the length, as some do.
    let whole = |key: &str| {
        let length = content.len().to_string();
        gateway
            .request("PUT", key)
            .header("content-length", length)
            .body(&content)
    };
    let answer = whole("whole").sign().send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut other = content.clone();
    other[7] ^= 1;
    let answer = whole("damaged").sign().body(&other).send().await;
    assert_eq!((answer.status, answer.code()), (400, "XAmzContentSHA256Mismatch"));
    let answer = whole("not-mine").sign_as(ACCESS, "wrong").send().await;
    assert_eq!((answer.status, answer.code()), (403, "SignatureDoesNotMatch"));

    assert_eq!(gateway.moved("write", "http"), 0);
    assert_eq!(node.moved_by_http().1, 0);
    node.keeps_files(3, "what was refused is not stored").await;
}

/// A gateway by hand, with a window for an object `k` of a storage node.
struct Hand {
    node: Node,
    peer: Peer,
    other: Peer,
    exposed: Exposed,
}

impl Hand {
    async fn start() -> Self {
        let fabric = Fabric::of_this_run();
        let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
        put(&node.client(None, Policy::Off), "k", &pattern(1, 100_000)).await;
        let device = fabric.device("gateway");
        let peer = Peer::connect_as((GATE, GATE_SECRET), &node.endpoint, &device, &Offer::default())
            .await
            .unwrap();
        let exposed = Arc::clone(&peer.queue_pair)
            .expose(peer.memory(100_000), 0..100_000, Direction::Written)
            .await
            .unwrap();
        let other = Peer::connect(&node.endpoint, &fabric.device("client")).await;
        Self {
            node,
            peer,
            other,
            exposed,
        }
    }

    /// A client's request, without a word of RDMA.
    fn clients(&self) -> Raw {
        Raw::new(&self.node.endpoint, "GET", format!("/{BUCKET}/k"))
    }

    /// What a gateway adds, but for its signature.
    fn window(&self, request: Raw, sequence: u64) -> Raw {
        request
            .header("x-amz-rdma-token", self.peer.token(self.exposed.window()))
            .header("x-amz-rdma-seq", sequence.to_string())
    }

    fn carried(&self, sequence: u64) -> Raw {
        self.window(self.clients().sign(), sequence).carry(&identity())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_signature_does_the_others_work() {
    let hand = Hand::start().await;
    let refused = |what: &'static str, request: Raw, status: u16, code: &'static str| async move {
        let answer = request.send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{what}: {}",
            answer.body
        );
    };
    let window = |request: Raw| hand.window(request, 1);
    let signed = || hand.clients().sign();
    let wrong = Credentials::new(GATE, "wrong-secret");
    refused(
        "a wrong secret",
        window(signed()).carry(&wrong),
        403,
        "AccessDenied",
    )
    .await;
    let root = Credentials::new(ACCESS, SECRET);
    refused(
        "an ordinary key",
        window(signed()).carry(&root),
        403,
        "AccessDenied",
    )
    .await;
    let unknown = Credentials::new("nobody", GATE_SECRET);
    refused(
        "a key of nobody's",
        window(signed()).carry(&unknown),
        403,
        "AccessDenied",
    )
    .await;
    refused("no signature of a gateway", window(signed()), 403, "AccessDenied").await;
    let malformed = window(signed()).header("x-amz-rdma-gateway", "gateway-key/now/0");
    refused("a malformed one", malformed, 400, "InvalidRdmaToken").await;
    let twice = window(signed()).carry(&identity()).carry(&identity());
    refused("two", twice, 403, "AccessDenied").await;
    let later = window(signed())
        .carry(&identity())
        .header("x-amz-rdma-least", "1");
    refused("a header added later", later, 403, "AccessDenied").await;
    let doubled = window(signed()).carry(&identity()).header("x-amz-rdma-seq", "1");
    refused("a header twice", doubled, 403, "AccessDenied").await;

    // The gateway's signature is one for this client's request.
    let stolen = |request: Raw| {
        let from = window(signed()).carry(&identity());
        window(request).header("x-amz-rdma-gateway", from.value("x-amz-rdma-gateway"))
    };
    let elsewhere = Raw::new(&hand.node.endpoint, "GET", format!("/{BUCKET}/other")).sign();
    refused("made for another object", stolen(elsewhere), 403, "AccessDenied").await;
    let earlier = SystemTime::now() - Duration::from_secs(2);
    let another = hand.clients().sign_at(ACCESS, SECRET, earlier);
    refused("made for another signature", stolen(another), 403, "AccessDenied").await;

    // The client's is looked at as ever.
    let by = |access, secret| window(hand.clients().sign_as(access, secret)).carry(&identity());
    refused(
        "a client's wrong key",
        by(ACCESS, "wrong"),
        403,
        "SignatureDoesNotMatch",
    )
    .await;
    refused(
        "an unknown client",
        by("nobody", SECRET),
        403,
        "InvalidAccessKeyId",
    )
    .await;
    refused(
        "the gateway as its own client",
        by(GATE, GATE_SECRET),
        403,
        "AccessDenied",
    )
    .await;
    refused(
        "no client",
        window(hand.clients()).carry(&identity()),
        403,
        "AccessDenied",
    )
    .await;
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let expired = window(hand.clients().sign_at(ACCESS, SECRET, long_ago)).carry(&identity());
    refused("an expired client", expired, 403, "RequestTimeTooSkewed").await;
    let unsigned_range = window(signed())
        .carry(&identity())
        .header("x-amz-meta-later", "1");
    let answer = unsigned_range.send().await;
    assert!(
        answer.status == 200 || answer.status == 403,
        "as without a gateway"
    );

    // What a gateway may do by itself is nothing.
    for (method, path) in [
        ("GET", "/bucket/k"),
        ("PUT", "/bucket/new"),
        ("GET", "/bucket"),
        ("DELETE", "/bucket/k"),
        ("GET", "/"),
    ] {
        let alone = Raw::new(&hand.node.endpoint, method, path).sign_as(GATE, GATE_SECRET);
        refused("a gateway by itself", alone, 403, "AccessDenied").await;
    }
    let alone = hand.window(hand.clients(), 5).sign_as(GATE, GATE_SECRET);
    refused("a gateway by itself, by RDMA", alone, 403, "AccessDenied").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_sequence_numbers_and_readings_are_their_owners_alone() {
    let hand = Hand::start().await;
    let answer = hand.carried(1).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-amz-rdma-bytes-transferred"), "100000");
    let moved = hand.node.moved_by_rdma();
    let refused = |what: &'static str, request: Raw, status: u16, code: &'static str| async move {
        let answer = request.send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{what}: {}",
            answer.body
        );
    };
    refused("a replay", hand.carried(1), 409, "RdmaSequenceConflict").await;
    // Of a client's session a gateway can make no use, and the other way round.
    let theirs = hand.other.token(hand.exposed.window());
    let request = hand.clients().sign();
    let request = request
        .header("x-amz-rdma-token", theirs)
        .header("x-amz-rdma-seq", "2");
    refused(
        "a client's session",
        request.carry(&identity()),
        404,
        "NoSuchRdmaSession",
    )
    .await;
    let request = hand.window(hand.clients(), 2).sign();
    refused("the gateway's session", request, 404, "NoSuchRdmaSession").await;

    // More than a window: the rest belongs to whom it was begun for.
    let direct = hand.node.client(None, Policy::Off);
    put(&direct, "k", &pattern(2, 250_000)).await;
    let answer = hand.carried(3).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-amz-rdma-total-length"), "250000");
    let reading = answer.header("x-amz-rdma-reading").to_owned();
    assert_eq!(hand.node.rdma.readings(), 1);
    let more = |path: &str, offset: &str| {
        Raw::new(&hand.node.endpoint, "POST", path)
            .header("x-amz-rdma-reading", &reading)
            .header("x-amz-rdma-offset", offset)
    };
    let read = "/.s3rdma-rc/read";
    refused("another's", more(read, "0").sign(), 404, "NoSuchRdmaReading").await;
    let beyond = more(read, "250000").sign_as(GATE, GATE_SECRET);
    refused("beyond the end", beyond, 400, "InvalidRdmaToken").await;
    assert_eq!(more("/.s3rdma-rc/release", "0").sign().send().await.status, 204);
    assert_eq!(hand.node.rdma.readings(), 1, "another's release ends nothing");
    // By the gateway: as a body, and into its window. It is the version that was begun, whatever has become of it.
    direct.delete(BUCKET, "k").await.unwrap();
    let rest = more(read, "100000").sign_as(GATE, GATE_SECRET).send().await;
    assert!(
        rest.status == 200 && rest.bytes == pattern(2, 250_000)[100_000..],
        "{}",
        rest.status
    );
    let into = hand
        .window(more(read, "200000"), 4)
        .sign_as(GATE, GATE_SECRET)
        .send()
        .await;
    assert_eq!(
        into.header("x-amz-rdma-bytes-transferred"),
        "50000",
        "{}",
        into.body
    );
    refused("gone", hand.carried(5), 404, "NoSuchKey").await;
    assert_eq!(
        more("/.s3rdma-rc/release", "0")
            .sign_as(GATE, GATE_SECRET)
            .send()
            .await
            .status,
        204
    );
    let released = more(read, "0").sign_as(GATE, GATE_SECRET);
    refused("released", released, 404, "NoSuchRdmaReading").await;
    assert_eq!(hand.node.rdma.readings(), 0);
    assert_eq!(hand.node.moved_by_rdma().0, moved.0 + 150_000);
    let (memory, _) = hand.exposed.take_back().await;
    assert!(memory[..50_000] == pattern(2, 250_000)[200_000..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_speak_for_the_gateway() {
    let hand = Hand::start().await;
    let gateway = Gateway::start(&hand.node, hand.peer.device.clone()).await;
    let forged = hand.carried(1);
    for request in [
        forged.to(&gateway.endpoint),
        gateway
            .request("GET", "k")
            .header("x-amz-rdma-gateway", "x")
            .sign(),
    ] {
        let answer = request.send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "AccessDenied"),
            "{}",
            answer.body
        );
    }
    // Its own words of the protocol are its own to sign, and are refused as the storage node refuses them.
    for name in ["x-amz-rdma-token", "x-amz-rdma-least", "x-amz-rdma-reading"] {
        let answer = gateway.request("GET", "k").sign().header(name, "1").send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "AccessDenied"),
            "{name}: {}",
            answer.body
        );
    }
    assert_eq!(hand.node.moved_by_rdma(), (0, 0));
    let answer = gateway.request("GET", "k").sign().send().await;
    assert!(answer.status == 200 && answer.bytes == pattern(1, 100_000));
    assert_eq!(hand.node.moved_by_rdma(), (100_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_go_by_rdma_goes_by_http_and_is_counted_so() {
    let content = pattern(1, 9 << 20);
    let length = content.len() as u64;
    let fabric = Fabric::Loopback(Network::new());
    let without = Node::start(None, Limits::default()).await;
    let with = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let cases = [
        (
            "a storage node without RDMA",
            &without,
            identity(),
            Rails::of([fabric.device("a")]),
        ),
        ("a gateway without RDMA", &with, identity(), Rails::of([])),
        (
            "a gateway that is not this one's",
            &with,
            Credentials::new("x", "y"),
            Rails::of([fabric.device("b")]),
        ),
        (
            "an identity that may do more",
            &with,
            Credentials::new(ACCESS, SECRET),
            Rails::of([fabric.device("c")]),
        ),
    ];
    for (what, node, identity, rails) in cases {
        let rdma = by_rdma(rails.clone(), identity.clone());
        let gateway = Gateway::start_with(&node.endpoint, Policy::Prefer, rdma).await;
        let client = gateway.client();
        in_time(put(&client, "k", &content)).await;
        assert!(in_time(get(&client, "k", None)).await.1 == content, "{what}");
        let by = |via: &str| (gateway.moved("read", via), gateway.moved("write", via));
        assert_eq!((by("http"), by("rdma")), ((length, length), (0, 0)), "{what}");
        assert_eq!(
            gateway.metric(r#"penstock_gateway_upstream_rdma{upstream="test"}"#),
            0
        );
        // Where it has to be RDMA, it is nothing.
        let required = by_rdma(rails, identity);
        let gateway = Gateway::start_with(&node.endpoint, Policy::Require, required).await;
        let answer = in_time(async { gateway.request("GET", "k").sign().send().await }).await;
        assert_eq!(
            (answer.status, answer.code()),
            (503, "PenstockNoFastPath"),
            "{what}"
        );
    }
    assert_eq!(with.moved_by_rdma(), (0, 0));

    let rdma = by_rdma(Rails::of([fabric.device("d")]), identity());
    let required = Gateway::start_with(&with.endpoint, Policy::Require, rdma).await;
    let client = required.client();
    // Small ones too, and what is no object's bytes.
    for length in [0, 1, 100_000] {
        put(&client, "small", &pattern(2, length)).await;
        assert!(get(&client, "small", None).await.1 == pattern(2, length));
    }
    client.head(BUCKET, "small").await.unwrap();
    assert_eq!(
        (required.moved("read", "rdma"), required.moved("write", "rdma")),
        (100_001, 100_001)
    );
    let long = required
        .request("PUT", "long")
        .header("content-length", (65 << 20).to_string())
        .sign();
    assert_eq!(long.send_head().await.status, 503, "no way but HTTP for so many");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_in_the_middle_costs_the_client_nothing() {
    let faulty = Faulty::start(impatient()).await;
    let gateway = Gateway::start(&faulty.node, faulty.device.clone()).await;
    let content = pattern(4, (18 << 20) + 3);
    put(&faulty.node.client(None, Policy::Off), "k", &content).await;
    let client = gateway.client();
    for effect in [Effect::Fail, Effect::Never, Effect::KillPeer] {
        for operation in [0, 3, 9, 18] {
            faulty.server.inject(operation, effect.clone());
            let got = in_time(get(&client, "k", None)).await.1;
            assert!(got == content, "{effect:?} {operation}");
            faulty.server.heal();
            faulty.server.inject(operation.min(4), effect.clone());
            in_time(put(&client, "new", &content[..5 << 20])).await;
            faulty.server.heal();
            assert!(
                in_time(get(&client, "new", None)).await.1 == content[..5 << 20],
                "{effect:?} {operation}"
            );
        }
    }
    // The port goes down for good with the client in the middle.
    let download = client
        .get(BUCKET, "k", None, &Condition::default())
        .await
        .unwrap();
    faulty.server.set_active(false);
    assert!(in_time(all(download)).await.unwrap() == content);
    assert!(in_time(get(&client, "k", None)).await.1 == content);
    faulty.server.set_active(true);
    assert!(gateway.moved("read", "http") > 0);
    eventually("objects are released", || faulty.node.rdma.readings() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_restarts_is_found_again() {
    let fabric = Fabric::Loopback(Network::new());
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let gateway = Gateway::start(&node, fabric.device("gateway")).await;
    let content = pattern(4, 6 << 20);
    put(&gateway.client(), "k", &content).await;
    assert!(get(&gateway.client(), "k", None).await.1 == content);
    let node = node
        .restart(Some(fabric.device("another")), Limits::default())
        .await;
    for _ in 0..3 {
        assert!(in_time(get(&gateway.client(), "k", None)).await.1 == content);
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert!(node.moved_by_rdma().0 > 0, "it stays with HTTP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_replaced_is_read_to_its_end_and_a_damaged_one_is_not() {
    let (_fabric, node, gateway) = start_on(Fabric::Loopback(Network::new())).await;
    let direct = node.client(None, Policy::Off);
    let content = pattern(1, 60 << 20);
    put(&direct, "k", &content).await;
    let mut stream = gateway.request("GET", "k").sign().begin().await;
    let mut first = vec![0; 64 << 10];
    stream.read_exact(&mut first).await.unwrap();
    put(&direct, "k", &pattern(2, 1000)).await;
    let mut rest = Vec::new();
    in_time(stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.ends_with(&content[content.len() - (50 << 20)..]));

    put(&direct, "k", &content).await;
    let mut files = Vec::new();
    below(&node.folder.path().join("data"), &mut files);
    files.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
    let file = files.last().unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let mut stream = gateway.request("GET", "k").sign().begin().await;
    let mut got = Vec::new();
    let _reset_or_closed = in_time(stream.read_to_end(&mut got)).await;
    assert!(
        got.starts_with(b"HTTP/1.1 200") && got.len() < content.len(),
        "{}",
        got.len()
    );
}

fn below(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, files);
        } else {
            files.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_or_read_nothing_hold_no_more_than_there_is_for_all() {
    let (_fabric, node, gateway) = start_on(Fabric::Loopback(Network::new())).await;
    let content = pattern(1, 40 << 20);
    put(&node.client(None, Policy::Off), "k", &content).await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(gateway.request("GET", "k").sign().begin().await);
    }
    let ahead = || gateway.moved("read", "rdma") + gateway.moved("read", "http");
    let mut before = u64::MAX;
    while before != ahead() {
        before = ahead();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Half of the memory is for reads, and what the kernel's buffers took is not the gateway's.
    assert!(
        gateway.moved("read", "rdma") <= 40 * (WINDOW as u64),
        "{before} bytes were read ahead"
    );
    assert!(
        gateway.moved("read", "http") > 0,
        "who comes last is served by HTTP"
    );
    drop(streams);
    eventually("objects are released", || node.rdma.readings() == 0).await;
    let before = gateway.moved("read", "rdma");
    assert!(in_time(get(&gateway.client(), "k", None)).await.1 == content);
    assert_eq!(gateway.moved("read", "rdma") - before, content.len() as u64);

    // A body that ends early stores nothing, and its memory comes back.
    for _ in 0..12 {
        let request = gateway
            .request("PUT", "cut")
            .header("content-length", (20 << 20).to_string())
            .sign();
        let mut stream: TcpStream = request.begin().await;
        stream.write_all(&content[..1 << 20]).await.unwrap();
    }
    let before = gateway.moved("write", "rdma");
    eventually("bodies let go of their memory", || {
        gateway.metric(r#"penstock_gateway_broken_bodies_total{upstream="test",side="client"}"#) >= 12
    })
    .await;
    let (files, content) = (node.files(), &content[..30 << 20]);
    in_time(put(&gateway.client(), "whole", content)).await;
    assert_eq!(gateway.moved("write", "rdma") - before, content.len() as u64);
    node.keeps_files(files + 1, "nothing of those that were cut")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_get_their_own_bytes() {
    let (_fabric, _node, gateway) = start().await;
    let work = (0..12_u64).map(|number| {
        let client = gateway.client();
        async move {
            for round in 0..3 {
                let length = 1_000_000 + usize::try_from(number * 500_000 + round).unwrap();
                let (key, content) = (format!("{number}"), pattern(number * 10 + round, length));
                put(&client, &key, &content).await;
                assert!(get(&client, &key, None).await.1 == content, "{number} {round}");
            }
        }
    });
    in_time(join_all(work)).await;
    assert!(gateway.moved("read", "rdma") > 0 && gateway.moved("write", "rdma") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let (_fabric, _node, gateway) = start().await;
    let content = pattern(1, 1 << 20);
    let request = gateway
        .request("PUT", "k")
        .header("content-length", content.len().to_string())
        .body(&content)
        .sign()
        .header("expect", "100-continue");
    let mut stream = request.begin_without_body().await;
    let mut asked = [0; 25];
    in_time(stream.read_exact(&mut asked)).await.unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100 Continue\r\n"), "{asked:?}");
    stream.write_all(&content).await.unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(gateway.moved("write", "rdma"), 1 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_hang_up_disturb_no_others() {
    let (_fabric, node, gateway) = start().await;
    let content = pattern(1, 3 << 20);
    put(&node.client(None, Policy::Off), "k", &content).await;
    let client = gateway.client();
    assert!(get(&client, "k", None).await.1 == content);
    let sessions = node.metric("penstock_store_requests_total{operation=\"RdmaConnect\",status=\"200\"}");
    let hang_up = async {
        for round in 0..60_u64 {
            let get = gateway.request("GET", "k").sign();
            let put = gateway.request("PUT", "cut").body(&content).sign();
            drop((get.begin().await, put.begin().await));
            tokio::time::sleep(Duration::from_millis(round % 7)).await;
        }
    };
    let read_on = async {
        for _ in 0..20 {
            assert!(in_time(get(&client, "k", None)).await.1 == content);
        }
    };
    tokio::join!(hang_up, read_on);
    let now = node.metric("penstock_store_requests_total{operation=\"RdmaConnect\",status=\"200\"}");
    // One more where there was much to do at a time, and none for those that died.
    assert!(
        now <= sessions + 1,
        "{sessions} sessions were made before, and {now} in all"
    );
    node.rests().await;
}
