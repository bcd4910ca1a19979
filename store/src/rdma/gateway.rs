//! Requests that a gateway carries for a client: the client's signature says what may be done, the gateway's where the bytes
//! go. Neither can do the other's part (`docs/protocol.md`, "Gateways").

use super::{
    Rdma, Refusal,
    readings::{LentReader, Reading},
    request::{Tokened, check_signed, is_ours, text, token_of},
};
use crate::engine::{
    Borrower, ByteRange, Engine, Error, Lending, ObjectInfo, ObjectRef, Opened, Precondition,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH},
};
use penstock_rdma::{
    Via,
    local::Lent,
    protocol::{GatewaySignature, ParseError, ReadingId, header, length},
};
use s3s::{Body, S3Response, dto::StreamingBlob};
use std::{io, ops::Range, sync::Arc, time::SystemTime};
use sync_wrapper::SyncStream;

/// Bytes of a body that are read at once.
const PIECE: u64 = 512 << 10;

/// What a request says that a gateway carries, beside it while its client's signature and rights are looked at.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    /// The gateway's window.
    pub tokened: Tokened,
    /// Fewer bytes than this are not worth a transfer.
    pub least: u64,
}

/// The beginning of an object that went to a gateway.
pub(crate) struct Begun {
    pub info: ObjectInfo,
    /// All that the client is to have.
    pub range: Range<u64>,
    /// Of the answer.
    pub headers: HeaderMap,
}

impl Rdma {
    /// Whether a key is the gateways'.
    pub(super) fn is_gateway(&self, access_key: &str) -> bool {
        self.gateway()
            .is_some_and(|gateway| gateway.access_key_id() == access_key)
    }

    /// Takes what a gateway added off a request, if it may add it; `None` for requests that come without. What is left is what the
    /// client sent, and is looked at as if it had come directly.
    pub(crate) fn carried<B>(&self, request: &mut Request<B>) -> Result<Option<Carried>, Refusal> {
        if !request.headers().contains_key(header::GATEWAY) {
            return Ok(None);
        }
        let carried = self.believed(request).map_err(|refusal| self.refused(refusal))?;
        let ours: Vec<HeaderName> = request
            .headers()
            .keys()
            .filter(|name| is_ours(name))
            .cloned()
            .collect();
        for name in ours {
            request.headers_mut().remove(name);
        }
        Ok(Some(carried))
    }

