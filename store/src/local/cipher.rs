//! How the bytes of a data file are encrypted: AES-256-GCM (NIST SP 800-38D) with a key of the file's own, in packages that can be
//! read one by one.
//!
//! ```text
//! package 0 (64 KiB) | tag (16 bytes) | package 1 | tag | … | last package (1 byte to 64 KiB) | tag
//! ```
//! The nonce of a package is its number: a file is written once, and nothing else is encrypted with its key. Tags stand beside
//! their packages, so that a write of any length keeps none in memory and a range is read in one go. How many packages there
//! are, the row says that refers to the file.

use super::rows::FileId;
use crate::engine::DataKey;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use std::{fs::File, io, os::unix::fs::FileExt};

const PACKAGE: usize = 64 << 10;
const TAG: usize = 16;
/// So many are read at once.
const AT_ONCE: u64 = 8;

/// How long a file of so many bytes is on the disk.
pub(super) fn stored_length(length: u64) -> u64 {
    length.saturating_add(length.div_ceil(PACKAGE as u64) * TAG as u64)
}

struct FileKey(LessSafeKey);

impl FileKey {
    fn new(key: &DataKey, file: FileId) -> io::Result<Self> {
        let key = key.for_file(file.0);
        key.map(Self)
            .ok_or_else(|| io::Error::other("the key of a data file could not be made"))
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Encrypts what goes to a new file.
pub(super) struct Encrypting {
    key: FileKey,
    /// Of the package that is being gathered.
    number: u64,
    package: Vec<u8>,
    /// Of what is on the disk, so that it can be compared without a key.
    crc: Digest,
}

impl Encrypting {
    pub fn new(key: &DataKey, file: FileId) -> io::Result<Self> {
        Ok(Self {
            key: FileKey::new(key, file)?,
            number: 0,
            package: Vec::with_capacity(PACKAGE),
            crc: Digest::new(CrcAlgorithm::Crc64Nvme),
        })
    }

    /// What goes to the disk next.
    pub fn update(&mut self, batch: &[Bytes]) -> io::Result<Vec<u8>> {
        let more: usize = batch.iter().map(Bytes::len).sum();
        let mut stored = Vec::with_capacity(more + more.div_ceil(PACKAGE) * TAG + PACKAGE);
        for piece in batch {
            let mut left = &piece[..];
            while !left.is_empty() {
                let (now, later) = left.split_at(left.len().min(PACKAGE - self.package.len()));
                self.package.extend_from_slice(now);
                left = later;
                if self.package.len() == PACKAGE {
                    self.seal(&mut stored)?;
                }
            }
        }
        self.crc.update(&stored);
        Ok(stored)
    }

    /// The end of the file, and the checksum of all of it.
    pub fn finish(mut self) -> io::Result<(Vec<u8>, u64)> {
        let mut stored = Vec::new();
        if !self.package.is_empty() {
            self.seal(&mut stored)?;
        }
        self.crc.update(&stored);
        Ok((stored, self.crc.finalize()))
    }

    fn seal(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let nonce = FileKey::nonce(self.number);
        let sealed = self
            .key
            .0
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.package);
        let tag = sealed.map_err(|_| io::Error::other("a package could not be encrypted"))?;
        into.extend_from_slice(&self.package);
        into.extend_from_slice(tag.as_ref());
        self.number += 1;
        self.package.clear();
        Ok(())
    }
}

/// Decrypts what comes from a file.
pub(super) struct Decrypting {
    key: FileKey,
    file: FileId,
    /// Bytes of the file as they were written.
    length: u64,
    /// The package that is read next, and how many of its bytes are not wanted.
    number: u64,
    skip: usize,
    /// Read, and not yet given away.
    ready: Vec<u8>,
    given: usize,
}

impl Decrypting {
    /// From byte `start` on of a file of `length` bytes.
    pub fn new(key: &DataKey, file: FileId, length: u64, start: u64) -> io::Result<Self> {
        let skip = start % PACKAGE as u64;
        Ok(Self {
            key: FileKey::new(key, file)?,
            file,
            length,
            number: start / PACKAGE as u64,
            skip: usize::try_from(skip).unwrap_or(0),
            ready: Vec::new(),
            given: 0,
        })
    }

