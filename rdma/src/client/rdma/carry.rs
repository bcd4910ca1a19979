//! Bytes of requests that somebody else signed, for a gateway ([`crate::relay`]).
//!
//! ```text
//!   get ── the client's request, and a window ──▶ its beginning ── read, read, … ──▶ windows in order ──▶ the client
//!                                                        └── where a window cannot be had: the rest as one body
//!   put ── the body as it came, in a window ── the client's request ──▶ the storage node fetches it
//! ```
//! Memory is bounded for all clients together: bytes that a slow one has not taken yet count as well.

mod rest;

use super::{Rdma, WINDOW, exchange::Outcome, judge::Answer, lanes::Returned, read::object_checksum};
use crate::{
    Error, Options, Policy, Result, Via,
    client::{
        Client,
        request::{Foreign, Repeat, Request},
    },
    fabric::Direction,
    protocol::{ReadingId, header, length},
    relay::strip,
};
use bytes::Bytes;
use futures::stream::{BoxStream, FuturesOrdered};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
    request::Parts,
};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rest::{Piece, Reading, Rest, held};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Windows of one client that are under way or wait for it.
const DEPTH: usize = 4;
/// A client that is in the middle of an object waits for a window for this long, while others have them all.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client that sends nothing of its body for this long holds no memory any more.
const STALL: Duration = Duration::from_secs(60);
/// The unit in which memory for bodies is counted.
const UNIT: u64 = 1 << 20;
/// A body up to this length goes into memory that stays registered; a longer one's is registered for it alone. Parts of 8 MiB are what
/// most SDKs send, with some framing. No other user of the devices has chunks of this length, and so the same pool: a client that sends
/// slowly must not hold up mounts.
const BODY: usize = (8 << 20) + (64 << 10);

/// Memory for the clients of all gateways of a process together. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct RelayMemory {
    bytes: u64,
    windows: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl RelayMemory {
    /// So many bytes: one half for GETs, one for PUTs. Nothing is registered yet.
    pub fn new(bytes: u64) -> Self {
        let places = |unit: u64| {
            let places = usize::try_from(bytes / 2 / unit).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)))
        };
        Self {
            bytes,
            windows: places(WINDOW as u64),
            bodies: places(UNIT),
        }
    }
}

/// How a gateway carries bytes.
#[derive(Debug, Clone)]
pub(crate) struct CarryOptions {
    /// Shared with other gateways.
    pub memory: RelayMemory,
    /// Fewer bytes than this are not worth a window.
    pub least: u64,
    /// Bodies of more bytes than this are never held.
    pub largest_body: u64,
}

/// The way by RDMA of a gateway.
pub(crate) struct Carry {
    client: Client,
    options: CarryOptions,
}

/// What became of a GET.
pub(crate) enum Got {
    /// Its bytes come.
    Moving(Moving),
    /// The storage node sends them as a body.
    Answered(Response<Incoming>),
    /// It was refused, and this is what its client is to hear.
    Refused(Response<Bytes>),
    /// It was not performed, and can go by HTTP.
    Not(Why),
}

/// What became of a PUT.
pub(crate) enum Put {
    /// It was stored.
    Done(Response<()>),
    /// It was refused, and this is what its client is to hear.
    Refused(Response<Bytes>),
    /// It was not performed, and can go by HTTP, with its body, where that was read.
    Not(Why, Option<Bytes>),
    /// Nobody knows whether it was.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Why bytes do not go by RDMA.
#[derive(Debug)]
pub(crate) enum Why {
    /// All memory for it is in use.
    Busy,
    /// There is no such way now.
    NoWay(Error),
}

/// The answer to a GET whose bytes come by RDMA.
pub(crate) struct Moving {
    pub status: StatusCode,
    /// As its client would have got them over HTTP.
    pub headers: HeaderMap,
    pub length: u64,
    /// In order, with what carried each. It ends with an error where they do not come whole.
    pub pieces: BoxStream<'static, Result<(Bytes, Via)>>,
}

impl Carry {
    /// By a client that has the gateway's identity and devices. Nothing is sent yet.
    pub fn new(client: Client, options: CarryOptions) -> Self {
        Self { client, options }
    }

    /// The options of its client.
    pub fn client_options(options: &mut Options, memory: &RelayMemory) {
        options.rdma_memory = memory.bytes;
        options.part_size = BODY;
        // A reading is known to the one storage node that began it.
        options.nodes.clear();
        // Where HTTP can do it at once, nobody waits for long.
        options.retries = 1;
    }

    fn rdma(&self) -> std::result::Result<&Arc<Rdma>, Why> {
        let no_device = || Why::NoWay(self.client.no_fast_path(self.client.no_device()));
        self.client.by_rdma().ok_or_else(no_device)
    }

