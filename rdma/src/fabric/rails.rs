//! Rails: the RDMA ports that this process uses, side by side.
//!
//! ```text
//!   Source (this machine's ports) ── looked at again and again ──▶ Rails ── Rail { device, pools of registered memory }
//! ```
//! A port that comes later, or comes back as a new device, becomes a rail without a restart; a device that failed goes. A rail whose
//! port is down stays, and is not chosen while it is. Registered memory belongs to the rail, so that all users of a process share it.

use super::{Device, DeviceInfo, Pool, Purpose, Unavailable};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Where devices come from.
pub trait Source: Send + Sync + 'static {
    /// Opens the ports that can be used and are none of `known`; and says why, when there is no usable port. Blocks.
    fn look(&self, known: &[DeviceInfo]) -> Look;
}

/// What a [`Source`] found.
#[derive(Debug, Default)]
pub struct Look {
    /// Devices that were opened. One of a port that is known already takes its place: its address is another one now.
    pub opened: Vec<Arc<dyn Device>>,
    /// Why a port that was looked for cannot be used.
    pub why: Option<Unavailable>,
}

/// One port of one device, and the registered memory that is kept for it.
pub struct Rail {
    number: u64,
    device: Arc<dyn Device>,
    pools: Mutex<HashMap<(Purpose, usize), Arc<Pool>>>,
}

impl Rail {
    fn new(device: Arc<dyn Device>) -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            device,
            pools: Mutex::default(),
        })
    }

    /// Which one it is, in this process. Numbers are not used again.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Whether its port is up and its device works, as far as is known.
    pub fn is_active(&self) -> bool {
        self.device.is_active() && !self.device.has_failed()
    }

    /// Its pool of chunks of `chunk` bytes for `purpose`, which all who ask share. `limit_bytes` is that of the first who asks.
    pub fn pool(&self, purpose: Purpose, chunk: usize, limit_bytes: u64) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        let pool = pools
            .entry((purpose, chunk))
            .or_insert_with(|| Pool::new(Arc::clone(&self.device), purpose, chunk, limit_bytes));
        Arc::clone(pool)
    }

    /// Bytes of its chunks that are taken now.
    pub fn taken_bytes(&self) -> u64 {
        lock(&self.pools)
            .values()
            .map(|pool| pool.usage().used as u64 * pool.chunk() as u64)
            .sum()
    }
}

impl fmt::Debug for Rail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rail")
            .field("number", &self.number)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// The rails of a process. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Rails(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rails: Vec<Arc<Rail>>,
    why: Unavailable,
}

