//! What was lent into memory of the caller's, by several threads where that pays.
//!
//! The buffer is cut into lanes, one for each thread, so that at the end few checksums are put together. Threads only copy what
//! is in the page cache. They end, and the task gives way, after each turn, so that a runtime is held up for no longer than
//! one of them takes, however large the object is. From the first byte on that must come from the disk it goes on without them:
//! there the disk sets the pace.

use super::{
    Lent,
    lent::{is_not_cached, shortened},
};
use crate::threads::{THREADS, worth};
use crc_fast::{CrcAlgorithm, Digest};
use std::{
    io,
    thread::{self, ScopedJoinHandle},
};

/// Bytes that are copied before the checksum looks at them: they are in the processor's cache then.
const PIECE: usize = 256 << 10;
/// Bytes that a thread copies in a turn: about 2 ms.
const TURN: usize = 8 << 20;

impl Lent {
    /// Fills `buffer` from the beginning of what was lent. Returns the CRC-64/NVME of what was copied if `summed`.
    ///
    /// # Errors
    /// As [`Lent::read_at`], and `UnexpectedEof` when less was lent than `buffer` takes.
    pub(crate) async fn copy_into(&self, buffer: &mut [u8], summed: bool) -> io::Result<Option<u64>> {
        self.copy_with(buffer, summed, *THREADS).await
    }

    async fn copy_with(&self, buffer: &mut [u8], summed: bool, threads: usize) -> io::Result<Option<u64>> {
        let threads = worth(threads, buffer.len());
        let mut lanes = lanes(buffer, threads, summed);
        while lanes.len() > 1 && lanes.iter().any(|lane| !lane.rest.is_empty()) {
            if !self.turn(&mut lanes)? {
                break;
            }
            tokio::task::yield_now().await;
        }
        for lane in &mut lanes {
            while !lane.rest.is_empty() {
                let wanted = lane.rest.len().min(PIECE);
                let got = self.read_into(&mut lane.rest[..wanted], lane.at).await?;
                lane.took(got);
                if got < wanted {
                    return Err(shortened());
                }
            }
        }
        let digests = lanes.into_iter().filter_map(|lane| lane.digest);
        let whole = digests.reduce(|mut whole, next| {
            whole.combine(&next);
            whole
        });
        // Nothing has no lane.
        Ok(summed.then(|| whole.unwrap_or_else(empty).finalize()))
    }

    /// One turn of each lane, all at the same time; whether all they came upon was in the page cache. Blocks as long as
    /// copying takes.
    fn turn(&self, lanes: &mut [Lane<'_>]) -> io::Result<bool> {
        let Some((own, others)) = lanes.split_first_mut() else {
            return Ok(true);
        };
        thread::scope(|scope| {
            let started: Vec<_> = others
                .iter_mut()
                .filter(|lane| !lane.rest.is_empty())
                .map(|lane| {
                    let named = thread::Builder::new().name("copy".to_owned());
                    named.spawn_scoped(scope, move || lane.advance(self))
                })
                .collect();
            let own = own.advance(self);
            let others = started.into_iter().map(|thread| match thread {
                Ok(thread) => joined(thread),
                // Out of threads: its lane is left to the others' end.
                Err(_) => Ok(false),
            });
            // All are waited for in any case, and the first failure is told.
            others.fold(own, |all, other| Ok(all? & other?))
        })
    }
}

fn empty() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Nvme)
}

fn joined(thread: ScopedJoinHandle<'_, io::Result<bool>>) -> io::Result<bool> {
    let panicked = |_| Err(io::Error::other("a thread that copied lent bytes panicked"));
    thread.join().unwrap_or_else(panicked)
}

/// A part of the buffer that one thread fills.
struct Lane<'b> {
    rest: &'b mut [u8],
    /// Where the first byte of `rest` is in what was lent.
    at: u64,
    digest: Option<Digest>,
}

fn lanes(buffer: &mut [u8], count: usize, summed: bool) -> Vec<Lane<'_>> {
    let length = buffer.len().div_ceil(count).max(1);
    let parts = buffer.chunks_mut(length).scan(0, |next, rest| {
        let at = *next;
        *next += rest.len() as u64;
        Some((rest, at))
    });
    parts
        .map(|(rest, at)| Lane {
            rest,
            at,
            digest: summed.then(empty),
        })
        .collect()
}

