//! What the storage node knows of who is at this end of a connection: whether a request must be signed.

use super::{CONNECT, CONNECT_FIRST, LEND};
use crate::Error;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use std::time::{Duration, Instant};

/// The storage node's clock may be ahead, and a request takes a moment.
const MARGIN: Duration = Duration::from_secs(30);
/// What a signature adds to a request.
const SIGNATURE: [HeaderName; 3] = [
    AUTHORIZATION,
    HeaderName::from_static("x-amz-date"),
    HeaderName::from_static("x-amz-content-sha256"),
];

/// Who sends a request.
pub(crate) struct Identity<'s> {
    /// Signs the headers.
    pub sign: &'s (dyn Fn(&mut HeaderMap) -> Result<(), Error> + Send + Sync),
    /// Whether a connection that was signed for may stand for a signature.
    pub may_be_bare: bool,
}

/// Of one connection.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Bond {
    #[default]
    Unknown,
    /// It was signed for with nothing yet, or too long ago.
    Challenged(HeaderValue),
    Bound {
        challenge: HeaderValue,
        until: Instant,
    },
}

impl Bond {
    /// Learns from an answer.
    pub fn learn(&mut self, answer: &HeaderMap, now: Instant) {
        let Some(said) = answer.get(CONNECT).and_then(|said| said.to_str().ok()) else {
            return;
        };
        let (challenge, seconds) = match said.split_once(';') {
            None => (said, None),
            Some((challenge, seconds)) => (challenge, seconds.parse().ok()),
        };
        let Ok(challenge) = HeaderValue::try_from(challenge) else {
            return;
        };
        *self = match seconds
            .map(Duration::from_secs)
            .and_then(|left| now.checked_add(left))
        {
            Some(until) => Self::Bound { challenge, until },
            None => Self::Challenged(challenge),
        };
    }

    /// Makes a request believed: by the connection if that does, else by a signature. Returns whether it went without.
    pub fn prove(
        &self,
        method: &Method,
        headers: &mut HeaderMap,
        identity: &Identity<'_>,
        now: Instant,
    ) -> Result<bool, Error> {
        withdraw(headers);
        if *method == Method::GET && headers.contains_key(LEND) {
            let (challenge, is_bare) = match self {
                Self::Unknown => (HeaderValue::from_static(CONNECT_FIRST), false),
                Self::Challenged(challenge) => (challenge.clone(), false),
                Self::Bound { challenge, until } => {
                    (challenge.clone(), identity.may_be_bare && now + MARGIN < *until)
                }
            };
            headers.insert(CONNECT, challenge);
            if is_bare {
                return Ok(true);
            }
        }
        (identity.sign)(headers)?;
        Ok(false)
    }
}

/// Takes from a request what an earlier try over another connection put there.
pub(super) fn withdraw(headers: &mut HeaderMap) {
    for name in SIGNATURE.iter().chain([&CONNECT]) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lending() -> HeaderMap {
        HeaderMap::from_iter([(LEND, HeaderValue::from_static("only"))])
    }

    fn answer(said: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONNECT, said.parse().unwrap())])
    }

    #[test]
    fn a_connection_is_signed_for_once_and_again_before_that_ends() {
        let sign = |headers: &mut HeaderMap| {
            headers.insert(AUTHORIZATION, HeaderValue::from_static("signed"));
            Ok(())
        };
        let identity = Identity {
            sign: &sign,
            may_be_bare: true,
        };
        let (mut bond, now) = (Bond::default(), Instant::now());
        let mut headers = lending();
        let mut ask = |bond: &Bond, now| {
            let bare = bond.prove(&Method::GET, &mut headers, &identity, now).unwrap();
            assert_eq!(headers.contains_key(AUTHORIZATION), !bare);
            (bare, headers.get(CONNECT).unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(ask(&bond, now), (false, CONNECT_FIRST.to_owned()));
        bond.learn(&HeaderMap::new(), now);
        assert_eq!(bond, Bond::Unknown, "a storage node that knows nothing of it");
        bond.learn(&answer("c1"), now);
        assert_eq!(ask(&bond, now), (false, "c1".to_owned()));
        bond.learn(&answer("c1;900"), now);
        bond.learn(&HeaderMap::new(), now);
        assert_eq!(ask(&bond, now), (true, "c1".to_owned()));
        assert_eq!(
            ask(&bond, now + Duration::from_secs(890)),
            (false, "c1".to_owned())
        );
        let strict = Identity {
            sign: &sign,
            may_be_bare: false,
        };
        let mut headers = lending();
        assert!(!bond.prove(&Method::GET, &mut headers, &strict, now).unwrap());
        bond.learn(&answer("c1"), now);
        assert_eq!(
            bond,
            Bond::Challenged(HeaderValue::from_static("c1")),
            "it was refused"
        );
    }

    #[test]
    fn what_does_not_ask_for_descriptors_is_always_signed_and_says_nothing_of_it() {
        let sign = |headers: &mut HeaderMap| {
            headers.insert(AUTHORIZATION, HeaderValue::from_static("signed"));
            Ok(())
        };
        let identity = Identity {
            sign: &sign,
            may_be_bare: true,
        };
        let now = Instant::now();
        let bond = Bond::Bound {
            challenge: HeaderValue::from_static("c1"),
            until: now + Duration::from_secs(900),
        };
        for (method, mut headers) in [(Method::PUT, lending()), (Method::GET, HeaderMap::new())] {
            assert!(!bond.prove(&method, &mut headers, &identity, now).unwrap());
            assert!(headers.contains_key(AUTHORIZATION) && !headers.contains_key(CONNECT));
        }
    }
}
