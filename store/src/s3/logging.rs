//! GetBucketLogging, PutBucketLogging, and the watching of requests on buckets that keep an access log.

use super::{
    Front,
    access::{denied, principal_of, situation},
    config::Document,
    convert, error,
};
use crate::{
    access::Demand,
    access_log::{self, AccessLog, DOCUMENT, Entry, Facts, Notes},
    engine::Error,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use penstock_rdma::{
    local::{LENT, LentHeader},
    protocol,
};
use s3s::{
    Body, HttpError, HttpResponse, S3Request, S3Response, S3Result,
    dto::{
        BucketLoggingStatus, GetBucketLoggingInput, GetBucketLoggingOutput, PutBucketLoggingInput,
        PutBucketLoggingOutput,
    },
    s3_error,
};
use std::{
    pin::Pin,
    sync::PoisonError,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

const LOGGING: Document<BucketLoggingStatus> = Document::new(
    DOCUMENT,
    ("NoSuchLoggingConfiguration", "The bucket keeps no access log"),
);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
/// The status of a request whose client went away before there was an answer, as nginx tells it.
const GIVEN_UP: u16 = 499;
/// An error's code is in the beginning of its document.
const BEGINNING: usize = 512;

pub(super) async fn get_bucket_logging(
    front: &Front,
    request: S3Request<GetBucketLoggingInput>,
) -> S3Result<S3Response<GetBucketLoggingOutput>> {
    convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
    let found = LOGGING.find(front, &request.input.bucket).await?;
    Ok(S3Response::new(GetBucketLoggingOutput {
        logging_enabled: found.and_then(|status| status.logging_enabled),
    }))
}

pub(super) async fn put_bucket_logging(
    front: &Front,
    request: S3Request<PutBucketLoggingInput>,
) -> S3Result<S3Response<PutBucketLoggingOutput>> {
    let input = &request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    front.engine.bucket(&input.bucket).await.map_err(error::answer)?;
    let status = &input.bucket_logging_status;
    let Some(enabled) = &status.logging_enabled else {
        LOGGING.put(front, &input.bucket, None).await?;
        return Ok(S3Response::new(PutBucketLoggingOutput {}));
    };
    let format = enabled.target_object_key_format.as_ref();
    let grants = enabled.target_grants.as_ref();
    error::refuse_any(&[
        (front.access_log.is_none(), "A server access log"),
        (
            grants.is_some_and(|grants| !grants.is_empty()),
            "Granting on access logs by ACL",
        ),
        (
            format.is_some_and(|format| format.partitioned_prefix.is_some()),
            "Access logs by date (PartitionedPrefix)",
        ),
    ])?;
    if enabled.target_prefix.len() > 512 {
        return Err(s3_error!(
            InvalidArgument,
            "The TargetPrefix has more than 512 bytes."
        ));
    }
    match front.engine.bucket(&enabled.target_bucket).await {
        Ok(_) => {}
        Err(Error::NoSuchBucket(_)) => {
            return Err(s3_error!(
                InvalidTargetBucketForLogging,
                "The target bucket for logging does not exist"
            ));
        }
        Err(error) => return Err(error::answer(error)),
    }
    // Whoever may set this bucket up shall not write by that into another one that is closed to him.
    let principal = principal_of(&request.extensions)?;
    let writing = Demand::writing(&enabled.target_bucket, &enabled.target_prefix);
    let allowed = front
        .authority
        .allows(&[writing], &situation(principal, &request))
        .await;
    if !allowed.map_err(error::answer)? {
        return Err(denied(principal));
    }
    LOGGING.put(front, &input.bucket, Some(status)).await?;
    Ok(S3Response::new(PutBucketLoggingOutput {}))
}

/// A request on a bucket that keeps a log.
pub(super) struct Watched {
    log: AccessLog,
    entry: Entry,
    begun: Instant,
    is_get: bool,
    is_head: bool,
}

impl Watched {
    /// `None` for what is not to be logged, which almost everything is.
    pub fn of<B>(front: &Front, request: &Request<B>) -> Option<Self> {
        let log = front.access_log.as_ref().filter(|log| log.is_kept())?;
        let bucket = front.hosts.bucket(request).filter(|bucket| log.is_of(bucket))?;
        Some(Self {
            log: log.clone(),
            entry: Entry::of(request, bucket, &front.hosts.path(request)),
            begun: Instant::now(),
            is_get: request.method() == Method::GET,
            is_head: request.method() == Method::HEAD,
        })
    }

    /// Lets a request be answered, and logs it when its answer has been sent, or given up.
    pub async fn answer(
        self,
        work: impl Future<Output = Result<HttpResponse, HttpError>>,
    ) -> Result<HttpResponse, HttpError> {
        // It is there before the answer: who hangs up is logged too.
        let mut line = Line {
            notes: Notes::default(),
            status: StatusCode::from_u16(GIVEN_UP).unwrap_or(StatusCode::REQUEST_TIMEOUT),
            turn_around: Duration::ZERO,
            size: None,
            beside: 0,
            promised: None,
            sent: 0,
            beginning: Vec::new(),
            of: self,
        };
        let answered = access_log::noting(&line.notes, work).await;
        line.turn_around = line.of.begun.elapsed();
        let mut response = answered.inspect_err(|_| line.status = StatusCode::INTERNAL_SERVER_ERROR)?;
        if let Ok(id) = HeaderValue::from_str(&line.of.entry.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let headers = response.headers();
        line.status = response.status();
        if line.of.is_get {
            line.beside = beside(headers);
            line.promised = number(headers, &protocol::header::TOTAL);
        }
        line.size = size(headers, line.of.is_get || line.of.is_head).filter(|_| line.status.is_success());
        Ok(response.map(|body| Body::http_body_unsync(Logged { body, line })))
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Bytes that go another way than as a body: by RDMA, or lent.
fn beside(headers: &HeaderMap) -> u64 {
    let lent = headers.get(LENT).and_then(|lent| lent.to_str().ok());
    let lent = lent.and_then(LentHeader::parse).map(|lent| lent.length());
    lent.or_else(|| number(headers, &protocol::header::BYTES))
        .unwrap_or(0)
}

/// The length of the object that an answer is about.
fn size(headers: &HeaderMap, reads: bool) -> Option<u64> {
    if !reads {
        // What came by RDMA; of what came as a body the request tells.
        return number(headers, &protocol::header::BYTES);
    }
    if !headers.contains_key(header::ETAG) {
        return None;
    }
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    if let Some((_, size)) = range.and_then(|range| range.rsplit_once('/')) {
        return size.parse().ok();
    }
    let lent = headers.get(LENT).and_then(|lent| lent.to_str().ok());
    let lent = lent.and_then(LentHeader::parse).map(|lent| lent.size);
    lent.or_else(|| number(headers, &protocol::header::TOTAL))
        .or_else(|| number(headers, &protocol::header::BYTES))
        .or_else(|| number(headers, &header::CONTENT_LENGTH))
}

/// A line that is written when the answer's body goes away.
struct Line {
    of: Watched,
    notes: Notes,
    status: StatusCode,
    turn_around: Duration,
    size: Option<u64>,
    /// Bytes that went another way, and those that the client of a gateway is promised in all.
    beside: u64,
    promised: Option<u64>,
    sent: u64,
    beginning: Vec<u8>,
}

impl Line {
    fn note(&mut self, piece: &Bytes) {
        self.sent += piece.len() as u64;
        if !self.status.is_success() {
            let room = BEGINNING.saturating_sub(self.beginning.len()).min(piece.len());
            self.beginning.extend_from_slice(&piece[..room]);
        }
    }

    fn code(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.beginning);
        let (_, rest) = text.split_once("<Code>")?;
        let (code, _) = rest.split_once("</Code>")?;
        Some(code.to_owned())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Watched {
            log, entry, begun, ..
        } = &self.of;
        let facts = Facts {
            status: self.status,
            code: self.code(),
            sent: self
                .sent
                .saturating_add(self.beside)
                .max(self.promised.unwrap_or(0)),
            size: self.size,
            total: begun.elapsed(),
            turn_around: self.turn_around,
        };
        let noted = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(&entry.bucket, &entry.lines(&noted, &facts));
    }
}

/// A body whose bytes are counted.
struct Logged {
    body: Body,
    line: Line,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            self.line.note(piece);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
