//! Neither the signature of the client nor that of the gateway does the work of the other.

use super::{Gateway, identity};
use crate::{
    matrix::put,
    raw::{Peer, Raw},
    setup::{ACCESS, BUCKET, Fabric, GATE, GATE_SECRET, Node, SECRET, pattern},
};
use penstock_rdma::{
    Credentials, Policy,
    fabric::{Direction, Exposed},
    protocol::Offer,
};
use penstock_store::rdma::Limits;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

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
