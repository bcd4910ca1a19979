//! The body of a request on its way to the storage node.

use super::metrics::{Counters, Direction, Way};
use bytes::Bytes;
use http::{Request, StatusCode, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

/// A body as it comes from the client. It is read as fast as the storage node takes it, so a slow side slows the other.
pub(super) struct RequestBody {
    /// `None` in requests of the gateway's own.
    inner: Option<Incoming>,
    sent: Sent,
    /// Shut until the storage node has asked for the body, where the client waits to be asked (RFC 9110, 10.1.1). Whoever reads
    /// the body has it sent, so reading it early would take from the storage node the right to refuse before.
    gate: Option<Gate>,
}

/// What is known of a body that is under way.
#[derive(Clone)]
pub(super) struct Sent(Arc<Shared>);

struct Shared {
    counters: Counters,
    /// Known when the answer is there.
    way: OnceLock<Way>,
    /// Bytes that were not counted yet.
    uncounted: AtomicU64,
    client_failed: AtomicBool,
}

impl Sent {
    fn new(counters: &Counters) -> Self {
        Self(Arc::new(Shared {
            counters: counters.clone(),
            way: OnceLock::new(),
            uncounted: AtomicU64::new(0),
            client_failed: AtomicBool::new(false),
        }))
    }

    fn moved(&self, bytes: u64) {
        self.0.uncounted.fetch_add(bytes, Ordering::Relaxed);
        self.count();
    }

    fn count(&self) {
        if let Some(way) = self.0.way.get() {
            let bytes = self.0.uncounted.swap(0, Ordering::Relaxed);
            self.0.counters.bytes(Direction::Write, *way, bytes);
        }
    }

    /// The storage node has answered, and this is how the body went to it.
    pub fn went(&self, way: Way) {
        let _known_already = self.0.way.set(way);
        self.count();
    }

    /// Whether it was the client that broke off.
    pub fn client_failed(&self) -> bool {
        self.0.client_failed.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    /// The request with its body ready to be passed on, and what will be known of that.
    pub fn of(request: Request<Incoming>, counters: &Counters) -> (Request<Self>, Sent) {
        let sent = Sent::new(counters);
        let gate = request.headers().contains_key(EXPECT).then(Gate::default);
        let mut request = request.map(|inner| Self {
            inner: Some(inner),
            sent: sent.clone(),
            gate: gate.clone(),
        });
        if let Some(gate) = gate {
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        (request, sent)
    }

    /// No body, for requests of the gateway's own.
    pub fn none(counters: &Counters) -> Self {
        Self {
            inner: None,
            sent: Sent::new(counters),
            gate: None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &self.gate {
            ready!(gate.poll(context));
            self.gate = None;
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self
                .sent
                .moved(frame.data_ref().map_or(0, |data| data.len() as u64)),
            Some(Err(_)) => self.sent.0.client_failed.store(true, Ordering::Relaxed),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Opens once.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
struct GateState {
    is_open: bool,
    waiting: Option<Waker>,
}

impl Gate {
    fn state(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        let mut state = self.state();
        state.is_open = true;
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_open {
            return Poll::Ready(());
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}
