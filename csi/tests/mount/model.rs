//! Random operations on a mounted bucket and on an ordinary folder: both must say and hold the same, whatever is done.
//!
//! The seed is printed; `PENSTOCK_SEED` repeats a run, `PENSTOCK_SOAK=1` makes it long.

use crate::{Mounted, Store};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

struct Random(u64);

impl Random {
    /// splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Few names, so that operations meet.
    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let parts: Vec<_> = (0..depth)
            .map(|_| ["a", "b", "c", "a-b"][self.below(4) as usize])
            .collect();
        parts.join("/")
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write { path: String, size: u64 },
    WriteAt { path: String, offset: u64, size: u64 },
    Append { path: String, size: u64 },
    Truncate { path: String, size: u64 },
    CreateNew { path: String },
    Remove { path: String },
    MakeFolder { path: String },
    RemoveFolder { path: String },
    Rename { from: String, to: String },
    RemoveWhileOpen { path: String },
    Read { path: String },
    List { path: String },
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let path = random.path();
        match random.below(20) {
            0..=3 => Self::Write {
                path,
                size: random.below(200_000),
            },
            4..=5 => Self::WriteAt {
                path,
                offset: random.below(100_000),
                size: 1 + random.below(50_000),
            },
            6 => Self::Append {
                path,
                size: 1 + random.below(5_000),
            },
            7 => Self::Truncate {
                path,
                size: random.below(100_000),
            },
            8 => Self::CreateNew { path },
            9 => Self::Remove { path },
            10..=12 => Self::MakeFolder { path },
            13 => Self::RemoveFolder { path },
            14..=16 => Self::Rename {
                from: path,
                to: random.path(),
            },
            17 => Self::RemoveWhileOpen { path },
            18 => Self::Read { path },
            _ => Self::List { path },
        }
    }

    /// Does it below a root and tells the outcome, bytes included.
    fn run(&self, root: &Path, fill: u8) -> io::Result<Vec<u8>> {
        let bytes = |size: u64| vec![fill; size as usize];
        match self {
            Self::Write { path, size } => fs::write(root.join(path), bytes(*size)).map(|()| Vec::new()),
            Self::WriteAt { path, offset, size } => {
                let file = OpenOptions::new().write(true).open(root.join(path))?;
                file.write_all_at(&bytes(*size), *offset)?;
                Ok(Vec::new())
            }
            Self::Append { path, size } => {
                let mut file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(root.join(path))?;
                file.write_all(&bytes(*size))?;
                Ok(Vec::new())
            }
            Self::Truncate { path, size } => {
                OpenOptions::new()
                    .write(true)
                    .open(root.join(path))?
                    .set_len(*size)?;
                Ok(Vec::new())
            }
            Self::CreateNew { path } => OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(root.join(path))
                .map(|_| Vec::new()),
            Self::Remove { path } => fs::remove_file(root.join(path)).map(|()| Vec::new()),
            Self::MakeFolder { path } => fs::create_dir(root.join(path)).map(|()| Vec::new()),
            Self::RemoveFolder { path } => fs::remove_dir(root.join(path)).map(|()| Vec::new()),
            Self::Rename { from, to } => fs::rename(root.join(from), root.join(to)).map(|()| Vec::new()),
            Self::RemoveWhileOpen { path } => {
                let mut file = File::open(root.join(path))?;
                fs::remove_file(root.join(path))?;
                let mut all = Vec::new();
                file.read_to_end(&mut all)?;
                Ok(all)
            }
            Self::Read { path } => fs::read(root.join(path)),
            Self::List { path } => {
                let mut names = Vec::new();
                for entry in fs::read_dir(root.join(path))? {
                    let entry = entry?;
                    names.push(format!(
                        "{}{}",
                        entry.file_name().display(),
                        if entry.file_type()?.is_dir() { "/" } else { "" }
                    ));
                }
                names.sort();
                Ok(names.join("\n").into_bytes())
            }
        }
    }
}

/// Everything below a root: paths, and bytes of files.
fn tree(root: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                found.push((name, None));
                open.push(path);
            } else {
                found.push((name, Some(fs::read(&path).unwrap())));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_mounted_bucket_behaves_as_a_folder() {
    let store = Store::new();
    behaves(|name| store.mounted(name));
}

/// Compares one mount after the other with an ordinary folder; `mount` mounts the same bucket by a name that is new.
pub fn behaves(mount: impl Fn(&str) -> Mounted) {
    let soak = std::env::var_os("PENSTOCK_SOAK").is_some();
    let seed = std::env::var("PENSTOCK_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ (rand_time() << 16));
    println!("PENSTOCK_SEED={seed}");
    let mut random = Random(seed);
    let ordinary = tempfile::tempdir().unwrap();
    let mut mounted = mount("0");
    let mut done = Vec::new();
    for round in 0..if soak { 200 } else { 4 } {
        for _ in 0..150 {
            let step = Step::random(&mut random);
            let fill = random.below(255) as u8;
            done.push(step.clone());
            let expected = step
                .run(ordinary.path(), fill)
                .map_err(|error| error.raw_os_error());
            let got = step
                .run(mounted.path(), fill)
                .map_err(|error| error.raw_os_error());
            let last: Vec<_> = done.iter().rev().take(12).collect();
            let shown = |outcome: &Result<Vec<u8>, Option<i32>>| match outcome {
                Ok(bytes) => format!("{} bytes", bytes.len()),
                Err(errno) => format!("errno {errno:?}"),
            };
            assert!(
                expected == got,
                "seed {seed}, {step:?}: a folder says {}, the mount {}; before it (latest first): {last:#?}",
                shown(&expected),
                shown(&got)
            );
        }
        assert!(
            tree(ordinary.path()) == tree(mounted.path()),
            "seed {seed}: the trees differ after round {round}"
        );
        // What a new node sees is the same.
        drop(mounted);
        mounted = mount(&format!("{}", round + 1));
        assert!(
            tree(ordinary.path()) == tree(mounted.path()),
            "seed {seed}: another mount differs after round {round}"
        );
    }
}

fn rand_time() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos()
        .into()
}

#[test]
fn the_comparison_can_fail() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let step = Step::Write {
        path: "a".into(),
        size: 5,
    };
    step.run(one.path(), 1).unwrap();
    step.run(two.path(), 2).unwrap();
    assert!(tree(one.path()) != tree(two.path()));
    assert!(Step::Read { path: "none".into() }.run(one.path(), 0).is_err());
}
