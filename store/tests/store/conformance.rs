//! What every engine must do, run over each of them.

use crate::{body, bytes, node::Node, pattern};
use bytes::Bytes;
use futures::{StreamExt, stream};
use penstock_store::{
    engine::{
        ByteRange, Engine, Error, Headers, ListPage, ListQuery, ObjectRef, Opened, PartOptions, PartRef,
        Precondition, PutOptions,
    },
    local::Local,
};
use std::{collections::BTreeMap, io, sync::Arc};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_engine_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(Arc::new(Local::open(folder.path()).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_remote_engine_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &[]);
    conforms(Arc::new(node.remote())).await;
}

async fn conforms(engine: Arc<dyn Engine>) {
    let engine = &*engine;
    buckets(engine).await;
    engine.create_bucket("bucket").await.unwrap();
    objects(engine).await;
    headers(engine).await;
    ranges(engine).await;
    preconditions(engine).await;
    cut_bodies(engine).await;
    checksums(engine).await;
    copies(engine).await;
    listings(engine).await;
    uploads(engine).await;
}

fn object(key: &str) -> ObjectRef {
    ObjectRef::new("bucket", key)
}

async fn put(
    engine: &dyn Engine,
    key: &str,
    content: impl Into<Bytes>,
) -> penstock_store::engine::ObjectInfo {
    let content = content.into();
    let options = PutOptions {
        size: Some(content.len() as u64),
        ..PutOptions::default()
    };
    engine.put(&object(key), options, body([content])).await.unwrap()
}

async fn read(engine: &dyn Engine, key: &str) -> Vec<u8> {
    let opened = engine
        .get(&object(key), None, &Precondition::default())
        .await
        .unwrap();
    bytes(opened).await.unwrap()
}

async fn buckets(engine: &dyn Engine) {
    assert!(matches!(engine.bucket("none").await, Err(Error::NoSuchBucket(name)) if name == "none"));
    for name in ["zz-last", "aa-first"] {
        engine.create_bucket(name).await.unwrap();
    }
    let names: Vec<_> = engine
        .buckets()
        .await
        .unwrap()
        .into_iter()
        .map(|b| b.name)
        .collect();
    assert_eq!(names, ["aa-first", "zz-last"]);
    assert!(matches!(
        engine.create_bucket("aa-first").await,
        Err(Error::BucketExists(_))
    ));
    assert!(matches!(
        engine.create_bucket("Not_Valid").await,
        Err(Error::InvalidBucketName { .. })
    ));
    assert_eq!(engine.bucket("aa-first").await.unwrap().name, "aa-first");
    let inside = ObjectRef::new("aa-first", "k");
    engine
        .put(&inside, PutOptions::default(), body([]))
        .await
        .unwrap();
    assert!(matches!(
        engine.delete_bucket("aa-first").await,
        Err(Error::BucketNotEmpty(_))
    ));
    engine.delete(&inside).await.unwrap();
    for name in ["zz-last", "aa-first"] {
        engine.delete_bucket(name).await.unwrap();
    }
    assert!(matches!(
        engine.delete_bucket("zz-last").await,
        Err(Error::NoSuchBucket(_))
    ));
    assert!(engine.buckets().await.unwrap().is_empty());
}

