//! Uploads of browser forms (S3 API, "POST Object"; "Browser-based uploads using POST"): a policy is signed in place of the request.
//!
//! s3s would read the file into memory before anything is checked. Here fields are read, checked, and only then the file is, as it
//! comes, by PutObject itself.

mod fields;
mod policy;
mod signature;

use super::{
    Front,
    access::{Whence, denied},
    body::{self, Unmeasured},
    convert, error,
    hosts::Hosts,
    put,
};
use crate::{
    access::{Demand, Principal, Target, demands},
    access_log::note_requester,
};
use fields::Fields;
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use multer::{Constraints, Field, Multipart, SizeLimit};
use percent_encoding::utf8_percent_encode;
use policy::Policy;
use s3s::{
    Body, HttpResponse, S3Error, S3Request, S3Result,
    auth::Credentials,
    dto::{PutObjectInput, PutObjectOutput, StreamingBlob},
    path::{S3Path, parse_path_style},
    s3_error,
    xml::{SerializeContent, Serializer},
};
use std::{
    borrow::Cow,
    io,
    ops::RangeInclusive,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use sync_wrapper::SyncStream;
use tokio::time::timeout;

/// What may come before the file (S3's limit is 20 KB), with what separates fields.
const MOST_BEFORE_FILE: usize = 20 << 10;
const MOST_RAW_BEFORE_FILE: u64 = 64 << 10;
const MOST_DRAINED: usize = 16 << 20;
/// The fields are here after this, or the client is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a request is one.
pub(super) fn is_form<B>(request: &Request<B>) -> bool {
    const KIND: &[u8] = b"multipart/form-data";
    let kinds = request.headers().get_all(header::CONTENT_TYPE);
    let is_kind = |kind: &HeaderValue| {
        let kind = kind.as_bytes().trim_ascii_start();
        kind.get(..KIND.len())
            .is_some_and(|kind| kind.eq_ignore_ascii_case(KIND))
    };
    request.method() == Method::POST && kinds.iter().any(is_kind)
}

/// Whether a request should be one: nothing else is posted to a bucket without a query.
pub(super) fn lacks_form<B>(hosts: &Hosts, request: &Request<B>) -> bool {
    let path = hosts.path(request);
    let path = path.trim_matches('/');
    let is_bucket = !path.is_empty() && !path.contains('/');
    request.method() == Method::POST && request.uri().query().is_none() && is_bucket && !is_form(request)
}

/// Answers one.
pub(super) async fn answer(front: &Front, request: Request<Incoming>) -> S3Result<HttpResponse> {
    let path = front.hosts.path(&request);
    let is_by_host = matches!(path, Cow::Owned(_));
    let path = path.into_owned();
    let path = percent_encoding::percent_decode_str(&path).decode_utf8();
    let path = path.map_err(|_| s3_error!(InvalidURI))?;
    let (head, body) = request.into_parts();
    let bucket = match parse_path_style(&path) {
        Ok(S3Path::Bucket { bucket }) => bucket.into_string(),
        Ok(_) => return Err(s3_error!(MethodNotAllowed, "Forms are sent to a bucket.")),
        Err(_) => return Err(s3_error!(InvalidBucketName)),
    };
    let boundary = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let boundary = boundary.and_then(|kind| multer::parse_boundary(kind).ok());
    let boundary = boundary.ok_or_else(|| malformed("The Content-Type has no boundary."))?;

    let in_file = Arc::new(AtomicBool::new(false));
    let pieces = Paced::new(body.into_data_stream(), Arc::clone(&in_file));
    let limits = Constraints::new().size_limit(SizeLimit::new().per_field(u64::MAX));
    let mut parts = Multipart::with_constraints(pieces, boundary, limits);
    let (fields, file) = match timeout(PATIENCE, read(&mut parts)).await {
        Ok(read) => read?,
        Err(_) => {
            return Err(s3_error!(
                RequestTimeout,
                "The fields of the form did not come in time."
            ));
        }
    };
    in_file.store(true, Ordering::Release);

    let judged = match judge(front, &bucket, &head, &fields, &file).await {
        Ok(judged) => judged,
        Err(refusal) => {
            drain(file).await;
            return Err(refusal);
        }
    };
    let Judged {
        key,
        headers,
        signer,
        lengths,
    } = judged;
    let by_tls = Whence::of(&head.extensions).by_tls();
    let mut extensions = head.extensions;
    extensions.insert(Unmeasured);
    let input = fields.into_input(&bucket, &key, content(file, lengths))?;
    let asked = input.1;
    let stored = put::put_object(
        front,
        S3Request {
            input: input.0,
            method: Method::PUT,
            uri: head.uri,
            headers,
            extensions,
            credentials: signer,
            region: None,
            service: None,
            trailing_headers: None,
        },
    );
    let stored = stored.await?;
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let scheme = if by_tls { "https" } else { "http" };
    let host = host.unwrap_or("localhost");
    let folder = if is_by_host {
        String::new()
    } else {
        format!("/{bucket}")
    };
    let place = format!(
        "{scheme}://{host}{folder}/{}",
        utf8_percent_encode(&key, convert::PATH)
    );
    asked.answer(&bucket, &key, &place, stored.output, stored.headers)
}

/// A form that may be done, as far as that is known before its file is read.
struct Judged {
    key: String,
    headers: HeaderMap,
    signer: Option<Credentials>,
    lengths: RangeInclusive<u64>,
}

async fn judge(
    front: &Front,
    bucket: &str,
    head: &Parts,
    fields: &Fields,
    file: &Field<'_>,
) -> S3Result<Judged> {
    let whence = Whence::of(&head.extensions);
    let key = fields.key(fields::file_name(file).as_deref())?;
    let (principal, signer) = signature::signer(&front.authority, fields)?;
    note_requester(&principal);
    let policy = fields.policy().map(Policy::parse).transpose()?;
    let lengths = match (&policy, &principal) {
        (Some(policy), _) => policy.check(bucket, &key, fields)?,
        (None, Principal::Anonymous) => 0..=u64::MAX,
        (None, _) => return Err(s3_error!(AccessDenied, "A form that is signed needs a policy.")),
    };
    let mut headers = fields.headers()?;
    for name in [
        header::REFERER,
        header::USER_AGENT,
        penstock_rdma::relay::PASSED_ON,
    ] {
        headers.extend(head.headers.get(&name).map(|value| (name, value.clone())));
    }
    check(front, &principal, (bucket, &key), &head.uri, &headers, &whence).await?;
    front.engine.bucket(bucket).await.map_err(error::answer)?;
    Ok(Judged {
        key,
        headers,
        signer,
        lengths,
    })
}

fn malformed(message: &'static str) -> S3Error {
    error::coded("MalformedPOSTRequest", StatusCode::BAD_REQUEST, message)
}

/// The fields before the file, and the file.
async fn read<'r>(parts: &mut Multipart<'r>) -> S3Result<(Fields, Field<'r>)> {
    let mut fields = Fields::default();
    let mut length = 0;
    loop {
        let part = parts.next_field().await.map_err(unreadable)?;
        let Some(mut part) = part else {
            return Err(s3_error!(
                InvalidArgument,
                "POST requires exactly one file upload per request."
            ));
        };
        let name = part.name().unwrap_or_default().to_owned();
        if name.eq_ignore_ascii_case("file") {
            return Ok((fields, part));
        }
        let mut value = Vec::new();
        while let Some(piece) = part.chunk().await.map_err(unreadable)? {
            length += piece.len();
            if length > MOST_BEFORE_FILE {
                return Err(too_long());
            }
            value.extend_from_slice(&piece);
        }
        length += name.len();
        let value = String::from_utf8(value).map_err(|_| malformed("A field of the form is not UTF-8."))?;
        fields.add(&name, value)?;
    }
}

