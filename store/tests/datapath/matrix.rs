//! Sizes, ranges, parts, many clients: what was written is what is read, and it went by RDMA.

use crate::setup::{BUCKET, Fabric, Faulty, Node, client_of, in_time, pattern};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use penstock_rdma::{
    Client, Condition, Download, Error, ObjectHeaders, Policy, Range, Via,
    fabric::{Device, loopback::Effect},
};
use penstock_store::rdma::Limits;
use std::sync::Arc;

const SIZES: [usize; 9] = [
    0,
    1,
    4095,
    4096,
    4097,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    64 << 20,
];

pub async fn put(client: &Client, key: &str, content: &[u8]) -> penstock_rdma::Written {
    let body = stream::iter([Ok(Bytes::copy_from_slice(content))]);
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    client
        .put(BUCKET, key, Some(content.len() as u64), &headers, &always, body)
        .await
        .unwrap()
}

pub async fn all(download: Download) -> Result<Vec<u8>, Error> {
    let pieces: Vec<Bytes> = download.body.try_collect().await?;
    Ok(pieces.concat())
}

pub async fn get(client: &Client, key: &str, range: Option<Range>) -> (Via, Vec<u8>) {
    let download = client
        .get(BUCKET, key, range, &Condition::default())
        .await
        .unwrap();
    let (via, range) = (download.via, download.range.clone());
    let bytes = all(download).await.unwrap();
    assert_eq!(bytes.len() as u64, range.end - range.start);
    (via, bytes)
}

/// That an object is read by RDMA, and what was written.
async fn check_read(client: &Client, key: &str, content: &[u8]) {
    let (via, read) = in_time(get(client, key, None)).await;
    assert!(read == content, "{key} is not what was written");
    assert_eq!(via, Via::Rdma, "{key}");
}

