//! The signature of a gateway beside that of the client whose request it carries (`docs/protocol.md`, "Gateways").

use super::{ParseError, header};
use crate::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use std::time::{Duration, SystemTime};
use subtle::ConstantTimeEq;
use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description,
};

const DATE: &[BorrowedFormatItem<'static>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
/// Scope of the signing key, so that no signature of S3 is one of this kind.
const SCOPE: (&str, &str) = ("penstock", "s3rdma-gateway");
/// First line of what is signed.
const KIND: &str = "S3RDMA-GATEWAY-HMAC-SHA256";
/// How far the clocks of the two ends may be apart, as with Signature Version 4.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// Says that a gateway, and no client, added the `x-amz-rdma-*` headers of a request, and to which request it did.
///
/// `<access key>/<date>/<64 digits>`. Signed are method, path and query, the client's own signature, and each header of the
/// protocol.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewaySignature {
    access_key: String,
    date: String,
    time: SystemTime,
    signature: String,
}

impl GatewaySignature {
    /// Signs a request to which the headers of the protocol were added. `None` where nothing can be signed: a header of the
    /// protocol, or the client's signature, is there twice.
    pub fn sign(
        gateway: &Credentials,
        time: SystemTime,
        method: &Method,
        path_and_query: &str,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let date = OffsetDateTime::from(time).format(DATE).ok()?;
        let access_key = gateway.access_key_id().to_owned();
        let signed = signed(&access_key, &date, method, path_and_query, headers)?;
        let signature = compute(gateway, time, &signed);
        Some(Self {
            access_key,
            date,
            time,
            signature,
        })
    }

    /// As it is sent.
    pub fn encode(&self) -> String {
        format!("{}/{}/{}", self.access_key, self.date, self.signature)
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let wrong = |cause| ParseError::new("x-amz-rdma-gateway", cause);
        let mut parts = text.split('/');
        let (Some(access_key), Some(date), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("is not an access key, a date and a signature"));
        };
        if access_key.is_empty() {
            return Err(wrong("names no access key"));
        }
        let time = PrimitiveDateTime::parse(date, DATE)
            .map_err(|_| wrong("has no date as 20260102T030405Z"))?
            .assume_utc();
        if time.format(DATE).ok().as_deref() != Some(date) {
            return Err(wrong("has no date as 20260102T030405Z"));
        }
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if signature.len() != 64 || !signature.as_bytes().iter().all(is_digit) {
            return Err(wrong("has no signature of 64 lowercase digits"));
        }
        Ok(Self {
            access_key: access_key.to_owned(),
            date: date.to_owned(),
            time: time.into(),
            signature: signature.to_owned(),
        })
    }

    /// Whose it claims to be.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Whether `gateway` made it for this request, lately. Takes as long whatever is wrong with the signature.
    pub fn holds(
        &self,
        gateway: &Credentials,
        now: SystemTime,
        method: &Method,
        path_and_query: &str,
        headers: &HeaderMap,
    ) -> bool {
        let apart = now
            .duration_since(self.time)
            .unwrap_or_else(|ahead| ahead.duration());
        let Some(signed) = signed(&self.access_key, &self.date, method, path_and_query, headers) else {
            return false;
        };
        let computed = compute(gateway, self.time, &signed);
        let same: bool = computed.as_bytes().ct_eq(self.signature.as_bytes()).into();
        same && apart <= SKEW && self.access_key == gateway.access_key_id()
    }
}

fn compute(gateway: &Credentials, time: SystemTime, signed: &[u8]) -> String {
    let (region, service) = SCOPE;
    let key = generate_signing_key(gateway.secret_access_key(), time, region, service);
    calculate_signature(key, signed)
}

