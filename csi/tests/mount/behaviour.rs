//! What programs may expect of a mounted bucket.

use crate::Store;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_large_file_is_the_same_through_another_mount() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    let bytes = pattern((20 << 20) + 13);
    fs::write(here.at("large"), &bytes).unwrap();
    assert!(fs::read(there.at("large")).unwrap() == bytes);
    assert_eq!(fs::metadata(there.at("large")).unwrap().len(), bytes.len() as u64);
}

#[test]
fn writing_in_the_middle_at_the_end_and_beyond_it_works() {
    let store = Store::new();
    let mount = store.mounted("m");
    fs::write(mount.at("f"), pattern(10_000)).unwrap();
    let mut expected = pattern(10_000);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.at("f"))
        .unwrap();
    file.write_all_at(b"middle", 5_000).unwrap();
    expected[5_000..5_006].copy_from_slice(b"middle");
    file.write_all_at(b"far", 20_000).unwrap();
    expected.resize(20_000, 0);
    expected.extend_from_slice(b"far");
    drop(file);
    let mut log = OpenOptions::new().append(true).open(mount.at("f")).unwrap();
    log.write_all(b"appended").unwrap();
    expected.extend_from_slice(b"appended");
    drop(log);
    assert!(fs::read(mount.at("f")).unwrap() == expected);
    let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    file.set_len(7).unwrap();
    drop(file);
    assert!(fs::read(mount.at("f")).unwrap() == expected[..7]);
}

#[test]
fn appending_sees_what_another_mount_appended_before() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    let mut expected = String::new();
    for turn in 0..6 {
        let mount = if turn % 2 == 0 { &here } else { &there };
        let line = format!("turn {turn}\n");
        let mut log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(mount.at("log"))
            .unwrap();
        log.write_all(line.as_bytes()).unwrap();
        expected.push_str(&line);
    }
    assert_eq!(fs::read_to_string(here.at("log")).unwrap(), expected);
    assert_eq!(fs::read_to_string(there.at("log")).unwrap(), expected);
}

#[test]
fn an_open_after_a_close_elsewhere_sees_the_new_file_at_once() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    for size in [5, 100_000, 3, 0, 70_000] {
        let bytes = pattern(size);
        fs::write(here.at("f"), &bytes).unwrap();
        let mut file = File::open(there.at("f")).unwrap();
        let mut got = Vec::new();
        file.read_to_end(&mut got).unwrap();
        assert!(got == bytes, "{size} bytes written, {} read", got.len());
    }
}

#[test]
fn fsync_makes_it_visible_while_the_file_is_open() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    let mut file = File::create(here.at("f")).unwrap();
    file.write_all(b"first").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(there.at("f")).unwrap(), b"first");
    file.write_all(b" second").unwrap();
    assert_eq!(
        fs::read(here.at("f")).unwrap(),
        b"first second",
        "on one node it is visible at once"
    );
    drop(file);
    assert_eq!(fs::read(there.at("f")).unwrap(), b"first second");
}

#[test]
fn a_file_that_is_removed_or_replaced_stays_whole_for_who_has_it_open() {
    let store = Store::new();
    let mount = store.mounted("m");
    fs::write(mount.at("f"), b"old").unwrap();
    fs::write(mount.at("g"), b"other").unwrap();
    let (mut f, mut g) = (
        File::open(mount.at("f")).unwrap(),
        File::open(mount.at("g")).unwrap(),
    );
    fs::remove_file(mount.at("f")).unwrap();
    fs::write(mount.at("new"), b"new").unwrap();
    fs::rename(mount.at("new"), mount.at("g")).unwrap();
    let mut text = String::new();
    f.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert_eq!(f.metadata().unwrap().len(), 3);
    text.clear();
    g.read_to_string(&mut text).unwrap();
    assert_eq!(text, "other");
    assert_eq!(fs::read(mount.at("g")).unwrap(), b"new");
    assert_eq!(names(mount.path()), ["g"]);
}

