//! A disk that fails on demand: the library of `faults.c`, and what it is told.

use crate::crash::splitmix;
use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// What can go wrong, in the order of `enum fault` in `faults.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    DataSync,
    IndexSync,
    FolderSync,
    DataFull,
    DataWrite,
    ShortWrite,
    IndexFull,
    IndexWrite,
    IndexGrow,
    Rename,
    Remove,
    /// fsync answers that all is well, and nothing is on disk. No storage can live with that: it shows that the checks can fail.
    Lie,
}

pub const FAULTS: [Fault; 11] = [
    Fault::DataSync,
    Fault::IndexSync,
    Fault::FolderSync,
    Fault::DataFull,
    Fault::DataWrite,
    Fault::ShortWrite,
    Fault::IndexFull,
    Fault::IndexWrite,
    Fault::IndexGrow,
    Fault::Rename,
    Fault::Remove,
];

/// Words of `struct control`: chances, then how often each happened.
const WORDS: usize = (FAULTS.len() + 1) * 2;

static LIBRARY: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("faults.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/crash/faults.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&library, Path::new(source)])
        .arg("-ldl")
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "{source} was not compiled: is a C compiler (cc) installed?"
    );
    (folder, library)
});

/// The disk under one data folder.
pub struct Disk {
    folder: tempfile::TempDir,
    control: File,
}

impl Disk {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("store")).unwrap();
        fs::write(folder.path().join("record"), "").unwrap();
        fs::write(folder.path().join("control"), [0; WORDS * 4]).unwrap();
        let control = File::options()
            .read(true)
            .write(true)
            .open(folder.path().join("control"))
            .unwrap();
        Self { folder, control }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("store")
    }

    pub fn record(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// What a process needs to run on this disk.
    pub fn environment(&self, seed: u64) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", LIBRARY.1.clone().into()),
            ("PENSTOCK_FAULTS", self.folder.path().join("control").into()),
            ("PENSTOCK_FAULTS_FOLDER", self.data().into()),
            ("PENSTOCK_FAULTS_RECORD", self.record().into()),
            ("PENSTOCK_FAULTS_SEED", splitmix(seed).to_string().into()),
        ]
    }

    /// From now on each operation fails like this, so many in 65536.
    pub fn arm(&self, fault: Fault, chance: u32) {
        self.control
            .write_all_at(&chance.to_ne_bytes(), fault as u64 * 4)
            .unwrap();
    }

    pub fn disarm(&self) {
        self.control.write_all_at(&[0; WORDS * 2], 0).unwrap();
    }

    /// How often each fault happened until now.
    pub fn happened(&self) -> Vec<(Fault, u32)> {
        let of = |fault: Fault| {
            let mut word = [0; 4];
            let at = (WORDS as u64 / 2 + fault as u64) * 4;
            self.control.read_exact_at(&mut word, at).unwrap();
            (fault, u32::from_ne_bytes(word))
        };
        FAULTS.into_iter().chain([Fault::Lie]).map(of).collect()
    }
}
