//! What is encrypted where it is stored: read with the right key alone, whole or not at all, and nothing of it is on the disk.

use crate::{body, bytes, node::files, pattern};
use bytes::Bytes;
use penstock_service::CancellationToken;
use penstock_store::{
    access::MasterKey,
    engine::{
        Begun, Borrower, ByteRange, CompleteOptions, CopyOptions, CustomerKey, Encrypted, Encryption, Engine,
        Error, Lending, ObjectRef, PartOptions, PartRef, Precondition, PutOptions, Result, UploadOptions,
    },
    local::Local,
    metrics::Metrics,
    scrub::{Pace, Scrub},
};
use prometheus_client::registry::Registry;
use std::{collections::BTreeMap, fs, io::Read, path::Path, sync::Arc};

/// The document of a bucket whose objects are encrypted by the storage node.
pub const ENCRYPTING: &str = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
    <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";

const PACKAGE: usize = 64 << 10;
/// Nothing, one package, its edges, several batches of the writer.
const LENGTHS: [usize; 8] = [
    0,
    1,
    PACKAGE - 1,
    PACKAGE,
    PACKAGE + 1,
    512 << 10,
    (512 << 10) + 1,
    3_000_001,
];

fn key(byte: u8) -> CustomerKey {
    [byte; 32].into()
}

fn with(byte: u8) -> Encryption {
    Encryption::Customer(key(byte))
}

fn object(key: &str) -> ObjectRef {
    ObjectRef::new("bucket", key)
}

/// What reads with a key, or without.
fn by(key: Option<u8>) -> Precondition {
    Precondition {
        key: key.map(|byte| [byte; 32].into()),
        ..Precondition::default()
    }
}

async fn without_key(folder: &Path) -> Local {
    let engine = Local::open(folder).await.unwrap();
    // Else it could not be opened again.
    engine.reclaimed().await;
    engine
}

async fn opened(folder: &Path) -> Local {
    let engine = without_key(folder).await;
    engine.encrypt_with(&MasterKey::load(None, folder).unwrap());
    engine
}

async fn new(folder: &Path) -> Local {
    let engine = opened(folder).await;
    engine.create_bucket("bucket").await.unwrap();
    engine
}

async fn put(engine: &Local, name: &str, content: Bytes, encryption: Option<Encryption>) {
    let options = PutOptions {
        encryption,
        ..PutOptions::default()
    };
    // In pieces that are no packages.
    let pieces: Vec<Bytes> = content.chunks(100_003).map(Bytes::copy_from_slice).collect();
    engine.put(&object(name), options, body(pieces)).await.unwrap();
}

async fn read(engine: &Local, name: &str, key: Option<u8>) -> Result<Vec<u8>> {
    let found = engine.get(&object(name), None, &by(key)).await?;
    bytes(found).await.map_err(Error::Body)
}

fn is_on_disk(folder: &Path, needle: &[u8]) -> bool {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path)
                .unwrap()
                .windows(needle.len())
                .any(|window| window == needle)
            {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn every_length_is_read_with_its_key_as_it_was_written_also_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        (None, None),
        (Some(Encryption::Server), None),
        (Some(with(1)), Some(1)),
    ];
    let engine = new(folder.path()).await;
    for (kind, (encryption, _)) in kinds.iter().enumerate() {
        for length in LENGTHS {
            let content = pattern(length as u64, length);
            put(&engine, &format!("{kind}-{length}"), content, encryption.clone()).await;
        }
    }
    drop(engine);
    let engine = opened(folder.path()).await;
    for (kind, (encryption, key)) in kinds.iter().enumerate() {
        for length in LENGTHS {
            let (name, content) = (format!("{kind}-{length}"), pattern(length as u64, length));
            assert!(read(&engine, &name, *key).await.unwrap() == content, "{name}");
            let info = engine.head(&object(&name)).await.unwrap();
            assert_eq!(info.size, length as u64, "{name}");
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
            assert_eq!(info.crc64nvme, Some(crc), "{name}: it is of what was written");
            let md5 = hex::encode(<md5::Md5 as md5::Digest>::digest(&content));
            assert_eq!(info.etag == md5, kind != 2, "{name}");
            match (encryption, info.attributes.encryption) {
                (None, None)
                | (Some(Encryption::Server), Some(Encrypted::Server(_)))
                | (Some(Encryption::Customer(_)), Some(Encrypted::Customer(_))) => {}
                (asked, got) => panic!("{asked:?} became {got:?}"),
            }
            // As bytes go by RDMA.
            let mut opened = engine.open(&object(&name), None, &by(*key)).await.unwrap();
            let mut all = Vec::new();
            opened.reader.read_to_end(&mut all).unwrap();
            assert!(all == content, "{name}");
            assert_eq!(opened.reader.crc64nvme(), crc, "{name}");
            for (first, last) in [
                (0, 0),
                (PACKAGE - 1, PACKAGE),
                (length.saturating_sub(1), length),
                (1, length.saturating_sub(2)),
                (PACKAGE, 9 * PACKAGE),
            ] {
                if first >= length || last < first {
                    continue;
                }
                let range = ByteRange::From {
                    first: first as u64,
                    last: Some(last as u64),
                };
                let found = engine.get(&object(&name), Some(range), &by(*key)).await.unwrap();
                let wanted = &content[first..length.min(last + 1)];
                assert!(bytes(found).await.unwrap() == wanted, "{name} {first}-{last}");
                let mut opened = engine.open(&object(&name), Some(range), &by(*key)).await.unwrap();
                let mut all = Vec::new();
                opened.reader.read_to_end(&mut all).unwrap();
                assert!(all == wanted, "{name} {first}-{last}");
            }
        }
    }
    assert_eq!(
        engine.usage().unwrap().bytes,
        3 * LENGTHS.iter().sum::<usize>() as u64
    );
}