fn too_long() -> S3Error {
    error::coded(
        "MaxPostPreDataLengthExceededError",
        StatusCode::BAD_REQUEST,
        "Your POST request fields preceding the upload file were too large.",
    )
}

fn unreadable(error: multer::Error) -> S3Error {
    match error {
        multer::Error::StreamReadFailed(cause) if cause.is::<TooLong>() => too_long(),
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. } => {
            s3_error!(IncompleteBody, "The form ended early; nothing was stored.")
        }
        _ => malformed("The body of the request is not well-formed multipart/form-data."),
    }
}

/// Whether whoever signed may write it.
async fn check(
    front: &Front,
    principal: &Principal,
    (bucket, key): (&str, &str),
    uri: &Uri,
    headers: &HeaderMap,
    whence: &Whence,
) -> S3Result<()> {
    let target = Target::Object(bucket, key.into());
    let asked: Vec<Demand<'_>> = demands("PutObject", &target, headers, false).unwrap_or_default();
    let mut situation = whence.situation(principal, uri, headers);
    situation.is_form = true;
    match front.authority.allows(&asked, &situation).await {
        Ok(true) if !asked.is_empty() => Ok(()),
        Ok(_) => Err(denied(principal)),
        Err(error) => Err(error::answer(error)),
    }
}

