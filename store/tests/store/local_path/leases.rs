//! What is lent stays as it was, shows nothing else, and is not held for ever.

use super::{Host, always, from};
use crate::{node::files, pattern};
use futures::TryStreamExt;
use penstock_rdma::{Options, Policy, Via};
use penstock_store::local_path::Limits;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::PathBuf,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lent_stays_what_it_was_and_its_space_is_counted_until_the_lease_ends() {
    let host = Host::start().await;
    let client = host.local();
    let old = pattern(1, 300_000);
    for key in ["replaced", "deleted"] {
        host.put(key, &old).await;
    }
    let mut lent = Vec::new();
    for key in ["replaced", "deleted"] {
        let mut download = client.get("bucket", key, None, &always()).await.unwrap();
        lent.extend(download.lent.take());
    }
    assert_eq!(
        (
            host.metric("lent_leases"),
            host.metric("lent_files"),
            host.engine.held()
        ),
        (2, 2, 0)
    );
    host.put("replaced", &pattern(2, 500_000)).await;
    host.delete("deleted").await;
    host.holds(600_000).await;
    for lent in &lent {
        let mut buffer = vec![0; 300_000];
        assert_eq!(lent.read_at(&mut buffer, 0).unwrap(), 300_000);
        assert!(buffer == old);
    }
    let before = files(&host.folder.path().join("data/data")).len();
    assert_eq!(before, 1, "their names are gone at once");
    // The lease ends with the next request on its connection.
    drop(lent.pop());
    client.head("bucket", "replaced").await.unwrap();
    assert_eq!((host.metric("lent_leases"), host.engine.held()), (1, 300_000));
    // And with its connection.
    drop(client);
    let still = lent.pop().unwrap();
    host.settles("lent_leases", 0).await;
    host.holds(0).await;
    let mut byte = [0];
    assert_eq!(
        still.read_at(&mut byte, 299_999).unwrap(),
        1,
        "nobody can take a descriptor back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_keeps_more_deleted_space_than_allowed() {
    let limits = Limits {
        held: 100_000,
        leases: 3,
    };
    let host = Host::with(limits, |_| {}).await;
    let prefer = host.client(Options {
        policy: Policy::Prefer,
        ..host.options()
    });
    for key in ["a", "b"] {
        host.put(key, &pattern(1, 100_000)).await;
    }
    let held = prefer.get("bucket", "a", None, &always()).await.unwrap();
    host.delete("a").await;
    host.holds(100_000).await;
    let refused = prefer.get("bucket", "b", None, &always()).await.unwrap();
    assert_eq!(refused.via, Via::Http);
    let got: Vec<bytes::Bytes> = refused.body.try_collect().await.unwrap();
    assert!(got.concat() == pattern(1, 100_000));
    assert_eq!(host.metric(r#"lent_refused_total{reason="held"}"#), 1);
    // Another connection of the same user is the same user.
    let other = host.client(Options {
        policy: Policy::Prefer,
        ..host.options()
    });
    assert_eq!(
        other.get("bucket", "b", None, &always()).await.unwrap().via,
        Via::Http
    );
    drop(held);
    prefer.head("bucket", "b").await.unwrap();
    // Three to a connection; a second one is made now and then, when the first has not read its answer to the end yet.
    let mut kept = Vec::new();
    loop {
        let download = prefer.get("bucket", "b", None, &always()).await.unwrap();
        if download.via == Via::Http {
            break;
        }
        kept.push(download);
        assert!(kept.len() < 30, "there is no limit");
    }
    assert!(kept.len() >= 3, "{}", kept.len());
    assert_eq!(host.metric(r#"lent_refused_total{reason="leases"}"#), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_can_not_write_nor_share_an_offset_nor_reach_another_object() {
    let host = Host::start().await;
    let client = host.local();
    let (mine, other) = (pattern(1, 10_000), pattern(2, 10_000));
    host.put("mine", &mine).await;
    host.put("other", &other).await;
    let lent = client
        .get("bucket", "mine", None, &always())
        .await
        .unwrap()
        .lent
        .unwrap();
    let again = client
        .get("bucket", "mine", None, &always())
        .await
        .unwrap()
        .lent
        .unwrap();
    let (file, twin) = (lent.as_file().unwrap(), again.as_file().unwrap());
    assert!((&*file).write(b"x").is_err());
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    assert!(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, 20_000).is_err());
    // Each has an offset of its own.
    let mut half = vec![0; 5_000];
    (&*file).read_exact(&mut half).unwrap();
    let mut whole = Vec::new();
    (&*twin).read_to_end(&mut whole).unwrap();
    assert!(whole == mine);
    // The whole file is this object; a range lends the same file, and so no byte of another object.
    let range = client
        .get("bucket", "mine", from(10, 19), &always())
        .await
        .unwrap()
        .lent
        .unwrap();
    assert_eq!(range.files()[0].metadata().unwrap().len(), 10_000);
    // No way leads from a file to its folder.
    let up = rustix::fs::openat(file, "..", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    assert!(up.is_err());
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap());
    assert_eq!(
        mode & 0o777,
        0o600,
        "another user cannot open it anew by its descriptor"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_read_only_view_not_even_root_opens_a_lent_file_for_writing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting the view needs root");
        return;
    }
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
    let host = Host::start().await;
    let (data, view) = (host.folder.path().join("data"), host.folder.path().join("view"));
    std::fs::create_dir(&view).unwrap();
    assert!(host.engine.lend_through(&view).is_err(), "another folder");
    rustix::mount::mount_bind(&data, &view).unwrap();
    let _mounted = Mounted(view.clone());
    assert!(host.engine.lend_through(&view).is_err(), "it can be written to");
    let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount(&view, flags, c"").unwrap();
    let open_again = |lent: &penstock_rdma::local::Lent| {
        let path = format!("/proc/self/fd/{}", lent.files()[0].as_raw_fd());
        File::options().write(true).open(path).map(drop)
    };
    let client = host.local();
    host.put("object", &pattern(1, 1000)).await;
    let without = client
        .get("bucket", "object", None, &always())
        .await
        .unwrap()
        .lent
        .unwrap();
    open_again(&without).expect("this is what the view is for: its owner, and root, can");
    host.engine.lend_through(&view).unwrap();
    let lent = client
        .get("bucket", "object", None, &always())
        .await
        .unwrap()
        .lent
        .unwrap();
    let refused = open_again(&lent).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert!(
        lent.files()[0]
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .is_err()
    );
    let mut buffer = vec![0; 1000];
    assert_eq!(lent.read_at(&mut buffer, 0).unwrap(), 1000);
    assert!(buffer == pattern(1, 1000));
    drop((without, lent, client));
    drop(host.stop().await);
}
