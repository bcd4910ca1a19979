//! The place in memory that slices fill.

use super::{
    super::{
        Rdma,
        connect::Session,
        exchange::closed,
        judge::{Verdict, Window},
    },
    Judged,
};
use crate::{
    Error,
    client::request::Request,
    fabric::{self, Direction, Memory},
    threads::THREADS,
};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use hyper::body::Incoming;
use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

/// More bytes than this are summed by several threads, when all have come.
const SUMMED_AT_ONCE: usize = 16 << 20;

/// Where bytes go, and how it is opened to the storage node.
pub(in super::super) trait Ground: Sync {
    /// Performs a request whose bytes go to these bytes of it. When `doom` is cancelled the queue pair is dead, and no answer is
    /// waited for.
    fn ask(
        &self,
        rdma: &Rdma,
        session: &Session,
        request: Request,
        bytes: Range<usize>,
        doom: &CancellationToken,
    ) -> impl Future<Output = Judged> + Send;

    /// Waits until all of it can be asked for anew.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;
}

/// One window over all of it, of which each request names a part: for memory that is opened slowly.
pub(in super::super) struct OneWindow(pub fabric::Window);

impl OneWindow {
    /// The part of the window for these bytes.
    fn part(&self, bytes: &Range<usize>) -> Option<fabric::Window> {
        let size = bytes.end.checked_sub(bytes.start)?;
        let fits = bytes.end as u64 <= u64::from(self.0.size);
        Some(fabric::Window {
            address: self.0.address + bytes.start as u64,
            size: u32::try_from(size).ok().filter(|_| fits)?,
            rkey: self.0.rkey,
        })
    }
}

impl Ground for OneWindow {
    async fn ask(
        &self,
        rdma: &Rdma,
        session: &Session,
        request: Request,
        bytes: Range<usize>,
        doom: &CancellationToken,
    ) -> Judged {
        match self.part(&bytes) {
            Some(part) => {
                unless(
                    doom,
                    rdma.ask(session, request, part, Direction::Written, self.0.size.into()),
                )
                .await
            }
            None => (Window::Closed, Verdict::Final(outside())),
        }
    }

    async fn settle(&mut self) {}
}

/// Memory of this process: each request has a window of its own, over its bytes, so that what has come is summed while the rest
/// is on its way.
pub(in super::super) struct Parts {
    /// What is filled.
    bytes: Range<usize>,
    state: Mutex<State>,
    /// Threads that may sum at a time.
    summers: Arc<Semaphore>,
    verify: bool,
}

#[derive(Default)]
struct State {
    /// By where they begin in the memory.
    here: BTreeMap<usize, Memory>,
    summing: Vec<Summing>,
}

struct Summing {
    start: usize,
    memory: Arc<Memory>,
    sum: JoinHandle<Result<u64, JoinError>>,
}

impl Parts {
    /// All of `memory`, of which these bytes are filled, and summed if `verify`.
    pub fn of(memory: Memory, bytes: Range<usize>, verify: bool) -> Self {
        let state = State {
            here: BTreeMap::from([(0, memory)]),
            summing: Vec::new(),
        };
        Self {
            bytes,
            state: Mutex::new(state),
            summers: Arc::new(Semaphore::new(*THREADS)),
            verify,
        }
    }

    /// The memory, whole again, and the checksum of what each request moved, in the order of bytes.
    pub async fn whole(mut self) -> (Memory, Vec<u64>) {
        let sums = self.settled().await;
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.here.into_values().next() {
            Some(whole) => (whole, sums),
            None => unreachable!("every part comes back from the request that had it"),
        }
    }

    /// Waits for all sums, and puts the parts together. Returns the sums in the order of bytes; one that broke off is left out.
    async fn settled(&mut self) -> Vec<u64> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.summing.sort_unstable_by_key(|summing| summing.start);
        let mut sums = Vec::new();
        for Summing { start, memory, sum } in mem::take(&mut state.summing) {
            sums.extend(sum.await.flatten());
            let Some(memory) = Arc::into_inner(memory) else {
                unreachable!("a thread lets go of the memory before it is known to have ended");
            };
            state.here.insert(start, memory);
        }
        let whole = mem::take(&mut state.here)
            .into_values()
            .reduce(|mut whole, part| {
                if whole.unsplit(part).is_err() {
                    unreachable!("the parts of memory follow each other");
                }
                whole
            });
        state.here.extend(whole.map(|whole| (0, whole)));
        sums
    }

    fn take(&self, bytes: &Range<usize>) -> Option<Memory> {
        let mut state = self.state();
        let (&start, found) = state.here.range_mut(..=bytes.start).next_back()?;
        if bytes.start > bytes.end || bytes.end - start > found.len() {
            return None;
        }
        let mut taken = found.split_off(bytes.start - start);
        let behind = taken.split_off(bytes.len());
        if found.is_empty() {
            state.here.remove(&start);
        }
        if !behind.is_empty() {
            state.here.insert(bytes.end, behind);
        }
        Some(taken)
    }

    fn put(&self, start: usize, memory: Memory) {
        self.state().here.insert(start, memory);
    }

    fn sum(&self, start: usize, memory: Memory, length: usize) {
        let memory = Arc::new(memory);
        let (bytes, summers) = (Arc::clone(&memory), Arc::clone(&self.summers));
        let sum = tokio::spawn(async move {
            // Never closed.
            let _one_of_few = summers.acquire_owned().await;
            spawn_blocking(move || checksum(Crc64Nvme, &bytes[..length])).await
        });
        self.state().summing.push(Summing { start, memory, sum });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ground for Parts {
    async fn ask(
        &self,
        rdma: &Rdma,
        session: &Session,
        request: Request,
        bytes: Range<usize>,
        doom: &CancellationToken,
    ) -> Judged {
        let place = self.bytes.start + bytes.start..self.bytes.start + bytes.end;
        let inside = place.end <= self.bytes.end;
        let Some(memory) = Some(&place).filter(|_| inside).and_then(|place| self.take(place)) else {
            return (Window::Closed, Verdict::Final(outside()));
        };
        let opening = Arc::clone(&session.queue_pair).expose(memory, 0..place.len(), Direction::Written);
        let exposed = match opening.await {
            Ok(exposed) => exposed,
            Err((memory, error)) => {
                self.put(place.start, memory);
                return (Window::InDoubt, lost(error));
            }
        };
        let opened = exposed.window();
        let beside = self.bytes.len() as u64;
        let asked = unless(
            doom,
            rdma.ask(session, request, opened, Direction::Written, beside),
        );
        let (window, verdict) = asked.await;
        let memory = closed(exposed, window).await;
        let moved = match &verdict {
            Verdict::Moved(answer) => usize::try_from(answer.bytes).ok(),
            _ => None,
        };
        match moved.filter(|moved| self.verify && *moved <= memory.len().min(SUMMED_AT_ONCE)) {
            Some(moved) => self.sum(place.start, memory, moved),
            None => self.put(place.start, memory),
        }
        (window, verdict)
    }

    async fn settle(&mut self) {
        self.settled().await;
    }
}

async fn unless(doom: &CancellationToken, asked: impl Future<Output = Judged>) -> Judged {
    tokio::select! {
        biased;
        judged = asked => judged,
        () = doom.cancelled() => (Window::InDoubt, lost(fabric::Error::Dead)),
    }
}

fn lost(error: fabric::Error) -> Verdict<Incoming> {
    Verdict::Session {
        error: error.into(),
        performed: false,
    }
}

fn outside() -> Error {
    Error::Invalid("a slice lies outside of its memory".to_owned())
}
