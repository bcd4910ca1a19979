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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{
        Connection, Device, Pages, Purpose, Remote,
        loopback::{LoopbackDevice, Network},
    };

    const SOON: Duration = Duration::from_millis(30);

    /// Two queue pairs that know each other.
    fn pair() -> (Arc<LoopbackDevice>, Arc<dyn QueuePair>, Arc<dyn QueuePair>) {
        let network = Network::new();
        let (here, there) = (network.device("here"), network.device("there"));
        let ends = (here.queue_pair(8).unwrap(), there.queue_pair(8).unwrap());
        let connection = |peer: &Arc<dyn QueuePair>, local_psn, peer_psn| Connection {
            peer: peer.address(),
            local_psn,
            peer_psn,
            mtu: 1024,
            read_depth: 1,
        };
        ends.0.connect(&connection(&ends.1, 1, 2)).unwrap();
        ends.1.connect(&connection(&ends.0, 2, 1)).unwrap();
        (there, ends.0, ends.1)
    }

    async fn send(device: &LoopbackDevice, from: &Arc<dyn QueuePair>, immediate: u32) {
        let memory = device.register(Pages::new(1).unwrap(), Purpose::Staging).unwrap();
        // An operation on no bytes opens no window.
        let nowhere = Remote { address: 0, rkey: 0 };
        from.write(memory, 0..0, nowhere, Some(immediate))
            .await
            .1
            .unwrap();
    }

    #[tokio::test]
    async fn each_waits_for_its_own() {
        let (device, here, there) = pair();
        let arrivals = Arrivals::of(&here);
        send(&device, &there, 7).await;
        let other = arrivals.wait(8, &*here, SOON).await;
        assert!(matches!(other, Err(Error::TimedOut(_))), "{other:?}");
        // The low half of a sequence number.
        arrivals.wait((5 << 32) | 7, &*here, SOON).await.unwrap();
        let again = arrivals.wait(7, &*here, SOON).await;
        assert!(
            matches!(again, Err(Error::TimedOut(_))),
            "it is for one request: {again:?}"
        );
        let (waited, ()) = tokio::join!(
            arrivals.wait(9, &*here, Duration::from_secs(5)),
            send(&device, &there, 9)
        );
        waited.unwrap();
    }

    #[tokio::test]
    async fn death_ends_the_waiting() {
        let (_device, here, _there) = pair();
        let arrivals = Arrivals::of(&here);
        let (waited, ()) = tokio::join!(arrivals.wait(1, &*here, Duration::from_secs(60)), async {
            tokio::time::sleep(SOON).await;
            here.kill().await;
        });
        assert!(matches!(waited, Err(Error::Dead)), "{waited:?}");
    }
}
