//! Which requests move the bytes of an object, and which way these may go.

use super::{HANDED, LEND, RETURNED};
use crate::protocol::header;
use bytes::Bytes;
use http::{
    HeaderMap, Method, Request,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use http_body::Body;

/// A body of a client on its way to the storage node. It may be read before the storage node has asked for it, and be sent by
/// another way after that.
pub trait RelayBody: Body<Data = Bytes> + Send + Unpin + 'static {
    /// It is to come now, although the storage node has not asked for it.
    fn want(&mut self);
    /// These bytes were all of it, and none of them was sent.
    fn refill(&mut self, bytes: Bytes);
}

/// What a request moves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Bytes of an object, to the client.
    Get,
    /// A body of so many bytes, from it.
    Put(u64),
    /// Bytes of an object, in a way that is not for a relay to choose.
    Bytes,
    /// Nothing of an object.
    NoBytes,
}

/// Whether a client speaks the protocol of RDMA itself.
pub(super) fn is_of_rdma(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with(header::PREFIX))
}

/// Takes off what is between relay and storage node.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(header::PREFIX))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

/// What a request moves. Only what is certainly GetObject, PutObject or UploadPart of somebody who signed may go by RDMA.
pub(super) fn subject<B>(request: &Request<B>) -> Subject {
    let (method, headers) = (request.method(), request.headers());
    let key = request.uri().path().trim_start_matches('/').split_once('/');
    let is_object = key.is_some_and(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
    let query = request.uri().query().unwrap_or("");
    let names = || {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split('=').next().unwrap_or(pair))
    };
    let is_plain = |name: &str| name.starts_with("X-Amz-") || name == "x-id";
    let moves = match *method {
        Method::GET => is_object && names().all(|name| is_plain(name) || name.starts_with("response-")),
        Method::PUT => {
            let is_upload = |name: &str| name == "partNumber" || name == "uploadId";
            let copies = headers.contains_key("x-amz-copy-source");
            is_object && !copies && names().all(|name| is_plain(name) || is_upload(name))
        }
        _ => false,
    };
    if !moves {
        return Subject::NoBytes;
    }
    let is_signed = headers.contains_key(AUTHORIZATION) || names().any(|name| name == "X-Amz-Signature");
    let once = |name| headers.get_all(name).iter().count() < 2;
    let speaks = [LEND, HANDED, RETURNED]
        .iter()
        .any(|name| headers.contains_key(name));
    if !is_signed
        || speaks
        || is_of_rdma(headers)
        || !headers.contains_key(HOST)
        || !once(AUTHORIZATION)
        || !once(CONTENT_LENGTH)
        || headers.contains_key(TRANSFER_ENCODING)
    {
        return Subject::Bytes;
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    match (length.map(str::parse), method == Method::GET) {
        (None | Some(Ok(0)), true) => Subject::Get,
        (Some(Ok(0)), false) => Subject::NoBytes,
        (Some(Ok(length)), false) => Subject::Put(length),
        _ => Subject::Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, target: &str, headers: &[(&str, &str)]) -> Subject {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "gateway");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        subject(&request.body(()).unwrap())
    }

    const SIGNED: (&str, &str) = ("authorization", "AWS4-HMAC-SHA256 …");

    #[test]
    fn reads_and_writes_of_objects_are_told_from_everything_else() {
        let get = |target| of("GET", target, &[SIGNED]);
        assert_eq!(get("/bucket/a/b%20c"), Subject::Get);
        assert_eq!(
            get("/bucket/key?response-content-type=x&x-id=GetObject"),
            Subject::Get
        );
        assert_eq!(
            of("GET", "/bucket/key?X-Amz-Signature=1&X-Amz-Date=2", &[]),
            Subject::Get
        );
        for target in [
            "/",
            "/bucket",
            "/bucket/",
            "/bucket?list-type=2",
            "/bucket/key?acl",
            "/bucket/key?uploadId=1",
        ] {
            assert_eq!(get(target), Subject::NoBytes, "{target}");
        }
        let length = ("content-length", "10");
        let put = |target| of("PUT", target, &[SIGNED, length]);
        assert_eq!(put("/bucket/key"), Subject::Put(10));
        assert_eq!(put("/bucket/key?partNumber=1&uploadId=2"), Subject::Put(10));
        assert_eq!(put("/bucket/key?tagging"), Subject::NoBytes);
        assert_eq!(
            of("PUT", "/bucket/key", &[SIGNED, ("content-length", "0")]),
            Subject::NoBytes
        );
        assert_eq!(
            of(
                "PUT",
                "/bucket/key",
                &[SIGNED, length, ("x-amz-copy-source", "/a/b")]
            ),
            Subject::NoBytes
        );
        assert_eq!(
            of("POST", "/bucket/key?uploadId=1", &[SIGNED, length]),
            Subject::NoBytes
        );
        assert_eq!(of("HEAD", "/bucket/key", &[SIGNED]), Subject::NoBytes);
    }

    #[test]
    fn what_is_not_for_a_relay_to_carry_goes_as_it_came() {
        for more in [
            ("x-amz-rdma-token", "rc:1"),
            ("x-penstock-lend", "prefer"),
            ("transfer-encoding", "chunked"),
            ("authorization", "a second one"),
            ("content-length", "7"),
        ] {
            assert_eq!(
                of("GET", "/bucket/key", &[SIGNED, more]),
                Subject::Bytes,
                "{more:?}"
            );
        }
        assert_eq!(of("GET", "/bucket/key", &[]), Subject::Bytes);
        assert_eq!(of("PUT", "/bucket/key", &[SIGNED]), Subject::Bytes);
    }
}
