//! Mounts of a storage node on this host: nothing over the network, and the kernel reads by itself what was lent whole.

use crate::{Mounted, Store, model};
use penstock_csi::passthrough::{self, Passthrough};
use penstock_rdma::{Client, Credentials, Options, Policy};
use penstock_service::CancellationToken;
use penstock_store::{
    engine::{Engine, ObjectRef, PartOptions, PutOptions},
    local_path::{Ledger, Limits, LocalServer, SocketOptions},
    metrics::Metrics,
    remote::Remote,
    s3::Service,
};
use rustix::mount::{MountFlags, UnmountFlags};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

/// A store and a mount of it over its socket; nothing else may carry bytes.
struct Local {
    mounted: Mounted,
    store: Store,
    stop: CancellationToken,
    view: Option<PathBuf>,
}

/// The engine over the socket of a store, which is served until the token fires.
fn over_socket(store: &Store) -> (Arc<Remote>, CancellationToken) {
    let socket = store.folder.path().join("store.sock");
    let stop = CancellationToken::new();
    let remote = store.runtime.block_on(async {
        let metrics = Metrics::register(&mut penstock_service::Admin::default().metrics);
        let root = Credentials::new("key", "secret");
        let service = Service::new(
            store.engine.clone(),
            root.clone(),
            "us-east-1".into(),
            metrics.clone(),
        );
        let options = SocketOptions {
            path: socket.clone(),
            mode: 0o600,
            uids: Vec::new(),
            gids: Vec::new(),
            max_connections: 64,
        };
        let ledger = Ledger::new(Limits::default(), metrics.clone());
        let server = LocalServer::bind(options, service, ledger, metrics).unwrap();
        tokio::spawn(server.run(stop.clone()));
        let options = Options {
            local_socket: Some(socket),
            policy: Policy::Require,
            ..Options::default()
        };
        // Nobody listens on this port: what is not local fails.
        Remote::new(Client::new("http://127.0.0.1:9".parse().unwrap(), root, options).unwrap())
    });
    (Arc::new(remote), stop)
}

impl Local {
    fn new(passthrough: Passthrough) -> Self {
        let store = Store::new();
        let (remote, stop) = over_socket(&store);
        let mounted = store.mount_passing("mnt", remote, passthrough);
        Self {
            mounted,
            store,
            stop,
            view: None,
        }
    }

    /// As in a cluster: `node` registers the files, which are lent through a read-only mount.
    fn by_node() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("node.sock");
        let mut local = Self::new(Passthrough::ByNode(socket.clone()));
        local.store.runtime.spawn(async move {
            let _folder = folder;
            passthrough::serve(&socket, rustix::process::geteuid().as_raw())
                .unwrap()
                .await;
        });
        let (data, view) = (
            local.store.folder.path().join("data"),
            local.store.folder.path().join("view"),
        );
        fs::create_dir(&view).unwrap();
        rustix::mount::mount_bind(&data, &view).unwrap();
        local.view = Some(view.clone());
        rustix::mount::mount_remount(&view, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        local.store.engine.lend_through(&view).unwrap();
        local
    }

    fn reads(&self) -> u64 {
        self.mounted.metrics.done("read")
    }

    /// Writes to the store, past the mount.
    fn put(&self, name: &str, content: &[u8]) {
        let object = ObjectRef::new("bucket", format!("volume/{name}"));
        let body = futures::StreamExt::boxed(futures::stream::iter([Ok(bytes::Bytes::copy_from_slice(
            content,
        ))]));
        let put = self.store.engine.put(&object, PutOptions::default(), body);
        self.store.runtime.block_on(put).unwrap();
    }

