//! Leader election by a `coordination.k8s.io/v1` Lease, with the rules of client-go's `leaderelection`: a lease is foreign
//! while it was seen to change within its duration by our own clock, so the clocks of replicas need not agree.

use crate::{context::Config, error::Error, metrics::Metrics};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

const NAME: &str = "penstock-operator";
/// How long a leader that does not renew is waited for.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops leading, well before another one starts.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    /// The lease as it was when it changed last, and when we saw that.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    pub fn new(client: Client, config: &Config) -> Self {
        let leases = Api::namespaced(client, &config.namespace);
        Self {
            leases,
            identity: config.identity.clone(),
            seen: None,
        }
    }

    /// Takes or renews the lease; `false` when somebody else holds it.
    async fn hold(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta {
                name: Some(NAME.into()),
                ..ObjectMeta::default()
            };
            let created = self
                .leases
                .create(
                    &PostParams::default(),
                    &Lease {
                        metadata,
                        spec: Some(spec),
                    },
                )
                .await;
            return won(created);
        };
        let found = lease.spec.clone().unwrap_or_default();
        if self.is_foreign(&found, Instant::now()) {
            return Ok(false);
        }
        let ours = found.holder_identity.as_ref() == Some(&self.identity);
        lease.spec = Some(LeaseSpec {
            acquire_time: if ours {
                found.acquire_time
            } else {
                spec.acquire_time.clone()
            },
            lease_transitions: Some(found.lease_transitions.unwrap_or_default() + i32::from(!ours)),
            ..spec
        });
        // The version that was read makes the second of two candidates lose.
        won(self.leases.replace(NAME, &PostParams::default(), &lease).await)
    }

    /// Whether somebody else holds the lease and may still be alive.
    fn is_foreign(&mut self, found: &LeaseSpec, now: Instant) -> bool {
        let holder = found.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return false;
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == found => *since,
            _ => {
                self.seen = Some((found.clone(), now));
                now
            }
        };
        let duration = found
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        now.duration_since(since) < duration.map_or(DURATION, Duration::from_secs)
    }

    /// Gives the lease back, so that the next leader need not wait.
    async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        Ok(())
    }
}

fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits for the lease, then runs `work` while it is held. `work` ends when its token fires.
///
/// # Errors
/// [`Error::LeaseLost`] when the lease could not be renewed in time: the process ends, and starts anew as a candidate.
pub async fn lead<F: Future<Output = ()>>(
    mut election: Election,
    metrics: Metrics,
    shutdown: CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Error> {
    loop {
        match election.hold().await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the lease could not be read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    tracing::info!(identity = election.identity, "leading");
    metrics.leading(true);
    let leading = shutdown.child_token();
    let work = work(leading.clone());
    tokio::pin!(work);
    let mut renewed = Instant::now();
    let mut ticks = tokio::time::interval(RETRY);
    let outcome = loop {
        tokio::select! {
            () = &mut work => break Ok(()),
            _ = ticks.tick() => {
                match tokio::time::timeout(RETRY, election.hold()).await {
                    Ok(Ok(true)) => renewed = Instant::now(),
                    Ok(Ok(false)) => break Err(Error::LeaseLost),
                    Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                    Err(_) => tracing::warn!("renewing the lease takes too long"),
                }
                if renewed.elapsed() > RENEW_DEADLINE {
                    break Err(Error::LeaseLost);
                }
            }
        }
    };
    metrics.leading(false);
    if outcome.is_ok()
        && let Err(error) = election.release().await
    {
        tracing::warn!(%error, "the lease was not given back; the next leader waits until it runs out");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election() -> Election {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let client = Client::new(service, "default");
        Election {
            leases: Api::namespaced(client, "default"),
            identity: "me".into(),
            seen: None,
        }
    }

    fn held_by(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[tokio::test]
    async fn a_foreign_lease_is_free_when_it_stood_still_for_its_duration() {
        let mut election = election();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(election.is_foreign(&held_by("other", 1), start));
        assert!(election.is_foreign(&held_by("other", 1), after(14)));
        assert!(
            election.is_foreign(&held_by("other", 2), after(14)),
            "it was renewed"
        );
        assert!(election.is_foreign(&held_by("other", 2), after(28)));
        assert!(!election.is_foreign(&held_by("other", 2), after(30)));
    }

    #[tokio::test]
    async fn an_own_or_released_lease_is_free_at_once() {
        let mut election = election();
        assert!(!election.is_foreign(&held_by("me", 1), Instant::now()));
        assert!(!election.is_foreign(&held_by("", 1), Instant::now()));
    }
}
