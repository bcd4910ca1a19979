//! Large reads into memory of the caller's, which are several requests at a time: what comes of them is what one would have got.

mod faults;

use crate::{
    matrix::put,
    setup::{BUCKET, Fabric, Node, in_time, pattern},
};
use penstock_rdma::{Client, Condition, Error, Moved, ObjectHead, Policy, Range, Via, fabric::Memory};
use penstock_store::rdma::Limits;
use std::sync::Arc;

const MIB: usize = 1 << 20;
/// Where the bytes are in the memory: not at a page or a cache line.
const START: usize = 4097;

type Read = Result<(ObjectHead, Moved), Error>;

async fn read(
    client: &Client,
    key: &str,
    range: Option<Range>,
    condition: &Condition,
    memory: Memory,
    length: usize,
) -> (Memory, Read) {
    in_time(client.get_into_memory(BUCKET, key, range, condition, memory, START..START + length)).await
}

async fn memory_of(client: &Client, length: usize) -> Memory {
    client.memory(START + length + 100, None).await.unwrap()
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

fn from(first: usize, last: Option<usize>) -> Range {
    Range::From {
        first: first as u64,
        last: last.map(|last| last as u64),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_and_ranges_around_the_ends_of_slices_are_those_asked_for() {
    let fabric = Fabric::of_this_run();
    let server = fabric.device("server");
    let node = Node::start(Some(Arc::clone(&server)), Limits::default()).await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let room = 24 * MIB;
    let mut memory = memory_of(&client, room).await;
    for (number, size) in [
        0,
        1,
        MIB - 1,
        MIB,
        MIB + 1,
        8 * MIB,
        8 * MIB + 1,
        10 * MIB,
        22 * MIB + 12_345,
    ]
    .into_iter()
    .enumerate()
    {
        let (key, content) = (format!("k-{size}"), pattern(number as u64, size));
        let etag = put(&client, &key, &content).await.etag;
        let mut ranges = vec![(None, 0..size)];
        if size > 8 * MIB {
            ranges.extend([
                (Some(from(0, None)), 0..size),
                (Some(from(0, Some(size - 1))), 0..size),
                (Some(from(0, Some(2 * size))), 0..size),
                (Some(from(5, Some(size - 2))), 5..size - 1),
                (Some(from(size - 7, None)), size - 7..size),
                // As many as are one request, and one more.
                (Some(from(1, Some(8 * MIB))), 1..(8 * MIB + 1).min(size)),
                (Some(from(0, Some(8 * MIB))), 0..(8 * MIB + 1).min(size)),
                (
                    Some(Range::Suffix {
                        length: size as u64 - 3,
                    }),
                    3..size,
                ),
            ]);
        }
        for (range, expected) in ranges {
            memory.fill(0xee);
            let outcome;
            (memory, outcome) = read(&client, &key, range, &Condition::default(), memory, room).await;
            let (head, moved) = outcome.unwrap();
            let content = &content[expected.clone()];
            let end = START + content.len();
            assert!(memory[START..end] == *content, "{size} {range:?}");
            let mut beside = memory[..START].iter().chain(memory[end..].iter().take(4096));
            assert!(
                beside.all(|byte| *byte == 0xee),
                "{size} {range:?}: written beside"
            );
            assert_eq!((head.size, moved.bytes), (size as u64, content.len() as u64));
            assert_eq!((&head.etag, moved.via), (&etag, Via::Rdma));
            assert_eq!(moved.checksum, Some(crc(content)), "{size} {range:?}");
        }
    }
    assert_eq!(node.moved_by_http(), (0, 0));
    client.disconnect().await;
    drop((memory, client));
    node.forgets(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_request_is_refused_several_are() {
    let fabric = Fabric::of_this_run();
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let client = node.client(Some(fabric.device("client")), Policy::Require);
    let size = 12 * MIB + 1;
    let etag = put(&client, "k", &pattern(1, size)).await.etag;
    let mut memory = memory_of(&client, size).await;
    // Memory that is too small, and how many bytes there are.
    for (range, needed) in [
        (None, size),
        (Some(from(7, None)), size - 7),
        (Some(from(0, Some(10 * MIB))), 10 * MIB + 1),
    ] {
        let outcome;
        (memory, outcome) = read(&client, "k", range, &Condition::default(), memory, needed - 1).await;
        let Err(Error::Length { expected, got }) = outcome else {
            panic!("{range:?}: {outcome:?}");
        };
        assert_eq!((expected, got), (needed as u64 - 1, needed as u64), "{range:?}");
        (memory, _) = read(&client, "k", range, &Condition::default(), memory, needed).await;
        let first = usize::from(range == Some(from(7, None))) * 7;
        assert!(memory[START..START + needed] == pattern(1, size)[first..first + needed]);
    }
    let (theirs, other) = (Some(etag), Some("other".to_owned()));
    let if_match = |tag: &Option<String>| Condition {
        if_match: tag.clone(),
        if_none_match: None,
    };
    let if_none_match = |tag: &Option<String>| Condition {
        if_match: None,
        if_none_match: tag.clone(),
    };
    for (key, range, condition, code) in [
        ("k", None, if_match(&theirs), None),
        ("k", None, if_none_match(&other), None),
        ("k", None, if_match(&other), Some("PreconditionFailed")),
        ("k", None, if_none_match(&theirs), Some("NotModified")),
        ("nothing", None, Condition::default(), Some("NoSuchKey")),
        (
            "k",
            Some(from(size, None)),
            Condition::default(),
            Some("InvalidRange"),
        ),
    ] {
        let outcome;
        (memory, outcome) = read(&client, key, range, &condition, memory, size).await;
        assert_eq!(
            outcome.as_ref().err().and_then(Error::code),
            code,
            "{key} {condition:?}"
        );
    }
    assert_eq!(node.moved_by_http(), (0, 0));
}