#[tokio::test]
async fn nothing_of_it_is_on_the_disk_and_no_file_is_lent() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    let borrower = Borrower {
        uid: 0,
        held_limit: u64::MAX,
    };
    for (name, seed, encryption, key) in [
        ("open", 1, None, None),
        ("server", 2, Some(Encryption::Server), None),
        ("customer", 3, Some(with(77)), Some(77)),
    ] {
        let content = pattern(seed, 200_000);
        put(&engine, name, content.clone(), encryption.clone()).await;
        assert_eq!(
            is_on_disk(folder.path(), &content[100_000..100_032]),
            name == "open",
            "{name}"
        );
        let lending = engine
            .lend(&object(name), None, &by(key), borrower)
            .await
            .unwrap();
        match lending {
            Lending::Lent(_) => assert_eq!(name, "open"),
            Lending::Refused(reason) => assert_eq!((reason, encryption.is_some()), ("encrypted", true)),
        }
        let wrong = engine.lend(&object(name), None, &by(Some(5)), borrower).await;
        assert!(wrong.is_err(), "{name}: another key");
    }
    assert!(!is_on_disk(folder.path(), &[77; 32]));
    let without = engine.lend(&object("customer"), None, &by(None), borrower).await;
    assert!(matches!(without, Err(Error::InvalidRequest(_))));
}

