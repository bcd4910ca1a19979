//! Requests and answers are those of the storage node, whichever way the bytes go.

use super::{WINDOW, start};
use crate::{
    matrix::{get, put},
    raw::{Answer, Raw},
    setup::{ACCESS, BUCKET, GATE, GATE_SECRET, Node, SECRET, eventually, in_time, pattern},
};
use aws_sigv4::{
    http_request::SignableBody,
    sign::v4::{calculate_signature, generate_signing_key},
};
use penstock_rdma::{Policy, Range};
use s3s::crypto::{Checksum as _, Sha256};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
