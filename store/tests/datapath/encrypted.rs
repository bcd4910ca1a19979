//! What is encrypted where it is stored moves by RDMA as anything else does: in clear.

use crate::{
    gateway::Gateway,
    matrix::{get, put},
    setup::{Fabric, Node, in_time, pattern},
};
use penstock_rdma::{Policy, Range, Via};
use penstock_store::rdma::Limits;

/// Whether these bytes are in a data file.
fn is_on_disk(node: &Node, needle: &[u8]) -> bool {
    fn below(folder: &std::path::Path, needle: &[u8]) -> bool {
        std::fs::read_dir(folder).unwrap().any(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                return below(&path, needle);
            }
            match std::fs::read(path) {
                Ok(content) => content.windows(needle.len()).any(|part| part == needle),
                // The object that was replaced is removed meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
                Err(error) => panic!("{error}"),
            }
        })
    }
    below(&node.folder.path().join("data"), needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_objects_go_by_rdma_both_ways() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let open = pattern(1, 100_000);
    in_time(put(&client, "open", &open)).await;
    assert!(
        is_on_disk(&node, &open[50_000..50_032]),
        "this test would find nothing whatever was there"
    );
    node.encrypts().await;
    let node = node
        .restart(Some(fabric.device("server")), Limits::default())
        .await;
    for (seed, length) in [
        (2, 1),
        (3, 65_536),
        (4, 65_537),
        (5, (1 << 20) + 1),
        (6, (21 << 20) + 7),
    ] {
        let content = pattern(seed, length);
        let written = in_time(put(&client, "k", &content)).await;
        assert_eq!(written.moved.via, Via::Rdma, "{length}");
        let (via, read) = in_time(get(&client, "k", None)).await;
        assert!(read == content && via == Via::Rdma, "{length}");
        if length > 64 {
            assert!(
                !is_on_disk(&node, &content[length / 2..length / 2 + 32]),
                "{length}"
            );
        }
        let range = Range::From {
            first: length as u64 / 3,
            last: Some(length as u64 / 2),
        };
        let (_, read) = in_time(get(&client, "k", Some(range))).await;
        assert!(read == content[length / 3..=length / 2], "{length}");
    }
    // What was there before is read as it was.
    assert!(in_time(get(&client, "open", None)).await.1 == open);
    assert_eq!(node.moved_by_http(), (0, 0));
    client.disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_gets_encrypted_objects_as_bodies() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    node.encrypts().await;
    let gateway = Gateway::start(&node, fabric.device("gateway")).await;
    let client = gateway.client();
    for length in [100_000, (5 << 20) + 7] {
        let content = pattern(length as u64, length);
        in_time(put(&client, "k", &content)).await;
        assert!(in_time(get(&client, "k", None)).await.1 == content, "{length}");
        let range = Range::From {
            first: 65_530,
            last: Some(65_550),
        };
        assert!(
            in_time(get(&client, "k", Some(range))).await.1 == content[65_530..=65_550],
            "{length}"
        );
        assert!(!is_on_disk(&node, &content[length / 2..length / 2 + 32]));
    }
}
