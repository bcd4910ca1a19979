//! One request: passed on as it is, and its answer passed back as it is.

use super::{
    answer::AnswerBody,
    metrics::{Counters, Way},
    request::RequestBody,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RETRY_AFTER, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
    response::Parts,
};
use hyper::body::Incoming;
use penstock_rdma::{
    ERROR_CODE,
    local::{LENT, LENT_CRC64NVME, Lent, LentHeader},
    relay::{Carrier, PASSED_ON, Relay, RelayError, Relayed, RelayedBody},
};
use s3s::{S3Error, S3ErrorCode};
use std::time::Duration;
use tokio::time::timeout;

/// An answer must have begun after this. The slowest operation, completing an upload of 10 000 parts, is far quicker; a storage
/// node whose host is gone would hold the client otherwise.
const PATIENCE: Duration = Duration::from_secs(300);
/// The S3 error code where the policy forbids the way that there is; a client library's `NoFastPath`.
const NO_FAST_PATH: &str = "PenstockNoFastPath";

/// Belong to one connection (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Passes requests on to one upstream. Cheap to clone.
#[derive(Clone)]
pub(super) struct Forward {
    pub relay: Relay<RequestBody>,
    pub counters: Counters,
    /// Whether clients reach the gateway over TLS.
    pub by_tls: bool,
}

impl Forward {
    /// Always answers; what cannot be passed on is answered with an S3 error.
    pub async fn answer(self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        let method = request.method().clone();
        remove_hop_by_hop(request.headers_mut());
        *request.version_mut() = Version::HTTP_11;
        let reached = if self.by_tls { "https" } else { "http" };
        request
            .headers_mut()
            .insert(PASSED_ON, HeaderValue::from_static(reached));
        // What this connection noted beside the request is not the other one's.
        request.extensions_mut().clear();
        let (request, sent) = RequestBody::of(request, &self.counters);
        let asked = timeout(PATIENCE, self.relay.send(request)).await;
        let answered = match asked {
            Ok(Ok(relayed)) => self.pass_back(&method, relayed, &sent),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RelayError::Broken {
                endpoint: self.relay.endpoint().to_string(),
                source: format!("it does not answer within {} s", PATIENCE.as_secs()).into(),
            }),
        };
        let mut response =
            answered.unwrap_or_else(|failure| self.refuse(&method, failure, sent.client_failed()));
        if sent.was_never_asked_for() {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn pass_back(
        &self,
        method: &Method,
        relayed: Relayed,
        sent: &super::request::Sent,
    ) -> Result<Response<AnswerBody>, RelayError> {
        let Relayed {
            head: mut parts,
            carrier,
            body,
        } = relayed;
        let carried = match carrier {
            Carrier::Socket => Way::Socket,
            Carrier::Rdma => Way::Rdma,
            Carrier::Network => Way::Http,
        };
        sent.went(carried);
        self.counters.local(carrier == Carrier::Socket);
        if let Some(works) = self.relay.works_by_rdma() {
            self.counters.rdma(works && carrier != Carrier::Socket);
        }
        if carrier != Carrier::Socket {
            self.counters.reachable(true);
        }
        parts.extensions.clear();
        parts.version = Version::HTTP_11;
        remove_hop_by_hop(&mut parts.headers);
        let counters = self.counters.clone();
        let body = match body {
            RelayedBody::Lent(header, lent) => return self.lent(method, parts, &header, lent),
            RelayedBody::Moved(left, pieces) => AnswerBody::Moved {
                pieces,
                left,
                counters,
            },
            RelayedBody::Whole(bytes) => AnswerBody::Whole {
                bytes: Some(bytes),
                way: carried,
                counters,
            },
            RelayedBody::Passed(body) => AnswerBody::passed(body, carried, counters),
        };
        self.counters.answered(method, parts.status, carried);
        Ok(Response::from_parts(parts, body))
    }

    fn lent(
        &self,
        method: &Method,
        mut parts: Parts,
        header: &LentHeader,
        lent: Lent,
    ) -> Result<Response<AnswerBody>, RelayError> {
        if parts.status == StatusCode::OK && lent.len() != header.size {
            return Err(RelayError::Malformed {
                endpoint: self.relay.endpoint().to_string(),
                cause: "less than the object".to_owned(),
            });
        }
        parts.headers.remove(LENT);
        let crc = parts.headers.remove(LENT_CRC64NVME);
        let crc = crc.and_then(|crc| u64::from_str_radix(crc.to_str().ok()?, 16).ok());
        parts
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(lent.len()));
        self.counters.answered(method, parts.status, Way::Shm);
        let body = AnswerBody::lent(lent, crc, self.counters.clone());
        Ok(Response::from_parts(parts, body))
    }

    fn refuse(&self, method: &Method, failure: RelayError, client_failed: bool) -> Response<AnswerBody> {
        let (outcome, code, status) = match &failure {
            // Nobody is there to hear it any more.
            _ if client_failed => ("aborted", S3ErrorCode::IncompleteBody, StatusCode::BAD_REQUEST),
            RelayError::NotTheClients(_) => ("refused", S3ErrorCode::AccessDenied, StatusCode::FORBIDDEN),
            RelayError::Unaddressable(_) => ("refused", S3ErrorCode::InvalidURI, StatusCode::BAD_REQUEST),
            RelayError::NoFastPath { .. } => (
                "no_fast_path",
                S3ErrorCode::Custom(NO_FAST_PATH.into()),
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            RelayError::Unreachable { .. } => (
                "unreachable",
                S3ErrorCode::ServiceUnavailable,
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            RelayError::Broken { .. } => (
                "broken",
                S3ErrorCode::ServiceUnavailable,
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            RelayError::Malformed { .. } => (
                "malformed",
                S3ErrorCode::ServiceUnavailable,
                StatusCode::SERVICE_UNAVAILABLE,
            ),
        };
        if client_failed {
            self.counters.broken("client");
            tracing::debug!("a client broke off in the middle of its body");
        } else {
            if matches!(failure, RelayError::Unreachable { .. }) {
                self.counters.reachable(false);
            }
            tracing::warn!(
                error = penstock_service::chain(&failure),
                "a request is refused by the gateway"
            );
        }
        self.counters.request(method, status, outcome);
        let mut error = S3Error::with_message(code.clone(), format!("Penstock's node gateway: {failure}."));
        error.set_status_code(status);
        let Ok(response) = error.to_http_response() else {
            let mut response = Response::new(AnswerBody::Own(s3s::Body::empty()));
            *response.status_mut() = status;
            return response;
        };
        let mut response = response.map(AnswerBody::Own);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // As the storage node, where an answer has no body.
        if let Ok(code) = HeaderValue::try_from(code.as_str()) {
            response.headers_mut().insert(ERROR_CODE, code);
        }
        response
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_stays_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "gateway.example:9000"),
            ("authorization", "AWS4-HMAC-SHA256 …"),
            ("expect", "100-continue"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "expect", "host"]);
    }
}