async fn objects(engine: &dyn Engine) {
    for (key, length) in [
        ("empty", 0),
        ("one", 1),
        ("small", 40_000),
        ("large", 3_000_001),
        ("odd/../key/./with//all & sorts+of%20things/ü\u{1F600}", 10),
    ] {
        let content = pattern(length as u64, length);
        let info = put(engine, key, content.clone()).await;
        assert_eq!(info.size, length as u64, "{key}");
        assert_eq!(read(engine, key).await, content, "{key}");
        let head = engine.head(&object(key)).await.unwrap();
        assert_eq!((head.size, &head.etag), (info.size, &info.etag), "{key}");
        assert_eq!(
            head.crc64nvme,
            Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content))
        );
    }
    // The MD5, or the CRC64NVME and the length.
    let known = [
        "5d41402abc4b2a76b9719d911017c592",
        "33778570065242570000000000000005-1",
    ];
    let etag = put(engine, "known", "hello").await.etag;
    assert!(known.contains(&etag.as_str()), "{etag}");
    put(engine, "known", "other").await;
    assert_eq!(read(engine, "known").await, b"other");
    engine.delete(&object("known")).await.unwrap();
    engine.delete(&object("known")).await.unwrap();
    assert!(matches!(engine.head(&object("known")).await, Err(Error::NoSuchKey(o)) if o.key == "known"));
    let nowhere = ObjectRef::new("nowhere", "k");
    assert!(matches!(engine.head(&nowhere).await, Err(Error::NoSuchBucket(_))));
    assert!(matches!(
        engine.delete(&nowhere).await,
        Err(Error::NoSuchBucket(_))
    ));
    let refused = engine.put(&nowhere, PutOptions::default(), body([])).await;
    assert!(matches!(refused, Err(Error::NoSuchBucket(_))));
    // An empty key must not turn into an operation on the bucket.
    let _refused_or_nothing_to_delete = engine.delete(&object("")).await;
    let refused = engine.put(&object(""), PutOptions::default(), body([])).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(engine.bucket("bucket").await.is_ok());
    let long = object(&"k".repeat(1025));
    let refused = engine.put(&long, PutOptions::default(), body([])).await;
    assert!(matches!(refused, Err(Error::InvalidKey { .. })), "{refused:?}");
}

