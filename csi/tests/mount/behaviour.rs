//! What programs may expect of a mounted bucket.

use crate::Store;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

fn names(path: &std::path::Path) -> Vec<String> {
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
