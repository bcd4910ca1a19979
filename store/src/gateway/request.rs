//! The body of a request on its way to the storage node.

use super::metrics::{Counters, Direction, Way};
use bytes::Bytes;
use http::{Request, StatusCode, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use penstock_rdma::relay::RelayBody;
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

/// Bytes given to the connection at once of a body that is sent again.
const AGAIN: usize = 256 << 10;

/// A body as it comes from the client. It is read as fast as the storage node takes it, so a slow side slows the other.
pub(super) struct RequestBody {
    /// `None` in requests of the gateway's own, and while it is behind the gate.
    inner: Option<Incoming>,
    /// All of it, where it was read and is sent again.
    again: Option<Bytes>,
    sent: Sent,
    /// Holds the body until the storage node has asked for it, where the client waits to be asked (RFC 9110, 10.1.1). Whoever
    /// reads the body has it sent, so reading it early would take from the storage node the right to refuse before.
    gate: Option<Gate>,
    /// What is known of the body beforehand.
    hint: SizeHint,
}

/// What is known of a body that is under way.
#[derive(Clone)]
pub(super) struct Sent {
    shared: Arc<Shared>,
    gate: Option<Gate>,
}

struct Shared {
    counters: Counters,
    /// Known when the answer is there.
    way: OnceLock<Way>,
    /// Bytes that were not counted yet.
    uncounted: AtomicU64,
    client_failed: AtomicBool,
}

impl Sent {
    fn new(counters: &Counters, gate: Option<Gate>) -> Self {
        let shared = Shared {
            counters: counters.clone(),
            way: OnceLock::new(),
            uncounted: AtomicU64::new(0),
            client_failed: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            gate,
        }
    }

    fn moved(&self, bytes: u64) {
        self.shared.uncounted.fetch_add(bytes, Ordering::Relaxed);
        self.count();
    }

    fn count(&self) {
        if let Some(way) = self.shared.way.get() {
            let bytes = self.shared.uncounted.swap(0, Ordering::Relaxed);
            self.shared.counters.bytes(Direction::Write, *way, bytes);
        }
    }

    /// The storage node has answered, and this is how the body went to it.
    pub fn went(&self, way: Way) {
        let _known_already = self.shared.way.set(way);
        self.count();
    }

    /// The answer is there. Whether the client was never asked for its body: it need not send it then, and what it sends next would be
    /// taken for the body, so its connection must end.
    pub fn was_never_asked_for(&self) -> bool {
        self.gate.as_ref().is_some_and(Gate::abandon)
    }

    /// Whether it was the client that broke off.
    pub fn client_failed(&self) -> bool {
        self.shared.client_failed.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    /// The request with its body ready to be passed on, and what will be known of that.
    pub fn of(request: Request<Incoming>, counters: &Counters) -> (Request<Self>, Sent) {
        let waits = request.headers().contains_key(EXPECT) && !request.body().is_end_stream();
        let gate = waits.then(Gate::default);
        let sent = Sent::new(counters, gate.clone());
        let mut request = request.map(|inner| {
            let hint = inner.size_hint();
            let inner = match &gate {
                Some(gate) => {
                    gate.state().held = Some(inner);
                    None
                }
                None => Some(inner),
            };
            Self {
                inner,
                again: None,
                sent: sent.clone(),
                gate: gate.clone(),
                hint,
            }
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
            again: None,
            sent: Sent::new(counters, None),
            gate: None,
            hint: SizeHint::with_exact(0),
        }
    }
}

impl RelayBody for RequestBody {
    fn want(&mut self) {
        if let Some(gate) = &self.gate {
            gate.open();
        }
    }

    fn refill(&mut self, bytes: Bytes) {
        // Counted by the way that it goes in the end.
        self.sent.shared.uncounted.store(0, Ordering::Relaxed);
        (self.inner, self.again) = (None, Some(bytes));
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
            self.inner = Some(ready!(gate.poll(context)));
            self.gate = None;
        }
        if let Some(again) = &mut self.again {
            let piece = again.split_to(again.len().min(AGAIN));
            if piece.is_empty() {
                return Poll::Ready(None);
            }
            self.sent.moved(piece.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self
                .sent
                .moved(frame.data_ref().map_or(0, |data| data.len() as u64)),
            Some(Err(_)) => self.sent.shared.client_failed.store(true, Ordering::Relaxed),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.again {
            Some(again) => again.is_empty(),
            None => self.gate.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.again, &self.inner) {
            (Some(again), _) => SizeHint::with_exact(again.len() as u64),
            (None, Some(inner)) => inner.size_hint(),
            (None, None) => self.hint,
        }
    }
}

/// Opens once, or never.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
struct GateState {
    is_open: bool,
    waiting: Option<Waker>,
    held: Option<Incoming>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        let mut state = self.state();
        state.is_open = true;
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
    }

    /// Closes what is behind a gate that is shut, for ever; whether it was.
    fn abandon(&self) -> bool {
        let mut state = self.state();
        state.held = state.held.take().filter(|_| state.is_open);
        !state.is_open
    }

    /// What is behind it. Of a gate that was abandoned nothing ever comes: the storage node closes the connection on which it
    /// would (it has not asked for the body either), and an error here would cut its answer.
    fn poll(&self, context: &mut Context<'_>) -> Poll<Incoming> {
        let mut state = self.state();
        if state.is_open
            && let Some(held) = state.held.take()
        {
            return Poll::Ready(held);
        }
        state.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}