    fn is_required(&self) -> bool {
        self.client.inner.options.policy == Policy::Require
    }

    /// Whether there is a way now; makes a session where there is none.
    pub async fn is_there(&self) -> std::result::Result<(), Why> {
        // A task, so that who hangs up leaves no half-made session to the storage node.
        let rdma = Arc::clone(self.rdma()?);
        let made = tokio::spawn(async move { rdma.lanes.session().await.map(drop) });
        made.await
            .unwrap_or_else(|error| Err(broke_off(&error)))
            .map_err(Why::NoWay)
    }

    /// Whether a body of this length may go by RDMA.
    pub fn takes(&self, length: u64) -> bool {
        let least = if self.is_required() {
            1
        } else {
            self.options.least.max(1)
        };
        (least..=self.options.largest_body.min(u32::MAX.into())).contains(&length)
    }

    fn request(head: &Parts, repeat: Repeat) -> (Request, Arc<Foreign>) {
        let foreign = Arc::new(Foreign::default());
        let request = Request {
            path_and_query: head
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
            headers: head.headers.clone(),
            repeat,
            foreign: Some(Arc::clone(&foreign)),
            ..Request::service(head.method.clone())
        };
        (request, foreign)
    }

    /// A GET of an object.
    pub async fn get(&self, head: &Parts) -> Got {
        let rdma = match self.rdma() {
            Ok(rdma) => rdma,
            Err(why) => return Got::Not(why),
        };
        let Ok(permit) = Arc::clone(&self.options.memory.windows).try_acquire_owned() else {
            return Got::Not(Why::Busy);
        };
        let (mut request, foreign) = Self::request(head, Repeat::Always);
        if !self.is_required() {
            let least = HeaderValue::from(self.options.least);
            request.headers.insert(header::LEAST, least);
        }
        // A task: a client that hangs up drops this future, and with the window in it the queue pair would die, which others use.
        let by = Arc::clone(rdma);
        let asked = tokio::spawn(async move {
            let exchanged = by.exchange(&request, WINDOW, Direction::Written, |_| {});
            (exchanged.await, permit)
        });
        let ((loan, outcome), permit) = match asked.await {
            Ok(asked) => asked,
            Err(error) => return Got::Not(Why::NoWay(broke_off(&error))),
        };
        match outcome {
            Ok(Outcome::Moved(answer)) => match self.begin(rdma, answer, loan, permit) {
                Ok(moving) => Got::Moving(moving),
                Err(error) => {
                    rdma.lanes.mistrust(0, &error.to_string());
                    Got::Not(Why::NoWay(error))
                }
            },
            Ok(Outcome::Declined(Some(response))) => Got::Answered(response),
            Ok(Outcome::Declined(None) | Outcome::TooSmall { .. }) => {
                let cause = "it sends this object as an HTTP body only";
                Got::Not(Why::NoWay(self.client.no_fast_path(cause)))
            }
            Ok(Outcome::Unavailable(error) | Outcome::NoSession(error)) => Got::Not(Why::NoWay(error)),
            Err(error) => match refusal_of(rdma, &foreign, &error) {
                Some(refusal) => Got::Refused(refusal),
                None => Got::Not(Why::NoWay(error)),
            },
        }
    }

    fn begin(
        &self,
        rdma: &Arc<Rdma>,
        answer: Answer,
        loan: Option<Returned>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Moving> {
        let malformed = |cause: &str| self.client.malformed(cause);
        let text = |name: http::HeaderName| {
            let value = answer.headers.get(name)?;
            value.to_str().ok()
        };
        let total = text(header::TOTAL).and_then(|total| length("x-amz-rdma-total-length", total).ok());
        let total = total.ok_or_else(|| malformed("it does not say how many bytes there are"))?;
        let reading = text(header::READING).and_then(|id| ReadingId::parse(id).ok());
        let reading = reading.map(|id| {
            Arc::new(Reading {
                id,
                rdma: Arc::clone(rdma),
            })
        });
        if answer.bytes > total || (answer.bytes < total && reading.is_none()) {
            return Err(malformed(
                "it moved another number of bytes than it says there are",
            ));
        }
        let arrived = usize::try_from(answer.bytes).map_or(WINDOW, |bytes| bytes.min(WINDOW));
        let loan = loan.ok_or_else(|| malformed("bytes arrived in no window"))?;
        let crc = rdma.verified(&answer, &loan[..arrived])?;
        let whole = !answer.headers.contains_key(CONTENT_RANGE);
        let expected = object_checksum(&answer.headers).filter(|_| whole);
        let first = Piece {
            bytes: held(loan.hand_out(arrived), permit),
            crc,
        };
        let rest = Rest {
            rdma: Arc::clone(rdma),
            windows: Arc::clone(&self.options.memory.windows),
            reading,
            next: answer.bytes,
            given: 0,
            total,
            under_way: FuturesOrdered::new(),
            first: Some(first),
            body: None,
            crc: None,
            expected,
        };
        let mut headers = answer.headers;
        strip(&mut headers);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(total));
        Ok(Moving {
            status: answer.status,
            headers,
            length: total,
            pieces: rest.into_pieces(),
        })
    }

