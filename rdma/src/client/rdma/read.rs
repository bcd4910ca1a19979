//! GET: an object as a stream of windows, several of which are under way.

use super::{Rdma, WINDOW, exchange::Outcome, judge::Answer};
use crate::{
    Condition, Download, Error, ObjectHead, Policy, Range, Result, Via,
    client::{
        Client,
        object::{Fallback, crc64nvme_of},
        request::Request,
    },
    fabric::Direction,
    protocol::{Checksum, header},
};
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum_combine};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, FuturesOrdered},
};
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Windows of one object that are under way.
const DEPTH: usize = 4;
/// An object that changes its size this often between two questions is not read.
const ATTEMPTS: usize = 4;

/// What is read.
#[derive(Clone)]
struct Target {
    bucket: String,
    key: String,
    condition: Condition,
    fallback: Fallback,
}

/// The first bytes, and what the storage node says of the object.
struct First {
    head: ObjectHead,
    range: std::ops::Range<u64>,
    piece: Bytes,
    crc: u64,
}

enum Asked<T> {
    /// By RDMA.
    Moved(T),
    /// As the body of this answer.
    Declined(http::Response<Incoming>),
    /// Not at all: there is no such way now.
    Unavailable(Error),
}

impl Client {
    /// [`Client::get`] by RDMA; `None` when the bytes shall go as an HTTP body.
    pub(in super::super) async fn get_by_rdma(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
    ) -> Result<Option<Download>> {
        let Some(rdma) = self.by_rdma() else {
            self.by_http(None)?;
            return Ok(None);
        };
        if let Some(Range::From {
            first,
            last: Some(last),
        }) = range
            && last.saturating_sub(first) < self.inner.options.rdma_threshold
            && self.inner.options.policy == Policy::Prefer
        {
            return Ok(None);
        }
        let target = Target {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            condition: condition.clone(),
            fallback: Fallback::default(),
        };
        for _ in 0..ATTEMPTS {
            let (from, until) = match range {
                None => (0, u64::MAX),
                Some(Range::From { first, last }) => {
                    (first, last.map_or(u64::MAX, |last| last.saturating_add(1)))
                }
                Some(Range::Suffix { length }) => {
                    let size = self.head(bucket, key).await?.size;
                    (size.saturating_sub(length), size)
                }
            };
            if until <= from {
                return Err(Error::Invalid(
                    "the range that was asked for holds no byte".to_owned(),
                ));
            }
            let last = until.min(from.saturating_add(WINDOW as u64)).saturating_sub(1);
            let first = match rdma.first(&target, from, last).await {
                Ok(Asked::Moved(first)) => first,
                Ok(Asked::Declined(response)) => {
                    let download = self.declined(response)?;
                    // Only the beginning was asked for. Where there is more, all of it is asked for anew.
                    let all = download.range == (from..until.min(download.head.size));
                    return Ok(all.then_some(download));
                }
                Ok(Asked::Unavailable(error)) => {
                    self.by_http(Some(error))?;
                    return Ok(None);
                }
                // An empty object has no range at all; it is one all the same.
                Err(Error::Refused { status: 416, .. }) if range.is_none() => {
                    let head = self.head(bucket, key).await?;
                    if head.size > 0 {
                        continue;
                    }
                    return Ok(Some(empty(head)));
                }
                Err(error) => return Err(error),
            };
            if matches!(range, Some(Range::Suffix { .. })) && first.head.size != until {
                continue;
            }
            let range = from..until.min(first.head.size);
            return Ok(Some(Reading::begin(Arc::clone(rdma), target, first, range)));
        }
        Err(self.malformed("the object changes its size between any two questions"))
    }

    fn declined(&self, response: http::Response<Incoming>) -> Result<Download> {
        self.by_http(Some(
            self.no_fast_path("it sends this object as an HTTP body only"),
        ))?;
        self.download_of(response)
    }
}

