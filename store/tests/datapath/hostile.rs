//! Requests that no client of ours sends: each is refused as the protocol says, moves nothing and leaves nothing.

use crate::{
    matrix::put,
    raw::{Peer, Raw, connect},
    setup::{BUCKET, Fabric, Node, eventually, pattern},
};
use penstock_rdma::{
    Policy,
    fabric::{Device, Direction, Exposed, Memory, Window},
    protocol::{Offer, Psn},
};
use penstock_store::rdma::Limits;
use std::sync::Arc;

const SIZE: usize = 100_000;

struct Attack {
    node: Node,
    server: Arc<dyn Device>,
    fabric: Fabric,
    peer: Peer,
    exposed: Option<Exposed>,
}

impl Attack {
    /// A node with an object `k`, and a session with a window for it.
    async fn begin(limits: Limits) -> Self {
        let fabric = Fabric::of_this_run();
        let server = fabric.device("server");
        let node = Node::start(Some(Arc::clone(&server)), limits).await;
        put(&node.client(None, Policy::Prefer), "k", &pattern(1, SIZE)).await;
        let peer = Peer::connect(&node.endpoint, &fabric.device("client")).await;
        let exposed = Arc::clone(&peer.queue_pair)
            .expose(peer.memory(SIZE), 0..SIZE, Direction::Written)
            .await
            .unwrap();
        Self {
            node,
            server,
            fabric,
            peer,
            exposed: Some(exposed),
        }
    }

    fn window(&self) -> Window {
        self.exposed.as_ref().unwrap().window()
    }

    fn token(&self) -> String {
        self.peer.token(self.window())
    }

    fn get(&self, token: &str, sequence: u64) -> Raw {
        self.peer.request("GET", &format!("/{BUCKET}/k"), token, sequence)
    }

    /// That nothing has moved, and that the session still serves who plays by the rules.
    async fn did_no_harm(mut self) {
        assert_eq!(self.node.moved_by_rdma(), (0, 0));
        self.node.keeps_files(1, "the object that was there").await;
        let answer = self.get(&self.token(), 1 << 40).sign().send().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-amz-rdma-bytes-transferred"), SIZE.to_string());
        assert_eq!(answer.header("content-length"), "0");
        let (memory, _) = self.exposed.take().unwrap().take_back().await;
        assert!(memory[..SIZE] == pattern(1, SIZE));
        self.ends().await;
    }

    async fn ends(self) {
        let Self {
            node, server, peer, ..
        } = self;
        Raw::new(&node.endpoint, "POST", "/.s3rdma-rc/disconnect")
            .header("x-amz-rdma-session", peer.session.encode())
            .sign()
            .send()
            .await;
        node.forgets(&server).await;
    }
}