#[test]
fn what_is_written_to_a_removed_file_is_nobody_elses() {
    let store = Store::new();
    let mount = store.mounted("m");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(mount.at("tmp"))
        .unwrap();
    fs::remove_file(mount.at("tmp")).unwrap();
    file.write_all(b"scratch").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "scratch");
    drop(file);
    assert!(names(mount.path()).is_empty());
}

#[test]
fn only_one_of_two_nodes_makes_an_exclusive_file() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    let create = |path| OpenOptions::new().write(true).create_new(true).open(path);
    create(here.at("lock")).unwrap();
    assert_eq!(
        create(there.at("lock")).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    fs::remove_file(there.at("lock")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    create(here.at("lock")).unwrap();
}

#[test]
fn folders_behave_as_folders() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    fs::create_dir_all(here.at("a/b")).unwrap();
    assert!(there.at("a/b").is_dir());
    assert_eq!(
        fs::create_dir(here.at("a")).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    fs::write(here.at("a/b/f"), b"x").unwrap();
    assert_eq!(
        fs::remove_dir(here.at("a/b")).unwrap_err().kind(),
        ErrorKind::DirectoryNotEmpty
    );
    fs::rename(here.at("a"), here.at("z")).unwrap();
    assert_eq!(fs::read(here.at("z/b/f")).unwrap(), b"x");
    assert!(!here.at("a").exists());
    fs::create_dir(here.at("full")).unwrap();
    fs::write(here.at("full/x"), b"").unwrap();
    assert_eq!(
        fs::rename(here.at("z"), here.at("full")).unwrap_err().kind(),
        ErrorKind::DirectoryNotEmpty
    );
    assert!(fs::rename(here.at("z"), here.at("z/b/inside")).is_err());
    fs::remove_file(here.at("z/b/f")).unwrap();
    fs::remove_dir(here.at("z/b")).unwrap();
    fs::remove_dir(here.at("z")).unwrap();
    assert_eq!(names(here.path()), ["full"]);
}

#[test]
fn a_folder_that_only_keys_make_stays_when_its_last_file_goes() {
    let store = Store::new();
    let mount = store.mounted("m");
    // As an S3 client does it: no object for the folder itself.
    let storage = penstock_csi::fs::Storage::new(
        store.engine.clone(),
        "bucket",
        "volume",
        std::time::Duration::from_secs(5),
    );
    store
        .runtime
        .block_on(storage.put_empty("made/by/s3", true))
        .unwrap();
    assert_eq!(names(&mount.at("made")), ["by"]);
    fs::rename(mount.at("made/by/s3"), mount.at("moved")).unwrap();
    assert!(mount.at("made/by").is_dir());
    fs::remove_dir(mount.at("made/by")).unwrap();
    assert!(mount.at("made").is_dir());
}

#[test]
fn a_folder_of_thousands_is_listed_whole() {
    let store = Store::new();
    let mount = store.mounted("m");
    let storage = penstock_csi::fs::Storage::new(
        store.engine.clone(),
        "bucket",
        "volume",
        std::time::Duration::from_secs(5),
    );
    store.runtime.block_on(async {
        for number in 0..2300 {
            storage
                .put_empty(&format!("many/{number:05}"), true)
                .await
                .unwrap();
        }
    });
    let names = names(&mount.at("many"));
    assert_eq!(names.len(), 2300);
    assert_eq!(names[2299], "02299");
}

#[test]
fn an_open_file_that_another_node_replaced_is_stale_and_never_mixed() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    fs::write(here.at("f"), pattern(4 << 20)).unwrap();
    // Around the page cache, as a program that was not lucky enough to have everything read already.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(0o40000)
        .open(here.at("f"))
        .unwrap();
    let mut first = vec![0; 4096];
    file.read_exact_at(&mut first, 0).unwrap();
    fs::write(there.at("f"), vec![9; 4 << 20]).unwrap();
    let error = file.read_exact_at(&mut first, 2 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(116), "ESTALE: {error}");
}

