//! What breaks, vanishes or crowds in.

use super::{Gateway, WINDOW, by_rdma, identity, start, start_on};
use crate::{
    matrix::{all, get, put},
    setup::{ACCESS, BUCKET, Fabric, Faulty, Node, SECRET, eventually, impatient, in_time, pattern},
};
use futures::future::join_all;
use penstock_rdma::{
    Condition, Credentials, Policy,
    fabric::{
        Rails,
        loopback::{Effect, Network},
    },
};
use penstock_store::rdma::Limits;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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

    let data = node.folder.path().join("data");
    let all = || {
        let mut files = Vec::new();
        below(&data, &mut files);
        files
    };
    eventually("what was replaced is gone", || all().len() == 1).await;
    put(&direct, "k", &content).await;
    eventually("what was replaced is gone", || {
        let small =
            |file: &std::path::PathBuf| std::fs::metadata(file).is_ok_and(|found| found.len() == 1000);
        !all().iter().any(small)
    })
    .await;
    let mut files = all();
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
    let (files, whole) = (node.files(), &content[..30 << 20]);
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
    in_time(put(&gateway.client(), "whole", whole)).await;
    assert_eq!(gateway.moved("write", "rdma") - before, whole.len() as u64);
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
