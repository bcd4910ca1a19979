//! The bytes are right, whichever way they come.

use super::{Host, always, from, plain};
use crate::{body, pattern};
use futures::{StreamExt, TryStreamExt};
use penstock_rdma::{Options, PartId, Policy, Range, Via, local::CANNOT_LEND};

const SIZES: [usize; 12] = [
    0,
    1,
    4095,
    4096,
    4097,
    65_535,
    65_536,
    65_537,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (3 << 20) + 7,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_right_both_ways_and_never_travel_as_a_body() {
    let host = Host::start().await;
    let client = host.local();
    for (seed, size) in SIZES.into_iter().enumerate() {
        let (key, content) = (format!("of {size}"), pattern(seed as u64, size));
        let pieces = body(content.chunks(100_000).map(|chunk| content.slice_ref(chunk)));
        let written = client
            .put("bucket", &key, Some(size as u64), &plain(), &always(), pieces)
            .await
            .unwrap();
        assert_eq!(
            (written.moved.via, written.moved.bytes),
            // Nothing has no way to go.
            (if size == 0 { Via::Http } else { Via::Shm }, size as u64),
            "{size}"
        );
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
        assert_eq!(written.crc64nvme, Some(crc));

        let download = client.get("bucket", &key, None, &always()).await.unwrap();
        assert_eq!(
            (download.via, download.head.size, download.range.clone()),
            (Via::Shm, size as u64, 0..size as u64)
        );
        assert_eq!(download.head.etag, written.etag);
        let lent = download.lent.clone().unwrap();
        assert_eq!((lent.len(), lent.as_file().is_some()), (size as u64, size > 0));
        let streamed: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
        assert!(streamed.concat() == content, "{size} by stream");
        let mut buffer = vec![0; size + 10];
        assert_eq!(lent.read_at(&mut buffer, 0).unwrap(), size);
        assert!(buffer[..size] == content, "{size} by read_at");
        let (head, moved) = client
            .get_into("bucket", &key, None, &always(), &mut buffer)
            .await
            .unwrap();
        assert_eq!(
            (head.size, moved.bytes, moved.via),
            (size as u64, size as u64, Via::Shm)
        );
        assert!(buffer[..size] == content, "{size} into memory");
    }
    let stored: u64 = SIZES.iter().map(|size| *size as u64).sum();
    assert_eq!(host.metric(r#"received_bytes_total{via="shm"}"#), stored);
    assert_eq!(host.metric(r#"sent_bytes_total{via="shm"}"#), 2 * stored);
    assert_eq!(host.metric(r#"received_bytes_total{via="http"}"#), 0);
    assert_eq!(host.metric(r#"sent_bytes_total{via="http"}"#), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_cross_the_files_of_a_multipart_object() {
    let host = Host::start().await;
    let client = host.client(Options {
        part_size: 5 << 20,
        ..host.options()
    });
    let content = pattern(3, (17 << 20) + 3);
    let whole = body([content.clone()]);
    let written = client
        .put("bucket", "parts", None, &plain(), &always(), whole)
        .await
        .unwrap();
    assert!(written.etag.ends_with("-4"), "{}", written.etag);
    assert_eq!(written.moved.via, Via::Shm);
    let download = client.get("bucket", "parts", None, &always()).await.unwrap();
    let lent = download.lent.clone().unwrap();
    assert_eq!(
        (lent.files().len(), lent.extents().len(), lent.as_file().is_none()),
        (4, 4, true)
    );
    let pieces: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
    assert!(pieces.concat() == content);
    let mut buffer = vec![0; content.len()];
    let part = 5 << 20;
    for (first, last) in [
        (0, 0),
        (part - 1, part),
        (part, part),
        (part - 1, 3 * part),
        (1, content.len() - 2),
        (content.len() - 1, content.len() + 100),
    ] {
        let wanted = from(first as u64, last as u64);
        let (head, moved) = client
            .get_into("bucket", "parts", wanted, &always(), &mut buffer)
            .await
            .unwrap();
        let expected = &content[first..=last.min(content.len() - 1)];
        assert_eq!(
            (head.size, moved.bytes, moved.via),
            (content.len() as u64, expected.len() as u64, Via::Shm)
        );
        assert!(buffer[..expected.len()] == *expected, "{first}-{last}");
        let lent = client
            .get("bucket", "parts", wanted, &always())
            .await
            .unwrap()
            .lent
            .unwrap();
        let mut at = vec![0; expected.len()];
        assert_eq!(lent.read_at(&mut at, 0).unwrap(), expected.len());
        assert!(at == expected && lent.read_at(&mut at, expected.len() as u64).unwrap() == 0);
    }
    let outside = client
        .get("bucket", "parts", from(content.len() as u64, u64::MAX), &always())
        .await;
    assert_eq!(
        outside
            .err()
            .and_then(|error| error.code().map(str::to_owned))
            .as_deref(),
        Some("InvalidRange")
    );
    let missing = client.get("bucket", "none", None, &always()).await;
    assert_eq!(
        missing
            .err()
            .and_then(|error| error.code().map(str::to_owned))
            .as_deref(),
        Some("NoSuchKey")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_more_files_than_a_message_carries_comes_as_a_body() {
    let host = Host::start().await;
    let prefer = host.client(Options {
        policy: Policy::Prefer,
        ..host.options()
    });
    let upload = prefer.create_upload("bucket", "many", &plain()).await.unwrap();
    let part = pattern(1, 5 << 20);
    let sent = prefer
        .upload_part("bucket", "many", &upload, 1, part.clone())
        .await
        .unwrap();
    let mut parts = vec![PartId {
        number: 1,
        etag: sent.etag,
    }];
    // Copies share the file, so many extents need one descriptor.
    let copied = prefer
        .complete_upload("bucket", "many", &upload, &parts, &always())
        .await
        .unwrap();
    assert!(copied.etag.ends_with("-1"));
    let upload = prefer.create_upload("bucket", "many", &plain()).await.unwrap();
    parts.clear();
    for number in 1..=254 {
        let small = if number < 254 {
            part.clone()
        } else {
            pattern(254, 9)
        };
        let sent = prefer
            .upload_part("bucket", "many", &upload, number, small)
            .await
            .unwrap();
        parts.push(PartId {
            number,
            etag: sent.etag,
        });
    }
    prefer
        .complete_upload("bucket", "many", &upload, &parts, &always())
        .await
        .unwrap();
    let mut tail = vec![0; 20];
    let last = Some(Range::Suffix { length: 20 });
    let (_, moved) = prefer
        .get_into("bucket", "many", last, &always(), &mut tail)
        .await
        .unwrap();
    assert_eq!(
        (moved.via, &tail[11..]),
        (Via::Shm, &pattern(254, 9)[..]),
        "a range of few files can be lent"
    );
    let mut whole = prefer.get("bucket", "many", None, &always()).await.unwrap();
    assert_eq!(
        (whole.via, whole.lent.is_none()),
        (Via::Http, true),
        "told truthfully"
    );
    assert!(whole.body.next().await.unwrap().unwrap()[..100] == part[..100]);
    drop(whole);
    assert_eq!(host.metric(r#"lent_refused_total{reason="extents"}"#), 1);
    let required = host.local().get("bucket", "many", None, &always()).await;
    assert_eq!(
        required
            .err()
            .and_then(|error| error.code().map(str::to_owned))
            .as_deref(),
        Some(CANNOT_LEND)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_their_own_descriptors() {
    let host = Host::start().await;
    for seed in 0..40 {
        host.put(&format!("k{seed}"), &pattern(seed, 1000 + seed as usize))
            .await;
    }
    let client = host.local();
    let rounds = futures::stream::iter(0..2000_u64).map(|round| {
        let client = client.clone();
        async move {
            let seed = round * 7 % 40;
            let expected = pattern(seed, 1000 + seed as usize);
            let mut buffer = vec![0; 2000];
            let (_, moved) = client
                .get_into("bucket", &format!("k{seed}"), None, &always(), &mut buffer)
                .await
                .unwrap();
            assert!(moved.via == Via::Shm && buffer[..expected.len()] == expected);
            if round % 5 == 0 {
                let key = format!("new{round}");
                let put = client
                    .put(
                        "bucket",
                        &key,
                        None,
                        &plain(),
                        &always(),
                        body([pattern(round, 70_000)]),
                    )
                    .await;
                assert_eq!(put.unwrap().moved.via, Via::Shm);
                client
                    .get_into("bucket", &key, None, &always(), &mut vec![0; 70_000])
                    .await
                    .unwrap();
            }
        }
    });
    rounds.buffer_unordered(32).collect::<Vec<()>>().await;
    drop(client);
    host.settles("lent_leases", 0).await;
    assert_eq!((host.engine.held(), host.metric("lent_files")), (0, 0));
}
