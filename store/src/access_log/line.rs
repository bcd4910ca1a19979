//! One line of an access log, in the order and words of AWS ("Amazon S3 server access log format").

use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use penstock_rdma::local::{HANDED, Handed};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use std::{fmt::Write as _, time::Duration};
use time::OffsetDateTime;

use super::{ACCOUNT, Noted};
use crate::access::Origin;

/// What would end a field, or the line.
const FIELD: &AsciiSet = &CONTROLS.add(b'"').add(b'\\');
const WORD: &AsciiSet = &FIELD.add(b' ');
/// The longest text of a client's that is written of one header.
const LONGEST: usize = 2048;
/// What opens something to whoever reads it, and is not written.
const SECRET: [&str; 3] = ["x-amz-signature", "x-amz-security-token", "signature"];
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const DECODED_LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");

/// What a request is known by before it is answered.
#[derive(Debug)]
pub(crate) struct Entry {
    pub bucket: String,
    /// In hexadecimal digits; the answer tells it too.
    pub id: String,
    when: OffsetDateTime,
    address: Option<Origin>,
    operation: String,
    key: Option<String>,
    request: String,
    version: Option<String>,
    /// Of a write.
    sent_length: Option<u64>,
    referer: Option<String>,
    agent: Option<String>,
    signature: (&'static str, &'static str),
    host: Option<String>,
}

/// What its answer was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub status: StatusCode,
    /// The code of an error.
    pub code: Option<String>,
    /// Of the object's bytes, or of a document.
    pub sent: u64,
    /// Of the object, where the answer says it.
    pub size: Option<u64>,
    pub total: Duration,
    pub turn_around: Duration,
}

impl Entry {
    /// Of a request on a bucket; `path` names bucket and key.
    pub fn of<B>(request: &Request<B>, bucket: String, path: &str) -> Self {
        let headers = request.headers();
        let text = |name: HeaderName| {
            let value = headers.get(name)?;
            Some(plain(&String::from_utf8_lossy(value.as_bytes())))
        };
        let key = path.trim_start_matches('/').split_once('/').map(|(_, key)| key);
        let key = key.filter(|key| !key.is_empty());
        let query = request.uri().query().unwrap_or("");
        let length = headers
            .get(DECODED_LENGTH)
            .or_else(|| headers.get(header::CONTENT_LENGTH));
        let handed = headers.get(HANDED).and_then(|handed| handed.to_str().ok());
        let handed = handed.and_then(Handed::parse).map(|handed| handed.length);
        let uri_path = request.uri().path();
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = plain(&format!("{uri_path}{mark}{}", without_secrets(query)));
        let is_write = matches!(*request.method(), Method::PUT | Method::POST);
        Self {
            bucket,
            id: format!("{:016X}", rand::random::<u64>()),
            when: OffsetDateTime::now_utc(),
            address: request.extensions().get().copied(),
            operation: operation(request.method(), query, key.is_some(), headers),
            key: key.map(word),
            request: format!("{} {uri} HTTP/1.1", request.method()),
            version: value_of(query, "versionId").map(|version| word(&version)),
            sent_length: handed.or(number(length)).filter(|_| is_write),
            referer: text(header::REFERER).map(|page| match page.split_once('?') {
                // A page that was opened by a presigned URL.
                Some((page, query)) => format!("{page}?{}", without_secrets(query)),
                None => page,
            }),
            agent: text(header::USER_AGENT),
            signature: signature(query, headers),
            host: text(header::HOST).map(|host| word(&host)),
        }
    }

    /// The line of an answer, and those of what it deleted besides.
    pub fn lines(&self, noted: &Noted, facts: &Facts) -> String {
        let size = facts.size.or(self.sent_length);
        let mut lines = self.line(
            noted,
            &self.operation,
            self.key.as_deref(),
            self.version.as_deref(),
            facts,
            size,
        );
        for each in &noted.deleted {
            let refused = each.refused.clone();
            let facts = Facts {
                status: refused
                    .as_ref()
                    .map_or(StatusCode::NO_CONTENT, |(status, _)| *status),
                code: refused.map(|(_, code)| code),
                ..Facts::default()
            };
            let version = each.version.as_deref().map(word);
            let key = utf8_percent_encode(&each.key, WORD).to_string();
            lines += &self.line(
                noted,
                "BATCH.DELETE.OBJECT",
                Some(&key),
                version.as_deref(),
                &facts,
                None,
            );
        }
        lines
    }