impl Lane<'_> {
    /// Copies until the turn is over; whether all it came upon was in the page cache.
    fn advance(&mut self, lent: &Lent) -> io::Result<bool> {
        let end = self.at + TURN as u64;
        while !self.rest.is_empty() && self.at < end {
            let wanted = self.rest.len().min(PIECE);
            match lent.read_cached(&mut self.rest[..wanted], self.at) {
                Ok(got) => {
                    self.took(got);
                    if got < wanted {
                        return Err(shortened());
                    }
                }
                Err(error) if is_not_cached(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn took(&mut self, length: usize) {
        let (piece, rest) = std::mem::take(&mut self.rest).split_at_mut(length);
        if let Some(digest) = &mut self.digest {
            digest.update(piece);
        }
        self.at += length as u64;
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{local::Extent, threads::MOST_THREADS};
    use std::{fs::File, os::unix::fs::FileExt};

    fn file(length: usize, seed: u8) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| (at / 7 + at / 4096) as u8 ^ seed).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    /// Two files, of which the second is lent from its middle on.
    fn lent(first: usize, second: usize) -> (Lent, Vec<u8>) {
        let ((one, mut bytes), (two, tail)) = (file(first, 1), file(second + 1000, 2));
        bytes.extend_from_slice(&tail[1000..]);
        let extent = |file, offset, length: usize| Extent {
            file,
            offset,
            length: length as u64,
        };
        let extents = vec![extent(0, 0, first), extent(1, 1000, second)];
        (Lent::new(vec![one, two], extents, Box::new(())).unwrap(), bytes)
    }

    #[tokio::test]
    async fn bytes_and_checksum_are_the_same_by_any_number_of_threads() {
        for (first, second) in [
            (0, 1),
            (1 << 20, 0),
            (3 << 20, (1 << 20) + 1),
            (PIECE + 1, (9 << 20) + 3),
            (TURN * 3 + 1, TURN * 2 - 1),
        ] {
            let (lent, bytes) = lent(first, second);
            let expected = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &bytes);
            for threads in [1, 2, 3, MOST_THREADS] {
                let mut buffer = vec![0; bytes.len()];
                let crc = lent.copy_with(&mut buffer, true, threads).await.unwrap();
                assert!(buffer == bytes, "{first}+{second} by {threads}");
                assert_eq!(crc, Some(expected), "{first}+{second} by {threads}");
                let unsummed = lent.copy_with(&mut buffer, false, threads).await.unwrap();
                assert_eq!(unsummed, None);
            }
            let mut part = vec![0; bytes.len() / 2];
            lent.copy_with(&mut part, true, 2).await.unwrap();
            assert!(part == bytes[..part.len()]);
        }
    }

    #[test]
    fn a_turn_of_cached_bytes_advances_every_lane_and_ends() {
        let (lent, bytes) = lent(TURN * 3, 5);
        let mut buffer = vec![0; bytes.len()];
        let mut lanes = lanes(&mut buffer, 2, true);
        // A file system may not be able to tell what is cached.
        if lent.turn(&mut lanes).unwrap() {
            let left: Vec<usize> = lanes.iter().map(|lane| lane.rest.len()).collect();
            let lane = bytes.len().div_ceil(2);
            assert_eq!(left, [lane - TURN, bytes.len() - lane - TURN]);
        }
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_ends_it_whoever_comes_upon_its_end() {
        for threads in [1, 2, 4] {
            let (file, _) = file(TURN * 2, 1);
            let short = file.try_clone().unwrap();
            let extent = Extent {
                file: 0,
                offset: 0,
                length: (TURN * 2) as u64,
            };
            let lent = Lent::new(vec![file], vec![extent], Box::new(())).unwrap();
            let mut buffer = vec![0; TURN * 2 + 1];
            let more = lent.copy_with(&mut buffer, true, threads).await.unwrap_err();
            assert_eq!(more.kind(), io::ErrorKind::UnexpectedEof, "more than was lent");
            short.set_len((TURN + 5) as u64).unwrap();
            let cut = lent
                .copy_with(&mut buffer[..TURN * 2], true, threads)
                .await
                .unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "{threads}");
        }
    }
}
