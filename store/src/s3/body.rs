//! Bodies between HTTP and the engine: incoming ones are compared with every checksum sent with them, and both ways are
//! counted.

use super::{Front, convert, fields::checksums};
use crate::{
    engine::{Body, Checksum, Checksums, Error, PartOptions, Pending, TagOf},
    local_path::handed,
    metrics::Metrics,
    rdma::{Carried, Receipt, Refusal},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{StreamExt, stream};
use http::{Extensions, HeaderMap, HeaderName, header::TRANSFER_ENCODING};
use md5::{Digest, Md5};
use penstock_rdma::{ETAG_OF, ETAG_OF_CRC64NVME, Via, local::HANDED};
use s3s::{
    S3Error, S3ErrorCode, S3Result, TrailingHeaders,
    auth::Credentials,
    checksum::ChecksumHasher,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Sha1, Sha256},
    dto::StreamingBlob,
    s3_error,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};
use sync_wrapper::SyncStream;

/// A client that sends nothing for this long holds nothing any more.
const STALL: Duration = Duration::from_secs(60);

/// A body that is refused is read nevertheless when it has no more bytes than this: who sends it without waiting for an answer has
/// sent it anyway, and over TLS some clients take a connection that is closed meanwhile for the answer.
const SMALL: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads a small body that nobody wants.
pub(super) async fn drain(body: Option<StreamingBlob>, length: Option<i64>) {
    let is_large = length
        .and_then(|length| u64::try_from(length).ok())
        .is_some_and(|length| length > SMALL);
    let Some(mut body) = body.filter(|_| !is_large) else {
        return;
    };
    let mut left = SMALL;
    let reading = async {
        while let Some(Ok(piece)) = body.next().await {
            match left.checked_sub(piece.len() as u64) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _whoever_is_slow_reads_nothing = tokio::time::timeout(PATIENCE, reading).await;
}

/// What a writer wants its entity tag to be made of.
fn tag_of(headers: &HeaderMap) -> S3Result<TagOf> {
    match headers.get(ETAG_OF) {
        None => Ok(TagOf::Md5),
        Some(value) if value == ETAG_OF_CRC64NVME => Ok(TagOf::Crc64),
        Some(_) => Err(s3_error!(
            InvalidArgument,
            "x-penstock-etag-of is not \"crc64nvme\"; leave it out for an MD5."
        )),
    }
}

/// A body that its own protocol refuses.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefusedBody {
    #[error("The body does not have the SHA-256 that was signed; nothing was stored.")]
    Sha256,
    #[error("A chunk of the body does not have the signature sent with it; nothing was stored.")]
    Signature,
    #[error("The body ended early or is not as long as announced; nothing was stored.")]
    Incomplete,
    #[error("The body is not well-formed aws-chunked; nothing was stored.")]
    Malformed,
    #[error("The body's trailer lacks the checksum that was announced; nothing was stored.")]
    NoTrailer,
    #[error("The file has more bytes than the policy of its form lets it have; nothing was stored.")]
    TooLarge,
    #[error("The file has fewer bytes than the policy of its form lets it have; nothing was stored.")]
    TooSmall,
    #[error("No byte of the body came for {} s; nothing was stored.", STALL.as_secs())]
    Stalled,
}

impl RefusedBody {
    pub fn code(&self) -> S3ErrorCode {
        match self {
            Self::Sha256 => S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            Self::Signature => S3ErrorCode::SignatureDoesNotMatch,
            Self::Incomplete => S3ErrorCode::IncompleteBody,
            Self::Malformed => S3ErrorCode::InvalidRequest,
            Self::NoTrailer => S3ErrorCode::Custom("MalformedTrailerError".into()),
            Self::TooLarge => S3ErrorCode::EntityTooLarge,
            Self::TooSmall => S3ErrorCode::EntityTooSmall,
            Self::Stalled => S3ErrorCode::RequestTimeout,
        }
    }
}

/// The checksums that came with a request, as base64.
#[derive(Default, Clone)]
pub(super) struct Sent {
    pub content_md5: Option<String>,
    pub checksums: BTreeMap<Checksum, String>,
    /// One to compute though none came.
    pub computing: Option<Checksum>,
}

impl Sent {
    /// The checksums that came, or were announced, by their headers.
    pub fn named<'s>(&'s self, announced: &'s [HeaderName]) -> BTreeSet<&'s str> {
        let sent = self.checksums.keys().map(|kind| kind.header());
        sent.chain(announced.iter().map(HeaderName::as_str)).collect()
    }
}

/// The checksums that a request announces for its trailer.
pub(super) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all("x-amz-trailer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .filter(|name| name.as_str().starts_with("x-amz-checksum-"))
        .collect()
}

/// The bytes of a write, on their way.
struct Arriving {
    blob: Option<StreamingBlob>,
    /// Of the file of a form it is known at its end.
    size: Option<u64>,
    via: Via,
    receipt: Receipt,
}

/// In the extensions of a request: nobody says beforehand how long the body is.
#[derive(Clone, Copy)]
pub(super) struct Unmeasured;

/// The bytes of a write: by RDMA if the request has a token, from a file if one came with it, else its body, which may be in a
/// gateway's window.
fn arriving(
    front: &Front,
    (headers, extensions): (&HeaderMap, &Extensions),
    signer: Option<&Credentials>,
    body: Option<StreamingBlob>,
    content_length: Option<i64>,
) -> S3Result<Arriving> {
    if extensions.get::<Carried>().is_some() {
        let size = length(headers, content_length)?;
        return Ok(Arriving {
            blob: body,
            size: Some(size.ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?),
            via: Via::Rdma,
            // Whoever put the body there sees to it.
            receipt: Receipt::none(),
        });
    }
    let owner = signer.map(|signer| signer.access_key.as_str());
    let tokened = front
        .rdma
        .tokened(headers, owner)
        .map_err(|refusal| refusal.answer())?;
    if let Some(tokened) = tokened {
        let size = u64::from(tokened.token.window.size);
        let (blob, receipt) = front.rdma.receive(tokened).map_err(|refusal| refusal.answer())?;
        return Ok(Arriving {
            blob: Some(blob),
            size: Some(size),
            via: Via::Rdma,
            receipt,
        });
    }
    let has_body =
        content_length.is_some_and(|length| length != 0) || headers.contains_key(TRANSFER_ENCODING);
    if has_body && headers.contains_key(HANDED) {
        return Err(s3_error!(
            InvalidRequest,
            "x-penstock-handed says that the bytes are in a file, and there is a body too; send either."
        ));
    }
    if let Some((handed, size)) = handed(headers, extensions)? {
        return Ok(Arriving {
            blob: Some(handed),
            size: Some(size),
            via: Via::Shm,
            receipt: Receipt::none(),
        });
    }
    let size = length(headers, content_length)?;
    if size.is_none() && extensions.get::<Unmeasured>().is_none() {
        return Err(S3Error::new(S3ErrorCode::MissingContentLength));
    }
    Ok(Arriving {
        blob: body,
        size,
        via: Via::Http,
        receipt: Receipt::none(),
    })
}

struct Check {
    blob: Option<StreamingBlob>,
    sent: Sent,
    hasher: ChecksumHasher,
    md5: Option<Md5>,
    trailers: Option<TrailingHeaders>,
    /// Checksums announced for the trailer.
    announced: Vec<HeaderName>,
    computed: Pending,
    via: Via,
    metrics: Metrics,
}

/// What came with the bytes of a write.
pub(super) struct Beside<'r> {
    pub headers: &'r HeaderMap,
    pub extensions: &'r Extensions,
    pub signer: Option<&'r Credentials>,
    pub trailers: Option<TrailingHeaders>,
}

