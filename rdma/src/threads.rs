//! How many threads go over the bytes of one object at the same time.

use std::{sync::LazyLock, thread};

/// Starting a thread takes as long as going over a good part of this.
pub(crate) const SMALLEST_LANE: usize = 2 << 20;
/// Two fill the memory bus of a small machine, four most of a large one's; others want some of it.
pub(crate) const MOST_THREADS: usize = 4;

/// Asking takes several system calls, so it is asked once.
pub(crate) static THREADS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, |all| all.get().min(MOST_THREADS)));

/// So many of `most` threads that each has enough of `length` bytes to do; at least one.
pub(crate) fn worth(most: usize, length: usize) -> usize {
    most.min(length / SMALLEST_LANE).max(1)
}