#[test]
fn what_an_object_cannot_be_is_refused_and_what_is_so_already_is_fine() {
    let store = Store::new();
    let mount = store.mounted("m");
    fs::write(mount.at("f"), b"x").unwrap();
    let os = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(os(std::os::unix::fs::symlink("f", mount.at("s"))), Some(1));
    assert_eq!(os(fs::hard_link(mount.at("f"), mount.at("h"))), Some(1));
    assert_eq!(
        os(fs::set_permissions(
            mount.at("f"),
            PermissionsExt::from_mode(0o600)
        )),
        Some(1)
    );
    fs::set_permissions(mount.at("f"), PermissionsExt::from_mode(0o644)).unwrap();
    let long = "x".repeat(1025);
    let error = File::create(mount.at(&format!("{}/{long}", ""))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(36), "ENAMETOOLONG: {error}");
    let meta = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o644, 0));
}

#[test]
fn many_threads_write_and_read_their_own_files() {
    let store = Store::new();
    let mount = store.mounted("m");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mount = &mount;
            scope.spawn(move || {
                for turn in 0..12 {
                    let path = mount.at(&format!("t{thread}-{turn}"));
                    let bytes = pattern(1000 * thread + turn * 37);
                    fs::write(&path, &bytes).unwrap();
                    assert!(fs::read(&path).unwrap() == bytes);
                    if turn % 3 == 0 {
                        fs::remove_file(&path).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(names(mount.path()).len(), 8 * 8);
}

fn appending(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).unwrap()
}

#[test]
fn two_that_append_on_one_node_lose_nothing_of_each_other() {
    let store = Store::new();
    let (mount, _) = store.mounted_over_http("m");
    let mut one = appending(&mount.at("log"));
    one.write_all(b"1\n").unwrap();
    one.sync_all().unwrap();
    let mut two = appending(&mount.at("log"));
    two.write_all(b"2\n").unwrap();
    two.sync_all().unwrap();
    one.write_all(b"3\n").unwrap();
    drop((one, two));
    assert_eq!(fs::read_to_string(mount.at("log")).unwrap(), "1\n2\n3\n");
}

#[test]
fn whoever_opens_anew_sees_no_byte_of_the_version_that_is_open_still() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    for size in [1 << 20, 300_000, 2 << 20] {
        let old = pattern(1 << 20);
        fs::write(here.at("f"), &old).unwrap();
        let before = OpenOptions::new()
            .read(true)
            .write(true)
            .open(here.at("f"))
            .unwrap();
        before.write_all_at(&old[..1], 0).unwrap();
        before.sync_all().unwrap();
        fs::write(there.at("f"), vec![9; size]).unwrap();
        let mut after = File::open(here.at("f")).unwrap();
        let mut bytes = vec![0; 1 << 20];
        before.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == old, "what was open stays as it was ({size})");
        bytes.clear();
        after.read_to_end(&mut bytes).unwrap();
        assert!(bytes == vec![9; size], "what was opened since is new ({size})");
        // By name, the new one is seen, and the old one is not cut to its length.
        assert_eq!(fs::metadata(here.at("f")).unwrap().len(), size as u64);
        assert_eq!(before.metadata().unwrap().len(), 1 << 20);
        let mut end = [0; 16];
        before.read_exact_at(&mut end, (1 << 20) - 16).unwrap();
        assert!(end == old[(1 << 20) - 16..]);
    }
}

#[test]
fn a_reader_does_not_publish_what_is_half_written() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    let mut file = File::create(here.at("f")).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!(fs::read(here.at("f")).unwrap(), b"half");
    assert_eq!(
        fs::read(there.at("f")).unwrap(),
        b"",
        "elsewhere it is not closed yet"
    );
    // Whoever asks for it may publish it, even with a handle that only reads.
    File::open(here.at("f")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(there.at("f")).unwrap(), b"half");
}

