//! Looking at the devices again and again, so that what comes, goes, fails and recovers is known.

use super::{
    nic::Nic,
    source::{Source, SourceError},
};
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
pub type Nics = watch::Receiver<Arc<Vec<Nic>>>;

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

/// Looks once, and then every `period` until `shutdown` fires. When a later look fails, what was there counts as being there.
///
/// # Errors
/// When the first look fails.
pub async fn start(
    source: Arc<dyn Source>,
    period: Duration,
    shutdown: CancellationToken,
) -> Result<(Nics, Looking), SourceError> {
    let first = source.nics()?;
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
            let source = Arc::clone(&source);
            let Ok(found) = tokio::task::spawn_blocking(move || source.nics()).await else {
                continue;
            };
            match found {
                Ok(nics) => {
                    failing.store(false, Ordering::Relaxed);
                    state.looked(Ok(()));
                    sender.send_if_modified(|known| {
                        let changed = **known != nics;
                        if changed {
                            tell(known, &nics);
                            *known = Arc::new(nics);
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
fn tell(before: &[Nic], now: &[Nic]) {
    for nic in now {
        let old = before.iter().find(|old| old.name == nic.name);
        let (was, is) = (old.map(Nic::trouble), nic.trouble());
        match (was, is) {
            (None, None) => {
                tracing::info!(nic = nic.name, nodes = ?nic.nodes, numa = nic.numa_node, "an RDMA device is there")
            }
            (None, Some(why)) => {
                tracing::warn!(nic = nic.name, "an RDMA device is there and unhealthy: {why}")
            }
            (Some(None), Some(why)) => tracing::warn!(nic = nic.name, "an RDMA device is unhealthy: {why}"),
            (Some(Some(_)), None) => tracing::info!(nic = nic.name, "an RDMA device is healthy again"),
            (Some(_), _) => {}
        }
    }
    for nic in before
        .iter()
        .filter(|old| now.iter().all(|nic| nic.name != old.name))
    {
        tracing::warn!(nic = nic.name, "an RDMA device is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A source that answers what it is told to.
    struct Scripted(Mutex<Vec<Result<Vec<Nic>, ()>>>);

    impl Source for Scripted {
        fn nics(&self) -> Result<Vec<Nic>, SourceError> {
            let mut script = self.0.lock().unwrap();
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
        let source = Arc::new(Scripted(Mutex::new(vec![Ok(vec![nic.clone()]), Err(())])));
        let shutdown = CancellationToken::new();
        let (nics, looking) = start(source.clone(), Duration::from_millis(5), shutdown.clone())
            .await
            .unwrap();
        while looking.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let why = looking.check().unwrap_err();
        assert!(why.contains("/host/sys") && why.contains("gone"), "{why}");
        assert_eq!(nics.borrow().as_slice(), std::slice::from_ref(&nic));

        *source.0.lock().unwrap() = vec![Ok(vec![])];
        let mut nics = nics;
        nics.changed().await.unwrap();
        assert!(nics.borrow().is_empty());
        assert!(looking.check().is_ok());
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_looked_at_is_an_error_at_the_start() {
        let source = Arc::new(Scripted(Mutex::new(vec![Err(())])));
        let outcome = start(source, Duration::from_secs(1), CancellationToken::new()).await;
        assert!(outcome.is_err());
    }
}
