//! Requests whose bytes go by RDMA are in a bucket's access log, with those bytes.

use crate::{
    gateway,
    matrix::{get, put},
    setup::{BUCKET, Fabric, Node, in_time, pattern},
};
use futures::TryStreamExt;
use penstock_rdma::{Policy, Range, Via};
use penstock_store::{
    engine::{Engine, ListQuery, ObjectRef, Precondition},
    rdma::Limits,
};

const LOGGING: &[u8] = b"<BucketLoggingStatus><LoggingEnabled><TargetBucket>log</TargetBucket>\
    <TargetPrefix></TargetPrefix></LoggingEnabled></BucketLoggingStatus>";

async fn keep(node: &Node) {
    node.engine.create_bucket("log").await.unwrap();
    let document = Some(LOGGING.to_vec());
    node.engine
        .set_document(BUCKET, "logging", document)
        .await
        .unwrap();
    node.log.look(BUCKET).await.unwrap();
}

/// All lines of requests on the object `k`.
async fn lines(node: &Node) -> Vec<String> {
    node.log.deliver().await;
    let query = ListQuery {
        limit: 9,
        ..ListQuery::default()
    };
    let mut lines = Vec::new();
    for (key, _) in node.engine.list("log", &query).await.unwrap().objects {
        let log = ObjectRef::new("log", key);
        let log = node
            .engine
            .get(&log, None, &Precondition::default())
            .await
            .unwrap();
        let log: Vec<bytes::Bytes> = log.body.try_collect().await.unwrap();
        let log = String::from_utf8(log.concat()).unwrap();
        let of_object = log.lines().filter(|line| line.contains(".OBJECT k "));
        lines.extend(of_object.map(str::to_owned));
    }
    lines
}

fn has(line: &str, texts: &[&str]) {
    for text in texts {
        assert!(line.contains(text), "{text} is not in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_by_rdma_are_logged() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    keep(&node).await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let content = pattern(1, 3_000_000);
    let written = in_time(put(&client, "k", &content)).await;
    assert_eq!(written.moved.via, Via::Rdma);
    assert!(in_time(get(&client, "k", None)).await.1 == content);
    let range = Range::From {
        first: 10,
        last: Some(1_000_009),
    };
    let read = in_time(get(&client, "k", Some(range))).await.1;
    assert!(read == content[10..1_000_010]);
    client.disconnect().await;
    let lines = lines(&node).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    let by_root = "] 127.0.0.1 penstock ";
    has(
        &lines[0],
        &[by_root, " REST.PUT.OBJECT k ", "\" 200 - - 3000000 "],
    );
    // What is read by RDMA is asked for as a range, also where that is all.
    has(
        &lines[1],
        &[by_root, " REST.GET.OBJECT k ", "\" 206 - 3000000 3000000 "],
    );
    has(
        &lines[2],
        &[by_root, " REST.GET.OBJECT k ", "\" 206 - 1000000 3000000 "],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_a_gateway_carries_are_logged_as_its_clients() {
    let (_fabric, node, gateway) = gateway::start().await;
    keep(&node).await;
    let client = gateway.client();
    // More than a window, so that most of it is asked for later.
    let content = pattern(1, 21_000_007);
    in_time(put(&client, "k", &content)).await;
    assert!(in_time(get(&client, "k", None)).await.1 == content);
    assert!(node.moved_by_rdma().0 > 0);
    let lines = lines(&node).await;
    let reads: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("REST.GET.OBJECT"))
        .collect();
    assert_eq!(reads.len(), 1, "{lines:?}");
    has(
        reads[0],
        &[" penstock ", "\" 200 - 21000007 21000007 ", " AuthHeader "],
    );
}