fn empty(head: ObjectHead) -> Download {
    Download {
        head,
        range: 0..0,
        via: Via::Rdma,
        fallback: Fallback::default(),
        lent: None,
        body: stream::empty().boxed(),
    }
}

impl Rdma {
    async fn first(&self, target: &Target, first: u64, last: u64) -> Result<Asked<First>> {
        let (answer, piece, crc) = match self.window(target, first, last).await? {
            Asked::Moved(moved) => moved,
            Asked::Declined(response) => return Ok(Asked::Declined(response)),
            Asked::Unavailable(error) => return Ok(Asked::Unavailable(error)),
        };
        let (range, size) = self.plain.content_range(&answer.headers, answer.bytes)?;
        if range.start != first {
            return Err(self.plain.malformed("it sent another range than asked for"));
        }
        let mut head = self.plain.head_of(&answer.headers, size)?;
        head.crc64nvme = object_checksum(&answer.headers);
        Ok(Asked::Moved(First {
            head,
            range,
            piece,
            crc,
        }))
    }

    /// Bytes `first` to `last` of an object, at most a window.
    async fn window(&self, target: &Target, first: u64, last: u64) -> Result<Asked<(Answer, Bytes, u64)>> {
        let range = Range::From {
            first,
            last: Some(last),
        };
        let request = Request::new(Method::GET, &target.bucket, Some(&target.key))
            .range(Some(range))?
            .condition(&target.condition)?;
        let wanted = usize::try_from(last - first).map_or(WINDOW, |wanted| (wanted + 1).min(WINDOW));
        let (loan, outcome) = self.exchange(&request, wanted, Direction::Written, |_| {}).await;
        let answer = match outcome? {
            Outcome::Moved(answer) if answer.status == StatusCode::PARTIAL_CONTENT => answer,
            Outcome::Moved(_) => {
                return Err(self.plain.malformed("it sent no range where one was asked for"));
            }
            Outcome::Declined(Some(response)) => return Ok(Asked::Declined(response)),
            Outcome::Declined(None) => {
                let cause = "it sends this object as an HTTP body only";
                return Ok(Asked::Unavailable(self.plain.no_fast_path(cause)));
            }
            Outcome::TooSmall { .. } => return Err(self.plain.malformed("it sent more than was asked for")),
            Outcome::Unavailable(error) | Outcome::NoSession(error) => return Ok(Asked::Unavailable(error)),
        };
        let Some(loan) = loan else {
            return Err(self.plain.malformed("bytes arrived in no window"));
        };
        // At most the window.
        let length = usize::try_from(answer.bytes).map_or(wanted, |length| length.min(wanted));
        let crc = self.verified(&answer, &loan[..length])?;
        Ok(Asked::Moved((answer, loan.hand_out(length), crc)))
    }

    /// The checksum of bytes that arrived, compared with what the storage node says it sent.
    pub(super) fn verified(&self, answer: &Answer, arrived: &[u8]) -> Result<u64> {
        if !self.plain.inner.options.verify {
            return Ok(answer.checksum.unwrap_or_default());
        }
        let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, arrived);
        match answer.checksum {
            Some(sent) if sent != crc => Err(Error::Damaged),
            _ => Ok(crc),
        }
    }

    /// One window's bytes, by HTTP if they do not go by RDMA any more.
    async fn piece(&self, target: &Target, first: u64, last: u64) -> Result<(Bytes, u64)> {
        let wanted = last - first + 1;
        let download = match self.window(target, first, last).await? {
            Asked::Moved((_, piece, crc)) if piece.len() as u64 == wanted => return Ok((piece, crc)),
            Asked::Moved(_) => return Err(self.plain.malformed("it sent less than was asked for")),
            Asked::Declined(response) => self.plain.declined(response)?,
            Asked::Unavailable(error) => {
                self.plain.by_http(Some(error))?;
                let range = Range::From {
                    first,
                    last: Some(last),
                };
                self.plain
                    .get_by_http(&target.bucket, &target.key, Some(range), &target.condition)
                    .await?
            }
        };
        if download.range != (first..last + 1) {
            return Err(self.plain.malformed("it sent another range than asked for"));
        }
        target.fallback.note();
        let pieces: Vec<Bytes> = download.body.try_collect().await?;
        let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        for piece in pieces {
            all.extend_from_slice(&piece);
        }
        let crc = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &all);
        Ok((all.freeze(), crc))
    }
}

