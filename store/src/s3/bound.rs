//! GetObject that asks for descriptors over a connection whose client has signed for it (`local_path::bond`): the answer that
//! the ordinary way gives, without s3s and without a signature.
//!
//! This is no second parser of all that S3 can say: it knows one request, and what is in any way another one is refused with
//! [`UNBOUND`], to be signed and sent the ordinary way.

use super::{Front, access, body, convert, error, get::read_error, lend};
use crate::{
    access::{Demand, Principal, Situation},
    access_log::note_requester,
    engine::{ByteRange, ObjectInfo, ObjectRef, Precondition},
    local_path::Peer,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
        CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
        RANGE,
    },
};
use http_body::Body as _;
use penstock_rdma::local::{CONNECT, LEND, RETURNED, UNBOUND};
use s3s::{
    Body, HttpResponse, S3Error, S3ErrorCode, S3Result,
    dto::{ETagCondition, Range},
    path::parse_path_style,
};
use std::sync::Arc;

const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
const CHECKSUM_TYPE: HeaderName = HeaderName::from_static("x-amz-checksum-type");

/// All that such a request may say.
const KNOWN: [HeaderName; 8] = [
    HOST,
    RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    LEND,
    RETURNED,
    CONNECT,
    CHECKSUM_MODE,
];

fn unbound(cause: &str) -> S3Error {
    let message = format!("Without a signature this is not answered: {cause}. Sign the request.");
    error::coded(UNBOUND, StatusCode::FORBIDDEN, message)
}

/// What is asked for.
struct Asked {
    object: ObjectRef,
    range: Option<ByteRange>,
    precondition: Precondition,
    with_checksum: bool,
}

/// The answer to a request that has no signature.
pub(super) async fn answer(
    front: &Front,
    peer: &Arc<Peer>,
    request: &Request<hyper::body::Incoming>,
) -> S3Result<HttpResponse> {
    let headers = request.headers();
    let presented = headers.get(CONNECT);
    let principal = presented.and_then(|presented| peer.bound_to(presented, &front.authority));
    let principal = principal.ok_or_else(|| {
        unbound(
            "nobody has signed for this connection, or too long ago, or with a key that is no longer known",
        )
    })?;
    note_requester(&principal);
    let asked = if request.body().is_end_stream() && !front.hosts.names_bucket(request) {
        read(request.method(), request.uri(), headers)
    } else {
        None
    };
    let asked = asked.ok_or_else(|| unbound("it is no plain GetObject that asks for descriptors"))?;
    check(front, &principal, &asked.object, headers).await?;
    let borrower = lend::asked(headers, request.extensions())?;
    let borrower = borrower.ok_or_else(|| unbound("it asks for no descriptors"))?;
    let lending = lend::lent(front, &asked.object, asked.range, &asked.precondition, &borrower).await;
    let loan = match lending.map_err(|error| read_error(error, &asked.precondition))? {
        Ok(loan) => loan,
        Err(reason) if borrower.only => {
            front.metrics.not_lent(reason);
            return Err(lend::cannot(reason));
        }
        // As a body it comes the ordinary way.
        Err(_) => return Err(unbound("the object cannot be lent")),
    };
    let mut headers = facts(&loan.info, asked.with_checksum && asked.range.is_none())?;
    let mut status = StatusCode::OK;
    if asked.range.is_some() {
        status = StatusCode::PARTIAL_CONTENT;
        let (first, last) = (loan.range.start, loan.range.end.saturating_sub(1));
        let range = format!("bytes {first}-{last}/{}", loan.info.size);
        headers.insert(CONTENT_RANGE, value(&range)?);
    }
    let mut response = HttpResponse::new(Body::empty());
    borrower.take(front, *loan, &mut headers, response.extensions_mut())?;
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Whether the object may be read.
async fn check(
    front: &Front,
    principal: &Principal,
    object: &ObjectRef,
    headers: &HeaderMap,
) -> S3Result<()> {
    let (bucket, key) = (object.bucket.as_str(), object.key.as_str());
    let free = front.authority.allows_all(principal, Some(bucket)).await;
    if free.map_err(error::answer)? {
        return Ok(());
    }
    let mut situation = Situation::of(principal).asked(None, headers);
    situation.is_secure = true;
    let reading = Demand::reading(bucket, key, false);
    let allowed = front.authority.allows(&[reading], &situation).await;
    if !allowed.map_err(error::answer)? {
        return Err(access::denied(principal));
    }
    // What is to be told of an object that is not there, the ordinary way tells.
    if access::hides_absence(&front.authority, &situation, bucket, key).await? {
        return Err(unbound("the key may not list this object"));
    }
    Ok(())
}

/// `None` for everything but a GetObject of which every word is known.
fn read(method: &Method, uri: &http::Uri, headers: &HeaderMap) -> Option<Asked> {
    let known = headers
        .keys()
        .all(|name| KNOWN.contains(name) && headers.get_all(name).iter().count() == 1);
    if method != Method::GET || uri.query().is_some() || !known || !headers.contains_key(LEND) {
        return None;
    }
    let path = percent_encoding::percent_decode_str(uri.path())
        .decode_utf8()
        .ok()?;
    let path = parse_path_style(&path).ok()?;
    let (bucket, key) = path.as_object()?;
    let range = match headers.get(RANGE) {
        None => None,
        Some(range) => Some(convert::range(Range::parse(range.to_str().ok()?).ok()?)),
    };
    let condition = |name: &HeaderName| match headers.get(name) {
        None => Some(None),
        Some(tag) => ETagCondition::parse_http_header(tag.as_bytes()).ok().map(Some),
    };
    Some(Asked {
        object: convert::object(bucket, key),
        range,
        precondition: convert::precondition(condition(&IF_MATCH)?, condition(&IF_NONE_MATCH)?),
        with_checksum: headers.contains_key(CHECKSUM_MODE),
    })
}

/// The headers that describe an object, as the ordinary way writes them.
fn facts(info: &ObjectInfo, with_checksum: bool) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(ETAG, value(&format!("\"{}\"", info.etag))?);
    headers.extend(convert::http_date(info.modified).map(|date| (LAST_MODIFIED, date)));
    if let Some(crc) = body::crc64(info.crc64nvme).filter(|_| with_checksum) {
        headers.insert(CHECKSUM, value(&crc)?);
        headers.insert(CHECKSUM_TYPE, HeaderValue::from_static("FULL_OBJECT"));
    }
    let kind = info.headers.content_type.as_deref();
    headers.insert(CONTENT_TYPE, value(kind.unwrap_or(convert::DEFAULT_TYPE))?);
    for (name, text) in [
        (CACHE_CONTROL, &info.headers.cache_control),
        (CONTENT_DISPOSITION, &info.headers.content_disposition),
        (CONTENT_ENCODING, &info.headers.content_encoding),
        (CONTENT_LANGUAGE, &info.headers.content_language),
    ] {
        if let Some(text) = text {
            headers.insert(name, value(text)?);
        }
    }
    for (name, text) in &info.headers.metadata {
        // Others are encoded (RFC 2047).
        let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.contains("=?");
        let name = HeaderName::try_from(format!("x-amz-meta-{name}"));
        let name = name.ok().filter(|_| is_plain);
        let name = name.ok_or_else(|| unbound("its metadata is no plain ASCII"))?;
        headers.insert(name, value(text)?);
    }
    Ok(headers)
}