#[test]
fn a_stale_handle_does_not_hold_its_name() {
    let store = Store::new();
    let (here, there) = (store.mounted("here"), store.mounted("there"));
    for name in ["removed", "replaced"] {
        fs::write(here.at(name), pattern(100_000)).unwrap();
    }
    let _stale = (
        File::open(here.at("removed")).unwrap(),
        File::open(here.at("replaced")).unwrap(),
    );
    for name in ["removed", "replaced"] {
        fs::write(there.at(name), b"other").unwrap();
    }
    fs::remove_file(here.at("removed")).unwrap();
    fs::write(here.at("new"), b"new").unwrap();
    fs::rename(here.at("new"), here.at("replaced")).unwrap();
    assert_eq!(fs::read(here.at("replaced")).unwrap(), b"new");
    assert_eq!(names(here.path()), ["replaced"]);
}

#[test]
fn what_is_written_while_its_file_or_folder_is_renamed_goes_along() {
    let store = Store::new();
    let mount = store.mounted("m");
    for folder in ["a", "a/b"] {
        fs::create_dir(mount.at(folder)).unwrap();
    }
    for number in 0..40 {
        fs::write(mount.at(&format!("a/{number}")), b"x").unwrap();
    }
    let done = AtomicBool::new(false);
    let mut log = appending(&mount.at("a/b/log"));
    let lines = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut lines = String::new();
            while !done.load(Ordering::Relaxed) {
                let line = format!("line {}\n", lines.len());
                log.write_all(line.as_bytes()).unwrap();
                log.sync_all().unwrap();
                lines.push_str(&line);
            }
            lines
        });
        let steps = [("a/b/log", "a/log"), ("a", "z"), ("z", "a"), ("a/log", "a/b/log")];
        let renamed = (0..8)
            .flat_map(|_| steps)
            .try_for_each(|(from, to)| fs::rename(mount.at(from), mount.at(to)));
        done.store(true, Ordering::Relaxed);
        let lines = writer.join().unwrap();
        renamed.unwrap();
        lines
    });
    drop(log);
    assert_eq!(names(mount.path()), ["a"]);
    assert_eq!(names(&mount.at("a/b")), ["log"]);
    let found = fs::read_to_string(mount.at("a/b/log")).unwrap();
    assert!(
        found == lines,
        "{} of {} bytes are there",
        found.len(),
        lines.len()
    );
}

#[test]
fn a_file_that_is_replaced_again_and_again_is_whole_for_every_reader_of_the_node() {
    let store = Store::new();
    let mount = store.mounted("m");
    fs::write(mount.at("config"), vec![0; 50_000]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let bytes = fs::read(mount.at("config")).unwrap();
                    assert_eq!(bytes.len(), 50_000);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one");
                }
            });
        }
        // However it ends, the readers end too.
        let replace = || -> std::io::Result<()> {
            for turn in 1..40 {
                fs::write(mount.at("new"), vec![turn; 50_000])?;
                fs::rename(mount.at("new"), mount.at("config"))?;
            }
            Ok(())
        };
        let outcome = replace();
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn what_cannot_be_uploaded_before_the_end_is_put_aside_once() {
    let store = Store::new();
    let (mount, storage_node) = store.mounted_over_http("m");
    let one = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(mount.at("f"))
        .unwrap();
    let two = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    one.write_all_at(b"precious", 0).unwrap();
    store.runtime.block_on(storage_node.ends());
    store
        .runtime
        .block_on(mount.volume.as_ref().unwrap().drain(Duration::from_millis(50)));
    let kept = fs::read_dir(mount.state.join("kept")).unwrap();
    let kept: Vec<_> = kept
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(kept, [b"precious"]);
    drop((one, two));
}