impl Rails {
    /// These devices, for ever.
    pub fn of(devices: impl IntoIterator<Item = Arc<dyn Device>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            rails: devices.into_iter().map(Rail::new).collect(),
            why: Unavailable::NoDevice(String::new(), "this process was given none".to_owned()),
        })))
    }

    /// What `source` has, now and later: it is looked at once before this returns, and then every `pause` for as long as a
    /// clone of this exists. Must be called inside a Tokio runtime; blocks while devices are opened.
    pub fn watch(source: impl Source, pause: Duration) -> Self {
        let rails = Self::of([]);
        rails.take_in(source.look(&[]));
        let source = Arc::new(source);
        let watched = Arc::downgrade(&rails.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(rails) = watched.upgrade().map(Self) else {
                    return;
                };
                let (known, source) = (rails.known(), Arc::clone(&source));
                match tokio::task::spawn_blocking(move || source.look(&known)).await {
                    Ok(look) => rails.take_in(look),
                    Err(error) => tracing::error!(%error, "RDMA devices could not be looked for"),
                }
            }
        });
        rails
    }

    /// The rails that can be used now.
    pub fn active(&self) -> Vec<Arc<Rail>> {
        let state = lock(&self.0);
        state
            .rails
            .iter()
            .filter(|rail| rail.is_active())
            .cloned()
            .collect()
    }

    /// All rails, also those whose port is down.
    pub fn all(&self) -> Vec<Arc<Rail>> {
        lock(&self.0).rails.clone()
    }

    /// What can be used now.
    ///
    /// # Errors
    /// Why nothing can.
    pub fn standing(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let active = self.active();
        if !active.is_empty() {
            return Ok(active.iter().map(|rail| rail.device.info().clone()).collect());
        }
        let state = lock(&self.0);
        Err(match state.rails.first() {
            Some(rail) => {
                let info = rail.device.info();
                Unavailable::PortDown {
                    device: info.name.clone(),
                    port: info.port,
                }
            }
            None => state.why.clone(),
        })
    }

    /// Drops the rails whose devices failed, and says which others there are.
    fn known(&self) -> Vec<DeviceInfo> {
        let mut state = lock(&self.0);
        state.rails.retain(|rail| {
            let failed = rail.device.has_failed();
            if failed {
                tracing::warn!(
                    device = rail.device.info().name,
                    "an RDMA device is used no more: it failed"
                );
            }
            !failed
        });
        state
            .rails
            .iter()
            .map(|rail| rail.device.info().clone())
            .collect()
    }

    fn take_in(&self, look: Look) {
        let mut state = lock(&self.0);
        for device in look.opened {
            let info = device.info();
            tracing::info!(
                device = info.name, port = info.port, gid = %info.gid, netdev = info.netdev, gbits = info.gbits, mtu = info.mtu,
                "bytes can go by RDMA"
            );
            // Connections through the old one end by themselves; new ones are not made through it.
            state.rails.retain(|rail| {
                let old = rail.device.info();
                (&old.name, old.port) != (&info.name, info.port)
            });
            state.rails.push(Rail::new(device));
        }
        let Some(why) = look.why else {
            return;
        };
        if state.rails.is_empty() && state.why != why {
            tracing::info!(reason = why.reason(), "bytes do not go by RDMA: {why}");
        }
        state.why = why;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::loopback::{LoopbackDevice, Network};

    /// A machine whose ports are what the test puts there.
    #[derive(Clone, Default)]
    struct Machine(Arc<Mutex<Vec<Arc<LoopbackDevice>>>>);

    impl Source for Machine {
        fn look(&self, known: &[DeviceInfo]) -> Look {
            let there = lock(&self.0);
            let new = |device: &&Arc<LoopbackDevice>| !known.contains(device.info());
            Look {
                opened: there
                    .iter()
                    .filter(new)
                    .map(|device| device.clone() as Arc<dyn Device>)
                    .collect(),
                why: there.is_empty().then_some(Unavailable::KernelModuleMissing),
            }
        }
    }

    const PAUSE: Duration = Duration::from_millis(2);

    fn names(rails: &Rails) -> Vec<String> {
        rails
            .active()
            .iter()
            .map(|rail| rail.device().info().name.clone())
            .collect()
    }

    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..5000 {
            if holds() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("not in time");
    }

    #[tokio::test]
    async fn a_port_that_comes_later_becomes_a_rail() {
        let (network, machine) = (Network::new(), Machine::default());
        let rails = Rails::watch(machine.clone(), PAUSE);
        assert_eq!(rails.standing().unwrap_err(), Unavailable::KernelModuleMissing);
        lock(&machine.0).push(network.device("first"));
        until(|| names(&rails) == ["first"]).await;
        lock(&machine.0).push(network.device("second"));
        until(|| names(&rails) == ["first", "second"]).await;
        assert_eq!(rails.standing().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_port_that_is_down_is_not_chosen_and_comes_back_the_same() {
        let (network, machine) = (Network::new(), Machine::default());
        let device = network.device("nic");
        lock(&machine.0).push(Arc::clone(&device));
        let rails = Rails::watch(machine, PAUSE);
        let number = rails.active()[0].number();
        device.set_active(false);
        assert!(rails.active().is_empty());
        assert!(
            matches!(rails.standing(), Err(Unavailable::PortDown { device, port: 1 }) if device == "nic")
        );
        tokio::time::sleep(PAUSE * 20).await;
        device.set_active(true);
        assert_eq!(rails.active()[0].number(), number);
    }

    #[tokio::test]
    async fn a_device_that_failed_is_replaced() {
        let (network, machine) = (Network::new(), Machine::default());
        let device = network.device("nic");
        lock(&machine.0).push(Arc::clone(&device));
        let rails = Rails::watch(machine.clone(), PAUSE);
        let number = rails.active()[0].number();
        device.fail();
        assert!(rails.active().is_empty());
        lock(&machine.0).clear();
        // It is let go of.
        until(|| rails.all().is_empty()).await;
        until(|| rails.standing() == Err(Unavailable::KernelModuleMissing)).await;
        lock(&machine.0).push(network.device("nic"));
        until(|| !rails.active().is_empty()).await;
        assert_ne!(rails.active()[0].number(), number);
    }

    #[tokio::test]
    async fn all_users_share_the_memory_of_a_rail() {
        let network = Network::new();
        let device = network.device("nic");
        let rails = Rails::of([device.clone() as Arc<dyn Device>]);
        let pool = |limit| rails.active()[0].pool(Purpose::Windows, 4096, limit);
        let (one, other) = (pool(8192), pool(1 << 30));
        let chunks = (one.take().await.unwrap(), other.take().await.unwrap());
        assert!(one.try_take().unwrap().is_none(), "the limit is one for all");
        assert_eq!(rails.active()[0].taken_bytes(), 8192);
        drop(chunks);
        assert_eq!(device.usage().registered_bytes, 8192);
    }
}