/// The bytes of a write for the engine, and what it must find of them. The body ends with an error, and so nothing is stored,
/// unless every checksum holds, but for the one that is left to the engine.
pub(super) struct Incoming {
    pub body: Body,
    pub options: PartOptions,
    pub receipt: Receipt,
}

/// The bytes of a request that writes, whichever way they come.
pub(super) fn incoming(
    front: &Front,
    beside: Beside<'_>,
    body: Option<StreamingBlob>,
    content_length: Option<i64>,
    mut sent: Sent,
) -> S3Result<Incoming> {
    let Beside {
        headers,
        extensions,
        signer,
        trailers,
    } = beside;
    let Arriving {
        blob,
        size,
        via,
        receipt,
    } = arriving(front, (headers, extensions), signer, body, content_length)?;
    let tag_of = tag_of(headers)?;
    // Engines compute it anyway.
    let crc64nvme = sent.checksums.get(&Checksum::Crc64nvme);
    let crc64nvme = crc64nvme.and_then(|text| convert::parse_crc64(text));
    let announced = announced(headers);
    if sent.named(&announced).len() > 1 {
        return Err(s3_error!(
            InvalidRequest,
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        ));
    }
    if crc64nvme.is_some() {
        sent.checksums.remove(&Checksum::Crc64nvme);
    }
    if let Some(md5) = &sent.content_md5
        && BASE64_STANDARD.decode(md5).ok().is_none_or(|md5| md5.len() != 16)
    {
        return Err(s3_error!(
            InvalidDigest,
            "The Content-MD5 is not the base64 of an MD5."
        ));
    }
    let named = sent.named(&announced);
    let hasher = hasher(|kind| named.contains(kind.header()) || sent.computing == Some(kind));
    let is_known = |name: &HeaderName| Checksum::ALL.iter().any(|kind| name == kind.header());
    if let Some(unknown) = announced.iter().find(|name| !is_known(name)) {
        return Err(super::error::not_implemented(&format!("The checksum {unknown}")));
    }
    let computed = Pending::default();
    let check = Check {
        blob,
        md5: sent.content_md5.is_some().then(Md5::new),
        sent,
        hasher,
        trailers,
        announced,
        computed: computed.clone(),
        via,
        metrics: front.metrics.clone(),
    };
    Ok(Incoming {
        body: stream::unfold(check, next).boxed(),
        options: PartOptions {
            size,
            tag_of,
            crc64nvme,
            checksums: computed,
            key: None,
        },
        receipt,
    })
}

