//! The client against the real storage node, and against servers that misbehave.

use crate::{
    body, bytes,
    node::{ACCESS, Node, SECRET},
    pattern,
};
use futures::{StreamExt, stream};
use penstock_rdma::{Client, Condition, Credentials, Error, ObjectHeaders, Options, Range};
use penstock_store::engine::{Engine, ObjectRef, Precondition, PutOptions};
use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn impatient() -> Options {
    Options {
        connect_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(500),
        retries: 2,
        ..Options::default()
    }
}

fn client(endpoint: &str, options: Options) -> Client {
    Client::new(
        endpoint.parse().unwrap(),
        Credentials::new(ACCESS, SECRET),
        options,
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_goes_in_parts_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &[]);
    let client = node.client(Options {
        part_size: 5 << 20,
        ..Options::default()
    });
    client.create_bucket("bucket").await.unwrap();
    let content = pattern(5, (17 << 20) + 3);
    for size in [Some(content.len() as u64), None] {
        let pieces = body(content.chunks(300_000).map(|chunk| content.slice_ref(chunk)));
        let (headers, always) = (ObjectHeaders::default(), Condition::default());
        let written = client
            .put("bucket", "large", size, &headers, &always, pieces)
            .await
            .unwrap();
        assert!(written.etag.ends_with("-4"), "{}", written.etag);
        assert_eq!(written.moved.bytes, content.len() as u64);
        let mut buffer = vec![0; content.len()];
        let (head, moved) = client
            .get_into("bucket", "large", None, &always, &mut buffer)
            .await
            .unwrap();
        assert!(buffer == content);
        assert_eq!(
            (head.size, moved.bytes),
            (content.len() as u64, content.len() as u64)
        );
        let middle = Range::From {
            first: (5 << 20) - 1,
            last: Some(5 << 20),
        };
        client
            .get_into("bucket", "large", Some(middle), &always, &mut buffer)
            .await
            .unwrap();
        assert_eq!(buffer[..2], content[(5 << 20) - 1..=5 << 20]);
    }
    let broken = stream::iter([Ok(pattern(1, 12 << 20)), Err(std::io::Error::other("cut"))]).boxed();
    let failed = client
        .put(
            "bucket",
            "broken",
            None,
            &ObjectHeaders::default(),
            &Condition::default(),
            broken,
        )
        .await;
    assert!(matches!(failed, Err(Error::Body(_))));
    for _ in 0..500 {
        if client.uploads("bucket").await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the unfinished upload was not aborted");
}

#[tokio::test]
async fn over_tls_the_server_must_be_the_one_that_the_ca_knows() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, ca) = certificate(folder.path(), "cert", "key");
    let (_, other_ca) = self::certificate(folder.path(), "other-cert", "other-key");
    let key = folder.path().join("key");
    let data = folder.path().join("data");
    let node = Node::start(
        &data,
        &["--tls-cert", &certificate, "--tls-key", key.to_str().unwrap()],
    );
    assert!(node.endpoint.starts_with("https://"));
    let trusting = |ca: &str| Options {
        ca_pem: Some(ca.as_bytes().to_vec()),
        ..impatient()
    };
    let client = node.client(trusting(&ca));
    client.create_bucket("bucket").await.unwrap();
    let engine = penstock_store::remote::Remote::new(client);
    let target = ObjectRef::new("bucket", "k");
    engine
        .put(&target, PutOptions::default(), body([pattern(1, 3_000_000)]))
        .await
        .unwrap();
    let opened = engine.get(&target, None, &Precondition::default()).await.unwrap();
    assert!(bytes(opened).await.unwrap() == pattern(1, 3_000_000));

    let mistrusting = node.client(trusting(&other_ca));
    assert!(matches!(
        mistrusting.buckets().await,
        Err(Error::Unreachable { .. })
    ));
}