#[tokio::test]
async fn the_wrong_key_reads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    for length in [0, 100_000] {
        put(&engine, "customer", pattern(1, length), Some(with(1))).await;
        put(&engine, "server", pattern(1, length), Some(Encryption::Server)).await;
        put(&engine, "open", pattern(1, length), None).await;
        assert!(matches!(
            read(&engine, "customer", Some(2)).await,
            Err(Error::AccessDenied(_))
        ));
        for (name, key) in [("customer", None), ("server", Some(1)), ("open", Some(1))] {
            assert!(
                matches!(read(&engine, name, key).await, Err(Error::InvalidRequest(_))),
                "{name}"
            );
            assert!(
                engine.open(&object(name), None, &by(key)).await.is_err(),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn another_master_key_is_told_and_gives_no_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    put(&engine, "server", pattern(1, 100_000), Some(Encryption::Server)).await;
    put(&engine, "customer", pattern(2, 100_000), Some(with(1))).await;
    put(&engine, "open", pattern(3, 100_000), None).await;
    drop(engine);
    for master in [None, Some(MasterKey::random())] {
        let engine = without_key(folder.path()).await;
        if let Some(master) = &master {
            engine.encrypt_with(master);
        }
        let error = read(&engine, "server", None).await.unwrap_err();
        let told = penstock_service::chain(&error);
        assert!(
            told.contains("another master key") && told.contains("--master-key-file"),
            "{told}"
        );
        // What needs no master key is read, and what is told of without reading is told.
        assert_eq!(
            read(&engine, "customer", Some(1)).await.unwrap(),
            pattern(2, 100_000)
        );
        assert_eq!(read(&engine, "open", None).await.unwrap(), pattern(3, 100_000));
        assert_eq!(engine.head(&object("server")).await.unwrap().size, 100_000);
        let copied = engine
            .copy(&object("server"), &object("copy"), CopyOptions::default())
            .await;
        assert!(matches!(copied, Err(Error::Internal { .. })));
        assert!(matches!(
            engine.head(&object("copy")).await,
            Err(Error::NoSuchKey(_))
        ));
        // Without any key it is compared as it lies on the disk.
        let broken: &[&str] = if master.is_some() { &["server"] } else { &[] };
        assert_eq!(scrubbed(&engine).await, broken);
    }
    let engine = without_key(folder.path()).await;
    let options = PutOptions {
        encryption: Some(Encryption::Server),
        ..PutOptions::default()
    };
    let refused = engine.put(&object("new"), options, body([])).await;
    assert!(
        matches!(refused, Err(Error::NotSupported(_))),
        "without a master key"
    );
    drop(engine);
    assert_eq!(
        read(&opened(folder.path()).await, "server", None).await.unwrap(),
        pattern(1, 100_000)
    );
}

/// The keys of what a scrub finds broken.
async fn scrubbed(engine: &Local) -> Vec<String> {
    let scrub = Scrub::new(
        Arc::new(engine.clone()),
        Metrics::register(&mut Registry::default()),
    );
    let found = scrub.pass(Pace::Full, &CancellationToken::new()).await.unwrap();
    let mut names: Vec<_> = found
        .objects_broken
        .into_iter()
        .map(|object| object.key)
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_an_error_and_the_scrub_finds_it() {
    for encryption in [Encryption::Server, with(1)] {
        let folder = tempfile::tempdir().unwrap();
        let engine = new(folder.path()).await;
        let key = matches!(encryption, Encryption::Customer(_)).then_some(1);
        let content = pattern(1, 700_000);
        put(&engine, "k", content.clone(), Some(encryption)).await;
        let stored = files(&folder.path().join("data"));
        assert_eq!(stored.len(), 1);
        let good = fs::read(&stored[0]).unwrap();
        assert!(scrubbed(&engine).await.is_empty());
        // In a package, in its tag, in the last byte; and a file that was cut.
        let damages = [0, PACKAGE - 1, PACKAGE + 3, good.len() / 2, good.len() - 1];
        for damage in damages.map(Some).into_iter().chain([None]) {
            let mut spoiled = good.clone();
            match damage {
                Some(at) => spoiled[at] ^= 0x10,
                None => spoiled.truncate(good.len() - 1),
            }
            fs::remove_file(&stored[0]).unwrap();
            fs::write(&stored[0], &spoiled).unwrap();
            let outcome = engine.get(&object("k"), None, &by(key)).await;
            let read = match outcome {
                Ok(found) => bytes(found).await.map_err(Error::Body),
                Err(error) => Err(error),
            };
            assert!(read.is_err(), "{damage:?}");
            let mut all = Vec::new();
            if let Ok(mut opened) = engine.open(&object("k"), None, &by(key)).await {
                assert!(opened.reader.read_to_end(&mut all).is_err(), "{damage:?}");
            }
            assert!(
                content.starts_with(&all),
                "what was read before is what was written"
            );
            assert_eq!(scrubbed(&engine).await, ["k"], "{damage:?}");
        }
        fs::remove_file(&stored[0]).unwrap();
        fs::write(&stored[0], &good).unwrap();
        assert!(scrubbed(&engine).await.is_empty());
        assert!(self::read(&engine, "k", key).await.unwrap() == content);
    }
}

#[tokio::test]
async fn a_copy_is_encrypted_as_is_said_and_its_bytes_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    let content = pattern(1, 300_000);
    let kinds = [
        (None, None),
        (Some(Encryption::Server), None),
        (Some(with(1)), Some(1)),
        (Some(with(2)), Some(2)),
    ];
    for (encryption, source) in &kinds {
        put(&engine, "from", content.clone(), encryption.clone()).await;
        let before = engine.head(&object("from")).await.unwrap();
        for (wanted, target) in &kinds {
            let options = CopyOptions {
                source: by(*source),
                encryption: wanted.clone(),
                ..CopyOptions::default()
            };
            let copied = engine
                .copy(&object("from"), &object("to"), options)
                .await
                .unwrap();
            assert_eq!(
                (copied.info.size, copied.info.crc64nvme),
                (300_000, before.crc64nvme)
            );
            assert!(
                read(&engine, "to", *target).await.unwrap() == content,
                "{encryption:?} {wanted:?}"
            );
            let shares = matches!(
                (encryption, wanted),
                (None, None) | (Some(Encryption::Server), Some(Encryption::Server))
            );
            let stored = files(&folder.path().join("data")).len();
            assert_eq!(stored, if shares { 1 } else { 2 }, "{encryption:?} {wanted:?}");
            engine.delete(&object("to")).await.unwrap();
        }
        let wrong = CopyOptions {
            source: by(Some(9)),
            ..CopyOptions::default()
        };
        assert!(engine.copy(&object("from"), &object("to"), wrong).await.is_err());
        assert!(matches!(
            engine.head(&object("to")).await,
            Err(Error::NoSuchKey(_))
        ));
    }
    // Onto itself, with another key.
    put(&engine, "self", content.clone(), Some(with(1))).await;
    let options = CopyOptions {
        source: by(Some(1)),
        encryption: Some(with(2)),
        ..CopyOptions::default()
    };
    engine
        .copy(&object("self"), &object("self"), options)
        .await
        .unwrap();
    assert!(read(&engine, "self", Some(2)).await.unwrap() == content);
    assert!(read(&engine, "self", Some(1)).await.is_err());
}

#[tokio::test]
async fn parts_are_encrypted_with_the_key_of_their_upload_and_each_differs_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    for (encryption, key) in [(Encryption::Server, None), (with(1), Some(1))] {
        let options = UploadOptions {
            encryption: Some(encryption),
            ..UploadOptions::default()
        };
        let target = object("k");
        let upload = engine.create_upload(&target, options).await.unwrap();
        let Begun { encryption, .. } = engine.begun_upload(&target, &upload).await.unwrap();
        assert_eq!(encryption.unwrap().is_customers(), key.is_some());
        // The same bytes in each: encrypted with one key and the same nonces they would be the same on the disk.
        let content = pattern(1, 5 << 20);
        let wrong = PartOptions {
            key: Some([9; 32].into()),
            ..PartOptions::default()
        };
        let refused = engine
            .upload_part(&target, &upload, 1, wrong, body([content.clone()]))
            .await;
        assert!(matches!(refused, Err(Error::InvalidRequest(_))));
        let mut parts = Vec::new();
        for number in [1, 2, 3] {
            let options = PartOptions {
                key: key.map(|byte: u8| [byte; 32].into()),
                ..PartOptions::default()
            };
            let part = engine.upload_part(&target, &upload, number, options, body([content.clone()]));
            parts.push(PartRef {
                number,
                etag: part.await.unwrap().etag,
                checksums: BTreeMap::new(),
            });
        }
        let as_it_is = CompleteOptions::default();
        let done = engine.complete_upload(&target, &upload, &parts, &as_it_is);
        assert_eq!(done.await.unwrap().size, 15 << 20);
        let stored: Vec<Vec<u8>> = files(&folder.path().join("data"))
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect();
        assert_eq!(stored.len(), 3);
        assert!(stored[0] != stored[1] && stored[1] != stored[2] && stored[0] != stored[2]);
        assert!(
            read(&engine, "k", key).await.unwrap()
                == [content.clone(), content.clone(), content.clone()].concat()
        );
        let range = ByteRange::From {
            first: (5 << 20) - 10,
            last: Some((5 << 20) + 9),
        };
        let found = engine.get(&target, Some(range), &by(key)).await.unwrap();
        let wanted = [&content[content.len() - 10..], &content[..10]].concat();
        assert!(bytes(found).await.unwrap() == wanted);
        assert!(scrubbed(&engine).await.is_empty());
        engine.delete(&target).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_is_cut_leaves_nothing_and_a_wrong_checksum_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = new(folder.path()).await;
    let pieces = [
        Ok(pattern(1, 1 << 20)),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ];
    let options = PutOptions {
        encryption: Some(with(1)),
        ..PutOptions::default()
    };
    let cut = engine
        .put(
            &object("k"),
            options.clone(),
            Box::pin(futures::stream::iter(pieces)),
        )
        .await;
    assert!(matches!(cut, Err(Error::Body(_))));
    let options = PutOptions {
        crc64nvme: Some(1),
        ..options
    };
    let wrong = engine
        .put(&object("k"), options, body([pattern(1, 1 << 20)]))
        .await;
    assert!(matches!(wrong, Err(Error::BadDigest(_))));
    for _ in 0..200 {
        if files(&folder.path().join("tmp")).is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(files(&folder.path().join("tmp")).is_empty() && files(&folder.path().join("data")).is_empty());
}
