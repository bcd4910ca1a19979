//! An object that is longer than one window: what follows the first, window by window, or as one body where that cannot be.

use super::{DEPTH, PATIENCE, Rdma, broke_off};
use crate::{
    Error, Result, Via,
    client::{
        rdma::{WINDOW, connect::insert, exchange::Outcome},
        request::{Repeat, Request},
    },
    fabric::Direction,
    protocol::{READ, RELEASE, ReadingId, header},
};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use futures::{
    StreamExt,
    stream::{self, BoxStream, FuturesOrdered},
};
use http::{HeaderValue, Method, Response};
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};

/// Bytes that count until they are dropped.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(super) fn held(bytes: Bytes, permit: OwnedSemaphorePermit) -> Bytes {
    Bytes::from_owner(Held {
        bytes,
        _permit: permit,
    })
}

/// An object that the storage node keeps open, until it is dropped.
pub(super) struct Reading {
    pub id: ReadingId,
    pub rdma: Arc<Rdma>,
}

impl Reading {
    fn ask(&self, path: &str) -> Request {
        let mut request = Request {
            path_and_query: path.to_owned(),
            repeat: Repeat::Always,
            ..Request::service(Method::POST)
        };
        insert(&mut request.headers, header::READING, &self.id.encode());
        request
    }

    fn ask_from(&self, offset: u64) -> Request {
        let mut request = self.ask(READ);
        let offset = HeaderValue::from(offset);
        request.headers.insert(header::OFFSET, offset);
        request
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (request, plain) = (self.ask(RELEASE), self.rdma.plain.clone());
        // Outside a runtime there is nothing to send with.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(failure) = plain.send_once(&request).await {
                    tracing::debug!(error = %failure.error, "the storage node was not told that an object is not read any more");
                }
            });
        }
    }
}

/// Bytes that arrived.
pub(super) struct Piece {
    pub bytes: Bytes,
    pub crc: u64,
}

/// What came of a window of the rest.
pub(super) enum Fetched {
    Piece(Piece),
    /// All from there on, as a body.
    Body(Response<Incoming>),
    Not(Error),
}

/// What follows the first window of an object.
pub(super) struct Rest {
    pub rdma: Arc<Rdma>,
    pub windows: Arc<Semaphore>,
    /// `None` when one window holds it all.
    pub reading: Option<Arc<Reading>>,
    /// Where the next window begins.
    pub next: u64,
    /// How much was given out.
    pub given: u64,
    pub total: u64,
    pub first: Option<Piece>,
    pub under_way: FuturesOrdered<JoinHandle<Fetched>>,
    /// The rest, where there are no windows for it any more.
    pub body: Option<Incoming>,
    /// Checksum of what was given out, and what it must be at the end.
    pub crc: Option<u64>,
    pub expected: Option<u64>,
}

