//! What both directions have in common: staging chunks that go through operations and come back, and the drain.

use super::{
    Refusal,
    refusal::Limit,
    sessions::{Lease, Sessions},
};
use futures::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use penstock_rdma::fabric::{self, Memory, Pool, Pooled, Remote};
use penstock_service::CancellationToken;
use std::{sync::Arc, time::Duration};

/// Bytes of a staging chunk, and so of an operation. The engine must never wait for a second chunk of a PUT before it can
/// let go of the first: this is at least what it gathers before it writes.
pub(super) const CHUNK: usize = 1 << 20;
/// Operations of one request that are under way: one moves bytes while the disk has the other chunk.
pub(super) const DEPTH: usize = 2;

/// The operations of one request, in order, each with its chunk.
///
/// Dropping it with operations under way kills the queue pair, as the fabric has it.
pub(super) struct Transfer {
    pub lease: Lease,
    sessions: Arc<Sessions>,
    staging: Arc<Pool>,
    /// When it fires, the client is gone: nothing new is begun.
    pub stop: CancellationToken,
    under_way: FuturesOrdered<BoxFuture<'static, (Pooled, usize, fabric::Result<()>)>>,
    failure: Option<fabric::Error>,
}

/// A chunk that has moved.
pub(super) struct Moved {
    pub chunk: Pooled,
    /// Bytes of it that count.
    pub length: usize,
}

/// Why a transfer goes no further.
pub(super) enum Stopped {
    Refused(Refusal),
    /// The client went away.
    Gone,
}

impl Transfer {
    /// With the rail's `staging` memory.
    pub fn new(lease: Lease, sessions: Arc<Sessions>, staging: Arc<Pool>) -> Self {
        Self {
            lease,
            sessions,
            staging,
            stop: CancellationToken::new(),
            under_way: FuturesOrdered::new(),
            failure: None,
        }
    }

    fn operation(&self) -> Duration {
        self.lease.session.grant.operation
    }

    /// WRITE of the first `length` bytes of a chunk.
    pub fn write(&mut self, chunk: Pooled, length: usize, to: Remote, immediate: Option<u32>) {
        let (memory, slot) = chunk.into_memory();
        let write = self
            .lease
            .session
            .queue_pair
            .write(memory, 0..length, to, immediate);
        self.follow(write, slot, length);
    }

    /// READ into the first `length` bytes of a chunk.
    pub fn read(&mut self, chunk: Pooled, length: usize, from: Remote) {
        let (memory, slot) = chunk.into_memory();
        let read = self.lease.session.queue_pair.read(memory, 0..length, from);
        self.follow(read, slot, length);
    }

    fn follow(
        &mut self,
        operation: BoxFuture<'static, (Memory, fabric::Result<()>)>,
        slot: fabric::Slot,
        length: usize,
    ) {
        self.under_way.push_back(Box::pin(async move {
            let (memory, outcome) = operation.await;
            (slot.put_back(memory), length, outcome)
        }));
    }

    /// How many operations are under way.
    pub fn depth(&self) -> usize {
        self.under_way.len()
    }

    /// The oldest operation's chunk, once it has moved; `None` when none is under way.
    pub async fn next(&mut self) -> Result<Option<Moved>, Stopped> {
        let waited = tokio::select! {
            () = self.stop.cancelled() => return Err(Stopped::Gone),
            waited = tokio::time::timeout(self.lease.session.grant.operation, self.under_way.next()) => waited,
        };
        match waited {
            Err(_) => Err(self.failed(fabric::Error::TimedOut(self.operation()))),
            Ok(None) => Ok(None),
            Ok(Some((chunk, length, Ok(())))) => Ok(Some(Moved { chunk, length })),
            Ok(Some((_, _, Err(error)))) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: fabric::Error) -> Stopped {
        self.failure.get_or_insert_with(|| error.clone());
        Stopped::Refused(Refusal::Failed(error))
    }

    /// A chunk for the next operation: the one of the oldest operation if that ends first, or a free one. The request has
    /// `beside` chunks that are not in operations.
    pub async fn chunk(&mut self, beside: usize) -> Result<Chunk, Stopped> {
        if self.depth() + beside >= DEPTH {
            return match self.next().await? {
                Some(moved) => Ok(Chunk::Moved(moved)),
                None => Err(Stopped::Gone),
            };
        }
        let staging = Arc::clone(&self.staging);
        let free = free(&staging, self.operation());
        tokio::pin!(free);
        if self.depth() == 0 {
            return tokio::select! {
                () = self.stop.cancelled() => Err(Stopped::Gone),
                chunk = &mut free => chunk.map(Chunk::Free).map_err(Stopped::Refused),
            };
        }
        tokio::select! {
            moved = self.next() => match moved? {
                Some(moved) => Ok(Chunk::Moved(moved)),
                None => Err(Stopped::Gone),
            },
            chunk = &mut free => chunk.map(Chunk::Free).map_err(Stopped::Refused),
        }
    }

    /// Waits until nothing of this request is under way: first for its operations to end, then, if they do not in time, for
    /// the death of the queue pair. After a failure the session is dead in any case.
    pub async fn drain(mut self) {
        if self.failure.is_none() {
            let limit = self.operation();
            let mut failure = None;
            let patient = tokio::time::timeout(limit, async {
                while let Some((_, _, outcome)) = self.under_way.next().await {
                    if let Err(error) = outcome {
                        failure.get_or_insert(error);
                    }
                }
            });
            let ended = patient.await.is_ok();
            self.failure = failure.or_else(|| (!ended).then_some(fabric::Error::TimedOut(limit)));
        }
        if let Some(error) = &self.failure {
            tracing::warn!(%error, "an RDMA session ends");
            self.sessions.end(&self.lease.session).await;
            while self.under_way.next().await.is_some() {}
        }
    }
}

/// A chunk to fill, and, if it comes from an operation, how much of it has moved.
pub(super) enum Chunk {
    Free(Pooled),
    Moved(Moved),
}

impl Chunk {
    pub fn into_memory(self) -> Pooled {
        match self {
            Self::Free(chunk) => chunk,
            Self::Moved(moved) => moved.chunk,
        }
    }
}

/// A free chunk, or `Busy` when there is none for this long. Registration that fails is `NotSupported`: bytes can still
/// go as a body.
pub(super) async fn free(staging: &Arc<Pool>, patience: Duration) -> Result<Pooled, Refusal> {
    match tokio::time::timeout(patience, staging.take()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => {
            tracing::warn!(%error, "staging memory cannot be had; bytes go as HTTP bodies");
            Err(Refusal::NotSupported)
        }
        Err(_) => Err(Refusal::Busy(Limit::Staging)),
    }
}