    fn line(
        &self,
        noted: &Noted,
        operation: &str,
        key: Option<&str>,
        version: Option<&str>,
        facts: &Facts,
        size: Option<u64>,
    ) -> String {
        let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
        let quoted = |text: Option<&str>| match text {
            Some(text) => format!("\"{text}\""),
            None => "-".to_owned(),
        };
        let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let month = self.when.month().to_string();
        let address = self.address.map(|origin| origin.address.to_string());
        let (version_of_signature, place_of_signature) = self.signature;
        let mut line = String::with_capacity(512);
        let written = write!(
            line,
            "{ACCOUNT} {} [{:02}/{}/{}:{:02}:{:02}:{:02} +0000] {} {} {} {operation} {} {} {} {} {} {} {} {} {} {} {} - {} - {} {} - - -",
            self.bucket,
            self.when.day(),
            month.get(..3).unwrap_or("-"),
            self.when.year(),
            self.when.hour(),
            self.when.minute(),
            self.when.second(),
            or_dash(address.as_deref()),
            or_dash(noted.requester.as_deref().map(word).as_deref()),
            self.id,
            or_dash(key),
            quoted(Some(&self.request)),
            facts.status.as_u16(),
            or_dash(facts.code.as_deref().map(word).as_deref()),
            count(Some(facts.sent).filter(|sent| *sent > 0)),
            count(size),
            facts.total.as_millis(),
            facts.turn_around.as_millis(),
            quoted(self.referer.as_deref()),
            quoted(self.agent.as_deref()),
            or_dash(version),
            version_of_signature,
            place_of_signature,
            or_dash(self.host.as_deref()),
        );
        debug_assert!(written.is_ok(), "writing into a text does not fail");
        line.push('\n');
        line
    }
}

/// A header's number.
fn number(value: Option<&http::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.parse().ok()
}

/// A client's text in quotes: one line, and none without end.
fn plain(text: &str) -> String {
    let encoded = utf8_percent_encode(text, FIELD).to_string();
    encoded.chars().take(LONGEST).collect()
}

/// A client's text without quotes.
fn word(text: &str) -> String {
    let encoded = utf8_percent_encode(text, WORD).to_string();
    encoded.chars().take(LONGEST).collect()
}

fn pairs(query: &str) -> impl Iterator<Item = (String, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let name = pair.split('=').next().unwrap_or(pair);
        (percent_decode_str(name).decode_utf8_lossy().into_owned(), pair)
    })
}