/// The bytes of the file, which end with an error where there are not as many as may be.
fn content(file: Field<'static>, lengths: RangeInclusive<u64>) -> StreamingBlob {
    let pieces = stream::unfold(Some((file, 0_u64)), move |state| {
        let lengths = lengths.clone();
        async move {
            let (mut file, length) = state?;
            let refused = |error| Some((Err(error), None));
            match file.chunk().await {
                Ok(Some(piece)) => {
                    let length = length + piece.len() as u64;
                    if length > *lengths.end() {
                        drain(file).await;
                        return refused(body::RefusedBody::TooLarge);
                    }
                    Some((Ok(piece), Some((file, length))))
                }
                Ok(None) if length < *lengths.start() => refused(body::RefusedBody::TooSmall),
                Ok(None) => None,
                Err(_) => refused(body::RefusedBody::Incomplete),
            }
        }
    });
    StreamingBlob::wrap(SyncStream::new(pieces.boxed()))
}

/// Reads on for a while what nobody wants, so that whoever still sends it reads why.
async fn drain(mut file: Field<'_>) {
    let mut left = MOST_DRAINED;
    let reading = async {
        while let Ok(Some(piece)) = file.chunk().await {
            match left.checked_sub(piece.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _whoever_is_slow_reads_nothing = timeout(PATIENCE, reading).await;
}

/// How success is to be answered.
pub(super) struct Success {
    status: StatusCode,
    redirect: Option<Uri>,
}

struct PostResponse<'r> {
    location: &'r str,
    bucket: &'r str,
    key: &'r str,
    etag: &'r str,
}

impl SerializeContent for PostResponse<'_> {
    fn serialize_content<W: io::Write>(&self, serializer: &mut Serializer<W>) -> s3s::xml::SerResult {
        serializer.content("Location", self.location)?;
        serializer.content("Bucket", self.bucket)?;
        serializer.content("Key", self.key)?;
        serializer.content("ETag", self.etag)
    }
}

impl Success {
    fn answer(
        self,
        bucket: &str,
        key: &str,
        place: &str,
        stored: PutObjectOutput,
        more: HeaderMap,
    ) -> S3Result<HttpResponse> {
        let internal = |_| s3_error!(InternalError);
        let etag = format!(
            "\"{}\"",
            stored.e_tag.map(|tag| tag.into_value()).unwrap_or_default()
        );
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.extend(more);
        headers.insert(header::ETAG, HeaderValue::try_from(&etag).map_err(internal)?);
        headers.insert(header::LOCATION, HeaderValue::try_from(place).map_err(internal)?);
        if let Some(version) = stored.version_id {
            headers.insert(
                "x-amz-version-id",
                HeaderValue::try_from(version).map_err(internal)?,
            );
        }
        let encryption = stored.server_side_encryption.as_ref();
        let encryption = encryption.map(|encryption| encryption.as_str().to_owned());
        for (name, told) in [
            ("x-amz-server-side-encryption", encryption),
            (
                "x-amz-server-side-encryption-customer-algorithm",
                stored.sse_customer_algorithm,
            ),
            (
                "x-amz-server-side-encryption-customer-key-md5",
                stored.sse_customer_key_md5,
            ),
        ] {
            if let Some(told) = told {
                let told = HeaderValue::try_from(told);
                headers.insert(name, told.map_err(internal)?);
            }
        }
        if let Some(to) = self.redirect {
            let quoted = |text: &str| utf8_percent_encode(text, convert::UNRESERVED).to_string();
            let joint = if to.query().is_some() { '&' } else { '?' };
            let (key, etag) = (quoted(key), quoted(&etag));
            let to = format!("{to}{joint}bucket={bucket}&key={key}&etag={etag}");
            response
                .headers_mut()
                .insert(header::LOCATION, HeaderValue::try_from(to).map_err(internal)?);
            *response.status_mut() = StatusCode::SEE_OTHER;
        } else if self.status == StatusCode::CREATED {
            let mut document = Vec::new();
            let told = PostResponse {
                location: place,
                bucket,
                key,
                etag: &etag,
            };
            let written = Serializer::new(&mut document).content("PostResponse", &told);
            written.map_err(|error| s3_error!(error, InternalError))?;
            *response.body_mut() = Body::from(document);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        }
        Ok(response)
    }
}

/// More came before the file than may.
#[derive(Debug, thiserror::Error)]
#[error("more came before the file than may")]
struct TooLong;

/// A body that is given on a piece at a time: `multer` takes all there is whenever it looks. Before the file there may be so much only.
struct Paced<S> {
    body: S,
    gave: bool,
    in_file: Arc<AtomicBool>,
    before_file: u64,
}

impl<S> Paced<S> {
    fn new(body: S, in_file: Arc<AtomicBool>) -> Self {
        Self {
            body,
            gave: false,
            in_file,
            before_file: 0,
        }
    }
}

impl<S, E> Stream for Paced<S>
where
    S: Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    E: std::error::Error + Send + Sync + 'static,
{
    type Item = Result<bytes::Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.gave) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = std::task::ready!(self.body.poll_next_unpin(context));
        self.gave = true;
        if let Some(Ok(bytes)) = &piece
            && !self.in_file.load(Ordering::Acquire)
        {
            // What is read ahead of the file's beginning is at most the piece that it is in.
            if self.before_file > MOST_RAW_BEFORE_FILE {
                return Poll::Ready(Some(Err(Box::new(TooLong))));
            }
            self.before_file += bytes.len() as u64;
        }
        Poll::Ready(piece.map(|piece| piece.map_err(Into::into)))
    }
}

impl Success {
    /// As the form asks for it; what cannot be done is as if it had not been asked for.
    fn of(fields: &PutObjectFields<'_>) -> Self {
        let status = match fields.status {
            Some("200") => StatusCode::OK,
            Some("201") => StatusCode::CREATED,
            _ => StatusCode::NO_CONTENT,
        };
        let redirect = fields.redirect.and_then(|to| to.parse::<Uri>().ok());
        let is_web = |to: &Uri| matches!(to.scheme_str(), Some("http" | "https")) && to.authority().is_some();
        Self {
            status,
            redirect: redirect.filter(is_web),
        }
    }
}

/// What a form says of its answer.
struct PutObjectFields<'f> {
    status: Option<&'f str>,
    redirect: Option<&'f str>,
}

type Input = (PutObjectInput, Success);
