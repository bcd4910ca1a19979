//! Who may use the socket, and how it is found.

use super::{Host, always, memfd, options_of, plain};
use crate::{
    body, bytes,
    node::{ACCESS, Node, SECRET},
    pattern,
};
use futures::{StreamExt, TryStreamExt};
use penstock_rdma::{
    Client, Credentials, Error, Options, Policy, Via,
    local::{HANDED, LEND, LENT, NODE_ID},
};
use penstock_store::{
    engine::{Engine, ObjectRef, Precondition},
    local_path::{Ledger, Limits, LocalServer, SocketError},
    metrics::Metrics,
    remote::Remote,
    s3::Service,
};
use prometheus_client::registry::Registry;
use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_connect_and_signs_is_lent_anything() {
    let uid = rustix::process::geteuid().as_raw();
    let host = Host::with(Limits::default(), |options| options.uids = vec![uid + 1]).await;
    host.put("object", &pattern(1, 100)).await;
    let refused = host.local().get("bucket", "object", None, &always()).await;
    assert!(
        matches!(refused, Err(Error::Unreachable { .. } | Error::NoFastPath { .. })),
        "a stranger"
    );
    assert_eq!(host.local().way().await.unwrap().via, Via::Http, "cut off");
    assert!(host.metric("connection_failures_total") > 0);

    let host = Host::with(Limits::default(), |options| options.uids = vec![uid + 1, uid]).await;
    host.put("object", &pattern(1, 100)).await;
    assert!(
        host.local()
            .get("bucket", "object", None, &always())
            .await
            .is_ok()
    );
    for (access, secret, code) in [
        (ACCESS, "wrong-secret", "SignatureDoesNotMatch"),
        ("nobody", SECRET, "InvalidAccessKeyId"),
    ] {
        let wrong = Client::new(
            host.endpoint.parse().unwrap(),
            Credentials::new(access, secret),
            host.options(),
        );
        let error = wrong
            .unwrap()
            .get("bucket", "object", None, &always())
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), Some(code), "{error}");
    }
    let socket = host.socket.clone();
    let unsigned = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let request =
            format!("GET /bucket/object HTTP/1.1\r\nhost: x\r\n{LEND}: only\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        io::read_to_string(stream).unwrap()
    });
    let unsigned = unsigned.await.unwrap();
    assert!(
        unsigned.starts_with("HTTP/1.1 403") && !unsigned.contains(LENT.as_str()),
        "{unsigned}"
    );
    host.settles("lent_leases", 0).await;
    assert_eq!(host.metric(r#"sent_bytes_total{via="shm"}"#), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_socket_what_must_be_local_fails_and_what_may_is_sent() {
    let host = Host::start().await;
    let content = pattern(1, 200_000);
    host.put("object", &content).await;
    let nowhere = |policy| {
        host.client(Options {
            local_socket: Some(host.folder.path().join("none.sock")),
            policy,
            retries: 1,
            ..Options::default()
        })
    };
    assert_eq!(host.local().way().await.unwrap().via, Via::Shm);
    for policy in [Policy::Require, Policy::Prefer] {
        let way = nowhere(policy).way().await.unwrap();
        assert_eq!(way.via, Via::Http, "nobody serves the socket");
        assert!(way.why.unwrap().contains("does not answer"), "{policy:?}");
    }
    let required = nowhere(Policy::Require);
    let get = required
        .get("bucket", "object", None, &always())
        .await
        .err()
        .unwrap();
    assert!(matches!(get, Error::NoFastPath { .. }), "{get}");
    assert!(
        get.to_string().contains(&host.endpoint) && get.to_string().contains("policy prefer"),
        "{get}"
    );
    let put = required
        .put(
            "bucket",
            "new",
            None,
            &plain(),
            &always(),
            body([content.clone()]),
        )
        .await
        .unwrap_err();
    assert!(matches!(put, Error::NoFastPath { .. }), "{put}");
    let preferring = nowhere(Policy::Prefer);
    let mut buffer = vec![0; content.len()];
    let (_, moved) = preferring
        .get_into("bucket", "object", None, &always(), &mut buffer)
        .await
        .unwrap();
    assert!(moved.via == Via::Http && buffer == content);
    let file = memfd(&content);
    let written = preferring
        .put_file("bucket", "new", file, 0..200_000, &plain(), &always())
        .await
        .unwrap();
    assert_eq!(written.moved.via, Via::Http);
    let off = host.client(Options {
        policy: Policy::Off,
        ..host.options()
    });
    assert_eq!(
        off.get("bucket", "new", None, &always()).await.unwrap().via,
        Via::Http
    );
    assert_eq!(host.metric(r#"sent_bytes_total{via="shm"}"#), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_network_descriptors_are_asked_for_in_vain() {
    let host = Host::start().await;
    let client = host.client(Options::default());
    // A header that a request over TCP carries changes nothing there.
    let mut headers = plain();
    headers.metadata.insert("x".into(), "y".into());
    let put = client
        .put("bucket", "k", None, &headers, &always(), body([pattern(1, 10)]))
        .await
        .unwrap();
    assert_eq!(put.moved.via, Via::Http);
    let address = host.endpoint.trim_start_matches("http://").to_owned();
    let raw = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "PUT /bucket/k HTTP/1.1\r\nhost: x\r\n{HANDED}: 0,10\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        io::read_to_string(stream).unwrap()
    });
    let raw = raw.await.unwrap();
    assert!(
        raw.starts_with("HTTP/1.1 403") && raw.contains(NODE_ID.as_str()),
        "{raw}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_the_socket_of_the_node_it_talks_to() {
    let sockets = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let folder = sockets.path().to_str().unwrap();
    let node = Node::start(data.path(), &["--local-sockets", folder]);
    let options = |policy| Options {
        local_sockets: Some(sockets.path().to_owned()),
        policy,
        ..Options::default()
    };
    let client = node.client(options(Policy::Prefer));
    client.create_bucket("bucket").await.unwrap();
    let content = pattern(1, 100_000);
    let written = client
        .put("bucket", "k", None, &plain(), &always(), body([content.clone()]))
        .await
        .unwrap();
    assert_eq!(written.moved.via, Via::Shm, "learned by the first answer");
    assert_eq!(
        client.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Shm
    );

    let strict = node.client(options(Policy::Require));
    assert_eq!(
        strict.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Shm,
        "it asks who the node is before it gives up"
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let other = node.client(Options {
        local_sockets: Some(elsewhere.path().to_owned()),
        ..Options::default()
    });
    other.buckets().await.unwrap();
    assert_eq!(
        other.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Http,
        "not on this host"
    );
    let remote = Remote::new(node.client(options(Policy::Prefer)));
    assert!(
        bytes(
            remote
                .get(&ObjectRef::new("bucket", "k"), None, &Precondition::default())
                .await
                .unwrap()
        )
        .await
        .unwrap()
            == content
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_and_started_anew_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let path = socket.to_str().unwrap().to_owned();
    let data = folder.path().join("data");
    let mut node = Node::start(&data, &["--local-socket", &path]);
    let client = node.client(Options {
        local_socket: Some(socket.clone()),
        policy: Policy::Require,
        stall_timeout: Duration::from_secs(5),
        ..Options::default()
    });
    client.create_bucket("bucket").await.unwrap();
    let content = pattern(1, 8 << 20);
    client
        .put("bucket", "k", None, &plain(), &always(), body([content.clone()]))
        .await
        .unwrap();
    let mut download = client.get("bucket", "k", None, &always()).await.unwrap();
    let first = download.body.next().await.unwrap().unwrap();
    node.kill();
    // What was lent is read to its end without the node.
    let rest: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
    assert!([&first[..], &rest.concat()].concat() == content);
    assert!(socket.exists(), "a killed process leaves its socket");
    let node = Node::start(&data, &["--local-socket", &path]);
    let mut buffer = vec![0; content.len()];
    let (_, moved) = client
        .get_into("bucket", "k", None, &always(), &mut buffer)
        .await
        .unwrap();
    assert!(moved.via == Via::Shm && buffer == content);
    drop(node);
}

#[tokio::test]
async fn a_socket_is_not_taken_from_who_serves_it_nor_made_of_something_else() {
    let host = Host::start().await;
    let again = |path: PathBuf| {
        let metrics = Metrics::register(&mut Registry::default());
        let service = Service::new(
            Arc::new(host.engine.clone()),
            Credentials::new(ACCESS, SECRET),
            "us-east-1".into(),
            metrics.clone(),
        );
        LocalServer::bind(
            options_of(path),
            service,
            Ledger::new(Limits::default(), metrics.clone()),
            metrics,
        )
        .map(drop)
    };
    assert!(matches!(
        again(host.socket.clone()),
        Err(SocketError::InUse { .. })
    ));
    let file = host.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(again(file.clone()), Err(SocketError::NoSocket { .. })));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
    assert!(matches!(
        again(host.folder.path().join("no/folder")),
        Err(SocketError::Listen { .. })
    ));
    let socket = host.socket.clone();
    let folder = host.stop().await;
    assert!(!socket.exists(), "it goes with its server");
    drop(folder);
}
