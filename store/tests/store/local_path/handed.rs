//! Files that are handed over are stored as they are, or not at all.

use super::{Host, always, memfd, plain};
use crate::{bytes, gateway::raw::Request, pattern};
use penstock_rdma::{Condition, Error, Via};
use penstock_store::engine::{Engine, ObjectRef, Precondition};
use rustix::fs::SealFlags;
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_handed_over_is_stored_as_it_is_or_not_at_all() {
    let host = Host::start().await;
    let client = host.local();
    let content = pattern(5, 2_000_000);
    let path = host.folder.path().join("file");
    std::fs::write(&path, &content).unwrap();
    let put = |key: &'static str, file: File, range| {
        let client = client.clone();
        async move {
            client
                .put_file("bucket", key, file, range, &plain(), &always())
                .await
        }
    };
    let code = |outcome: Result<_, Error>| {
        let refused: Error = Result::<penstock_rdma::Written, Error>::err(outcome).unwrap();
        refused.code().unwrap_or_else(|| panic!("{refused}")).to_owned()
    };
    for range in [0..2_000_000, 4095..4097, 7..7, 1_999_999..2_000_000] {
        let written = put("file", File::open(&path).unwrap(), range.clone())
            .await
            .unwrap();
        assert_eq!(written.moved.via, Via::Shm);
        let stored = host
            .engine
            .get(&ObjectRef::new("bucket", "file"), None, &Precondition::default())
            .await;
        assert!(bytes(stored.unwrap()).await.unwrap() == content[range.start as usize..range.end as usize]);
    }
    assert_eq!(
        code(put("late", File::open(&path).unwrap(), 0..2_000_001).await),
        "IncompleteBody"
    );
    let unreadable = File::options().write(true).open(&path).unwrap();
    assert_eq!(code(put("late", unreadable, 0..10).await), "InvalidArgument");
    let folder = File::open(host.folder.path()).unwrap();
    assert_eq!(code(put("late", folder, 0..10).await), "InvalidArgument");
    let proc = File::open("/proc/self/maps").unwrap();
    // The storage node reads no file of such a file system; the client reads it and hands its bytes over.
    put("elsewhere", proc, 0..0).await.unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(reader));
    assert_eq!(code(put("late", pipe, 0..0).await), "InvalidArgument");
    assert!(host.engine.head(&ObjectRef::new("bucket", "late")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_stored_harms_nobody_but_its_sender() {
    let host = Host::start().await;
    let client = host.local();
    let object = ObjectRef::new("bucket", "changing");
    for round in 0..20 {
        let file = memfd(&vec![round; 16 << 20]);
        let changing = file.try_clone().unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let changer = std::thread::spawn(move || {
            let mut at = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                at = (at + 4096) % (16 << 20);
                if round % 2 == 0 {
                    changing.write_all_at(&[0xff; 4096], at).unwrap();
                } else {
                    changing.set_len(at).unwrap();
                    changing.set_len(16 << 20).unwrap();
                }
            }
        });
        let put = client
            .put_file("bucket", "changing", file, 0..16 << 20, &plain(), &always())
            .await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changer.join().unwrap();
        match put {
            Ok(written) => {
                // What is stored is one thing from now on, and its checksum is its own.
                let stored = host
                    .engine
                    .get(&object, None, &Precondition::default())
                    .await
                    .unwrap();
                let stored = bytes(stored).await.unwrap();
                assert_eq!(stored.len(), 16 << 20);
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &stored);
                assert_eq!(written.crc64nvme, Some(crc));
            }
            Err(error) => assert_eq!(error.code(), Some("IncompleteBody"), "{error}"),
        }
    }
    host.settles("connections", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_holds_for_what_is_handed_over_too() {
    let host = Host::start().await;
    let file = memfd(b"bytes");
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let client = host.local();
    let headers = plain();
    let first = client
        .put_file(
            "bucket",
            "k",
            file.try_clone().unwrap(),
            0..5,
            &headers,
            &always(),
        )
        .await
        .unwrap();
    assert_eq!(first.moved.bytes, 5);
    let only_new = Condition {
        if_none_match: Some("*".into()),
        if_match: None,
    };
    let second = client
        .put_file("bucket", "k", file, 0..5, &headers, &only_new)
        .await
        .unwrap_err();
    assert_eq!(second.code(), Some("PreconditionFailed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_in_a_file_or_in_a_body_and_not_in_both() {
    let host = Host::start().await;
    let both = Request::new("PUT", "/bucket/k")
        .header("x-penstock-handed", "0,5")
        .body(b"other");
    let answer = both.send(&host.endpoint).await;
    assert!(
        answer.status == 400 && answer.text().contains("send either"),
        "{}",
        answer.text()
    );
    assert!(host.engine.head(&ObjectRef::new("bucket", "k")).await.is_err());
}