/// The checksum of the whole object.
pub(super) fn object_checksum(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::OBJECT_CHECKSUM)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| Checksum::parse("x-amz-rdma-object-checksum", value).ok())
        .map(|checksum| checksum.0)
        .or_else(|| crc64nvme_of(headers))
}

type Piece = JoinHandle<Result<(Bytes, u64)>>;

/// The rest of an object, behind its first window.
struct Reading {
    rdma: Arc<Rdma>,
    target: Arc<Target>,
    /// The first piece, until it is given out.
    first: Option<(Bytes, u64)>,
    /// Where the next window begins, and where the last one ends.
    next: u64,
    end: u64,
    under_way: FuturesOrdered<Piece>,
    /// Checksum of what was given out, and what it must be at the end.
    crc: Option<u64>,
    expected: Option<u64>,
    ended: bool,
}

impl Reading {
    fn begin(rdma: Arc<Rdma>, mut target: Target, first: First, range: std::ops::Range<u64>) -> Download {
        // The rest belongs to the same version, or is an error.
        target.condition = Condition {
            if_match: Some(first.head.etag.clone()),
            if_none_match: None,
        };
        let whole = range == (0..first.head.size);
        let verify = rdma.plain.inner.options.verify;
        let reading = Self {
            rdma,
            target: Arc::new(target),
            next: first.range.end,
            end: range.end,
            first: Some((first.piece, first.crc)),
            under_way: FuturesOrdered::new(),
            crc: None,
            expected: first.head.crc64nvme.filter(|_| whole && verify),
            ended: false,
        };
        Download {
            head: first.head,
            range,
            via: Via::Rdma,
            fallback: reading.target.fallback.clone(),
            lent: None,
            body: reading.into_body(),
        }
    }

    fn into_body(self) -> BoxStream<'static, Result<Bytes>> {
        stream::unfold(self, |mut reading| async move {
            if reading.ended {
                return None;
            }
            let item = reading.step().await;
            reading.ended = !matches!(item, Some(Ok(_)));
            item.map(|item| (item, reading))
        })
        .boxed()
    }

    async fn step(&mut self) -> Option<Result<Bytes>> {
        while self.next < self.end && self.under_way.len() < DEPTH {
            let first = self.next;
            let last = self.end.min(first + WINDOW as u64) - 1;
            self.next = last + 1;
            let (rdma, target) = (Arc::clone(&self.rdma), Arc::clone(&self.target));
            // Tasks: a caller that wants no more bytes leaves them to end by themselves. Dropping them would kill the
            // queue pair, and with it requests of others.
            self.under_way.push_back(tokio::spawn(
                async move { rdma.piece(&target, first, last).await },
            ));
        }
        let next = match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.under_way.next().await.map(|piece| {
                piece.unwrap_or_else(|error| {
                    Err(Error::Invalid(format!(
                        "a part of the object was not read: {error}"
                    )))
                })
            }),
        };
        match next {
            Some(Ok((bytes, crc))) => {
                self.crc = Some(match self.crc {
                    None => crc,
                    Some(before) => {
                        checksum_combine(CrcAlgorithm::Crc64Nvme, before, crc, bytes.len() as u64)
                    }
                });
                Some(Ok(bytes))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.expected.is_some() && self.expected != self.crc => Some(Err(Error::Damaged)),
            None => None,
        }
    }
}