    fn stored(&self, name: &str) -> Vec<u8> {
        let object = ObjectRef::new("bucket", format!("volume/{name}"));
        self.store.runtime.block_on(async {
            let opened = self
                .store
                .engine
                .get(&object, None, &Default::default())
                .await
                .unwrap();
            let pieces: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(opened.body).await.unwrap();
            pieces.concat()
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(view) = &self.view {
            rustix::mount::unmount(view, UnmountFlags::DETACH).unwrap();
        }
        self.stop.cancel();
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at * 31 + at / 4096 + seed) % 251) as u8)
        .collect()
}

#[test]
fn a_mount_reads_and_writes_over_the_socket_alone() {
    let local = Local::new(Passthrough::Off);
    for (seed, size) in [0, 1, 4095, 4096, 70_000, (5 << 20) + 3].into_iter().enumerate() {
        let (name, content) = (format!("f{size}"), pattern(size, seed));
        fs::write(local.mounted.at(&name), &content).unwrap();
        assert!(local.stored(&name) == content, "{size} written");
        assert!(
            fs::read(local.mounted.at(&name)).unwrap() == content,
            "{size} read back"
        );
        let other = pattern(size, seed + 100);
        local.put(&format!("p{size}"), &other);
        assert!(
            fs::read(local.mounted.at(&format!("p{size}"))).unwrap() == other,
            "{size} read"
        );
    }
    assert!(local.reads() > 0);
    // What is open keeps its version, though its object is gone.
    let old = pattern(3 << 20, 1);
    local.put("old", &old);
    let mut open = File::open(local.mounted.at("old")).unwrap();
    let mut first = [0; 10];
    open.read_exact(&mut first).unwrap();
    local.put("old", b"new");
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!([&first[..], &rest].concat() == old);
}

/// The kernel of these tests must offer passthrough; where it does not, nothing is proven, and that is said.
fn passes(local: &Local) -> bool {
    let agreed = local.mounted.session.negotiated().has_passthrough();
    if !agreed {
        eprintln!("skipped: this kernel has no FUSE passthrough");
    }
    agreed
}

fn the_kernel_reads_by_itself(local: &Local) {
    if !passes(local) {
        return;
    }
    for (seed, size) in [1, 4095, 4096, 4097, (9 << 20) + 77].into_iter().enumerate() {
        let (name, content) = (format!("f{size}"), pattern(size, seed));
        local.put(&name, &content);
        let open = File::open(local.mounted.at(&name)).unwrap();
        let mut got = Vec::new();
        (&open).read_to_end(&mut got).unwrap();
        assert!(got == content, "{size}");
        let middle = size as u64 / 2;
        let mut one = [0];
        open.read_exact_at(&mut one, middle).unwrap();
        assert_eq!(one[0], content[middle as usize]);
        assert_eq!(open.read_at(&mut one, size as u64).unwrap(), 0);
        assert_eq!(open.metadata().unwrap().len(), size as u64);
    }
    assert_eq!(local.reads(), 0, "no READ came here");

    // Replaced while it is open: whoever has it open keeps its version, whoever opens it now gets the new one.
    let (old, new) = (pattern(300_000, 7), pattern(200_000, 8));
    local.put("f", &old);
    let before = File::open(local.mounted.at("f")).unwrap();
    local.put("f", &new);
    let after = fs::read(local.mounted.at("f")).unwrap();
    assert!(after == new);
    let mut kept = vec![0; old.len()];
    before.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept == old);
    drop(before);

    // Removed, too.
    local.put("gone", &old);
    let open = File::open(local.mounted.at("gone")).unwrap();
    fs::remove_file(local.mounted.at("gone")).unwrap();
    open.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept == old);
}

#[test]
fn the_kernel_reads_lent_files_by_itself() {
    let local = Local::new(Passthrough::Here);
    the_kernel_reads_by_itself(&local);
}

#[test]
fn the_kernel_reads_lent_files_that_node_registered() {
    let local = Local::by_node();
    the_kernel_reads_by_itself(&local);
}

