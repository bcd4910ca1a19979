//! What fuzzers call: the headers of a request that claims to be one by RDMA.

use crate::{metrics::Metrics, rdma::Rdma};
use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus_client::registry::Registry;
use std::sync::LazyLock;

static RDMA: LazyLock<Rdma> = LazyLock::new(|| Rdma::off(Metrics::register(&mut Registry::default())));

/// Headers as lines `name: value`. A request is believed only when each header of the protocol is there once, and signed; whatever
/// is refused is not repeated.
pub fn requests(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) && headers.try_append(name, value).is_err()
        {
            return;
        }
    }
    let ours: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-amz-rdma-"))
        .cloned()
        .collect();
    match RDMA.tokened(&headers, Some("me")) {
        Ok(None) => assert!(ours.is_empty()),
        Ok(Some(request)) => {
            let signature = headers["authorization"].to_str().unwrap_or_default();
            for name in &ours {
                assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
                assert!(signature.contains(name.as_str()), "{name} is not signed");
            }
            assert_eq!(
                headers["x-amz-rdma-token"].as_bytes(),
                request.token.encode().as_bytes()
            );
            assert_eq!(
                headers["x-amz-rdma-seq"].as_bytes(),
                request.sequence.to_string().as_bytes()
            );
            assert!(headers.get("content-length").is_none_or(|length| length == "0"));
        }
        Err(refusal) => {
            let answer = refusal.answer();
            let told = answer.message().unwrap_or_default();
            let token = headers
                .get("x-amz-rdma-token")
                .and_then(|value| value.to_str().ok());
            assert!(
                token.is_none_or(|token| token.len() < 32 || !told.contains(token)),
                "the answer repeats a token"
            );
        }
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn requests_keep_their_promises() {
        super::replay::run("requests", super::requests);
    }
}