    /// A PUT of an object or a part, whose body has `length` bytes. `wanted` is called when they are to come.
    pub async fn put<B>(&self, head: &Parts, body: &mut B, length: u64, wanted: impl FnOnce(&mut B)) -> Put
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let rdma = match self.rdma() {
            Ok(rdma) => rdma,
            Err(why) => return Put::Not(why, None),
        };
        // Known before the client is asked to send what would have to be kept for another way.
        if let Err(why) = self.is_there().await {
            return Put::Not(why, None);
        }
        let counted = length.max(BODY as u64);
        let units = u32::try_from(counted.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.options.memory.bodies).try_acquire_many_owned(units) else {
            return Put::Not(Why::Busy, None);
        };
        let (Some(lane), Ok(size)) = (rdma.lanes.next(&[], &[0]), usize::try_from(length)) else {
            let error = self.client.no_fast_path(rdma.lanes.why_none());
            return Put::Not(Why::NoWay(error), None);
        };
        let (mut memory, place) = match timeout(PATIENCE, lane.loan(size, Direction::Read)).await {
            Ok(Ok(loan)) => loan,
            Ok(Err(error)) => return Put::Not(Why::NoWay(error), None),
            Err(_) => return Put::Not(Why::Busy, None),
        };
        wanted(body);
        if let Err(error) = fill(&mut memory[..size], body).await {
            if let Some((slot, _)) = place {
                drop(slot.put_back(memory));
            }
            return Put::Broken(error);
        }
        let (request, foreign) = Self::request(head, Repeat::Unperformed);
        // A task, as in `get`.
        let by = Arc::clone(rdma);
        let asked = tokio::spawn(async move {
            let performed = by.perform(&lane, &request, memory, 0..size, Direction::Read);
            let (memory, outcome) = performed.await;
            let returned = match place {
                Some((slot, pool)) => Returned::Pooled(slot.put_back(memory), pool),
                None => Returned::Once(memory),
            };
            (returned, outcome, permit)
        });
        let (returned, outcome, permit) = match asked.await {
            Ok(asked) => asked,
            Err(error) => return Put::Broken(Box::new(error)),
        };
        let error = match outcome {
            Ok(Outcome::Moved(answer)) => {
                let mut response = Response::new(());
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                strip(response.headers_mut());
                return Put::Done(response);
            }
            Ok(Outcome::Declined(_) | Outcome::TooSmall { .. }) => self
                .client
                .no_fast_path("it takes these bytes as an HTTP body only"),
            Ok(Outcome::Unavailable(error) | Outcome::NoSession(error)) => error,
            Err(error) => match refusal_of(rdma, &foreign, &error) {
                Some(refusal) => return Put::Refused(refusal),
                // Anything else may have been performed.
                None if !matches!(error, Error::Refused { .. }) => return Put::Broken(error.into()),
                None => error,
            },
        };
        Put::Not(Why::NoWay(error), Some(held(returned.hand_out(size), permit)))
    }
}

fn broke_off(error: &tokio::task::JoinError) -> Error {
    Error::Invalid(format!("a transfer broke off: {error}"))
}

/// What the client whose request it was is to hear; `None` where the transfer was refused and not the request.
fn refusal_of(rdma: &Rdma, foreign: &Foreign, error: &Error) -> Option<Response<Bytes>> {
    if !matches!(error, Error::Refused { .. }) {
        return None;
    }
    let refusal = foreign.refusal()?;
    if !refusal.headers().contains_key(header::REPLY) {
        return Some(refusal);
    }
    // As with a key that is not the storage node's gateway's: it would be so with the next request as well.
    if refusal.status() == StatusCode::FORBIDDEN {
        tracing::warn!(%error, "the storage node does not take this gateway's signature; bytes go by HTTP");
        rdma.lanes.mistrust(0, &error.to_string());
    }
    None
}

async fn fill<B>(
    memory: &mut [u8],
    body: &mut B,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut at = 0;
    while let Some(frame) = timeout(STALL, body.frame()).await? {
        if let Ok(data) = frame.map_err(Into::into)?.into_data() {
            let room = memory.get_mut(at..at + data.len());
            room.ok_or("the body is longer than it was said to be")?
                .copy_from_slice(&data);
            at += data.len();
        }
    }
    if at < memory.len() {
        return Err("the body ended before its end".into());
    }
    Ok(())
}