fn value(text: &str) -> S3Result<HeaderValue> {
    HeaderValue::try_from(text)
        .map_err(|error| S3Error::with_source(S3ErrorCode::InternalError, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, uri: &str, more: &[(HeaderName, &str)]) -> Option<Asked> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("node"));
        headers.insert(CONNECT, HeaderValue::from_static("0"));
        headers.insert(LEND, HeaderValue::from_static("only"));
        for (name, text) in more {
            headers.append(name, text.parse().unwrap());
        }
        read(&method, &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_plain_get_is_understood() {
        let plain = asked(Method::GET, "/bucket/a%20b//c", &[]).unwrap();
        assert_eq!(plain.object, ObjectRef::new("bucket", "a b//c"));
        assert_eq!((plain.range, plain.with_checksum), (None, false));
        let more = [
            (RANGE, "bytes=1-2"),
            (IF_MATCH, "\"tag\""),
            (CHECKSUM_MODE, "ENABLED"),
        ];
        let more = asked(Method::GET, "/bucket/k", &more).unwrap();
        let range = ByteRange::From {
            first: 1,
            last: Some(2),
        };
        assert_eq!((more.range, more.with_checksum), (Some(range), true));
        assert_eq!(more.precondition.if_match.as_deref(), Some("tag"));
    }

    #[test]
    fn everything_else_is_to_be_signed() {
        for method in [Method::HEAD, Method::PUT, Method::DELETE, Method::POST] {
            assert!(asked(method, "/bucket/k", &[]).is_none());
        }
        for uri in [
            "/",
            "/bucket",
            "/bucket/",
            "/bucket/k?acl",
            "/bucket/k?versionId=null",
            "/B/k",
            "/.s3rdma-rc/connect",
            "/bucket/%ff",
        ] {
            assert!(asked(Method::GET, uri, &[]).is_none(), "{uri}");
        }
        for (name, text) in [
            ("x-amz-copy-source", "bucket/k"),
            ("x-amz-rdma-token", "rc:0"),
            ("x-amz-expected-bucket-owner", "somebody"),
            ("if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("x-penstock-handed", "0,1"),
            ("x-amz-security-token", "x"),
            ("range", "bytes=5-x"),
            ("range", "lines=1-2"),
            ("if-match", "\"half"),
            ("x-penstock-lend", "prefer"),
        ] {
            let name = HeaderName::from_static(name);
            assert!(
                asked(Method::GET, "/bucket/k", &[(name, text)]).is_none(),
                "{text}"
            );
        }
        let headers = HeaderMap::new();
        let uri = "/bucket/k".parse().unwrap();
        assert!(
            read(&Method::GET, &uri, &headers).is_none(),
            "it asks for no descriptors"
        );
    }
}
