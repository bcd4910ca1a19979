//! A request before it is signed and sent, in a form that can be sent again.

use crate::{Error, Result, types::Condition, types::ObjectHeaders, types::Range};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response,
    header::{
        CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, IF_MATCH,
        IF_NONE_MATCH, RANGE,
    },
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    fs::File,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What SigV4 leaves unencoded (RFC 3986, 2.3).
pub(super) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// The body of a request; always in memory, so that it can be signed and sent again.
#[derive(Clone)]
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
}

/// Which failures a repetition is harmless after.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The request may be performed any number of times with the same outcome.
    Always,
    /// Only when it was certainly not performed: no connection, or the node said 503.
    Unperformed,
}

impl Payload {
    pub fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// What was said to a request of somebody else's that was refused: it is his to hear, word for word.
#[derive(Default)]
pub(super) struct Foreign(Mutex<Option<Response<Bytes>>>);

impl Foreign {
    pub fn refused(&self, answer: Response<Bytes>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    pub fn refusal(&self) -> Option<Response<Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[derive(Clone)]
pub(super) struct Request {
    pub method: Method,
    pub path_and_query: String,
    pub headers: HeaderMap,
    pub payload: Payload,
    pub repeat: Repeat,
    /// How much longer than others its answer may take.
    pub patience: Duration,
    /// What a request over the same host's path carries beside its bytes.
    pub handed: Option<Arc<File>>,
    /// Sent over the same host's path, or not at all.
    pub local_only: bool,
    /// Signed by somebody else, whose headers these are; this client signs what it adds.
    pub foreign: Option<Arc<Foreign>>,
    /// Why it must not be sent: its path would name something else than was meant.
    pub unaddressable: Option<String>,
}

impl Request {
    /// A request on `bucket`, or on `key` in it. GET, HEAD, PUT and DELETE may be repeated, until
    /// [`Request::once`] says otherwise.
    pub fn new(method: Method, bucket: &str, key: Option<&str>) -> Self {
        let mut path = format!("/{}", utf8_percent_encode(bucket, UNRESERVED));
        if let Some(key) = key {
            path.push('/');
            path.extend(utf8_percent_encode(key, PATH));
        }
        let unaddressable = if !is_bucket(bucket) {
            Some(format!("{bucket:?} cannot be the name of a bucket"))
        } else if key == Some("") {
            Some(format!("the key of an object in {bucket:?} is empty"))
        } else {
            None
        };
        let repeat = if method == Method::POST {
            Repeat::Unperformed
        } else {
            Repeat::Always
        };
        Self {
            method,
            path_and_query: path,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            repeat,
            patience: Duration::ZERO,
            handed: None,
            local_only: false,
            foreign: None,
            unaddressable,
        }
    }

    /// A request on the storage node itself.
    pub fn service(method: Method) -> Self {
        Self::at(method, "/".to_owned())
    }

    /// A request on a path that is no object's.
    pub fn at(method: Method, path: String) -> Self {
        Self {
            method,
            path_and_query: path,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            repeat: Repeat::Always,
            patience: Duration::ZERO,
            handed: None,
            local_only: false,
            foreign: None,
            unaddressable: None,
        }
    }

    /// Adds `name=value` to the query.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.path_and_query.push(if self.path_and_query.contains('?') {
            '&'
        } else {
            '?'
        });
        self.path_and_query.push_str(name);
        self.path_and_query.push('=');
        self.path_and_query.extend(utf8_percent_encode(value, UNRESERVED));
        self
    }

    pub fn body(mut self, bytes: Bytes) -> Self {
        self.payload = Payload::Bytes(bytes);
        self
    }

    /// Repeated though it may have been performed: to do it twice is as good as once.
    pub fn repeatedly(mut self) -> Self {
        self.repeat = Repeat::Always;
        self
    }

