use super::*;
use crate::fuse::{Caller, Opened, ROOT};
use bytes::Bytes;
use penstock_store::{engine::Engine, local::Local};
use rustix::fs::OFlags;

async fn volume(folder: &tempfile::TempDir) -> Volume {
    let engine = Local::open(&folder.path().join("data")).await.unwrap();
    engine.create_bucket("bucket").await.unwrap();
    let storage = Storage::new(Arc::new(engine), "bucket", "", Duration::from_secs(10));
    let staging = Staging::prepare(folder.path(), Metrics::default()).unwrap();
    let look = Look {
        uid: 0,
        gid: 0,
        file_mode: 0o644,
        dir_mode: 0o755,
    };
    Volume::new(storage, staging, look, Metrics::default())
}

async fn ask(volume: &Volume, node: u64, operation: Operation) -> Reply {
    let request = Request {
        unique: 1,
        resent: false,
        node,
        caller: Caller {
            uid: 0,
            gid: 0,
            pid: 0,
        },
        operation,
    };
    volume.call(request).await
}

/// Makes a file with these flags; its handle.
async fn create(volume: &Volume, name: &str, flags: OFlags) -> u64 {
    let name = name.to_owned();
    let flags = flags.bits();
    match ask(volume, ROOT, Operation::Create { name, flags }).await {
        Ok(Answer::Created(_, opened)) => opened.handle,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pages_of_a_memory_map_go_to_their_place_through_an_appending_handle_too() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(&folder).await;
    let handle = create(&volume, "f", OFlags::RDWR | OFlags::APPEND).await;
    for (bytes, mapped) in [("first", false), ("second", false), ("FIRST", true)] {
        let write = Operation::Write {
            handle,
            offset: 0,
            data: Bytes::from_static(bytes.as_bytes()),
            mapped,
        };
        ask(&volume, ROOT, write).await.unwrap();
    }
    let read = Operation::Read {
        handle,
        offset: 0,
        size: 100,
    };
    match ask(&volume, ROOT, read).await.unwrap() {
        Answer::Data(pieces) => assert_eq!(pieces.concat(), b"FIRSTsecond"),
        other => panic!("{other:?}"),
    }
}

/// The kernel looks a name up and opens the number it got; a rename may come in between.
#[tokio::test]
async fn what_was_replaced_between_look_up_and_open_opens_as_what_replaced_it() {
    let folder = tempfile::tempdir().unwrap();
    let volume = volume(&folder).await;
    let write = async |name: &str, bytes: &'static [u8]| {
        let handle = create(&volume, name, OFlags::WRONLY).await;
        let write = Operation::Write {
            handle,
            offset: 0,
            data: Bytes::from_static(bytes),
            mapped: false,
        };
        ask(&volume, ROOT, write).await.unwrap();
        ask(&volume, ROOT, Operation::Flush { handle }).await.unwrap();
        ask(&volume, ROOT, Operation::Release { handle }).await.unwrap();
    };
    let replace = async || {
        let rename = Operation::Rename {
            name: "new".to_owned(),
            new_parent: ROOT,
            new_name: "f".to_owned(),
            flags: 0,
        };
        ask(&volume, ROOT, rename).await.unwrap();
    };
    write("f", b"one").await;
    let found = ask(&volume, ROOT, Operation::Lookup { name: "f".to_owned() }).await;
    let Ok(Answer::Entry(entry)) = found else {
        panic!("{found:?}")
    };
    for (turn, (bytes, next)) in [(&b"two"[..], &b"three"[..]), (b"four", b"five")]
        .into_iter()
        .enumerate()
    {
        write("new", bytes).await;
        replace().await;
        let open = Operation::Open {
            flags: OFlags::RDONLY.bits(),
        };
        let opened = ask(&volume, entry.node, open).await;
        let Ok(Answer::Opened(Opened { handle, .. })) = opened else {
            panic!("turn {turn}: {opened:?}")
        };
        // Replaced again while it is open: whoever has it open keeps it.
        write("new", next).await;
        replace().await;
        let read = Operation::Read {
            handle,
            offset: 0,
            size: 100,
        };
        match ask(&volume, entry.node, read).await.unwrap() {
            Answer::Data(pieces) => assert_eq!(pieces.concat(), bytes),
            other => panic!("{other:?}"),
        }
        ask(&volume, entry.node, Operation::Release { handle })
            .await
            .unwrap();
    }
}
