//! What a connection proves of who is at its other end, once a signature made for this very connection came over it.
//!
//! A signature says who sends one request. A connection that carried one over the connection's challenge, a random number that
//! this process made for it and that no other connection has, belongs to whoever made the signature: he can go on without.
//! It ends with the connection, after [`LASTS`], and as soon as the key is another one.

use http::HeaderValue;
use s3s::auth::Credentials;
use std::time::{Duration, Instant};

/// After this the client must sign again.
const LASTS: Duration = Duration::from_secs(15 * 60);

/// Of one connection.
pub(super) struct Bond {
    challenge: String,
    signed: Option<Signed>,
}

struct Signed {
    by: Credentials,
    until: Instant,
}

impl Default for Bond {
    fn default() -> Self {
        Self {
            challenge: format!("{:032x}", rand::random::<u128>()),
            signed: None,
        }
    }
}

impl Bond {
    /// A request was signed by `signer`, and with it what it `presented`. Only the challenge of this connection counts: a
    /// request that was made for another one, and is sent again here, proves nothing.
    pub fn sign(&mut self, presented: &HeaderValue, signer: &Credentials) {
        if self.is_challenge(presented) {
            self.signed = Some(Signed {
                by: signer.clone(),
                until: Instant::now() + LASTS,
            });
        }
    }

    /// Whose request it is that has no signature and `presented` this: an access key. Its secret is looked at each time.
    pub fn signer(
        &self,
        presented: &HeaderValue,
        secret_of: impl Fn(&str) -> Option<String>,
        now: Instant,
    ) -> Option<&str> {
        let signed = self.signed.as_ref().filter(|signed| now < signed.until)?;
        let access = signed.by.access_key.as_str();
        let is_still = secret_of(access).as_deref() == Some(signed.by.secret_key.expose());
        (is_still && self.is_challenge(presented)).then_some(access)
    }

    /// What the client is to sign, and, once it has, for how many seconds it need not again.
    pub fn offer(&self, now: Instant) -> Option<HeaderValue> {
        let left = self.signed.as_ref().map_or(Duration::ZERO, |signed| {
            signed.until.saturating_duration_since(now)
        });
        let text = match left.as_secs() {
            0 => self.challenge.clone(),
            seconds => format!("{};{seconds}", self.challenge),
        };
        HeaderValue::try_from(text).ok()
    }

    /// In a time that does not depend on how much of it is right.
    fn is_challenge(&self, presented: &HeaderValue) -> bool {
        let (presented, own) = (presented.as_bytes(), self.challenge.as_bytes());
        let differences = presented.iter().zip(own).fold(0, |all, (a, b)| all | (a ^ b));
        presented.len() == own.len() && differences == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(access: &str, secret: &str) -> Credentials {
        Credentials {
            access_key: access.to_owned(),
            secret_key: secret.into(),
        }
    }

    /// There is one key.
    fn keys(access: &'static str, secret: &'static str) -> impl Fn(&str) -> Option<String> + Copy {
        move |asked| (asked == access).then(|| secret.to_owned())
    }

    fn value(text: &str) -> HeaderValue {
        text.parse().unwrap()
    }

    #[test]
    fn a_bond_is_of_its_connection_its_signer_and_its_time() {
        let (mut bond, other) = (Bond::default(), Bond::default());
        let (own, theirs) = (value(&bond.challenge), value(&other.challenge));
        let (keys, now) = (keys("key", "secret"), Instant::now());
        assert_eq!(bond.signer(&own, keys, now), None, "nothing was signed");
        for wrong in [
            &theirs,
            &value("hello"),
            &value(""),
            &value(&bond.challenge[..31]),
        ] {
            bond.sign(wrong, &signer("key", "secret"));
            assert_eq!(bond.signer(&own, keys, now), None, "made for another connection");
        }
        assert_eq!(bond.offer(now), Some(own.clone()));
        bond.sign(&own, &signer("key", "secret"));
        assert_eq!(bond.signer(&own, keys, now), Some("key"));
        assert_eq!(bond.signer(&theirs, keys, now), None);
        assert_eq!(other.signer(&theirs, keys, now), None);
        let offered = bond.offer(now).unwrap();
        assert!(
            offered
                .to_str()
                .unwrap()
                .starts_with(&format!("{};", bond.challenge))
        );
        let late = now + LASTS + Duration::from_secs(1);
        assert_eq!(bond.signer(&own, keys, late), None, "it lasts for a while");
        assert_eq!(bond.offer(late), Some(own));
    }

    #[test]
    fn a_key_that_was_taken_away_or_changed_ends_it_at_once() {
        let mut bond = Bond::default();
        let own = value(&bond.challenge);
        bond.sign(&own, &signer("key", "secret"));
        let now = Instant::now();
        assert_eq!(bond.signer(&own, keys("other", "secret"), now), None);
        assert_eq!(bond.signer(&own, keys("key", "changed"), now), None);
        assert_eq!(bond.signer(&own, keys("key", "secret"), now), Some("key"));
    }
}
