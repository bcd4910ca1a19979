//! Requests with a token: whether they may be believed, and what they say.

use super::{Rdma, Refusal};
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, CONTENT_LENGTH},
};
use penstock_rdma::protocol::{NO_FALLBACK, ParseError, WindowToken, header, sequence_number};

/// A request on an object whose bytes go by RDMA.
#[derive(Debug, Clone)]
pub(crate) struct Tokened {
    /// The access key that signed it.
    pub owner: String,
    pub token: WindowToken,
    pub sequence: u64,
    /// Whether the client takes a body where its bytes cannot go by RDMA.
    pub fallback: bool,
}

impl Rdma {
    /// What a request says about RDMA, `None` if nothing. `owner` is the access key that signed it.
    pub(crate) fn tokened(
        &self,
        headers: &HeaderMap,
        owner: Option<&str>,
    ) -> Result<Option<Tokened>, Refusal> {
        parse(headers, owner).map_err(|refusal| self.refused(refusal))
    }
}

fn parse(headers: &HeaderMap, owner: Option<&str>) -> Result<Option<Tokened>, Refusal> {
    if !headers.keys().any(is_ours) {
        return Ok(None);
    }
    check_signed(headers)?;
    let owner = owner.ok_or_else(|| Refusal::Unsigned(header::TOKEN.to_string()))?;
    let tokened = token_of(headers, owner)?;
    if headers.contains_key("x-amz-decoded-content-length") {
        return Err(Refusal::Body);
    }
    Ok(Some(tokened))
}

/// The window of a request, whose headers were found to be `owner`'s.
pub(super) fn token_of(headers: &HeaderMap, owner: &str) -> Result<Tokened, Refusal> {
    let token = WindowToken::parse(text(headers, &header::TOKEN, "x-amz-rdma-token")?)?;
    let sequence = sequence_number(text(headers, &header::SEQUENCE, "x-amz-rdma-seq")?)?;
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
        || headers.contains_key(http::header::TRANSFER_ENCODING);
    if has_body {
        return Err(Refusal::Body);
    }
    Ok(Tokened {
        owner: owner.to_owned(),
        token,
        sequence,
        fallback: fallback(headers)?,
    })
}

fn fallback(headers: &HeaderMap) -> Result<bool, Refusal> {
    match headers.get(header::FALLBACK) {
        None => Ok(true),
        Some(value) if value == NO_FALLBACK => Ok(false),
        Some(_) => Err(Refusal::Malformed(ParseError {
            field: "x-amz-rdma-fallback",
            cause: "is not `no`",
        })),
    }
}

pub(super) fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(header::PREFIX)
}

/// That whoever signed the request signed all that it says about RDMA, each header once. A signature in the query does not
/// count: such a request may be handed on, and a token must not be.
pub(super) fn check_signed(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers
        .keys()
        .find(|name| is_ours(name) && !is_signed(headers, name))
    {
        Some(name) => Err(Refusal::Unsigned(name.to_string())),
        None => Ok(()),
    }
}

/// Whether a header occurs once, and whoever signed the request in its headers signed this one too.
pub(crate) fn is_signed(headers: &HeaderMap, name: &HeaderName) -> bool {
    let once = headers.get_all(name).iter().count() == 1;
    once && signed_names(headers)
        .split(';')
        .any(|signed| signed == name.as_str())
}

/// The names of the headers that the signature in the headers is of, with `;` between.
pub(crate) fn signed_names(headers: &HeaderMap) -> &str {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once("SignedHeaders="))
        .map_or("", |(_, rest)| rest.split([',', ' ']).next().unwrap_or(""))
}

pub(super) fn text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<&'h str, Refusal> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or(Refusal::Missing(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    const TOKEN: &str = "rc:0123456789abcdef0123456789abcdef:0000000000001000:00000010:00000001";

    fn signed(names: &str) -> String {
        format!("AWS4-HMAC-SHA256 Credential=a/b/c/s3/aws4_request, SignedHeaders={names}, Signature=0")
    }

    #[test]
    fn only_what_was_signed_once_is_believed() {
        let all = signed("host;x-amz-rdma-seq;x-amz-rdma-token");
        let good = [
            ("authorization", all.as_str()),
            ("x-amz-rdma-token", TOKEN),
            ("x-amz-rdma-seq", "1"),
        ];
        let parsed = parse(&headers(&good), Some("me")).unwrap().unwrap();
        assert_eq!(
            (parsed.sequence, parsed.token.window.size, parsed.owner.as_str()),
            (1, 16, "me")
        );
        let unsigned = |list: &[(&'static str, &str)]| {
            matches!(parse(&headers(list), Some("me")), Err(Refusal::Unsigned(_)))
        };
        assert!(unsigned(&good[1..]));
        let without_sequence = signed("host;x-amz-rdma-token");
        assert!(unsigned(&[
            ("authorization", &without_sequence),
            good[1],
            good[2]
        ]));
        assert!(unsigned(&[
            good[0],
            good[1],
            good[2],
            ("x-amz-rdma-token", TOKEN)
        ]));
        assert!(unsigned(&[good[0], good[1], good[2], ("x-amz-rdma-later", "1")]));
        assert!(parse(&headers(&good), None).is_err());
    }

    #[test]
    fn half_a_request_is_refused_and_none_is_none() {
        assert!(
            parse(&headers(&[("range", "bytes=0-1")]), Some("me"))
                .unwrap()
                .is_none()
        );
        let all = signed("x-amz-rdma-seq;x-amz-rdma-token");
        for rest in [
            vec![("x-amz-rdma-token", TOKEN)],
            vec![("x-amz-rdma-seq", "1")],
            vec![("x-amz-rdma-token", "rc:1"), ("x-amz-rdma-seq", "1")],
            vec![
                ("x-amz-rdma-token", TOKEN),
                ("x-amz-rdma-seq", "1"),
                ("content-length", "1"),
            ],
            vec![
                ("x-amz-rdma-token", TOKEN),
                ("x-amz-rdma-seq", "1"),
                ("transfer-encoding", "chunked"),
            ],
        ] {
            let mut list = vec![("authorization", all.as_str())];
            list.extend(rest);
            let refusal = parse(&headers(&list), Some("me")).unwrap_err();
            assert_eq!(refusal.reason(), "malformed", "{refusal}");
        }
    }
}
