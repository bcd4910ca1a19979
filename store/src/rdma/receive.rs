//! PUT and UploadPart: from the client's window through staging to the engine, two chunks at a time.

use super::{
    Plane, Rdma, Refusal,
    request::Tokened,
    transfer::{CHUNK, Chunk, DEPTH, Moved, Stopped, Transfer, free},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue};
use penstock_rdma::{
    fabric::{Pooled, Remote, Window},
    protocol::header,
};
use s3s::dto::StreamingBlob;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sync_wrapper::SyncStream;
use tokio::{sync::mpsc, task::JoinHandle};

/// What remains of a PUT beside its body: whether anything of it is under way.
#[derive(Clone)]
pub(crate) struct Receipt(Option<Arc<Receiving>>);

#[derive(Default)]
struct Receiving {
    pumping: Mutex<Option<JoinHandle<()>>>,
    /// Why the body ended before its end.
    refusal: Mutex<Option<Refusal>>,
}

impl Receipt {
    /// Of bytes that came as a body.
    pub fn none() -> Self {
        Self(None)
    }

    /// What the answer says of `bytes` that were stored.
    pub fn headers(&self, bytes: u64) -> HeaderMap {
        if self.0.is_none() {
            return HeaderMap::new();
        }
        HeaderMap::from_iter([
            (header::REPLY, HeaderValue::from_static("200")),
            (header::BYTES, HeaderValue::from(bytes)),
        ])
    }

    /// Waits until nothing of the request is under way. No answer leaves before.
    pub async fn drained(&self) {
        let Some(receiving) = &self.0 else {
            return;
        };
        let pumping = lock(&receiving.pumping).take();
        if let Some(pumping) = pumping
            && let Err(error) = pumping.await
        {
            tracing::error!(%error, "a transfer by RDMA broke off");
        }
    }

    /// What its body ended with, whatever has become of that on its way through others.
    pub fn refusal(&self) -> Option<Refusal> {
        self.0
            .as_ref()
            .and_then(|receiving| lock(&receiving.refusal).clone())
    }

    fn begun(&self, pumping: JoinHandle<()>) {
        if let Some(receiving) = &self.0 {
            *lock(&receiving.pumping) = Some(pumping);
        }
    }

    fn ended(&self, refusal: &Refusal) {
        if let Some(receiving) = &self.0 {
            *lock(&receiving.refusal) = Some(refusal.clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rdma {
    /// The bytes of the window as a body. Nothing is looked at before the body is: the engine takes the first bytes only
    /// when the write may happen.
    pub(crate) fn receive(&self, request: Tokened) -> Result<(StreamingBlob, Receipt), Refusal> {
        let Some(plane) = self.plane.clone() else {
            return Err(self.refused(Refusal::NotSupported));
        };
        let receipt = Receipt(Some(Arc::default()));
        let (rdma, theirs, ending) = (self.clone(), receipt.clone(), receipt.clone());
        let begun = async move {
            match begin(&plane, &request, &theirs).await {
                Ok(pieces) => stream::unfold(pieces, |mut pieces| async move {
                    Some((pieces.recv().await?, pieces))
                })
                .left_stream(),
                Err(refusal) => stream::once(async { Err(refusal) }).right_stream(),
            }
        };
        let body = begun.flatten_stream().map(move |piece| {
            piece.map_err(|refusal| {
                ending.ended(&refusal);
                rdma.refused(refusal)
            })
        });
        Ok((StreamingBlob::wrap(SyncStream::new(body)), receipt))
    }
}

type Piece = Result<Bytes, Refusal>;

async fn begin(
    plane: &Arc<Plane>,
    request: &Tokened,
    receipt: &Receipt,
) -> Result<mpsc::Receiver<Piece>, Refusal> {
    let token = request.token;
    let lease = plane
        .sessions
        .admit(token.session, &request.owner, request.sequence)?;
    let staging = plane.staging(&lease.session.rail);
    let first = free(&staging, plane.limits.patience).await?;
    let mut transfer = Transfer::new(lease, plane.sessions.clone(), staging);
    let (to_engine, pieces) = mpsc::channel(1);
    let pumping = tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = pump(&mut transfer, token.window, first, &to_engine) => outcome,
            () = to_engine.closed() => Err(Stopped::Gone),
        };
        transfer.drain().await;
        if let Err(Stopped::Refused(refusal)) = outcome {
            let _engine_gone = to_engine.send(Err(refusal)).await;
        }
    });
    receipt.begun(pumping);
    Ok(pieces)
}

/// Reads it all and gives it to the engine in order.
async fn pump(
    transfer: &mut Transfer,
    window: Window,
    first: Pooled,
    to_engine: &mpsc::Sender<Piece>,
) -> Result<(), Stopped> {
    let size = u64::from(window.size);
    let mut offset = 0;
    let mut chunk = Some(first);
    loop {
        while offset < size && transfer.depth() < DEPTH {
            let chunk = match chunk.take() {
                Some(chunk) => chunk,
                None => match transfer.chunk(0).await? {
                    Chunk::Free(chunk) => chunk,
                    Chunk::Moved(moved) => {
                        give(to_engine, moved).await?;
                        continue;
                    }
                },
            };
            let length = usize::try_from(size - offset).map_or(CHUNK, |left| left.min(CHUNK));
            let from = Remote {
                address: window.address + offset,
                rkey: window.rkey,
            };
            transfer.read(chunk, length, from);
            offset += length as u64;
        }
        match transfer.next().await? {
            Some(moved) => give(to_engine, moved).await?,
            None => return Ok(()),
        }
    }
}

/// An engine that takes no more has failed, or its client is gone.
async fn give(to_engine: &mpsc::Sender<Piece>, moved: Moved) -> Result<(), Stopped> {
    let bytes = Bytes::from_owner(Filled(moved));
    to_engine.send(Ok(bytes)).await.map_err(|_| Stopped::Gone)
}

/// Bytes that live in staging memory, which goes back to the pool with the last of them.
struct Filled(Moved);

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.0.chunk[..self.0.length]
    }
}
