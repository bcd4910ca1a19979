//! Bodies on the wire, watched for progress.

use super::request::Payload;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Bytes handed to the connection at once; each piece taken counts as progress.
const PIECE: usize = 256 << 10;

/// When something last moved on a request.
#[derive(Clone)]
pub(super) struct Progress {
    begun: Instant,
    last_millis: Arc<AtomicU64>,
}

impl Progress {
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            last_millis: Arc::default(),
        }
    }

    fn note(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Ordering::Relaxed);
    }

    /// When nothing has moved until then, the request has stalled.
    pub fn deadline(&self, allowed: Duration) -> Instant {
        self.begun + Duration::from_millis(self.last_millis.load(Ordering::Relaxed)) + allowed
    }
}

/// The body of a request, given to the connection in pieces.
pub(super) struct Outgoing {
    rest: Bytes,
    progress: Progress,
}

impl Outgoing {
    pub fn new(payload: &Payload, progress: Progress) -> Self {
        let rest = match payload {
            Payload::Empty => Bytes::new(),
            Payload::Bytes(bytes) => bytes.clone(),
        };
        Self { rest, progress }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.note();
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
