//! Immediates: what tells that the bytes of a GET are behind the NIC, in memory that is another device's.

use crate::fabric::{Error, QueuePair, Result};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle};

/// The immediates that came over a session and were not waited for yet; each is the low half of a request's sequence number.
pub(super) struct Arrivals {
    come: watch::Receiver<HashSet<u32>>,
    take: watch::Sender<HashSet<u32>>,
    watcher: AbortHandle,
}

impl Arrivals {
    /// Of a connected queue pair. They end with it.
    pub fn of(queue_pair: &Arc<dyn QueuePair>) -> Self {
        let (take, come) = watch::channel(HashSet::new());
        let (noted, next) = (take.clone(), Arc::clone(queue_pair));
        let watcher = tokio::spawn(async move {
            while let Ok(immediate) = next.immediate().await {
                noted.send_modify(|all| {
                    all.insert(immediate);
                });
            }
            // Who waits looks whether it is alive.
            noted.send_modify(|_| {});
        });
        Self {
            come,
            take,
            watcher: watcher.abort_handle(),
        }
    }

    /// Waits for the immediate of a request whose answer has come.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Dead`] when the queue pair dies first.
    pub async fn wait(&self, sequence: u64, queue_pair: &dyn QueuePair, limit: Duration) -> Result<()> {
        let immediate = (sequence & u64::from(u32::MAX)) as u32;
        let mut come = self.come.clone();
        let waited = come.wait_for(|all| all.contains(&immediate) || !queue_pair.is_alive());
        match tokio::time::timeout(limit, waited).await {
            Err(_) => return Err(Error::TimedOut(limit)),
            Ok(Err(_)) => return Err(Error::Dead),
            Ok(Ok(_)) => {}
        }
        let mut there = false;
        self.take.send_if_modified(|all| {
            there = all.remove(&immediate);
            false
        });
        if there { Ok(()) } else { Err(Error::Dead) }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        // It holds the queue pair.
        self.watcher.abort();
    }
}