    /// The next bytes, at most `left`, which is not 0. Blocks.
    pub fn next(&mut self, file: &File, left: u64) -> io::Result<Vec<u8>> {
        let (skip, whole) = (self.skip as u64, (PACKAGE + TAG) as u64);
        let packages = (skip + left).div_ceil(PACKAGE as u64).min(AT_ONCE);
        let begin = self.number * PACKAGE as u64;
        let length = (packages * PACKAGE as u64).min(self.length.saturating_sub(begin));
        let mut bytes = vec![0; usize::try_from(stored_length(length)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, self.number * whole)?;
        let mut end = 0;
        for at in (0..bytes.len()).step_by(PACKAGE + TAG) {
            let until = bytes.len().min(at + PACKAGE + TAG);
            let nonce = FileKey::nonce(self.number);
            let opened = self
                .key
                .0
                .open_in_place(nonce, Aad::empty(), &mut bytes[at..until]);
            let opened = opened.map_err(|_| self.damaged())?.len();
            bytes.copy_within(at..at + opened, end);
            end += opened;
            self.number += 1;
        }
        bytes.truncate(end);
        bytes.drain(..self.skip.min(end));
        self.skip = 0;
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// As [`Decrypting::next`], into memory that the caller has; returns how many bytes there were. Blocks.
    pub fn read(&mut self, file: &File, left: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.ready.len() {
            (self.ready, self.given) = (self.next(file, left)?, 0);
        }
        let ready = &self.ready[self.given..];
        let length = ready.len().min(into.len());
        into[..length].copy_from_slice(&ready[..length]);
        self.given += length;
        Ok(length)
    }

    fn damaged(&self) -> io::Error {
        tracing::error!(file = %self.file, package = self.number, "a data file is not what was encrypted; its object is damaged");
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a data file is not what was encrypted",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Encryption;

    fn stored(key: &DataKey, bytes: &[u8], pieces: usize) -> (tempfile::NamedTempFile, u64) {
        let mut encrypting = Encrypting::new(key, FileId(7)).unwrap();
        let mut all = Vec::new();
        for piece in bytes.chunks(pieces) {
            all.extend(encrypting.update(&[Bytes::copy_from_slice(piece)]).unwrap());
        }
        let (end, crc) = encrypting.finish().unwrap();
        all.extend(end);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &all).unwrap();
        assert_eq!(all.len() as u64, stored_length(bytes.len() as u64));
        assert_eq!(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &all), crc);
        (file, crc)
    }

    #[test]
    fn every_range_is_what_was_written() {
        let (key, _) = Encryption::Customer([5; 32].into()).begin(None).unwrap();
        for length in [1, 100, PACKAGE, PACKAGE + 1, 9 * PACKAGE, 9 * PACKAGE + 17] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 / 7) as u8).collect();
            let (file, _) = stored(&key, &bytes, 40_000);
            for start in [0, 1, PACKAGE - 1, PACKAGE, PACKAGE + 5, 8 * PACKAGE] {
                if start >= length {
                    continue;
                }
                for end in [start + 1, length.min(start + PACKAGE), length] {
                    let mut reading = Decrypting::new(&key, FileId(7), length as u64, start as u64).unwrap();
                    let mut read = Vec::new();
                    let mut at = start;
                    while at < end {
                        let left = (end - at) as u64;
                        let mut piece = [0; 30_001];
                        let got = match at % 2 {
                            0 if reading.given == reading.ready.len() => {
                                let piece = reading.next(file.as_file(), left).unwrap();
                                read.extend_from_slice(&piece);
                                piece.len()
                            }
                            _ => {
                                let got = reading.read(file.as_file(), left, &mut piece).unwrap();
                                read.extend_from_slice(&piece[..got]);
                                got
                            }
                        };
                        assert!(got > 0);
                        at += got;
                    }
                    assert!(read == bytes[start..end], "{start}..{end} of {length}");
                }
            }
        }
    }

    #[test]
    fn what_is_changed_moved_cut_or_of_another_file_is_not_read() {
        let (key, _) = Encryption::Customer([5; 32].into()).begin(None).unwrap();
        let bytes = vec![9; 2 * PACKAGE + 100];
        let length = bytes.len() as u64;
        let (file, _) = stored(&key, &bytes, 1 << 20);
        let good = std::fs::read(file.path()).unwrap();
        let read = |file: FileId, length: u64, content: &[u8]| {
            let stored = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(stored.path(), content).unwrap();
            let mut reading = Decrypting::new(&key, file, length, 0).unwrap();
            reading.next(stored.as_file(), length)
        };
        assert!(read(FileId(7), length, &good).unwrap() == bytes);
        assert!(read(FileId(8), length, &good).is_err());
        assert!(read(FileId(7), length - 1, &good).is_err());
        assert!(read(FileId(7), length, &good[..good.len() - 1]).is_err());
        for at in [0, PACKAGE - 1, PACKAGE, PACKAGE + TAG, good.len() - 1] {
            let mut spoiled = good.clone();
            spoiled[at] ^= 1;
            assert!(read(FileId(7), length, &spoiled).is_err(), "{at}");
        }
        let mut swapped = good.clone();
        let (first, second) = swapped.split_at_mut(PACKAGE + TAG);
        first.swap_with_slice(&mut second[..PACKAGE + TAG]);
        assert!(read(FileId(7), length, &swapped).is_err());
    }
}
