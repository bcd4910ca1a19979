//! The body of an answer on its way to the client: what the storage node sends, or the files that it lent.

use super::metrics::{Counters, Direction, Way};
use crate::server::Failure;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use penstock_rdma::{Via, local::Lent};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Bytes of a lent file that are read at once. One piece waits while the one before it is sent, so this bounds the memory of a
/// connection whose client is slow.
const PIECE: u64 = 256 << 10;
/// A storage node that sends nothing for this long, while there is something to come, is given up.
const STALL: Duration = Duration::from_secs(60);

/// What follows the headers of an answer. It ends with an error, and so the connection does, where the bytes do not come whole:
/// a client never takes a part for the whole.
pub(super) enum AnswerBody {
    Passed(Passed),
    Lent {
        pieces: BoxStream<'static, io::Result<Bytes>>,
        left: u64,
        counters: Counters,
    },
    Moved {
        pieces: BoxStream<'static, penstock_rdma::Result<(Bytes, Via)>>,
        left: u64,
        counters: Counters,
    },
    Whole {
        bytes: Option<Bytes>,
        way: Way,
        counters: Counters,
    },
    Own(s3s::Body),
}

/// A body of the storage node.
pub(super) struct Passed {
    inner: Incoming,
    stall: Pin<Box<Sleep>>,
    waiting: bool,
    way: Way,
    counters: Counters,
}

impl AnswerBody {
    pub fn passed(inner: Incoming, way: Way, counters: Counters) -> Self {
        Self::Passed(Passed {
            inner,
            stall: Box::pin(tokio::time::sleep(STALL)),
            waiting: false,
            way,
            counters,
        })
    }

    /// What was lent. With `crc64nvme`, the checksum of all of it, the last piece is kept back until it was compared, as
    /// the storage node does with bodies.
    pub fn lent(lent: Lent, crc64nvme: Option<u64>, counters: Counters) -> Self {
        Self::Lent {
            left: lent.len(),
            pieces: pieces(lent, crc64nvme),
            counters,
        }
    }
}

fn way_of(via: Via) -> Way {
    match via {
        Via::Rdma => Way::Rdma,
        Via::Shm => Way::Shm,
        Via::Http => Way::Http,
    }
}

fn pieces(lent: Lent, crc64nvme: Option<u64>) -> BoxStream<'static, io::Result<Bytes>> {
    let digest = crc64nvme.map(|expected| (Digest::new(CrcAlgorithm::Crc64Nvme), expected));
    stream::try_unfold((lent, 0, digest), |(lent, at, mut digest)| async move {
        let length = PIECE.min(lent.len() - at);
        if length == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        if lent.read_into(&mut piece, at).await? < piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let next = at + length;
        if let Some((sum, expected)) = &mut digest {
            sum.update(&piece);
            if next == lent.len() && sum.finalize() != *expected {
                tracing::error!("a lent object does not have its checksum; its answer breaks off");
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the object is damaged",
                ));
            }
        }
        Ok(Some((Bytes::from(piece), (lent, next, digest))))
    })
    .boxed()
}

impl Passed {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                self.waiting = false;
                let frame = frame.map(|frame| frame.map_err(Failure::from));
                match &frame {
                    Some(Ok(frame)) => {
                        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                        self.counters.bytes(Direction::Read, self.way, bytes);
                    }
                    Some(Err(error)) => {
                        self.counters.broken("upstream");
                        tracing::warn!(%error, "the storage node's answer broke off, and so does the client's");
                    }
                    None => {}
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                if !self.waiting {
                    self.waiting = true;
                    self.stall.as_mut().reset(Instant::now() + STALL);
                }
                ready!(self.stall.as_mut().poll(context));
                self.counters.broken("upstream");
                tracing::warn!(
                    "the storage node sent nothing for {} s; its answer breaks off",
                    STALL.as_secs()
                );
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match &mut *self {
            Self::Passed(passed) => passed.poll_frame(context),
            Self::Lent {
                pieces,
                left,
                counters,
            } => {
                let piece = ready!(pieces.poll_next_unpin(context));
                match &piece {
                    Some(Ok(bytes)) => {
                        *left -= bytes.len() as u64;
                        counters.bytes(Direction::Read, Way::Shm, bytes.len() as u64);
                    }
                    Some(Err(_)) => counters.broken("upstream"),
                    None => {}
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(Failure::from)))
            }
            Self::Moved {
                pieces,
                left,
                counters,
            } => {
                let piece = ready!(pieces.poll_next_unpin(context));
                match &piece {
                    Some(Ok((bytes, via))) => {
                        let (length, way) = (bytes.len() as u64, way_of(*via));
                        *left = left.saturating_sub(length);
                        counters.bytes(Direction::Read, way, length);
                    }
                    Some(Err(error)) => {
                        counters.broken("upstream");
                        tracing::warn!(%error, "the storage node's bytes broke off, and so does the client's answer");
                    }
                    None => {}
                }
                let piece =
                    piece.map(|piece| piece.map(|(bytes, _)| Frame::data(bytes)).map_err(Failure::from));
                Poll::Ready(piece)
            }
            Self::Whole { bytes, way, counters } => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                if let Some(bytes) = &bytes {
                    counters.bytes(Direction::Read, *way, bytes.len() as u64);
                }
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Own(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passed(passed) => passed.inner.is_end_stream(),
            Self::Lent { left, .. } | Self::Moved { left, .. } => *left == 0,
            Self::Whole { bytes, .. } => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passed(passed) => passed.inner.size_hint(),
            Self::Lent { left, .. } | Self::Moved { left, .. } => SizeHint::with_exact(*left),
            Self::Whole { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Own(body) => body.size_hint(),
        }
    }
}
