//! Checksums of registered memory, by several threads where that pays.

use super::{Rdma, judge::Answer};
use crate::{
    Error, Result,
    fabric::Memory,
    threads::{THREADS, worth},
};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum, checksum_combine};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::task::spawn_blocking;

/// Fewer bytes are summed where they are asked for: handing them to other threads pays from here on.
const WORTH_HANDING: usize = 8 << 20;

impl Rdma {
    /// The checksum of bytes that arrived in `memory`, from `start` on. What each request moved is compared with what the
    /// storage node says it sent.
    pub(super) async fn verified_in(
        &self,
        memory: Memory,
        start: usize,
        answer: &Answer,
    ) -> (Memory, Result<u64>) {
        if !self.plain.inner.options.verify {
            return (memory, Ok(answer.checksum.unwrap_or_default()));
        }
        let pieces = answer.pieces();
        let arrived: Option<Vec<_>> = pieces.iter().map(|piece| piece.arrived).collect();
        let (memory, sums) = match arrived {
            Some(sums) => (memory, Ok(sums)),
            None => {
                let ends = pieces.iter().scan(start, |end, piece| {
                    let begun = *end;
                    // No more than the window, which is in memory.
                    *end += usize::try_from(piece.bytes).unwrap_or(0);
                    Some(begun..*end)
                });
                sums(memory, ends.collect(), *THREADS).await
            }
        };
        let verified = sums.and_then(|sums| {
            let differs = |(sum, said): (&u64, Option<u64>)| said.is_some_and(|said| said != *sum);
            let said = pieces.iter().map(|piece| piece.checksum);
            if sums.iter().zip(said).any(differs) {
                return Err(Error::Damaged);
            }
            // Of all together it is what was said of each.
            let lengths = pieces.iter().map(|piece| piece.bytes);
            Ok(answer
                .checksum
                .unwrap_or_else(|| combined(sums.into_iter().zip(lengths))))
        });
        (memory, verified)
    }
}

/// The checksum of `memory[bytes]`.
pub(super) async fn sum(memory: Memory, bytes: Range<usize>) -> (Memory, Result<u64>) {
    let (memory, sums) = sums(memory, vec![bytes], *THREADS).await;
    (memory, sums.map(|sums| sums.first().copied().unwrap_or_default()))
}

/// The checksum of what consists of parts with these checksums and lengths.
pub(super) fn combined(parts: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut parts = parts.into_iter();
    let first = parts
        .next()
        .map_or_else(|| checksum(Crc64Nvme, &[]), |(sum, _)| sum);
    parts.fold(first, |before, (sum, length)| {
        checksum_combine(Crc64Nvme, before, sum, length)
    })
}

/// The checksum of each of `parts` of `memory`, in their order, by at most so many threads.
async fn sums(memory: Memory, parts: Vec<Range<usize>>, threads: usize) -> (Memory, Result<Vec<u64>>) {
    let length = parts.iter().map(Range::len).sum();
    let threads = worth(threads, length);
    if length < WORTH_HANDING {
        let sum = |part| checksum(Crc64Nvme, &memory[part]);
        let sums = parts.into_iter().map(sum).collect();
        return (memory, Ok(sums));
    }
    let work = Arc::new(Work {
        lanes: lanes(&parts, length.div_ceil(threads)),
        memory,
        next: AtomicUsize::new(0),
    });
    let at_work: Vec<_> = (0..threads)
        .map(|_| {
            let work = Arc::clone(&work);
            spawn_blocking(move || work.perform())
        })
        .collect();
    let mut lanes = vec![0; work.lanes.len()];
    let mut failure = None;
    // All are waited for in any case: each has a hold on the memory.
    for thread in at_work {
        match thread.await {
            Ok(sums) => {
                for (lane, sum) in sums {
                    lanes[lane] = sum;
                }
            }
            Err(error) => {
                let error = Error::Invalid(format!("a checksum was not computed: {error}"));
                failure.get_or_insert(error);
            }
        }
    }
    let Some(work) = Arc::into_inner(work) else {
        unreachable!("a thread lets go of the memory before it is known to have ended");
    };
    let sums = parts.iter().enumerate().map(|(number, _)| {
        let of_part = work.lanes.iter().zip(&lanes);
        let of_part = of_part.filter(|(lane, _)| lane.part == number);
        combined(of_part.map(|(lane, sum)| (*sum, lane.bytes.len() as u64)))
    });
    let sums = sums.collect();
    (work.memory, failure.map_or(Ok(sums), Err))
}

/// A part of a part that one thread sums.
struct Lane {
    part: usize,
    bytes: Range<usize>,
}

/// Few and long: putting checksums together takes time too.
fn lanes(parts: &[Range<usize>], longest: usize) -> Vec<Lane> {
    let cut = |(part, bytes): (usize, &Range<usize>)| {
        let end = bytes.end;
        let starts = bytes.clone().step_by(longest.max(1));
        starts.map(move |start| Lane {
            part,
            bytes: start..end.min(start + longest),
        })
    };
    parts.iter().enumerate().flat_map(cut).collect()
}

/// What several threads share until it is done.
struct Work {
    memory: Memory,
    lanes: Vec<Lane>,
    /// The lane that nobody has yet.
    next: AtomicUsize,
}

impl Work {
    /// Sums lanes as long as there are any; returns their numbers and sums.
    fn perform(&self) -> Vec<(usize, u64)> {
        let next = || {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            Some((number, self.lanes.get(number)?))
        };
        std::iter::from_fn(next)
            .map(|(number, lane)| (number, checksum(Crc64Nvme, &self.memory[lane.bytes.clone()])))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{Device, Pages, Purpose, loopback::Network};

    fn one(part: Range<usize>) -> Vec<Range<usize>> {
        vec![part]
    }

    #[tokio::test]
    async fn sums_are_the_same_by_any_number_of_threads_and_parts() {
        const MIB: usize = 1 << 20;
        let device = Network::new().device("here");
        let pages = Pages::new(24 * MIB).unwrap();
        let mut memory = device.register(pages, Purpose::Windows).unwrap();
        for (at, byte) in memory.iter_mut().enumerate() {
            *byte = (at / 5 + at / 4096) as u8;
        }
        for parts in [
            vec![],
            one(3..3),
            one(1..WORTH_HANDING),
            one(1..WORTH_HANDING + 1),
            one(7..20 * MIB + 1),
            vec![0..MIB, MIB..MIB, MIB..23 * MIB],
            (0..24).map(|at| at * MIB..(at + 1) * MIB).collect(),
        ] {
            let expected: Vec<_> = parts
                .iter()
                .map(|part| checksum(Crc64Nvme, &memory[part.clone()]))
                .collect();
            for threads in [1, 2, 3, 4] {
                let computed;
                (memory, computed) = sums(memory, parts.clone(), threads).await;
                assert_eq!(computed.unwrap(), expected, "{parts:?} by {threads}");
            }
            let lengths = parts.iter().map(|part| part.len() as u64);
            let whole = parts.first().map_or(0, |part| part.start)..parts.last().map_or(0, |part| part.end);
            let together = combined(expected.into_iter().zip(lengths));
            assert_eq!(together, checksum(Crc64Nvme, &memory[whole.clone()]));
            let computed;
            (memory, computed) = sum(memory, whole).await;
            assert_eq!(computed.unwrap(), together);
        }
    }
}
