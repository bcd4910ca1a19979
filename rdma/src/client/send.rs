//! Sending: deadlines, repetition, and telling refusals from failures.

use super::{
    Client,
    body::{Outgoing, Progress},
    local::Local,
    request::{Repeat, Request},
    sign::{sign_beside, sign_headers},
};
use crate::{
    ERROR_CODE, Error, Result,
    local::{Answered, Identity},
    xml,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// Error documents and other small answers are never longer than this; a page of a listing is some 100 kB.
const MAX_DOCUMENT: usize = 8 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Client {
    /// Sends until there is an answer that is not an error, or the failure stands.
    pub(super) async fn send(&self, request: &Request) -> Result<Response<Incoming>> {
        let mut tried = 0;
        loop {
            let node = self.node_of_turn();
            let error = match node.send_once(request).await {
                Ok(response) => return Ok(response),
                Err(failure) if tried < self.inner.options.retries && failure.may_repeat(request.repeat) => {
                    failure.error
                }
                Err(failure) => return Err(failure.error),
            };
            let pause = pause_before(tried);
            tried += 1;
            tracing::debug!(%error, tried, ?pause, method = %request.method, "request is sent again");
            if matches!(error, Error::Unreachable { .. }) {
                self.pass_turn_of(node);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`Client::send`], and the whole answer, for answers that are small.
    pub(super) async fn fetch(&self, request: &Request) -> Result<(Response<()>, Bytes)> {
        let mut tried = 0;
        loop {
            let response = self.send(request).await?;
            let (parts, body) = response.into_parts();
            match self.collect(body).await {
                Ok(document) => return Ok((Response::from_parts(parts, ()), document)),
                Err(error @ Error::Unreachable { .. })
                    if tried < self.inner.options.retries && request.repeat == Repeat::Always =>
                {
                    tracing::debug!(%error, "the answer broke off; request is sent again");
                    tokio::time::sleep(pause_before(tried)).await;
                    tried += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn send_once(
        &self,
        request: &Request,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        if let Some(cause) = &request.unaddressable {
            return Err(Error::Invalid(cause.clone()).into());
        }
        let response = self.exchange(request, true).await?;
        let refused = response.status() == StatusCode::FORBIDDEN;
        let response = match response.extensions().get::<Answered>() {
            // The storage node wants a signature for this one, or for its connection anew.
            Some(answered) if answered.is_bare && refused => self.exchange(request, false).await?,
            _ => response,
        };
        self.judged(request, response).await
    }

    /// Sends it once; whatever answer there is. `may_be_bare` as in [`Identity`].
    async fn exchange(
        &self,
        request: &Request,
        may_be_bare: bool,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        let uri = self.inner.endpoint.uri(&request.path_and_query)?;
        let progress = Progress::begin();
        let mut message = http::Request::new(Outgoing::new(&request.payload, progress.clone()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = uri.clone();
        *message.headers_mut() = request.headers.clone();
        let sign = |headers: &mut HeaderMap| {
            // Not signed: hyper leaves it out where there is no body, and S3 asks for it.
            headers.remove(CONTENT_LENGTH);
            let credentials = &self.inner.credentials;
            match &request.foreign {
                Some(_) => sign_beside(credentials, &request.method, &uri, headers)?,
                None => sign_headers(
                    credentials,
                    &self.inner.options.region,
                    &request.method,
                    &uri,
                    headers,
                    &request.payload,
                )?,
            }
            if request.method == Method::PUT || request.method == Method::POST {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(request.payload.length()));
            }
            Ok(())
        };
        let identity = Identity {
            sign: &sign,
            // What somebody else signed is not ours to send without.
            may_be_bare: may_be_bare && request.foreign.is_none(),
        };
        let answer = self.dispatch(request, message, &identity);
        tokio::pin!(answer);
        let stall = self.inner.options.stall_timeout + request.patience;
        loop {
            let deadline = progress.deadline(stall);
            match tokio::time::timeout_at(deadline.into(), &mut answer).await {
                Ok(answer) => return answer,
                // Something moved while we waited: wait on.
                Err(_) if progress.deadline(stall) > deadline => {}
                Err(_) => return Err(self.stalled().into()),
            }
        }
    }

    /// The answer, unless it is an error.
    async fn judged(
        &self,
        request: &Request,
        response: Response<Incoming>,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = response
            .headers()
            .get(ERROR_CODE)
            .and_then(|code| code.to_str().ok());
        let code = said.map_or_else(|| code_of(status), str::to_owned);
        let (parts, body) = response.into_parts();
        let headers = parts.headers;
        let body = self.collect(body).await.unwrap_or_default();
        if let Some(foreign) = &request.foreign {
            let mut said = Response::new(body.clone());
            *said.status_mut() = status;
            *said.headers_mut() = headers.clone();
            foreign.refused(said);
        }
        let (code, message) = match xml::error(&body) {
            Some(said) => said,
            None => (code, status.canonical_reason().unwrap_or("").to_owned()),
        };
        Err(Failure {
            error: Error::Refused {
                status: status.as_u16(),
                code,
                message,
            },
            performed: false,
            repeatable: status == StatusCode::SERVICE_UNAVAILABLE,
            headers: Box::new(headers),
        })
    }

    /// Sends over the socket of this host if there is one, else over the network.
    async fn dispatch(
        &self,
        request: &Request,
        message: http::Request<Outgoing>,
        identity: &Identity<'_>,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        let mut message = message;
        // A connection over the socket is this client's own, and takes signatures of others off.
        if request.foreign.is_none() {
            message = match self.send_locally(request, message, identity).await? {
                Local::Answered(response) => return Ok(response),
                Local::NotSent(message) => message,
            };
        }
        (identity.sign)(message.headers_mut())?;
        match self.inner.http.request(message).await {
            Ok(response) => {
                self.learn(response.headers());
                Ok(response)
            }
            Err(error) => Err(Failure {
                performed: !error.is_connect(),
                error: self.unreachable(error),
                repeatable: true,
                headers: Box::default(),
            }),
        }
    }

    /// The next piece of an answer's body; `None` at its end.
    pub(super) async fn next_piece(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout(self.inner.options.stall_timeout, body.frame()).await {
                Err(_) => return Err(self.stalled()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.unreachable(error)),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<Bytes> {
        let mut document = BytesMut::new();
        while let Some(piece) = self.next_piece(&mut body).await? {
            if document.len() + piece.len() > MAX_DOCUMENT {
                return Err(self.malformed(format!("it is longer than {MAX_DOCUMENT} bytes")));
            }
            document.extend_from_slice(&piece);
        }
        Ok(document.freeze())
    }

    pub(super) fn malformed(&self, cause: impl Into<String>) -> Error {
        Error::Malformed {
            endpoint: self.inner.others.told(&self.inner.endpoint),
            cause: cause.into(),
        }
    }

    pub(super) fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Unreachable {
            endpoint: self.inner.endpoint.to_string(),
            source: source.into(),
        }
    }

    fn stalled(&self) -> Error {
        Error::Stalled {
            endpoint: self.inner.endpoint.to_string(),
            after: self.inner.options.stall_timeout,
        }
    }
}

pub(super) struct Failure {
    pub error: Error,
    /// Whether the storage node may have performed the request.
    pub performed: bool,
    /// Whether another try can have another outcome.
    pub repeatable: bool,
    /// Of the answer, where there was one.
    pub headers: Box<HeaderMap>,
}

impl Failure {
    fn may_repeat(&self, repeat: Repeat) -> bool {
        self.repeatable && (repeat == Repeat::Always || !self.performed)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            performed: true,
            repeatable: false,
            headers: Box::default(),
        }
    }
}

/// Doubles from try to try, with up to half of it at random, so that many clients do not come back at once.
pub(super) fn pause_before(tried: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << tried.min(8)).min(LONGEST_PAUSE);
    full.mul_f64(rand::random_range(0.5..1.0))
}

/// The code for an answer without an error document.
fn code_of(status: StatusCode) -> String {
    match status {
        StatusCode::NOT_FOUND => "NotFound".to_owned(),
        StatusCode::FORBIDDEN => "AccessDenied".to_owned(),
        StatusCode::NOT_MODIFIED => "NotModified".to_owned(),
        StatusCode::PRECONDITION_FAILED => "PreconditionFailed".to_owned(),
        StatusCode::RANGE_NOT_SATISFIABLE => "InvalidRange".to_owned(),
        StatusCode::CONFLICT => "Conflict".to_owned(),
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable".to_owned(),
        other => format!("Http{}", other.as_u16()),
    }
}