async fn headers(engine: &dyn Engine) {
    let headers = Headers {
        content_type: Some("text/plain".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        content_disposition: Some("attachment; filename=\"a b\"".to_owned()),
        content_language: Some("de".to_owned()),
        cache_control: Some("no-cache".to_owned()),
        metadata: BTreeMap::from([
            ("color".to_owned(), "blue".to_owned()),
            ("a-b".to_owned(), "1".to_owned()),
        ]),
    };
    let options = PutOptions {
        headers: headers.clone(),
        ..PutOptions::default()
    };
    engine
        .put(&object("headers"), options, body(["x".into()]))
        .await
        .unwrap();
    assert_eq!(engine.head(&object("headers")).await.unwrap().headers, headers);
    let copied = engine
        .copy(&object("headers"), &object("same"), None.into())
        .await
        .unwrap();
    assert_eq!(copied.info.headers, headers);
    let other = Headers {
        content_type: Some("image/png".to_owned()),
        ..Headers::default()
    };
    engine
        .copy(&object("headers"), &object("headers"), Some(other.clone()).into())
        .await
        .unwrap();
    assert_eq!(engine.head(&object("headers")).await.unwrap().headers, other);
    assert_eq!(read(engine, "headers").await, b"x");
}

async fn ranges(engine: &dyn Engine) {
    let content = pattern(7, 2_000_000);
    put(engine, "ranges", content.clone()).await;
    let get = |range| {
        let key = object("ranges");
        async move { engine.get(&key, Some(range), &Precondition::default()).await }
    };
    for (range, expected) in [
        (
            ByteRange::From {
                first: 0,
                last: Some(0),
            },
            0..1,
        ),
        (
            ByteRange::From {
                first: 1_999_999,
                last: None,
            },
            1_999_999..2_000_000,
        ),
        (
            ByteRange::From {
                first: 5,
                last: Some(1_500_000),
            },
            5..1_500_001,
        ),
        (
            ByteRange::From {
                first: 10,
                last: Some(u64::MAX),
            },
            10..2_000_000,
        ),
        (ByteRange::Suffix { length: 3 }, 1_999_997..2_000_000),
        (ByteRange::Suffix { length: 9_000_000 }, 0..2_000_000),
    ] {
        let opened = get(range).await.unwrap();
        assert_eq!(
            opened.range,
            expected.start as u64..expected.end as u64,
            "{range:?}"
        );
        assert_eq!(opened.info.size, 2_000_000);
        assert_eq!(bytes(opened).await.unwrap(), content[expected], "{range:?}");
    }
    let beyond = get(ByteRange::From {
        first: 2_000_000,
        last: None,
    })
    .await;
    assert!(matches!(beyond, Err(Error::InvalidRange { .. })));
}

async fn preconditions(engine: &dyn Engine) {
    let only_new = Precondition {
        if_none_match: Some("*".to_owned()),
        ..Precondition::default()
    };
    let matching = |tag: &str| Precondition {
        if_match: Some(tag.to_owned()),
        ..Precondition::default()
    };
    let write = |precondition: Precondition| async move {
        let options = PutOptions {
            precondition,
            ..PutOptions::default()
        };
        engine.put(&object("cond"), options, body(["1".into()])).await
    };
    let absent = write(matching("\u{61}bc")).await;
    assert!(
        matches!(absent, Err(Error::NoSuchKey(_) | Error::PreconditionFailed(_))),
        "{absent:?}"
    );
    let first = write(only_new.clone()).await.unwrap();
    assert!(matches!(
        write(only_new.clone()).await,
        Err(Error::PreconditionFailed(_))
    ));
    assert!(matches!(
        write(matching("0000")).await,
        Err(Error::PreconditionFailed(_))
    ));
    write(matching(&first.etag)).await.unwrap();
    write(matching("*")).await.unwrap();

    let get = |precondition: Precondition| async move {
        engine
            .get(&object("cond"), None, &precondition)
            .await
            .map(|opened| opened.info.etag)
    };
    assert_eq!(get(matching(&first.etag)).await.unwrap(), first.etag);
    assert!(matches!(
        get(matching("0000")).await,
        Err(Error::PreconditionFailed(_))
    ));
    let not_this = Precondition {
        if_none_match: Some(first.etag.clone()),
        ..Precondition::default()
    };
    assert!(matches!(get(not_this).await, Err(Error::NotModified(_))));

    // Of many that create the same object at once, exactly one does.
    let attempts = stream::iter(0..16).map(|_| async {
        let options = PutOptions {
            precondition: only_new.clone(),
            ..PutOptions::default()
        };
        engine
            .put(&object("race"), options, body(["r".into()]))
            .await
            .is_ok()
    });
    let won: Vec<bool> = attempts.buffer_unordered(16).collect().await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
}

async fn cut_bodies(engine: &dyn Engine) {
    put(engine, "kept", "before").await;
    let cut = stream::iter([Ok(pattern(1, 700_000)), Err(io::Error::other("the sender died"))]).boxed();
    let failed = engine.put(&object("kept"), PutOptions::default(), cut).await;
    assert!(matches!(failed, Err(Error::Body(_))), "{failed:?}");
    for announced in [3, 7] {
        let options = PutOptions {
            size: Some(announced),
            ..PutOptions::default()
        };
        let failed = engine.put(&object("kept"), options, body(["12345".into()])).await;
        assert!(matches!(failed, Err(Error::IncompleteBody { .. })), "{failed:?}");
    }
    assert_eq!(read(engine, "kept").await, b"before");
}

/// What is read, and what the reader says is its checksum.
async fn summed(mut opened: Opened) -> (Vec<u8>, u64) {
    let reading = tokio::task::spawn_blocking(move || {
        let mut got = Vec::new();
        io::Read::read_to_end(&mut opened.reader, &mut got).unwrap();
        (got, opened.reader.crc64nvme())
    });
    reading.await.unwrap()
}

async fn checksums(engine: &dyn Engine) {
    let crc = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    let content = pattern(9, 3_000_000);
    let target = object("checked");
    let upload = engine
        .create_upload(&target, Headers::default().into())
        .await
        .unwrap();
    for crc64nvme in [crc(&content), crc(&content) ^ 1] {
        let options = PutOptions {
            crc64nvme: Some(crc64nvme),
            ..PutOptions::default()
        };
        let pieces = || body(content.chunks(700_000).map(|chunk| content.slice_ref(chunk)));
        let written = engine.put(&target, options, pieces()).await;
        let options = PartOptions {
            crc64nvme: Some(crc64nvme),
            ..PartOptions::default()
        };
        let sent = engine.upload_part(&target, &upload, 1, options, pieces()).await;
        if crc64nvme == crc(&content) {
            assert_eq!(written.unwrap().crc64nvme, Some(crc64nvme));
            sent.unwrap();
        } else {
            assert!(matches!(written, Err(Error::BadDigest(_))), "{written:?}");
            assert!(matches!(sent, Err(Error::BadDigest(_))), "{sent:?}");
        }
    }
    assert_eq!(engine.parts(&target, &upload).await.unwrap().len(), 1);
    engine.abort_upload(&target, &upload).await.unwrap();
    let range = ByteRange::From {
        first: 5,
        last: Some(2_000_000),
    };
    for (range, expected) in [(None, &content[..]), (Some(range), &content[5..=2_000_000])] {
        let opened = engine
            .open(&target, range, &Precondition::default())
            .await
            .unwrap();
        let (got, sum) = summed(opened).await;
        assert!(got == expected && sum == crc(expected));
    }
}

async fn copies(engine: &dyn Engine) {
    let content = pattern(3, 600_000);
    let source = put(engine, "source", content.clone()).await;
    let copy = engine
        .copy(&object("source"), &object("target"), None.into())
        .await
        .unwrap();
    assert_eq!((copy.info.size, copy.info.etag), (source.size, source.etag));
    engine.delete(&object("source")).await.unwrap();
    assert_eq!(read(engine, "target").await, content);
    put(engine, "target", "new").await;
    assert_eq!(read(engine, "target").await, b"new");
    let none = engine.copy(&object("none"), &object("target"), None.into()).await;
    assert!(matches!(none, Err(Error::NoSuchKey(o)) if o.key == "none"));
}

async fn listings(engine: &dyn Engine) {
    engine.create_bucket("list").await.unwrap();
    let keys = [
        "a",
        "a b",
        "a+b",
        "dir/",
        "dir/one",
        "dir/sub/x",
        "dir/sub/y",
        "dir/two",
        "dir0",
        "e\u{1}f",
        "z/",
        "ü/ö",
    ];
    for key in keys {
        let target = ObjectRef::new("list", key);
        engine
            .put(&target, PutOptions::default(), body([Bytes::from(key)]))
            .await
            .unwrap();
    }
    let all = walk(
        engine,
        ListQuery {
            limit: 1000,
            ..ListQuery::default()
        },
    )
    .await;
    assert_eq!(all.0, keys);
    for limit in [1, 2, 5] {
        let paged = walk(
            engine,
            ListQuery {
                limit,
                ..ListQuery::default()
            },
        )
        .await;
        assert_eq!(paged.0, keys, "by {limit}");
        let rolled = walk(
            engine,
            ListQuery {
                limit,
                delimiter: Some("/".to_owned()),
                ..ListQuery::default()
            },
        )
        .await;
        assert_eq!(rolled.0, ["a", "a b", "a+b", "dir0", "e\u{1}f"], "by {limit}");
        assert_eq!(rolled.1, ["dir/", "z/", "ü/"], "by {limit}");
        let inside = ListQuery {
            limit,
            prefix: "dir/".to_owned(),
            delimiter: Some("/".to_owned()),
            start_after: None,
        };
        let inside = walk(engine, inside).await;
        assert_eq!(
            (inside.0, inside.1),
            (
                vec!["dir/".into(), "dir/one".into(), "dir/two".into()],
                vec!["dir/sub/".into()]
            )
        );
    }
    let after = ListQuery {
        limit: 1000,
        start_after: Some("dir/sub/x".to_owned()),
        ..ListQuery::default()
    };
    assert_eq!(
        engine.list("list", &after).await.unwrap().objects[0].0,
        "dir/sub/y"
    );
    let page = engine
        .list(
            "list",
            &ListQuery {
                limit: 1,
                ..ListQuery::default()
            },
        )
        .await
        .unwrap();
    let head = engine.head(&ObjectRef::new("list", "a")).await.unwrap();
    assert_eq!(
        (page.objects[0].1.size, &page.objects[0].1.etag),
        (head.size, &head.etag)
    );
    assert!(matches!(
        engine.list("nowhere", &after).await,
        Err(Error::NoSuchBucket(_))
    ));
}

/// All keys and all common prefixes of a query, page by page.
async fn walk(engine: &dyn Engine, mut query: ListQuery) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    loop {
        let page: ListPage = engine.list("list", &query).await.unwrap();
        assert!(page.objects.len() + page.common_prefixes.len() <= query.limit);
        keys.extend(page.objects.into_iter().map(|(key, _)| key));
        prefixes.extend(page.common_prefixes);
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => return (keys, prefixes),
        }
    }
}

