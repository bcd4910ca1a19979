//! The path between a client and a storage node on one host: bytes right, nothing out of reach, nothing held for ever.

use crate::{
    body, bytes,
    node::{ACCESS, Node, SECRET, files},
    pattern,
};
use futures::{StreamExt, TryStreamExt};
use penstock_rdma::{
    Client, Condition, Credentials, Error, ObjectHeaders, Options, PartId, Policy, Range, Via,
    local::{CANNOT_LEND, HANDED, LEND, LENT, NODE_ID},
};
use penstock_service::CancellationToken;
use penstock_store::{
    engine::{Engine, ObjectRef, Precondition, PutOptions},
    local::Local,
    local_path::{Ledger, Limits, LocalServer, SocketError, SocketOptions},
    metrics::Metrics,
    remote::Remote,
    s3::Service,
    server::Server,
};
use prometheus_client::registry::Registry;
use rustix::fs::{MemfdFlags, SealFlags};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// A storage node in this process, with a socket.
pub struct Host {
    pub folder: TempDir,
    engine: Local,
    pub endpoint: String,
    pub socket: PathBuf,
    registry: Registry,
    stop: CancellationToken,
    served: Vec<tokio::task::JoinHandle<()>>,
}

fn options_of(socket: PathBuf) -> SocketOptions {
    SocketOptions {
        path: socket,
        mode: 0o600,
        uids: Vec::new(),
        gids: Vec::new(),
        max_connections: 64,
    }
}

impl Host {
    pub async fn start() -> Self {
        Self::with(Limits::default(), |_| {}).await
    }