fn value_of(query: &str, name: &str) -> Option<String> {
    let (_, pair) = pairs(query).find(|(found, _)| found == name)?;
    let (_, value) = pair.split_once('=')?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// A query without what would let its reader do as its writer may.
fn without_secrets(query: &str) -> String {
    let kept = pairs(query).map(|(name, pair)| {
        let name = name.to_ascii_lowercase();
        let is_secret = SECRET.contains(&name.as_str())
            || name.starts_with("x-amz-rdma-")
            || name.ends_with("-customer-key");
        match pair.split_once('=') {
            Some((name, _)) if is_secret => format!("{name}=-"),
            _ => pair.to_owned(),
        }
    });
    kept.collect::<Vec<_>>().join("&")
}

/// The version of the signature, and where it is.
fn signature(query: &str, headers: &HeaderMap) -> (&'static str, &'static str) {
    if headers.contains_key(header::AUTHORIZATION) {
        ("SigV4", "AuthHeader")
    } else if pairs(query).any(|(name, _)| name == "X-Amz-Signature") {
        ("SigV4", "QueryString")
    } else {
        ("-", "-")
    }
}

/// `REST.`, the method, and what it was done to. AWS names them in no one place; these are those of its logs.
fn operation(method: &Method, query: &str, on_object: bool, headers: &HeaderMap) -> String {
    let has = |wanted: &str| pairs(query).any(|(name, _)| name == wanted);
    if *method == Method::OPTIONS {
        return "REST.OPTIONS.PREFLIGHT".into();
    }
    if *method == Method::PUT && on_object && headers.contains_key(COPY_SOURCE) {
        return if has("uploadId") {
            "REST.COPY.PART"
        } else {
            "REST.COPY.OBJECT"
        }
        .into();
    }
    let known = [
        ("acl", "ACL"),
        ("accelerate", "ACCELERATE"),
        ("attributes", "OBJECT_ATTRIBUTES"),
        ("cors", "CORS"),
        ("delete", "MULTI_OBJECT_DELETE"),
        ("encryption", "ENCRYPTION"),
        ("legal-hold", "LEGAL_HOLD"),
        ("lifecycle", "LIFECYCLE"),
        ("location", "LOCATION"),
        ("logging", "LOGGING_STATUS"),
        ("notification", "NOTIFICATION"),
        ("object-lock", "OBJECT_LOCK_CONFIGURATION"),
        ("ownershipControls", "OWNERSHIP_CONTROLS"),
        ("policy", "BUCKETPOLICY"),
        ("policyStatus", "POLICY_STATUS"),
        ("publicAccessBlock", "PUBLIC_ACCESS_BLOCK"),
        ("replication", "REPLICATION"),
        ("requestPayment", "REQUEST_PAYMENT"),
        ("retention", "RETENTION"),
        ("tagging", if on_object { "OBJECT_TAGGING" } else { "TAGGING" }),
        ("uploads", "UPLOADS"),
        ("versioning", "VERSIONING"),
        ("versions", "BUCKETVERSIONS"),
        ("website", "WEBSITE"),
    ];
    let found = known
        .iter()
        .find(|(name, _)| has(name))
        .map(|(_, resource)| *resource);
    let resource = match found {
        Some(resource) => resource,
        None if has("uploadId") && *method == Method::PUT => "PART",
        None if has("uploadId") => "UPLOAD",
        // A form is sent to a bucket and makes an object.
        None if on_object || *method == Method::POST => "OBJECT",
        None => "BUCKET",
    };
    format!("REST.{method}.{resource}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::BatchDeleted;

    fn entry(method: &str, uri: &str, headers: &[(&str, &str)]) -> Entry {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let path = request.uri().path().to_owned();
        Entry::of(&request, "b".to_owned(), &path)
    }

    /// The fields, as those who read such logs take them apart.
    fn fields(line: &str) -> Vec<String> {
        let (mut fields, mut field, mut within) = (Vec::new(), String::new(), None);
        for letter in line.trim_end_matches('\n').chars() {
            match (within, letter) {
                (Some(end), _) if letter == end => within = None,
                (Some(_), _) => field.push(letter),
                (None, '"') => within = Some('"'),
                (None, '[') => within = Some(']'),
                (None, ' ') => fields.push(std::mem::take(&mut field)),
                (None, _) => field.push(letter),
            }
        }
        fields.push(field);
        fields
    }

    #[test]
    fn a_line_has_the_fields_of_aws() {
        let headers = [
            ("host", "s3:9000"),
            ("user-agent", "a \"quoted\" \\ agent"),
            ("referer", "http://page"),
            ("authorization", "AWS4-HMAC-SHA256 Credential=…"),
        ];
        let entry = entry("GET", "/b/a%20b?versionId=5", &headers);
        let noted = Noted {
            requester: Some("penstock".into()),
            deleted: Vec::new(),
        };
        let facts = Facts {
            status: StatusCode::OK,
            code: None,
            sent: 7,
            size: Some(9),
            total: Duration::from_millis(12),
            turn_around: Duration::from_millis(3),
        };
        let lines = entry.lines(&noted, &facts);
        let found = fields(&lines);
        assert_eq!(found.len(), 26, "{lines}");
        assert_eq!(found[..2], ["penstock", "b"]);
        assert_eq!(found[4], "penstock");
        assert_eq!(
            found[6..16],
            [
                "REST.GET.OBJECT",
                "a%20b",
                "GET /b/a%20b?versionId=5 HTTP/1.1",
                "200",
                "-",
                "7",
                "9",
                "12",
                "3",
                "http://page",
            ]
        );
        assert_eq!(
            found[16..],
            [
                "a %22quoted%22 %5C agent",
                "5",
                "-",
                "SigV4",
                "-",
                "AuthHeader",
                "s3:9000",
                "-",
                "-",
                "-",
            ]
            .map(str::to_owned)[..]
        );
    }

    #[test]
    fn what_opens_something_is_not_written() {
        let uri = "/b/k?X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=0123abcd&x%2Damz-security-TOKEN=secret&x-amz-rdma-token=rc%3A1&Signature=v2&x=y";
        let lines = entry("GET", uri, &[]).lines(&Noted::default(), &Facts::default());
        for secret in ["0123abcd", "secret", "rc%3A1", "v2"] {
            assert!(!lines.contains(secret), "{secret} is in {lines}");
        }
        assert!(lines.contains("X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=-&"));
        assert!(lines.contains("SigV4 - QueryString") && lines.contains("&x=y HTTP/1.1\""));
    }

    #[test]
    fn neither_keys_nor_pages_tell_secrets() {
        let uri = "/b/k?X-Amz-Server-Side-Encryption-Customer-Key=c2VjcmV0";
        let headers = [("referer", "http://page/k?X-Amz-Signature=c2VjcmV0&x=y")];
        let line = entry("GET", uri, &headers).lines(&Noted::default(), &Facts::default());
        assert!(!line.contains("c2VjcmV0"), "{line}");
        assert!(
            line.contains("Customer-Key=- HTTP/1.1")
                && line.contains("\"http://page/k?X-Amz-Signature=-&x=y\"")
        );
    }

    #[test]
    fn a_client_writes_no_line_of_its_own() {
        let forged = "x\" 200 - - -\u{b}fake";
        let mut request = Request::get("/b/k").body(()).unwrap();
        let value = http::HeaderValue::from_bytes(forged.replace('\u{b}', "\t").as_bytes()).unwrap();
        request.headers_mut().insert(header::USER_AGENT, value);
        let noted = Noted {
            requester: Some("arn:aws:iam::penstock:user/a b\n\"c".into()),
            deleted: vec![BatchDeleted {
                key: "k\n1 \"x".into(),
                version: Some("v\n".into()),
                refused: Some((StatusCode::PRECONDITION_FAILED, "PreconditionFailed".into())),
            }],
        };
        let lines = Entry::of(&request, "b".into(), "/b/k").lines(&noted, &Facts::default());
        assert_eq!(lines.lines().count(), 2);
        for line in lines.lines() {
            assert_eq!(fields(line).len(), 26, "{line}");
        }
        assert!(lines.contains("BATCH.DELETE.OBJECT k%0A1%20%22x "));
    }

    #[test]
    fn operations_are_named_as_in_logs_of_aws() {
        for (method, uri, copies, expected) in [
            ("GET", "/b/k", false, "REST.GET.OBJECT"),
            ("HEAD", "/b", false, "REST.HEAD.BUCKET"),
            ("GET", "/b?list-type=2", false, "REST.GET.BUCKET"),
            ("GET", "/b?versions", false, "REST.GET.BUCKETVERSIONS"),
            ("POST", "/b?delete", false, "REST.POST.MULTI_OBJECT_DELETE"),
            ("POST", "/b", false, "REST.POST.OBJECT"),
            ("POST", "/b/k?uploads", false, "REST.POST.UPLOADS"),
            ("POST", "/b/k?uploadId=1", false, "REST.POST.UPLOAD"),
            ("PUT", "/b/k?partNumber=1&uploadId=1", false, "REST.PUT.PART"),
            ("PUT", "/b/k?partNumber=1&uploadId=1", true, "REST.COPY.PART"),
            ("PUT", "/b/k", true, "REST.COPY.OBJECT"),
            ("PUT", "/b/k?tagging", false, "REST.PUT.OBJECT_TAGGING"),
            ("PUT", "/b?tagging", false, "REST.PUT.TAGGING"),
            ("OPTIONS", "/b/k", false, "REST.OPTIONS.PREFLIGHT"),
        ] {
            let headers: &[_] = if copies {
                &[("x-amz-copy-source", "b/k")]
            } else {
                &[]
            };
            assert_eq!(entry(method, uri, headers).operation, expected, "{uri}");
        }
    }
}
