//! Truthful health: named checks, each either a flag that its owner sets or a probe that is asked when somebody looks.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// A probe that takes longer than this counts as failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

type ProbeFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Probe = Arc<dyn Fn() -> ProbeFuture + Send + Sync>;

/// A set of named checks. Cheap to clone; all clones are the same set. An empty set is healthy.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<RwLock<BTreeMap<&'static str, Probe>>>,
}

/// A check whose owner says how it stands. Starts as "not yet", so that nothing is ready before it says so.
#[derive(Clone)]
pub struct Flag {
    state: Arc<RwLock<Result<(), String>>>,
}

impl Flag {
    /// The check passes from now on.
    pub fn pass(&self) {
        self.set(Ok(()));
    }

    /// The check fails from now on, for `reason`.
    pub fn fail(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    fn set(&self, state: Result<(), String>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Health {
    /// Adds a check that its owner sets.
    pub fn flag(&self, name: &'static str) -> Flag {
        let state = Arc::new(RwLock::new(Err("not yet".to_owned())));
        let flag = Flag {
            state: Arc::clone(&state),
        };
        self.probe(name, move || {
            let state = state.read().unwrap_or_else(PoisonError::into_inner).clone();
            async move { state }
        });
        flag
    }

    /// Adds a check that is asked each time, and given 2 s to answer.
    pub fn probe<F, Fut>(&self, name: &'static str, probe: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let probe: Probe = Arc::new(move || Box::pin(probe()));
        self.checks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, probe);
    }

    /// Asks every check. `Ok` and `Err` both hold one line per check: `name: ok` or `name: reason`.
    ///
    /// # Errors
    /// When at least one check fails.
    pub async fn report(&self) -> Result<String, String> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        let mut healthy = true;
        for (name, probe) in checks {
            let outcome = match tokio::time::timeout(PROBE_TIMEOUT, probe()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
            };
            healthy &= outcome.is_ok();
            let line = outcome.err().unwrap_or_else(|| "ok".to_owned());
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{name}: {line}");
        }
        if healthy { Ok(text) } else { Err(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flag_fails_until_its_owner_passes_it() {
        let health = Health::default();
        let flag = health.flag("index");
        assert_eq!(health.report().await, Err("index: not yet\n".into()));
        flag.pass();
        assert_eq!(health.report().await, Ok("index: ok\n".into()));
        flag.fail("disk full");
        assert_eq!(health.report().await, Err("index: disk full\n".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_counts_as_failed() {
        let health = Health::default();
        health.probe("mount", std::future::pending);
        assert_eq!(health.report().await, Err("mount: no answer within 2 s\n".into()));
    }
}