    /// Not repeated once it may have been performed.
    pub fn once(mut self) -> Self {
        self.repeat = Repeat::Unperformed;
        self
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .ok()
            .filter(|value| value.to_str().is_ok())
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "{value:?} cannot be sent as header {name}; use printable ASCII"
                ))
            })?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub fn range(self, range: Option<Range>) -> Result<Self> {
        match range {
            None => Ok(self),
            // Servers refuse numbers beyond i64; no object reaches so far, so this is the end of any.
            Some(Range::From {
                first,
                last: Some(last),
            }) if i64::try_from(last).is_ok() => self.header(RANGE, &format!("bytes={first}-{last}")),
            Some(Range::From { first, .. }) => self.header(RANGE, &format!("bytes={first}-")),
            Some(Range::Suffix { length }) => self.header(RANGE, &format!("bytes=-{length}")),
        }
    }

    /// A conditional write is not repeated: after a lost answer its own first try would fail the second.
    pub fn condition(mut self, condition: &Condition) -> Result<Self> {
        let quoted = |tag: &str| {
            if tag == "*" {
                tag.to_owned()
            } else {
                format!("\"{}\"", tag.trim_matches('"'))
            }
        };
        if let Some(tag) = &condition.if_match {
            self = self.header(IF_MATCH, &quoted(tag))?;
        }
        if let Some(tag) = &condition.if_none_match {
            self = self.header(IF_NONE_MATCH, &quoted(tag))?;
        }
        if !condition.is_empty() && self.method != Method::GET && self.method != Method::HEAD {
            self = self.once();
        }
        Ok(self)
    }

    /// Asks for an entity tag that costs nothing. No caller of this client compares it with an MD5.
    pub fn cheap_etag(self) -> Result<Self> {
        self.header(crate::ETAG_OF, crate::ETAG_OF_CRC64NVME)
    }

    pub fn object_headers(mut self, headers: &ObjectHeaders) -> Result<Self> {
        for (name, value) in [
            (CONTENT_TYPE, &headers.content_type),
            (CONTENT_ENCODING, &headers.content_encoding),
            (CONTENT_DISPOSITION, &headers.content_disposition),
            (CONTENT_LANGUAGE, &headers.content_language),
            (CACHE_CONTROL, &headers.cache_control),
        ] {
            if let Some(value) = value {
                self = self.header(name, value)?;
            }
        }
        for (name, value) in &headers.metadata {
            let header = HeaderName::try_from(format!("x-amz-meta-{name}"))
                .map_err(|_| Error::Invalid(format!("{name:?} cannot be the name of object metadata")))?;
            self = self.header(header, value)?;
        }
        Ok(self)
    }
}

/// Whether a name is one segment of a path for every server. Which names there can be is the server's to say.
fn is_bucket(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name != "." && name != ".." && name.chars().all(allowed)
}

/// The path of an object as `x-amz-copy-source` wants it.
pub(super) fn copy_source(bucket: &str, key: &str) -> String {
    format!(
        "{}/{}",
        utf8_percent_encode(bucket, UNRESERVED),
        utf8_percent_encode(key, PATH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_byte_by_byte_and_keep_their_slashes() {
        let request = Request::new(Method::GET, "b", Some("a b/../ü+?#%/~"));
        assert_eq!(request.path_and_query, "/b/a%20b/../%C3%BC%2B%3F%23%25/~");
        let request = request.query("list-type", "2").query("prefix", "x/&y");
        assert!(request.path_and_query.ends_with("?list-type=2&prefix=x%2F%26y"));
    }

    #[test]
    fn what_would_name_something_else_is_not_sent() {
        for (bucket, key) in [
            ("", None),
            ("a/b", None),
            ("..", None),
            ("a", Some("")),
            ("", Some("k")),
        ] {
            assert!(
                Request::new(Method::DELETE, bucket, key).unaddressable.is_some(),
                "{bucket:?} {key:?}"
            );
        }
        assert_eq!(
            Request::new(Method::DELETE, "my-bucket.1", Some("/")).unaddressable,
            None
        );
    }

    #[test]
    fn metadata_that_is_not_ascii_is_refused() {
        let mut headers = ObjectHeaders::default();
        headers.metadata.insert("name".to_owned(), "grün".to_owned());
        let refused = Request::new(Method::PUT, "b", Some("k")).object_headers(&headers);
        assert!(matches!(refused, Err(Error::Invalid(_))));
    }

    #[test]
    fn a_conditional_write_is_not_repeated() {
        let condition = Condition {
            if_none_match: Some("*".to_owned()),
            if_match: None,
        };
        let put = Request::new(Method::PUT, "b", Some("k"))
            .condition(&condition)
            .unwrap();
        assert!(put.repeat == Repeat::Unperformed);
        let get = Request::new(Method::GET, "b", Some("k"))
            .condition(&condition)
            .unwrap();
        assert!(get.repeat == Repeat::Always);
    }
}