    async fn with(limits: Limits, change: impl FnOnce(&mut SocketOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = Local::open(folder.path().join("data")).await.unwrap();
        engine.create_bucket("bucket").await.unwrap();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let root = Credentials::new(ACCESS, SECRET);
        let service = Service::new(
            Arc::new(engine.clone()),
            root,
            "us-east-1".into(),
            metrics.clone(),
        );
        let service = service.named(&"0123456789abcdef".repeat(2));
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(anywhere, None, service.clone(), metrics.clone(), 64)
            .await
            .unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let socket = folder.path().join("node.sock");
        let mut options = options_of(socket.clone());
        change(&mut options);
        let local =
            LocalServer::bind(options, service, Ledger::new(limits, metrics.clone()), metrics).unwrap();
        let stop = CancellationToken::new();
        let served = vec![
            tokio::spawn(server.run(stop.clone())),
            tokio::spawn(local.run(stop.clone())),
        ];
        Self {
            folder,
            engine,
            endpoint,
            socket,
            registry,
            stop,
            served,
        }
    }

    fn client(&self, options: Options) -> Client {
        client(&self.endpoint, options)
    }

    pub fn local(&self) -> Client {
        self.client(self.options())
    }

    fn options(&self) -> Options {
        Options {
            local_socket: Some(self.socket.clone()),
            policy: Policy::Require,
            ..Options::default()
        }
    }

    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("penstock_store_{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub async fn put(&self, key: &str, content: &bytes::Bytes) {
        let object = ObjectRef::new("bucket", key);
        self.engine
            .put(&object, PutOptions::default(), body([content.clone()]))
            .await
            .unwrap();
    }

    async fn delete(&self, key: &str) {
        self.engine.delete(&ObjectRef::new("bucket", key)).await.unwrap();
    }

    /// Waits until the metric has the value: a connection's end is noticed a moment later.
    pub async fn settles(&self, name: &str, value: u64) {
        for _ in 0..500 {
            if self.metric(name) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is {} and not {value}", self.metric(name));
    }

    /// Waits until so much deleted space is held: files are removed a moment after the answer.
    async fn holds(&self, bytes: u64) {
        for _ in 0..500 {
            if self.engine.held() == bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} bytes are held and not {bytes}", self.engine.held());
    }

    pub async fn stop(self) -> TempDir {
        self.stop.cancel();
        for served in self.served {
            served.await.unwrap();
        }
        self.folder
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

fn always() -> Condition {
    Condition::default()
}

fn plain() -> ObjectHeaders {
    ObjectHeaders::default()
}

fn from(first: u64, last: u64) -> Option<Range> {
    Some(Range::From {
        first,
        last: Some(last),
    })
}

fn memfd(content: &[u8]) -> File {
    let mut file = File::from(rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all(content).unwrap();
    file
}

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
async fn only_who_may_connect_and_signs_is_lent_anything() {
    let uid = rustix::process::geteuid().as_raw();
    let host = Host::with(Limits::default(), |options| options.uids = vec![uid + 1]).await;
    host.put("object", &pattern(1, 100)).await;
    let refused = host.local().get("bucket", "object", None, &always()).await;
    assert!(
        matches!(refused, Err(Error::Unreachable { .. } | Error::NoFastPath { .. })),
        "a stranger"
    );
    assert_eq!(host.local().way().await.unwrap().via, Via::Http, "cut off");
    assert!(host.metric("connection_failures_total") > 0);

    let host = Host::with(Limits::default(), |options| options.uids = vec![uid + 1, uid]).await;
    host.put("object", &pattern(1, 100)).await;
    assert!(
        host.local()
            .get("bucket", "object", None, &always())
            .await
            .is_ok()
    );
    for (access, secret, code) in [
        (ACCESS, "wrong-secret", "SignatureDoesNotMatch"),
        ("nobody", SECRET, "InvalidAccessKeyId"),
    ] {
        let wrong = Client::new(
            host.endpoint.parse().unwrap(),
            Credentials::new(access, secret),
            host.options(),
        );
        let error = wrong
            .unwrap()
            .get("bucket", "object", None, &always())
            .await
            .err()
            .unwrap();
        assert_eq!(error.code(), Some(code), "{error}");
    }
    let socket = host.socket.clone();
    let unsigned = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let request =
            format!("GET /bucket/object HTTP/1.1\r\nhost: x\r\n{LEND}: only\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        io::read_to_string(stream).unwrap()
    });
    let unsigned = unsigned.await.unwrap();
    assert!(
        unsigned.starts_with("HTTP/1.1 403") && !unsigned.contains(LENT.as_str()),
        "{unsigned}"
    );
    host.settles("lent_leases", 0).await;
    assert_eq!(host.metric(r#"sent_bytes_total{via="shm"}"#), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_socket_what_must_be_local_fails_and_what_may_is_sent() {
    let host = Host::start().await;
    let content = pattern(1, 200_000);
    host.put("object", &content).await;
    let nowhere = |policy| {
        host.client(Options {
            local_socket: Some(host.folder.path().join("none.sock")),
            policy,
            retries: 1,
            ..Options::default()
        })
    };
    assert_eq!(host.local().way().await.unwrap().via, Via::Shm);
    for policy in [Policy::Require, Policy::Prefer] {
        let way = nowhere(policy).way().await.unwrap();
        assert_eq!(way.via, Via::Http, "nobody serves the socket");
        assert!(way.why.unwrap().contains("does not answer"), "{policy:?}");
    }
    let required = nowhere(Policy::Require);
    let get = required
        .get("bucket", "object", None, &always())
        .await
        .err()
        .unwrap();
    assert!(matches!(get, Error::NoFastPath { .. }), "{get}");
    assert!(
        get.to_string().contains(&host.endpoint) && get.to_string().contains("policy prefer"),
        "{get}"
    );
    let put = required
        .put(
            "bucket",
            "new",
            None,
            &plain(),
            &always(),
            body([content.clone()]),
        )
        .await
        .unwrap_err();
    assert!(matches!(put, Error::NoFastPath { .. }), "{put}");
    let preferring = nowhere(Policy::Prefer);
    let mut buffer = vec![0; content.len()];
    let (_, moved) = preferring
        .get_into("bucket", "object", None, &always(), &mut buffer)
        .await
        .unwrap();
    assert!(moved.via == Via::Http && buffer == content);
    let file = memfd(&content);
    let written = preferring
        .put_file("bucket", "new", file, 0..200_000, &plain(), &always())
        .await
        .unwrap();
    assert_eq!(written.moved.via, Via::Http);
    let off = host.client(Options {
        policy: Policy::Off,
        ..host.options()
    });
    assert_eq!(
        off.get("bucket", "new", None, &always()).await.unwrap().via,
        Via::Http
    );
    assert_eq!(host.metric(r#"sent_bytes_total{via="shm"}"#), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_network_descriptors_are_asked_for_in_vain() {
    let host = Host::start().await;
    let client = host.client(Options::default());
    // A header that a request over TCP carries changes nothing there.
    let mut headers = plain();
    headers.metadata.insert("x".into(), "y".into());
    let put = client
        .put("bucket", "k", None, &headers, &always(), body([pattern(1, 10)]))
        .await
        .unwrap();
    assert_eq!(put.moved.via, Via::Http);
    let address = host.endpoint.trim_start_matches("http://").to_owned();
    let raw = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "PUT /bucket/k HTTP/1.1\r\nhost: x\r\n{HANDED}: 0,10\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        io::read_to_string(stream).unwrap()
    });
    let raw = raw.await.unwrap();
    assert!(
        raw.starts_with("HTTP/1.1 403") && raw.contains(NODE_ID.as_str()),
        "{raw}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_the_socket_of_the_node_it_talks_to() {
    let sockets = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let folder = sockets.path().to_str().unwrap();
    let node = Node::start(data.path(), &["--local-sockets", folder]);
    let options = |policy| Options {
        local_sockets: Some(sockets.path().to_owned()),
        policy,
        ..Options::default()
    };
    let client = node.client(options(Policy::Prefer));
    client.create_bucket("bucket").await.unwrap();
    let content = pattern(1, 100_000);
    let written = client
        .put("bucket", "k", None, &plain(), &always(), body([content.clone()]))
        .await
        .unwrap();
    assert_eq!(written.moved.via, Via::Shm, "learned by the first answer");
    assert_eq!(
        client.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Shm
    );

    let strict = node.client(options(Policy::Require));
    assert_eq!(
        strict.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Shm,
        "it asks who the node is before it gives up"
    );

    let elsewhere = tempfile::tempdir().unwrap();
    let other = node.client(Options {
        local_sockets: Some(elsewhere.path().to_owned()),
        ..Options::default()
    });
    other.buckets().await.unwrap();
    assert_eq!(
        other.get("bucket", "k", None, &always()).await.unwrap().via,
        Via::Http,
        "not on this host"
    );
    let remote = Remote::new(node.client(options(Policy::Prefer)));
    assert!(
        bytes(
            remote
                .get(&ObjectRef::new("bucket", "k"), None, &Precondition::default())
                .await
                .unwrap()
        )
        .await
        .unwrap()
            == content
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_and_started_anew_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let path = socket.to_str().unwrap().to_owned();
    let data = folder.path().join("data");
    let mut node = Node::start(&data, &["--local-socket", &path]);
    let client = node.client(Options {
        local_socket: Some(socket.clone()),
        policy: Policy::Require,
        stall_timeout: Duration::from_secs(5),
        ..Options::default()
    });
    client.create_bucket("bucket").await.unwrap();
    let content = pattern(1, 8 << 20);
    client
        .put("bucket", "k", None, &plain(), &always(), body([content.clone()]))
        .await
        .unwrap();
    let mut download = client.get("bucket", "k", None, &always()).await.unwrap();
    let first = download.body.next().await.unwrap().unwrap();
    node.kill();
    // What was lent is read to its end without the node.
    let rest: Vec<bytes::Bytes> = download.body.try_collect().await.unwrap();
    assert!([&first[..], &rest.concat()].concat() == content);
    assert!(socket.exists(), "a killed process leaves its socket");
    let node = Node::start(&data, &["--local-socket", &path]);
    let mut buffer = vec![0; content.len()];
    let (_, moved) = client
        .get_into("bucket", "k", None, &always(), &mut buffer)
        .await
        .unwrap();
    assert!(moved.via == Via::Shm && buffer == content);
    drop(node);
}

#[tokio::test]
async fn a_socket_is_not_taken_from_who_serves_it_nor_made_of_something_else() {
    let host = Host::start().await;
    let again = |path: PathBuf| {
        let metrics = Metrics::register(&mut Registry::default());
        let service = Service::new(
            Arc::new(host.engine.clone()),
            Credentials::new(ACCESS, SECRET),
            "us-east-1".into(),
            metrics.clone(),
        );
        LocalServer::bind(
            options_of(path),
            service,
            Ledger::new(Limits::default(), metrics.clone()),
            metrics,
        )
        .map(drop)
    };
    assert!(matches!(
        again(host.socket.clone()),
        Err(SocketError::InUse { .. })
    ));
    let file = host.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(again(file.clone()), Err(SocketError::NoSocket { .. })));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
    assert!(matches!(
        again(host.folder.path().join("no/folder")),
        Err(SocketError::Listen { .. })
    ));
    let socket = host.socket.clone();
    let folder = host.stop().await;
    assert!(!socket.exists(), "it goes with its server");
    drop(folder);
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