/// Writes a self-signed certificate for 127.0.0.1; returns its path and its PEM.
fn certificate(folder: &Path, certificate: &str, key: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let path = folder.join(certificate);
    std::fs::File::create(&path)
        .unwrap()
        .write_all(made.cert.pem().as_bytes())
        .unwrap();
    std::fs::write(folder.join(key), made.signing_key.serialize_pem()).unwrap();
    (path.to_str().unwrap().to_owned(), made.cert.pem())
}

#[tokio::test]
async fn a_wrong_key_is_told_from_a_missing_server() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &[]);
    for (access, secret, code) in [
        (ACCESS, "wrong-secret", "SignatureDoesNotMatch"),
        ("nobody", SECRET, "InvalidAccessKeyId"),
    ] {
        let wrong = Client::new(
            node.endpoint.parse().unwrap(),
            Credentials::new(access, secret),
            impatient(),
        );
        let error = wrong.unwrap().buckets().await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
    }
    let endpoint = node.endpoint.clone();
    drop(node);
    let begun = Instant::now();
    let gone = client(&endpoint, impatient()).buckets().await;
    assert!(matches!(gone, Err(Error::Unreachable { .. })), "{gone:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_that_never_answers_holds_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = client(&format!("http://{}", listener.local_addr().unwrap()), impatient());
    let begun = Instant::now();
    let stalled = silent.buckets().await;
    assert!(matches!(stalled, Err(Error::Stalled { .. })), "{stalled:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_answer_that_stops_in_the_middle_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\netag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\nhalf";
            stream.write_all(head.as_bytes()).await.unwrap();
            // One object's connection stays open and silent, the other one's closes.
            if String::from_utf8_lossy(&request[..length]).contains("/silent") {
                held.push(stream);
            }
        }
    });
    let client = client(&format!("http://{address}"), impatient());
    let mut buffer = [0; 10];
    let always = Condition::default();
    let silent = client
        .get_into("bucket", "silent", None, &always, &mut buffer)
        .await;
    assert!(matches!(silent, Err(Error::Stalled { .. })), "{silent:?}");
    let closed = client
        .get_into("bucket", "closed", None, &always, &mut buffer)
        .await;
    assert!(matches!(closed, Err(Error::Unreachable { .. })), "{closed:?}");
    server.abort();
}

#[tokio::test]
async fn a_body_that_was_damaged_on_the_way_is_not_taken_for_the_object() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\netag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n\r\nhello";
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    let client = client(&format!("http://{address}"), impatient());
    let mut buffer = [0; 5];
    let damaged = client
        .get_into("bucket", "k", None, &Condition::default(), &mut buffer)
        .await;
    assert!(matches!(damaged, Err(Error::Damaged)), "{damaged:?}");
    server.abort();
}

#[tokio::test]
async fn what_is_busy_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        for answer in ["503 Service Unavailable", "503 Service Unavailable", "200 OK"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).await.unwrap();
            let document = "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
            let head = format!(
                "HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{document}",
                document.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    assert_eq!(
        client(&format!("http://{address}"), impatient())
            .buckets()
            .await
            .unwrap(),
        []
    );
    server.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_node_that_is_stopped_lets_requests_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), &[]);
    let engine = node.remote();
    engine.create_bucket("bucket").await.unwrap();
    let target = ObjectRef::new("bucket", "k");
    engine
        .put(&target, PutOptions::default(), body([pattern(1, 30_000_000)]))
        .await
        .unwrap();
    let mut opened = engine.get(&target, None, &Precondition::default()).await.unwrap();
    let first = opened.body.next().await.unwrap().unwrap();
    let stopping = tokio::task::spawn_blocking(move || node.terminate(Duration::from_secs(15)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut whole = first.to_vec();
    whole.extend(bytes(opened).await.unwrap());
    assert!(whole == pattern(1, 30_000_000));
    assert!(stopping.await.unwrap(), "it did not end well within 15 s");
}