fn untouched(memory: &Memory) {
    assert!(memory.iter().all(|byte| *byte == 0), "bytes landed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_well_formed() {
    let attack = Attack::begin(Limits::default()).await;
    let good = attack.token();
    let mut overflow = attack.window();
    overflow.address = u64::MAX - 5;
    for token in [
        "",
        "rc",
        &good[..good.len() - 1],
        &format!("{good}0"),
        &format!("{good}:"),
        &good.to_uppercase(),
        &good.replace("rc:", "dc:"),
        &attack.peer.token(overflow),
        &attack.peer.token(Window {
            size: 0,
            ..attack.window()
        }),
        "0102030405060708:01020304:01020304:0102:010203:1:0102030405060708090a0b0c0d0e0f10",
        &"f".repeat(5000),
    ] {
        for method in ["GET", "PUT"] {
            let path = format!("/{BUCKET}/{}", if method == "GET" { "k" } else { "new" });
            let answer = attack.peer.request(method, &path, token, 1).sign().send().await;
            assert_eq!(
                (answer.status, answer.code()),
                (400, "InvalidRdmaToken"),
                "{token}"
            );
            assert!(
                token.is_empty() || !answer.body.contains(token),
                "the answer repeats a token"
            );
        }
    }
    for sequence in ["", "0", "-1", "1.0", "18446744073709551616", "0x1"] {
        let answer = Raw::new(&attack.node.endpoint, "GET", format!("/{BUCKET}/k"))
            .header("x-amz-rdma-token", &*good)
            .header("x-amz-rdma-seq", sequence)
            .sign()
            .send()
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "InvalidRdmaToken"),
            "{sequence}"
        );
    }
    let answer = attack.get(&good, 1).body(b"body").sign().send().await;
    assert_eq!(answer.status, 400);
    let path = format!("/{BUCKET}/new");
    let answer = attack
        .peer
        .request("PUT", &path, &good, 1)
        .body(b"body")
        .sign()
        .send()
        .await;
    assert_eq!((answer.status, answer.code()), (400, "InvalidRdmaToken"));
    attack.did_no_harm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_were_not_signed() {
    let attack = Attack::begin(Limits::default()).await;
    let (path, token) = (format!("/{BUCKET}/k"), attack.token());
    let endpoint = &attack.node.endpoint;
    let unsigned_token = Raw::new(endpoint, "GET", &*path)
        .header("x-amz-rdma-seq", "1")
        .sign()
        .header("x-amz-rdma-token", &*token);
    let unsigned_sequence = Raw::new(endpoint, "GET", &*path)
        .header("x-amz-rdma-token", &*token)
        .sign()
        .header("x-amz-rdma-seq", "1");
    let more = attack.get(&token, 1).sign().header("x-amz-rdma-later", "1");
    let on_put = Raw::new(endpoint, "PUT", format!("/{BUCKET}/new"))
        .sign()
        .header("x-amz-rdma-token", &*token)
        .header("x-amz-rdma-seq", "1");
    for request in [unsigned_token, unsigned_sequence, more, on_put] {
        let answer = request.send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "AccessDenied"),
            "{}",
            answer.body
        );
    }
    // Twice: the signature is over both.
    let twice = attack.get(&token, 1).sign().header("x-amz-rdma-token", &*token);
    assert_eq!(twice.send().await.status, 403);
    let nobody = attack.get(&token, 1).send().await;
    assert_eq!((nobody.status, nobody.code()), (403, "AccessDenied"));
    let psn = Psn::random();
    let queue_pair = attack.peer.device.queue_pair(1).unwrap();
    let request = connect(endpoint, &*queue_pair, psn, &Offer::default());
    assert_eq!(request.send().await.status, 403);
    let partly = Raw::new(endpoint, "POST", "/.s3rdma-rc/connect")
        .header("x-amz-rdma-protocol", "s3rdma-rc-1")
        .sign()
        .header("x-amz-rdma-psn", psn.encode());
    assert_eq!(partly.send().await.status, 403);
    let wrong_secret = connect(endpoint, &*queue_pair, psn, &Offer::default())
        .sign_as(crate::setup::ACCESS, "another-secret");
    assert_eq!(wrong_secret.send().await.code(), "SignatureDoesNotMatch");
    attack.did_no_harm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_were_recorded_and_are_sent_again() {
    let attack = Attack::begin(Limits::default()).await;
    let token = attack.token();
    let request = attack.get(&token, 2000).sign();
    assert_eq!(request.send().await.status, 200);
    let again = request.send().await;
    assert_eq!((again.status, again.code()), (409, "RdmaSequenceConflict"));
    let too_old = attack.get(&token, 2000 - 1024).sign().send().await;
    assert_eq!((too_old.status, too_old.code()), (409, "RdmaSequenceConflict"));
    let overtaken = attack.get(&token, 2000 - 1023).sign().send().await;
    assert_eq!(overtaken.status, 200, "{}", overtaken.body);
    assert_eq!(attack.node.moved_by_rdma(), (2 * SIZE as u64, 0));

    // A connect that was recorded makes no second session of the same queue pair.
    let device = attack.fabric.device("other");
    let queue_pair = device.queue_pair(1).unwrap();
    let request = connect(
        &attack.node.endpoint,
        &*queue_pair,
        Psn::random(),
        &Offer::default(),
    )
    .sign();
    assert_eq!(request.send().await.status, 200);
    let again = request.send().await;
    assert_eq!((again.status, again.code()), (409, "RdmaSequenceConflict"));
    assert_eq!(attack.node.rdma.sessions(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_not_there() {
    let attack = Attack::begin(Limits::default()).await;
    let token = attack.token();
    let foreign = token.replacen(&attack.peer.session.encode(), &"0".repeat(32), 1);
    for method in ["GET", "PUT"] {
        let path = format!("/{BUCKET}/{}", if method == "GET" { "k" } else { "new" });
        let answer = attack
            .peer
            .request(method, &path, &foreign, 1)
            .sign()
            .send()
            .await;
        assert_eq!((answer.status, answer.code()), (404, "NoSuchRdmaSession"));
    }
    // What does not exist or may not be is answered before anything is said of sessions.
    let answer = attack
        .peer
        .request("GET", &format!("/{BUCKET}/missing"), &foreign, 1)
        .sign()
        .send()
        .await;
    assert_eq!((answer.status, answer.code()), (404, "NoSuchKey"));
    let answer = attack
        .get(&foreign, 1)
        .header("if-match", "\"other\"")
        .sign()
        .send()
        .await;
    assert_eq!(answer.status, 412);
    let disconnect = |session: String| {
        Raw::new(&attack.node.endpoint, "POST", "/.s3rdma-rc/disconnect")
            .header("x-amz-rdma-session", session)
            .sign()
    };
    assert_eq!(disconnect("0".repeat(32)).send().await.status, 204);
    assert_eq!(disconnect("zz".to_owned()).send().await.status, 400);
    assert_eq!(attack.node.rdma.sessions(), 1);
    attack.did_no_harm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_are_too_small_stay_as_they_are() {
    let attack = Attack::begin(Limits::default()).await;
    let window = Window {
        size: SIZE as u32 - 1,
        ..attack.window()
    };
    let answer = attack.get(&attack.peer.token(window), 1).sign().send().await;
    assert_eq!((answer.status, answer.code()), (400, "RdmaWindowTooSmall"));
    assert_eq!(answer.header("x-amz-rdma-object-size"), SIZE.to_string());
    let answer = attack
        .get(&attack.peer.token(Window { size: 9, ..window }), 2)
        .header("range", "bytes=10-19")
        .sign()
        .send()
        .await;
    assert_eq!((answer.status, answer.code()), (400, "RdmaWindowTooSmall"));
    assert_eq!(answer.header("x-amz-rdma-object-size"), "10");
    attack.did_no_harm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_are_lies_end_the_session_and_store_nothing() {
    type Lie = fn(Window) -> Window;
    let lies: [(&str, Lie); 4] = [
        ("a key that opens nothing", |window| Window {
            rkey: window.rkey ^ 1,
            ..window
        }),
        ("an address before it", |window| Window {
            address: window.address - 4096,
            ..window
        }),
        ("more than was opened", |window| Window {
            size: window.size + 1,
            ..window
        }),
        ("an address of nothing", |window| Window {
            address: 4096,
            ..window
        }),
    ];
    for (name, lie) in lies {
        for method in ["GET", "PUT"] {
            let mut attack = Attack::begin(Limits::default()).await;
            if method == "PUT" {
                let (memory, _) = attack.exposed.take().unwrap().take_back().await;
                let exposed = Arc::clone(&attack.peer.queue_pair).expose(memory, 0..SIZE, Direction::Read);
                attack.exposed = Some(exposed.await.unwrap());
            }
            let token = attack.peer.token(lie(attack.window()));
            let path = format!("/{BUCKET}/{}", if method == "GET" { "k" } else { "new" });
            if method == "GET" && name == "more than was opened" {
                // A GET writes only as many bytes as there are.
                continue;
            }
            let answer = attack.peer.request(method, &path, &token, 1).sign().send().await;
            assert_eq!(
                (answer.status, answer.code()),
                (500, "RdmaTransferFailed"),
                "{method} {name}"
            );
            assert_eq!(answer.header("x-amz-rdma-reply"), "500");
            attack.node.keeps_files(1, name).await;
            untouched(&attack.exposed.take().unwrap().kill().await);
            attack.node.forgets(&attack.server).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_wrong_checksum_stores_nothing() {
    let mut attack = Attack::begin(Limits::default()).await;
    let (mut memory, _) = attack.exposed.take().unwrap().take_back().await;
    memory[..SIZE].copy_from_slice(&pattern(2, SIZE));
    let exposed = Arc::clone(&attack.peer.queue_pair).expose(memory, 0..SIZE, Direction::Read);
    let exposed = exposed.await.unwrap();
    let put = |sequence, crc: &str| {
        attack
            .peer
            .request(
                "PUT",
                &format!("/{BUCKET}/new"),
                &attack.peer.token(exposed.window()),
                sequence,
            )
            .header("x-amz-checksum-crc64nvme", crc)
            .sign()
    };
    let answer = put(1, "AAAAAAAAAAA=").send().await;
    assert_eq!(
        (answer.status, answer.code()),
        (400, "BadDigest"),
        "{}",
        answer.body
    );
    attack.node.keeps_files(1, "the object that was there").await;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &pattern(2, SIZE));
    let right = {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        BASE64_STANDARD.encode(crc.to_be_bytes())
    };
    let answer = put(2, &right).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-amz-rdma-reply"), "200");
    assert_eq!(answer.header("x-amz-rdma-bytes-transferred"), SIZE.to_string());
    drop(exposed.take_back().await);
    attack.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connects_that_are_not_well_formed() {
    let attack = Attack::begin(Limits::default()).await;
    let queue_pair = attack.peer.device.queue_pair(1).unwrap();
    let token = penstock_rdma::protocol::QpToken(queue_pair.address()).encode();
    let request = |protocol: &str, token: &str, psn: &str, caps: &str| {
        Raw::new(&attack.node.endpoint, "POST", "/.s3rdma-rc/connect")
            .header("x-amz-rdma-protocol", protocol)
            .header("x-amz-rdma-token", token)
            .header("x-amz-rdma-psn", psn)
            .header("x-amz-rdma-caps", caps)
            .sign()
    };
    let (name, psn, caps) = ("s3rdma-rc-1", "00000a", "mtu=1024;rd=1;imm=0");
    for (token, psn, caps) in [
        (&token[..86], psn, caps),
        (&*token.replace("01", "02"), psn, caps),
        (&"0".repeat(88), psn, caps),
        (&*token, "000000", caps),
        (&*token, "1", caps),
        (&*token, psn, "mtu=9000"),
        (&*token, psn, "rd=0"),
        (&*token, psn, "nonsense"),
    ] {
        let answer = request(name, token, psn, caps).send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "InvalidRdmaToken"),
            "{psn} {caps}"
        );
    }
    let other = request("hipobj-rc-v2", &token, psn, caps).send().await;
    assert_eq!(other.status, 501);
    assert_eq!(other.header("x-amz-rdma-protocol-status"), "unsupported");
    for (method, path) in [
        ("GET", "/.s3rdma-rc/connect"),
        ("PUT", "/.s3rdma-rc/object"),
        ("POST", "/.s3rdma-rc/other"),
        ("PUT", "/.s3rdma-rc"),
    ] {
        let answer = Raw::new(&attack.node.endpoint, method, path).sign().send().await;
        assert_eq!(answer.status, 405, "{method} {path}");
    }
    assert_eq!(attack.node.rdma.sessions(), 1);
    attack.did_no_harm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connects_is_bounded_and_those_inside_go_on() {
    let limits = Limits {
        sessions_per_key: 5,
        ..Limits::default()
    };
    let attack = Attack::begin(limits).await;
    let flood = (0..60).map(|_| async {
        let queue_pair = attack.peer.device.queue_pair(1).unwrap();
        let request = connect(
            &attack.node.endpoint,
            &*queue_pair,
            Psn::random(),
            &Offer::default(),
        );
        request.sign().send().await
    });
    let answers = futures::future::join_all(flood).await;
    let made = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(made, 4, "one of five was there");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, refused.code()), (503, "SlowDown"));
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(attack.node.rdma.sessions(), 5);
    let (server, flooded) = (Arc::clone(&attack.server), attack.node.rdma.clone());
    assert_eq!(server.usage().queue_pairs, 5);
    let refusals = attack
        .node
        .metric("penstock_store_rdma_refusals_total{reason=\"sessions\"}");
    assert_eq!(refusals, 56);
    let answer = attack.get(&attack.token(), 1).sign().send().await;
    assert_eq!(answer.status, 200);
    flooded.shut_down().await;
    eventually("queue pairs go", || server.usage().queue_pairs == 0).await;
}