#[test]
fn readers_and_writers_of_one_file_go_together() {
    let local = Local::new(Passthrough::Here);
    if !passes(&local) {
        return;
    }
    let (old, path) = (pattern(100_000, 1), local.mounted.at("f"));
    local.put("f", &old);
    let reader = File::open(&path).unwrap();
    let again = File::open(&path).unwrap();
    let mut writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    writer.write_all(b"written").unwrap();
    let mut start = [0; 7];
    writer.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"written", "a writer sees what it wrote");
    for reader in [&reader, &again] {
        reader.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(
            start,
            old[..7],
            "who opened it before keeps its version until it is opened anew"
        );
    }
    writer.sync_all().unwrap();
    drop((reader, again, writer));
    let content = fs::read(&path).unwrap();
    assert!(&content[..7] == b"written" && content[7..] == old[7..]);
    // The other way round: a reader that comes while somebody writes goes through the cache.
    let before = local.reads();
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    writer.write_all(b"more").unwrap();
    let reader = fs::read(&path).unwrap();
    assert!(reader.ends_with(b"more") && local.reads() > before);
    drop(writer);
    assert!(local.stored("f").ends_with(b"more"));
    // A program that maps what it opened for writing changes the object, and not the lent file under it.
    let reader = File::open(&path).unwrap();
    let expected = fs::read(&path).unwrap();
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    rustix::fs::ftruncate(&writer, 3).unwrap();
    drop(writer);
    let mut kept = vec![0; expected.len()];
    reader.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept == expected && fs::read(&path).unwrap() == expected[..3]);
    drop(reader);
    // Cut by its name, which is open for reading.
    let reader = File::open(&path).unwrap();
    let cut = std::process::Command::new("truncate")
        .args(["-s", "2"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(cut.success() && fs::read(&path).unwrap() == expected[..2]);
    reader.read_exact_at(&mut kept[..3], 0).unwrap();
    assert!(kept[..3] == expected[..3]);
    drop(reader);
    // And a file that is emptied at its opening.
    let open = File::open(&path).unwrap();
    fs::write(&path, b"short").unwrap();
    drop(open);
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

#[test]
fn a_lent_file_can_be_mapped() {
    let local = Local::new(Passthrough::Here);
    if !passes(&local) {
        return;
    }
    // The loader maps what it runs.
    let path = local.mounted.at("program");
    local.put("program", &fs::read("/bin/true").unwrap());
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loader.into_iter().find(|path| fs::exists(path).unwrap()) else {
        eprintln!("skipped: no loader is known for this machine");
        return;
    };
    let ran = std::process::Command::new(loader).arg(&path).status().unwrap();
    assert!(ran.success());
}

#[test]
fn an_object_of_several_files_is_read_through_the_daemon() {
    let local = Local::new(Passthrough::Here);
    let part = pattern(5 << 20, 3);
    local.store.runtime.block_on(async {
        let object = ObjectRef::new("bucket", "volume/parts");
        let engine = &local.store.engine;
        let upload = engine.create_upload(&object, Default::default()).await.unwrap();
        let mut parts = Vec::new();
        for number in 1..=3 {
            let body =
                futures::StreamExt::boxed(futures::stream::iter([Ok(bytes::Bytes::copy_from_slice(&part))]));
            let sent = engine
                .upload_part(&object, &upload, number, PartOptions::default(), body)
                .await
                .unwrap();
            parts.push(penstock_store::engine::PartRef {
                number,
                etag: sent.etag,
                checksums: Default::default(),
            });
        }
        engine
            .complete_upload(&object, &upload, &parts, &Default::default())
            .await
            .unwrap();
    });
    let got = fs::read(local.mounted.at("parts")).unwrap();
    assert!(got == part.repeat(3) && local.reads() > 0);
}

#[test]
fn a_bucket_whose_files_the_kernel_reads_behaves_as_a_folder() {
    let store = Store::new();
    let (remote, stop) = over_socket(&store);
    model::behaves(|name| store.mount_passing(name, remote.clone(), Passthrough::Here));
    stop.cancel();
}