/// What is signed, a line each. No header holds a line break.
fn signed(
    access_key: &str,
    date: &str,
    method: &Method,
    path_and_query: &str,
    headers: &HeaderMap,
) -> Option<Vec<u8>> {
    // Where the client signed in the query, that is its signature.
    let client = once(headers, &AUTHORIZATION)?.map_or(&b""[..], HeaderValue::as_bytes);
    let mut lines: Vec<&[u8]> = [KIND, date, access_key, method.as_str(), path_and_query]
        .map(str::as_bytes)
        .into();
    lines.push(client);
    let mut names: Vec<&HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(header::PREFIX) && **name != header::GATEWAY)
        .collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        lines.push(name.as_str().as_bytes());
        lines.push(once(headers, name)??.as_bytes());
    }
    Some(lines.join(&b'\n'))
}

/// The one value of a header; `None` where it has several.
fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Option<&'h HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> (Method, &'static str, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "AWS4-HMAC-SHA256 …client…"),
            ("host", "gateway"),
            ("x-amz-rdma-token", "rc:1"),
            ("x-amz-rdma-seq", "7"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        (Method::GET, "/bucket/key?x=%20", headers)
    }

    #[test]
    fn it_holds_for_the_request_it_was_made_for_and_for_no_other() {
        let (gateway, now) = (Credentials::new("gate", "secret-of-gate"), SystemTime::now());
        let (method, path, headers) = request();
        let made = GatewaySignature::sign(&gateway, now, &method, path, &headers).unwrap();
        let sent = GatewaySignature::parse(&made.encode()).unwrap();
        assert_eq!(sent.access_key(), "gate");
        let holds = |gateway: &Credentials, now, method: &Method, path: &str, headers: &HeaderMap| {
            sent.holds(gateway, now, method, path, headers)
        };
        assert!(holds(&gateway, now, &method, path, &headers));
        // What does not belong to the protocol is the client's to sign.
        let mut other = headers.clone();
        other.insert("range", HeaderValue::from_static("bytes=0-1"));
        assert!(holds(&gateway, now, &method, path, &other));

        assert!(!holds(&gateway, now, &Method::PUT, path, &headers));
        assert!(!holds(&gateway, now, &method, "/bucket/other", &headers));
        assert!(!holds(
            &gateway,
            now + Duration::from_secs(901),
            &method,
            path,
            &headers
        ));
        assert!(!holds(
            &gateway,
            now - Duration::from_secs(902),
            &method,
            path,
            &headers
        ));
        assert!(!holds(
            &Credentials::new("gate", "another"),
            now,
            &method,
            path,
            &headers
        ));
        assert!(!holds(
            &Credentials::new("other", "secret-of-gate"),
            now,
            &method,
            path,
            &headers
        ));
        for (name, value) in [
            ("authorization", "AWS4-HMAC-SHA256 …another client…"),
            ("x-amz-rdma-token", "rc:2"),
            ("x-amz-rdma-seq", "8"),
            ("x-amz-rdma-later", "1"),
        ] {
            let (mut changed, mut doubled) = (headers.clone(), headers.clone());
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            changed.insert(HeaderName::from_static(name), value.clone());
            doubled.append(HeaderName::from_static(name), value);
            assert!(!holds(&gateway, now, &method, path, &changed), "{name}");
            assert!(!holds(&gateway, now, &method, path, &doubled), "{name}");
        }
        let mut without = headers;
        without.remove("x-amz-rdma-seq");
        assert!(!holds(&gateway, now, &method, path, &without));
    }

    #[test]
    fn it_has_one_spelling() {
        let digits = "0123456789abcdef".repeat(4);
        let good = format!("gate/20260102T030405Z/{digits}");
        assert_eq!(GatewaySignature::parse(&good).unwrap().encode(), good);
        for wrong in [
            String::new(),
            digits.clone(),
            format!("/20260102T030405Z/{digits}"),
            format!("gate/20260102T030405/{digits}"),
            format!("gate/20261302T030405Z/{digits}"),
            format!("gate/20260102T030405Z/{}", &digits[1..]),
            format!("gate/20260102T030405Z/{}", digits.to_uppercase()),
            format!("{good}/"),
        ] {
            assert!(GatewaySignature::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