/// Computes what is wanted.
fn hasher(wants: impl Fn(Checksum) -> bool) -> ChecksumHasher {
    ChecksumHasher {
        crc32: wants(Checksum::Crc32).then(Crc32::new),
        crc32c: wants(Checksum::Crc32c).then(Crc32c::new),
        sha1: wants(Checksum::Sha1).then(Sha1::new),
        sha256: wants(Checksum::Sha256).then(Sha256::new),
        crc64nvme: wants(Checksum::Crc64nvme).then(Crc64Nvme::new),
    }
}

/// A body whose checksum is filled in at its end.
pub(super) fn summed(body: Body, kind: Checksum, pending: Pending) -> Body {
    let state = Some((body, hasher(|wanted| wanted == kind)));
    let summed = stream::unfold(state, move |state| {
        let pending = pending.clone();
        async move {
            let (mut body, mut hasher) = state?;
            match body.next().await {
                Some(Ok(piece)) => {
                    hasher.update(&piece);
                    Some((Ok(piece), Some((body, hasher))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => {
                    pending.fill(kept(computed(hasher)));
                    None
                }
            }
        }
    });
    summed.boxed()
}

/// What a hasher was asked for.
fn computed(hasher: ChecksumHasher) -> BTreeMap<Checksum, String> {
    let sum = hasher.finalize();
    checksums!(sum)
}

/// What is kept beside the CRC64NVME.
fn kept(mut computed: BTreeMap<Checksum, String>) -> Checksums {
    computed.remove(&Checksum::Crc64nvme);
    Checksums {
        of: computed,
        is_composite: false,
    }
}

async fn next(mut check: Check) -> Option<(io::Result<bytes::Bytes>, Check)> {
    let blob = check.blob.as_mut()?;
    let item = match tokio::time::timeout(STALL, blob.next()).await {
        Err(_) => Err(io::Error::other(RefusedBody::Stalled)),
        Ok(Some(Ok(bytes))) => {
            check.hasher.update(&bytes);
            if let Some(md5) = &mut check.md5 {
                md5.update(&bytes);
            }
            check.metrics.received(check.via, bytes.len() as u64);
            return Some((Ok(bytes), check));
        }
        Ok(Some(Err(error))) => Err(refused(error)),
        Ok(None) => match check.compare() {
            Ok(()) => return None,
            Err(error) => Err(error),
        },
    };
    check.blob = None;
    Some((item, check))
}

impl Check {
    fn compare(&mut self) -> io::Result<()> {
        if let (Some(md5), Some(sent)) = (self.md5.take(), &self.sent.content_md5)
            && BASE64_STANDARD.encode(md5.finalize()) != *sent
        {
            return Err(io::Error::other(Error::BadDigest("Content-MD5")));
        }
        let sums = computed(std::mem::take(&mut self.hasher));
        for kind in Checksum::ALL {
            let (name, computed) = (kind.header(), sums.get(&kind));
            let sent = self.sent.checksums.get(&kind);
            if sent.is_some() && sent != computed {
                return Err(io::Error::other(Error::BadDigest(name)));
            }
            if self.announced.iter().any(|announced| announced == name) {
                let trailer = self.trailers.as_ref().and_then(|trailers| {
                    trailers
                        .read(|headers| headers.get(name)?.to_str().ok().map(str::to_owned))
                        .flatten()
                });
                match trailer {
                    None => return Err(io::Error::other(RefusedBody::NoTrailer)),
                    trailer if trailer.as_ref() != computed => {
                        return Err(io::Error::other(Error::BadDigest(name)));
                    }
                    Some(_) => {}
                }
            }
        }
        self.computed.fill(kept(sums));
        Ok(())
    }
}

/// s3s keeps the types of these errors to itself, so they are told by their names, which its pinned version fixes.
fn refused(error: s3s::StdError) -> io::Error {
    if error.is::<Refusal>() || error.is::<RefusedBody>() {
        return io::Error::other(error);
    }
    let text = error.to_string();
    let has = |name: &str| text.contains(name);
    let refused = if has("Sha256Mismatch") || has("InvalidChecksum") {
        RefusedBody::Sha256
    } else if has("SignatureMismatch") {
        RefusedBody::Signature
    } else if has("Incomplete") || has("LengthMismatch") {
        RefusedBody::Incomplete
    } else if has("AwsChunkedStreamError") && !has("Underlying") {
        RefusedBody::Malformed
    } else {
        return io::Error::other(error);
    };
    io::Error::other(refused)
}

/// An engine's body for the answer.
pub(super) fn outgoing(body: Body, metrics: &Metrics) -> StreamingBlob {
    let metrics = metrics.clone();
    let counted = body.inspect(move |piece| {
        if let Ok(bytes) = piece {
            metrics.sent(Via::Http, bytes.len() as u64);
        }
    });
    StreamingBlob::wrap(SyncStream::new(counted))
}

/// The length of the body, where the client says it: of aws-chunked bodies the decoded one.
fn length(headers: &HeaderMap, content_length: Option<i64>) -> S3Result<Option<u64>> {
    if let Some(decoded) = headers.get("x-amz-decoded-content-length") {
        let decoded = decoded.to_str().ok().and_then(|length| length.parse().ok());
        return match decoded {
            Some(length) => Ok(Some(length)),
            None => Err(s3_error!(
                InvalidArgument,
                "x-amz-decoded-content-length is not a length"
            )),
        };
    }
    match content_length {
        Some(length) => u64::try_from(length)
            .map(Some)
            .map_err(|_| S3Error::new(S3ErrorCode::InvalidArgument)),
        None => Ok(None),
    }
}

/// The checksum fields of an answer about a whole object.
pub(super) fn crc64(crc: Option<u64>) -> Option<String> {
    crc.map(convert::crc64)
}
