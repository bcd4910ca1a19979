//! A loss of power, played from the record that `faults.c` wrote: of what was written and not synced since, the disk has some pages
//! and not others; what a failed sync left out it never gets, though the kernel shows it and later syncs succeed.
//!
//! An entry is a letter, a number and the length of the bytes that follow, both 64 bits in the machine's order:
//! `W` the pages of the index from this offset on are about to be written, the bytes are those before; `S` the index is on disk;
//! `F` this page of it is lost, as it could not be synced; `D` the data file of this inode was written to; `C` it is on disk; `Q` it
//! could not be synced; `N` the file of this inode came to this place; `X` it is about to be removed; `O` the folder of data files of
//! this number is on disk; `P` it could not be synced.

use crate::crash::splitmix;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

const PAGE: u64 = 4096;

struct Dice(u64);

impl Dice {
    fn tails(&mut self) -> bool {
        self.0 = splitmix(self.0);
        self.0 & 1 == 1
    }
}

#[derive(Default)]
struct Unsynced {
    /// Pages of the index as they are on disk: those not synced since they were written, and those that never will be.
    pages: BTreeMap<u64, Vec<u8>>,
    lost_pages: BTreeMap<u64, Vec<u8>>,
    files: HashSet<u64>,
    lost_files: HashSet<u64>,
    /// Names in `data` that are not on disk, by folder, and those that never will be.
    names: HashMap<u64, Vec<String>>,
    lost_names: HashSet<String>,
    inodes: HashMap<String, u64>,
}

/// Takes from `data` what the disk would not have, and ends the record. Returns how much was taken.
pub fn lose(data: &Path, record: &Path, seed: u64) -> usize {
    let mut dice = Dice(seed);
    let unsynced = played(&fs::read(record).unwrap());
    let mut taken = 0;
    let index = File::options().write(true).open(data.join("index.redb")).unwrap();
    let length = index.metadata().unwrap().len();
    let lost = unsynced.lost_pages.into_iter().map(|page| (page, true));
    let open = unsynced.pages.into_iter().map(|page| (page, false));
    for ((page, before), is_lost) in lost.chain(open) {
        if (is_lost || dice.tails()) && page * PAGE < length {
            let whole = before.len().min(usize::try_from(length - page * PAGE).unwrap());
            index.write_all_at(&before[..whole], page * PAGE).unwrap();
            taken += 1;
        }
    }
    let open: HashSet<String> = unsynced.names.into_values().flatten().collect();
    for (name, inode) in unsynced.inodes {
        let path = data.join(&name);
        if !path.exists() {
            continue;
        }
        if unsynced.lost_names.contains(&name) || open.contains(&name) && dice.tails() {
            fs::remove_file(&path).unwrap();
            taken += 1;
        } else if unsynced.lost_files.contains(&inode) || unsynced.files.contains(&inode) {
            fs::write(&path, "").unwrap();
            taken += 1;
        }
    }
    forget(record);
    taken
}

/// Ends the record: what was written until now is on disk.
pub fn forget(record: &Path) {
    File::options()
        .write(true)
        .open(record)
        .unwrap()
        .set_len(0)
        .unwrap();
}

fn played(record: &[u8]) -> Unsynced {
    let mut state = Unsynced::default();
    let number = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().unwrap());
    let mut at = 0;
    // The last entry may have been cut.
    while at + 17 <= record.len() {
        let (kind, subject) = (record[at], number(at + 1));
        let length = usize::try_from(number(at + 9)).unwrap();
        let Some(bytes) = record.get(at + 17..at + 17 + length) else {
            break;
        };
        at += 17 + length;
        match kind {
            b'W' => state.written(subject, bytes),
            b'S' => state.pages.clear(),
            b'F' => {
                if let Some(before) = state.pages.remove(&subject) {
                    state.lost_pages.insert(subject, before);
                }
            }
            b'D' => drop(state.files.insert(subject)),
            b'C' => drop(state.files.remove(&subject)),
            b'Q' => drop(state.lost_files.insert(subject)),
            b'X' => {
                state.files.remove(&subject);
                state.lost_files.remove(&subject);
            }
            b'N' => {
                let name = String::from_utf8(bytes.to_vec()).unwrap();
                let folder = u64::from_str_radix(&name["data/".len()..][..2], 16).unwrap();
                state.names.entry(folder).or_default().push(name.clone());
                state.inodes.insert(name, subject);
            }
            b'O' => drop(state.names.remove(&subject)),
            b'P' => state
                .lost_names
                .extend(state.names.remove(&subject).unwrap_or_default()),
            other => panic!("the record has an entry of kind {other}"),
        }
    }
    state
}

impl Unsynced {
    fn written(&mut self, offset: u64, before: &[u8]) {
        for (page, bytes) in (offset / PAGE..).zip(before.chunks(PAGE as usize)) {
            // A lost page that is written again will be synced again; until then the disk has what it had before.
            let on_disk = self.lost_pages.remove(&page);
            self.pages
                .entry(page)
                .or_insert_with(|| on_disk.unwrap_or_else(|| bytes.to_vec()));
        }
    }
}
