//! Looking at the devices again and again, so that what comes, goes, fails and recovers is known.

use super::{kind::Kind, nic::Nic, source::SourceError};
use penstock_service::{CancellationToken, chain};
use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What is there, as of the last look. All receivers see the same.
pub type Devices<K> = watch::Receiver<Arc<Vec<K>>>;

/// The NICs that are there.
pub type Nics = Devices<Nic>;

/// Whether looking works.
#[derive(Clone)]
pub struct Looking {
    last: Arc<RwLock<Result<Instant, String>>>,
    patience: Duration,
}

impl Looking {
    /// Says why what is known may be stale.
    ///
    /// # Errors
    /// When the last look failed, or is long ago: reads of sysfs hang when a device's firmware does.
    pub fn check(&self) -> Result<(), String> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age = last.elapsed();
        if age > self.patience {
            return Err(format!("reading the devices hangs since {} s", age.as_secs()));
        }
        Ok(())
    }

    fn looked(&self, outcome: Result<(), String>) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = outcome.map(|()| Instant::now());
    }
}

/// Calls `look` once, and then every `period` until `shutdown` fires. When a later look fails, what was there counts as being there.
///
/// # Errors
/// When the first look fails.
pub async fn start<K: Kind>(
    look: impl Fn() -> Result<Vec<K>, SourceError> + Send + Sync + 'static,
    period: Duration,
    shutdown: CancellationToken,
) -> Result<(Devices<K>, Looking), SourceError> {
    let look = Arc::new(look);
    let first = look()?;
    tell(&[], &first);
    let (sender, receiver) = watch::channel(Arc::new(first));
    let looking = Looking {
        last: Arc::new(RwLock::new(Ok(Instant::now()))),
        patience: period * 10 + Duration::from_secs(10),
    };
    let state = looking.clone();
    tokio::spawn(async move {
        let failing = AtomicBool::new(false);
        while shutdown
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_some()
        {
            let look = Arc::clone(&look);
            let Ok(found) = tokio::task::spawn_blocking(move || look()).await else {
                continue;
            };
            match found {
                Ok(found) => {
                    failing.store(false, Ordering::Relaxed);
                    state.looked(Ok(()));
                    sender.send_if_modified(|known| {
                        let changed = **known != found;
                        if changed {
                            tell(known, &found);
                            *known = Arc::new(found);
                        }
                        changed
                    });
                }
                Err(error) => {
                    let text = chain(&error);
                    if !failing.swap(true, Ordering::Relaxed) {
                        tracing::error!("what is known of the devices may be stale: {text}");
                    }
                    state.looked(Err(text));
                }
            }
        }
    });
    Ok((receiver, looking))
}

/// One log line for each device that came, went, failed or recovered.
fn tell<K: Kind>(before: &[K], now: &[K]) {
    let kind = K::NAME;
    for device in now {
        let id = device.id();
        let old = before.iter().find(|old| old.id() == id);
        match (old.map(K::trouble), device.trouble()) {
            (None, None) => tracing::info!("{kind} {id} is there"),
            (None, Some(why)) => tracing::warn!("{kind} {id} is there and unhealthy: {why}"),
            (Some(None), Some(why)) => tracing::warn!("{kind} {id} is unhealthy: {why}"),
            (Some(Some(_)), None) => tracing::info!("{kind} {id} is healthy again"),
            (Some(_), _) => {}
        }
    }
    let gone = |old: &&K| now.iter().all(|device| device.id() != old.id());
    for device in before.iter().filter(gone) {
        tracing::warn!("{kind} {} is gone", device.id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What looks find, one after the other; the last again and again.
    type Script = Arc<Mutex<Vec<Result<Vec<Nic>, ()>>>>;

    fn scripted(script: &Script) -> impl Fn() -> Result<Vec<Nic>, SourceError> + use<> {
        let script = Arc::clone(script);
        move || {
            let mut script = script.lock().unwrap();
            let answer = if script.len() > 1 {
                script.remove(0)
            } else {
                script[0].clone()
            };
            answer.map_err(|()| SourceError::Sysfs {
                root: "/host/sys".into(),
                source: std::io::Error::other("gone"),
            })
        }
    }

    #[tokio::test]
    async fn a_look_that_fails_keeps_what_was_there_and_says_so() {
        let nic = crate::devices::nic::tests::nic("mlx5_0");
        let script = Arc::new(Mutex::new(vec![Ok(vec![nic.clone()]), Err(())]));
        let shutdown = CancellationToken::new();
        let (nics, looking) = start(scripted(&script), Duration::from_millis(5), shutdown.clone())
            .await
            .unwrap();
        while looking.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let why = looking.check().unwrap_err();
        assert!(why.contains("/host/sys") && why.contains("gone"), "{why}");
        assert_eq!(nics.borrow().as_slice(), std::slice::from_ref(&nic));

        *script.lock().unwrap() = vec![Ok(vec![])];
        let mut nics = nics;
        nics.changed().await.unwrap();
        assert!(nics.borrow().is_empty());
        assert!(looking.check().is_ok());
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_looked_at_is_an_error_at_the_start() {
        let script = Arc::new(Mutex::new(vec![Err(())]));
        let outcome = start(
            scripted(&script),
            Duration::from_secs(1),
            CancellationToken::new(),
        )
        .await;
        assert!(outcome.is_err());
    }
}