impl Rest {
    /// The bytes in their order, and how they came.
    pub fn into_pieces(self) -> BoxStream<'static, Result<(Bytes, Via)>> {
        stream::try_unfold(self, |mut rest| async move {
            if rest.given == rest.total {
                return Ok(None);
            }
            let (piece, via) = rest.step().await?;
            let length = piece.bytes.len() as u64;
            rest.given += length;
            let crc = match rest.crc {
                None => piece.crc,
                Some(before) => checksum_combine(CrcAlgorithm::Crc64Nvme, before, piece.crc, length),
            };
            rest.crc = Some(crc);
            // Compared before the last bytes leave: a client never takes damaged ones for the whole.
            if rest.given == rest.total && rest.expected.is_some_and(|expected| expected != crc) {
                return Err(Error::Damaged);
            }
            Ok(Some(((piece.bytes, via), rest)))
        })
        .boxed()
    }

    async fn step(&mut self) -> Result<(Piece, Via)> {
        loop {
            if self.body.is_some() {
                return self.of_body().await;
            }
            self.ask_ahead();
            if let Some(first) = self.first.take() {
                return Ok((first, Via::Rdma));
            }
            if self.under_way.is_empty() {
                let permit = timeout(PATIENCE, Arc::clone(&self.windows).acquire_owned()).await;
                if let Ok(Ok(permit)) = permit {
                    self.ask(permit);
                } else {
                    tracing::debug!("windows are not to be had; the rest of an object comes as a body");
                    self.as_body(None).await?;
                    continue;
                }
            }
            let fetched = match self.under_way.next().await {
                Some(Ok(fetched)) => fetched,
                Some(Err(error)) => Fetched::Not(broke_off(&error)),
                None => continue,
            };
            match fetched {
                Fetched::Piece(piece) => return Ok((piece, Via::Rdma)),
                Fetched::Body(response) => self.as_body(Some(response)).await?,
                Fetched::Not(error) => {
                    tracing::debug!(%error, "the rest of an object comes as a body");
                    self.as_body(None).await?;
                }
            }
        }
    }

    fn ask_ahead(&mut self) {
        while self.next < self.total && self.under_way.len() < DEPTH {
            let Ok(permit) = Arc::clone(&self.windows).try_acquire_owned() else {
                return;
            };
            self.ask(permit);
        }
    }

    fn ask(&mut self, permit: OwnedSemaphorePermit) {
        let Some(reading) = self.reading.clone() else {
            return;
        };
        let offset = self.next;
        let length = usize::try_from(self.total - offset).map_or(WINDOW, |left| left.min(WINDOW));
        self.next += length as u64;
        // A task, as with all windows: dropping one would kill the queue pair, and with it requests of others.
        self.under_way
            .push_back(tokio::spawn(fetch(reading, offset, length, permit)));
    }

    /// From what was given out on, the bytes are those of one answer.
    async fn as_body(&mut self, response: Option<Response<Incoming>>) -> Result<()> {
        self.under_way = FuturesOrdered::new();
        let response = match (response, &self.reading) {
            (Some(response), _) => response,
            (None, Some(reading)) => {
                let request = reading.ask_from(self.given);
                self.rdma.plain.send(&request).await?
            }
            (None, None) => return Err(self.rdma.plain.malformed("it ended before its end")),
        };
        self.next = self.total;
        self.body = Some(response.into_body());
        Ok(())
    }

    async fn of_body(&mut self) -> Result<(Piece, Via)> {
        let plain = &self.rdma.plain;
        let piece = match &mut self.body {
            Some(body) => plain.next_piece(body).await?,
            None => None,
        };
        let bytes = piece.ok_or_else(|| plain.malformed("the rest of an object ended before its end"))?;
        if bytes.len() as u64 > self.total - self.given {
            return Err(plain.malformed("the rest of an object is longer than it is"));
        }
        let crc = checksum(CrcAlgorithm::Crc64Nvme, &bytes);
        Ok((Piece { bytes, crc }, Via::Http))
    }
}

async fn fetch(reading: Arc<Reading>, offset: u64, length: usize, permit: OwnedSemaphorePermit) -> Fetched {
    let rdma = &reading.rdma;
    let request = reading.ask_from(offset);
    let (loan, outcome) = rdma.exchange(&request, length, Direction::Written, |_| {}).await;
    let error = match outcome {
        Ok(Outcome::Moved(answer)) => match loan {
            Some(loan) if answer.bytes == length as u64 => match rdma.verified(&answer, &loan[..length]) {
                Ok(crc) => {
                    let bytes = held(loan.hand_out(length), permit);
                    return Fetched::Piece(Piece { bytes, crc });
                }
                Err(error) => error,
            },
            _ => rdma
                .plain
                .malformed("it moved another number of bytes than asked for"),
        },
        Ok(Outcome::Declined(Some(response))) => return Fetched::Body(response),
        Ok(Outcome::Declined(None) | Outcome::TooSmall { .. }) => rdma
            .plain
            .no_fast_path("it sends these bytes as an HTTP body only"),
        Ok(Outcome::Unavailable(error) | Outcome::NoSession(error)) | Err(error) => error,
    };
    Fetched::Not(error)
}