async fn start() -> (Fabric, Arc<dyn Device>, Node) {
    let fabric = Fabric::of_this_run();
    let server = fabric.device("server");
    let node = Node::start(Some(Arc::clone(&server)), Limits::default()).await;
    (fabric, server, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_goes_by_rdma_both_ways_and_nothing_by_http() {
    let (fabric, server, node) = start().await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let mut total = 0;
    for (number, size) in SIZES.into_iter().enumerate() {
        let key = format!("stream-{size}");
        let content = pattern(number as u64, size);
        let written = in_time(put(&client, &key, &content)).await;
        if size > 0 {
            assert_eq!(written.moved.via, Via::Rdma, "{size}");
        }
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
        assert_eq!(written.crc64nvme, Some(crc), "{size}");
        check_read(&client, &key, &content).await;
        total += size as u64;
        assert_eq!(node.moved_by_rdma(), (total, total), "{size}");
    }
    assert_eq!(node.moved_by_http(), (0, 0));
    client.disconnect().await;
    node.forgets(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_the_callers_is_written_and_read_where_it_lies() {
    let (fabric, server, node) = start().await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    let mut memory = client.memory((64 << 20) + 8192, None).await.unwrap();
    for (number, size) in SIZES.into_iter().enumerate() {
        // Neither end of the bytes lies on a page or a cache line.
        let place = 4097..4097 + size;
        let (key, content) = (format!("memory-{size}"), pattern(90 + number as u64, size));
        memory[place.clone()].copy_from_slice(&content);
        let outcome;
        (memory, outcome) = client
            .put_from_memory(BUCKET, &key, &headers, &always, memory, place.clone())
            .await;
        let written = outcome.unwrap();
        assert_eq!(written.moved.bytes, size as u64);
        memory.fill(0xee);
        let outcome;
        (memory, outcome) = client
            .get_into_memory(BUCKET, &key, None, &always, memory, 4097..4098 + size)
            .await;
        let (head, moved) = outcome.unwrap();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
        assert_eq!(
            (head.size, moved.bytes, moved.via),
            (size as u64, size as u64, Via::Rdma)
        );
        assert_eq!((head.crc64nvme, moved.checksum), (Some(crc), Some(crc)));
        assert_eq!(head.etag, written.etag);
        assert!(memory[place.clone()] == content, "{size}");
        let beside = memory[..place.start].iter().chain(&memory[place.end..]);
        assert!(
            beside.into_iter().all(|byte| *byte == 0xee),
            "{size}: written beside the window"
        );
    }
    let outcome;
    (memory, outcome) = client
        .get_into_memory(BUCKET, "memory-4097", None, &always, memory, 0..4096)
        .await;
    assert!(
        matches!(
            outcome,
            Err(Error::Length {
                expected: 4096,
                got: 4097
            })
        ),
        "{outcome:?}"
    );
    assert!(memory[..4096].iter().all(|byte| *byte == 0xee));
    client.disconnect().await;
    drop(client);
    node.forgets(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_across_parts_windows_and_chunks_are_those_asked_for() {
    let (fabric, _, node) = start().await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let parts = [pattern(1, 5 << 20), pattern(2, (5 << 20) + 1), pattern(3, 123)];
    let whole = parts.concat();
    let upload = client
        .create_upload(BUCKET, "parts", &ObjectHeaders::default())
        .await
        .unwrap();
    let mut named = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        let part = client
            .upload_part(BUCKET, "parts", &upload, number, Bytes::copy_from_slice(part))
            .await
            .unwrap();
        named.push(penstock_rdma::PartId {
            number,
            etag: part.etag,
        });
    }
    client
        .complete_upload(BUCKET, "parts", &upload, &named, &Condition::default())
        .await
        .unwrap();
    assert_eq!(node.moved_by_rdma(), (0, whole.len() as u64));
    assert!(get(&client, "parts", None).await.1 == whole);
    let size = whole.len() as u64;
    let first_part = parts[0].len() as u64;
    for (first, last) in [
        (0, 0),
        (0, size - 1),
        (first_part - 1, first_part),
        (first_part - 1, first_part + (1 << 20)),
        ((4 << 20) - 1, 4 << 20),
        (1, size - 2),
        (size - 1, size - 1),
        (size - 200, size + 1000),
        (first_part, first_part + (5 << 20)),
    ] {
        let range = Range::From {
            first,
            last: Some(last),
        };
        let (via, bytes) = get(&client, "parts", Some(range)).await;
        let end = (last + 1).min(size) as usize;
        assert!(bytes == whole[first as usize..end], "{first}-{last}");
        assert_eq!(via, Via::Rdma);
    }
    let open = Range::From {
        first: size - 7,
        last: None,
    };
    assert!(get(&client, "parts", Some(open)).await.1 == whole[whole.len() - 7..]);
    for length in [1, 200, (5 << 20) + 200, size, size + 1] {
        let (_, bytes) = get(&client, "parts", Some(Range::Suffix { length })).await;
        assert!(bytes == whole[size.saturating_sub(length) as usize..], "{length}");
    }
    let beyond = Range::From {
        first: size,
        last: None,
    };
    let refused = client
        .get(BUCKET, "parts", Some(beyond), &Condition::default())
        .await;
    assert_eq!(
        refused
            .err()
            .and_then(|error| error.code().map(str::to_owned))
            .as_deref(),
        Some("InvalidRange")
    );
    assert_eq!(node.moved_by_http(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_at_once_get_their_own_bytes() {
    let (fabric, server, node) = start().await;
    let work = (0..8).map(|number: u64| {
        let client = node.client(Some(fabric.device(&format!("client-{number}"))), Policy::Require);
        async move {
            for round in 0..3 {
                let key = format!("{number}-{round}");
                let content = pattern(number * 10 + round, (9 << 20) + number as usize);
                put(&client, &key, &content).await;
                check_read(&client, &key, &content).await;
            }
            client.disconnect().await;
        }
    });
    in_time(join_all(work)).await;
    assert_eq!(node.moved_by_http(), (0, 0));
    node.forgets(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_gets_two_versions_in_one_object() {
    let (fabric, _, node) = start().await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    put(&client, "k", &pattern(1, 40 << 20)).await;
    let mut download = client
        .get(BUCKET, "k", None, &Condition::default())
        .await
        .unwrap();
    let first = download.body.next().await.unwrap().unwrap();
    assert!(first == pattern(1, first.len()));
    put(&client, "k", &pattern(2, 40 << 20)).await;
    let mut read = first.len();
    let ended = loop {
        match download.body.next().await {
            Some(Ok(bytes)) => {
                let expected = &pattern(1, 40 << 20)[read..read + bytes.len()];
                assert!(bytes == expected, "bytes of another version");
                read += bytes.len();
            }
            other => break other,
        }
    };
    let code = ended
        .and_then(Result::err)
        .and_then(|error| error.code().map(str::to_owned));
    assert_eq!(code.as_deref(), Some("PreconditionFailed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hold_on_to_what_they_read_stop_nobody() {
    let (fabric, _, node) = start().await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let content = pattern(5, 30 << 20);
    put(&client, "k", &content).await;
    let (mut held, mut stalled) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        let mut download = client
            .get(BUCKET, "k", None, &Condition::default())
            .await
            .unwrap();
        held.push(in_time(download.body.next()).await.unwrap().unwrap());
        // Read ahead now, and never read on.
        stalled.push(download);
    }
    assert!(in_time(get(&client, "k", None)).await.1 == content);
    assert!(held.iter().all(|bytes| content.starts_with(bytes)));
}

/// One bit is another one on the way, and nobody on the way looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "is not what was written")]
async fn the_checks_of_this_suite_can_fail() {
    let faulty = Faulty::start(Limits::default()).await;
    let client = client_of(&faulty.node.endpoint, Some(faulty.device.clone()), |options| {
        options.verify = false;
    });
    put(&client, "k", &pattern(1, 3 << 20)).await;
    faulty.server.inject(1, Effect::Corrupt);
    check_read(&client, "k", &pattern(1, 3 << 20)).await;
}