    fn believed<B>(&self, request: &Request<B>) -> Result<Carried, Refusal> {
        let (method, headers) = (request.method(), request.headers());
        // Both signatures are asked for, so that a gateway alone has nothing that could be carried.
        let target = request
            .uri()
            .path_and_query()
            .map_or("", |target| target.as_str());
        let is_signed = headers.contains_key(AUTHORIZATION) || target.contains("X-Amz-Signature=");
        let gateway = self
            .gateway()
            .filter(|_| is_signed)
            .ok_or(Refusal::NotTheGateway)?;
        let mut values = headers.get_all(header::GATEWAY).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::NotTheGateway);
        };
        let value = value.to_str().map_err(|_| Refusal::NotTheGateway)?;
        let signature = GatewaySignature::parse(value)?;
        if !signature.holds(gateway, SystemTime::now(), method, target, headers) {
            return Err(Refusal::NotTheGateway);
        }
        if method != Method::GET && method != Method::PUT {
            return Err(Refusal::NotCarried);
        }
        let least = match headers.get(header::LEAST) {
            None => 0,
            Some(_) => length(
                "x-amz-rdma-least",
                text(headers, &header::LEAST, "x-amz-rdma-least")?,
            )?,
        };
        Ok(Carried {
            tokened: token_of(headers, gateway.access_key_id())?,
            least,
        })
    }

    /// Opens an object for a gateway, and writes its first bytes into the gateway's window. `check` sees the object before
    /// anything moves. `None` says that the bytes go as a body.
    pub(crate) async fn begin<E: From<Error> + From<Refusal>>(
        &self,
        carried: &Carried,
        engine: &dyn Engine,
        (object, asked, precondition): (&ObjectRef, Option<ByteRange>, &Precondition),
        check: impl Fn(&ObjectInfo) -> Result<(), E>,
    ) -> Result<Option<Begun>, E> {
        let Some(plane) = &self.plane else {
            return Ok(None);
        };
        // Nobody of this host: what it keeps from being freed is bounded by the number of files.
        let borrower = Borrower {
            uid: u32::MAX,
            held_limit: u64::MAX,
        };
        let loan = match engine.lend(object, asked, precondition, borrower).await? {
            Lending::Lent(loan) => loan,
            Lending::Refused(reason) => {
                tracing::debug!(%object, reason, "an object's bytes go to a gateway as a body");
                return Ok(None);
            }
        };
        check(&loan.info)?;
        let (info, range) = (loan.info.clone(), loan.range.clone());
        let total = range.end - range.start;
        if total < carried.least {
            return Ok(None);
        }
        let Ok(lent) = loan.into_lent() else {
            return Ok(None);
        };
        let (tokened, first) = (
            &carried.tokened,
            total.min(carried.tokened.token.window.size.into()),
        );
        let kept = if first < total {
            let kept = plane.readings.keep(&tokened.owner, info.clone(), lent.clone());
            if kept.is_none() {
                tracing::warn!("as many objects as may be are open for gateways; bytes go as a body");
                return Ok(None);
            }
            kept
        } else {
            None
        };
        let delivered = match self.deliver(tokened, part(info.clone(), lent, 0..first)).await {
            Ok(delivered) => delivered,
            Err(Refusal::NotSupported) => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        let status = if asked.is_some() { 206 } else { 200 };
        let mut headers = delivered.headers(status, info.crc64nvme);
        headers.insert(header::TOTAL, HeaderValue::from(total));
        if let Some(kept) = kept
            && let Ok(mut id) = HeaderValue::from_str(&kept.for_the_gateway().encode())
        {
            id.set_sensitive(true);
            headers.insert(header::READING, id);
        }
        Ok(Some(Begun { info, range, headers }))
    }

    /// `POST /.s3rdma-rc/read`: more of an object, into a window, or without one all the rest of it as a body.
    pub(super) async fn read(&self, headers: &HeaderMap, owner: &str) -> Result<S3Response<Body>, Refusal> {
        let counted = |refusal| self.refused(refusal);
        let (reading, offset) = self.asked(headers, owner).map_err(counted)?;
        let rest = offset..reading.lent.len();
        if !headers.contains_key(header::TOKEN) {
            return Ok(self.body(&reading, rest));
        }
        let tokened = token_of(headers, owner).map_err(counted)?;
        let size = u64::from(tokened.token.window.size);
        let piece = rest.start..rest.end.min(rest.start.saturating_add(size));
        let opened = part(reading.info.clone(), reading.lent.clone(), piece);
        match self.deliver(&tokened, opened).await {
            Ok(delivered) => {
                let mut answer = S3Response::new(Body::empty());
                answer.headers = delivered.headers(200, None);
                Ok(answer)
            }
            Err(Refusal::NotSupported) if tokened.fallback => {
                let mut answer = self.body(&reading, rest);
                answer
                    .headers
                    .insert(header::REPLY, HeaderValue::from_static("501"));
                Ok(answer)
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn asked(&self, headers: &HeaderMap, owner: &str) -> Result<(Arc<Reading>, u64), Refusal> {
        check_signed(headers)?;
        let plane = self.plane.as_ref().ok_or(Refusal::NotSupported)?;
        let id = reading_of(headers)?;
        let offset = length(
            "x-amz-rdma-offset",
            text(headers, &header::OFFSET, "x-amz-rdma-offset")?,
        )?;
        let reading = plane.readings.find(id, owner)?;
        if offset >= reading.lent.len() {
            return Err(Refusal::Malformed(ParseError {
                field: "x-amz-rdma-offset",
                cause: "is beyond the end",
            }));
        }
        Ok((reading, offset))
    }

    fn body(&self, reading: &Reading, range: Range<u64>) -> S3Response<Body> {
        let (lent, metrics) = (reading.lent.clone(), self.metrics.clone());
        let rest = HeaderValue::from(range.end - range.start);
        let pieces = stream::try_unfold(range, move |range| {
            let lent = lent.clone();
            async move {
                let length = PIECE.min(range.end - range.start);
                if length == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
                if lent.read_into(&mut piece, range.start).await? < piece.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Some((Bytes::from(piece), range.start + length..range.end)))
            }
        });
        let counted = pieces.inspect(move |piece| {
            if let Ok(piece) = piece {
                metrics.sent(Via::Http, piece.len() as u64);
            }
        });
        let mut answer = S3Response::new(Body::from(StreamingBlob::wrap(SyncStream::new(counted))));
        answer.headers.insert(CONTENT_LENGTH, rest);
        answer
    }

    /// `POST /.s3rdma-rc/release`.
    pub(super) fn release(&self, headers: &HeaderMap, owner: &str) -> Result<S3Response<Body>, Refusal> {
        check_signed(headers)?;
        let id = reading_of(headers)?;
        if let Some(plane) = &self.plane {
            plane.readings.release(id, owner);
        }
        Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
    }
}

fn reading_of(headers: &HeaderMap) -> Result<ReadingId, Refusal> {
    Ok(ReadingId::parse(text(
        headers,
        &header::READING,
        "x-amz-rdma-reading",
    )?)?)
}

/// A part of what was lent, as an object that was opened.
fn part(info: ObjectInfo, lent: Lent, range: Range<u64>) -> Opened {
    Opened {
        reader: Box::new(LentReader::new(lent, range.clone())),
        info,
        range,
    }
}
