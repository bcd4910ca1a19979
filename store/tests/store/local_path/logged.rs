//! Requests over the socket are in a bucket's access log, with the bytes that travelled as files.

use super::{Host, always, plain};
use crate::{body, pattern};
use futures::TryStreamExt;
use penstock_rdma::Range;
use penstock_store::engine::{Engine, ListQuery, ObjectRef, Precondition};

const LOGGING: &[u8] = b"<BucketLoggingStatus><LoggingEnabled><TargetBucket>log</TargetBucket>\
    <TargetPrefix>x</TargetPrefix></LoggingEnabled></BucketLoggingStatus>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lent_bytes_are_logged_signed_for_or_not() {
    const SIZE: usize = 300_000;
    let host = Host::start().await;
    host.engine.create_bucket("log").await.unwrap();
    let document = Some(LOGGING.to_vec());
    host.engine
        .set_document("bucket", "logging", document)
        .await
        .unwrap();
    host.log.look("bucket").await.unwrap();
    let client = host.local();
    let content = pattern(1, SIZE);
    let pieces = body([content.clone()].into_iter());
    let size = Some(SIZE as u64);
    client
        .put("bucket", "k", size, &plain(), &always(), pieces)
        .await
        .unwrap();
    let range = Range::From {
        first: 10,
        last: Some(19),
    };
    // The first is signed; others are of a connection that was signed for, unless that was busy still.
    for range in [None, None, Some(range)].into_iter().chain([None; 20]) {
        let download = client.get("bucket", "k", range, &always()).await.unwrap();
        let read: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
        assert!(!read.concat().is_empty());
    }
    host.log.deliver().await;
    let query = ListQuery {
        limit: 9,
        ..ListQuery::default()
    };
    let page = host.engine.list("log", &query).await.unwrap();
    let [(key, _)] = page.objects.as_slice() else {
        panic!("one object has all lines: {page:?}");
    };
    let log = ObjectRef::new("log", key.as_str());
    let log = host
        .engine
        .get(&log, None, &Precondition::default())
        .await
        .unwrap();
    let log: Vec<bytes::Bytes> = log.body.try_collect().await.unwrap();
    let log = String::from_utf8(log.concat()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 24, "{log}");
    let written = "\" 200 - - 300000 ";
    assert!(
        lines[0].contains(" REST.PUT.OBJECT k ") && lines[0].contains(written),
        "{log}"
    );
    for (line, sent) in [
        (lines[1], "\" 200 - 300000 300000 "),
        (lines[2], "\" 200 - 300000 300000 "),
        (lines[3], "\" 206 - 10 300000 "),
    ] {
        assert!(
            line.contains("] - penstock ") && line.contains(" REST.GET.OBJECT k "),
            "{log}"
        );
        assert!(line.contains(sent), "{line}");
    }
    let whole = |line: &&str| line.contains("\" 200 - 300000 300000 ");
    assert!(lines[4..].iter().all(whole), "{log}");
    let is_signed = |line: &str| line.contains(" AuthHeader ");
    assert!(
        is_signed(lines[1]) && !lines[4..].iter().all(|line| is_signed(line)),
        "{log}"
    );
}