async fn uploads(engine: &dyn Engine) {
    let target = object("multi");
    let headers = Headers {
        content_type: Some("video/mp4".to_owned()),
        ..Headers::default()
    };
    let id = engine
        .create_upload(&target, headers.clone().into())
        .await
        .unwrap();
    let contents = [pattern(1, 5 << 20), pattern(2, (5 << 20) + 1), pattern(3, 10)];
    let mut parts = Vec::new();
    for (number, content) in [
        (3, &contents[2]),
        (1, &contents[0]),
        (7, &contents[2]),
        (2, &contents[1]),
    ] {
        let size = Some(content.len() as u64);
        let part = engine
            .upload_part(
                &target,
                &id,
                number,
                PartOptions {
                    size,
                    ..PartOptions::default()
                },
                body([content.clone()]),
            )
            .await
            .unwrap();
        assert_eq!((part.number, part.size), (number, content.len() as u64));
        parts.push(PartRef {
            number,
            etag: part.etag,
            checksums: Default::default(),
        });
    }
    assert!(matches!(engine.head(&target).await, Err(Error::NoSuchKey(_))));
    let listed: Vec<u16> = engine
        .parts(&target, &id)
        .await
        .unwrap()
        .iter()
        .map(|part| part.number)
        .collect();
    assert_eq!(listed, [1, 2, 3, 7]);
    let unfinished = engine.uploads("bucket").await.unwrap();
    assert_eq!((unfinished[0].key.as_str(), &unfinished[0].id), ("multi", &id));

    let finish = |chosen: Vec<PartRef>| {
        let (target, id) = (target.clone(), id.clone());
        async move {
            engine
                .complete_upload(&target, &id, &chosen, &Default::default())
                .await
        }
    };
    assert!(matches!(
        finish(parts.clone()).await,
        Err(Error::InvalidPartOrder)
    ));
    parts.sort_by_key(|part| part.number);
    let mut wrong = parts[..3].to_vec();
    wrong[1].etag = "0".repeat(32);
    assert!(matches!(finish(wrong).await, Err(Error::InvalidPart(2))));
    let small_first = vec![parts[2].clone(), parts[3].clone()];
    assert!(matches!(finish(small_first).await, Err(Error::PartTooSmall(3))));
    let done = finish(parts[..3].to_vec()).await.unwrap();
    let whole = contents.concat();
    assert_eq!(done.size, whole.len() as u64);
    assert!(done.etag.ends_with("-3"), "{}", done.etag);
    let head = engine.head(&target).await.unwrap();
    assert_eq!(head.headers, headers);
    assert_eq!(
        head.crc64nvme,
        Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &whole))
    );
    assert!(read(engine, "multi").await == whole);
    let across = ByteRange::From {
        first: (5 << 20) - 3,
        last: Some((5 << 20) + 2),
    };
    let opened = engine
        .get(&target, Some(across), &Precondition::default())
        .await
        .unwrap();
    assert_eq!(bytes(opened).await.unwrap(), whole[(5 << 20) - 3..(5 << 20) + 3]);
    for (range, expected) in [
        (None, &whole[..]),
        (Some(across), &whole[(5 << 20) - 3..(5 << 20) + 3]),
    ] {
        let opened = engine
            .open(&target, range, &Precondition::default())
            .await
            .unwrap();
        let (got, sum) = summed(opened).await;
        assert!(got == expected && sum == crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, expected));
    }
    // Who lost the answer asks again, and has it; other parts were never made an object.
    let again = finish(parts[..3].to_vec()).await.unwrap();
    assert_eq!((again.etag, again.modified), (done.etag, done.modified));
    assert!(matches!(finish(parts).await, Err(Error::NoSuchUpload(_))));

    let dropped = engine
        .create_upload(&target, Headers::default().into())
        .await
        .unwrap();
    engine.abort_upload(&target, &dropped).await.unwrap();
    assert!(matches!(
        engine.abort_upload(&target, &dropped).await,
        Err(Error::NoSuchUpload(_))
    ));
    assert!(engine.uploads("bucket").await.unwrap().is_empty());
    let late = engine
        .upload_part(&target, &dropped, 1, PartOptions::default(), body(["x".into()]))
        .await;
    assert!(matches!(late, Err(Error::NoSuchUpload(_))));
}
