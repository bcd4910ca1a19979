//! Whose bytes are encrypted where they are stored comes in a body: who borrowed the file could not read it.

use super::{Host, always, from, plain};
use crate::{encryption::ENCRYPTING, node::files, pattern};
use futures::TryStreamExt;
use penstock_rdma::{Options, Policy, Via};
use penstock_store::engine::Engine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_encrypted_is_not_lent_and_its_bytes_are_right() {
    let host = Host::start().await;
    let document = Some(ENCRYPTING.as_bytes().to_vec());
    host.engine
        .set_document("bucket", "encryption", document)
        .await
        .unwrap();
    let options = Options {
        policy: Policy::Prefer,
        ..host.options()
    };
    let client = host.client(options);
    for length in [1, 70_000, 3_000_001] {
        let content = pattern(length as u64, length);
        let sent = futures::stream::iter([Ok(content.clone())]);
        let written = client
            .put("bucket", "k", Some(length as u64), &plain(), &always(), sent)
            .await
            .unwrap();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
        assert_eq!(written.crc64nvme, Some(crc));
        // What was replaced may go in between.
        for path in files(&host.folder.path().join("data").join("data")) {
            assert!(
                std::fs::read(path).unwrap_or_default() != content,
                "it is encrypted"
            );
        }
        // On a connection that was signed for, too.
        for _ in 0..3 {
            let download = client.get("bucket", "k", None, &always()).await.unwrap();
            assert_ne!(download.via, Via::Shm);
            let read: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
            assert!(read.concat() == content, "{length}");
            let download = client.get("bucket", "k", from(0, 0), &always()).await.unwrap();
            let read: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
            assert!(read.concat() == content[..1]);
        }
        assert!(
            client
                .borrow("bucket", "k", None, &always())
                .await
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(host.metric("lent_held_bytes"), 0);
    assert!(host.metric("lent_refused_total{reason=\"encrypted\"}") > 0);
    host.stop().await;
}
