//! A fake fabric inside one process, for tests only.
//!
//! ```text
//!   Network ─┬─ LoopbackDevice a ── queue pairs, regions, windows      RDMA is memcpy from one to the other,
//!            └─ LoopbackDevice b ── queue pairs, regions, windows      after the checks that a NIC makes
//! ```
//! It checks keys, bounds, rights, and that both queue pairs know each other, and ends a connection where a NIC would. Its
//! devices do harm when asked: see [`Effect`]. It proves nothing about drivers, NICs or speed.
#![allow(unsafe_code)]

mod mapping;
mod network;
mod queue_pair;

pub use network::Network;

use super::{
    Device, DeviceInfo, DmaBuf, Error, Memory, Pages, Purpose, QueuePair, Registration, Result, Usage,
};
use mapping::Mapping;
use network::{Region, State};
use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// What happens to an operation instead of its success.
#[derive(Debug, Clone)]
pub enum Effect {
    /// It completes with an error; the queue pair is dead.
    Fail,
    /// It completes this much later.
    Delay(Duration),
    /// It completes when the value becomes true.
    Hold(watch::Receiver<bool>),
    /// It completes only with the death of the queue pair.
    Never,
    /// The peer's queue pair dies first.
    KillPeer,
    /// It succeeds, and one bit of what it moved is another one.
    Corrupt,
}

/// A device of a [`Network`].
pub struct LoopbackDevice {
    inner: Arc<Inner>,
}

struct Inner {
    network: Network,
    number: u32,
    info: DeviceInfo,
    /// Operations begun since the device exists.
    operations: AtomicU64,
    faults: Mutex<BTreeMap<u64, Effect>>,
    written: AtomicU64,
    read: AtomicU64,
    most_queue_pairs: AtomicUsize,
    most_registered: AtomicU64,
    takes_dma_buf: AtomicBool,
    active: AtomicBool,
    failed: AtomicBool,
}

impl LoopbackDevice {
    /// Does this to the `after`-th next operation of its queue pairs; 0 is the next one.
    pub fn inject(&self, after: u64, effect: Effect) {
        let at = self.operations() + after;
        self.inner.faults().insert(at, effect);
    }

    /// Takes back what was injected and has not happened.
    pub fn heal(&self) {
        self.inner.faults().clear();
    }

    /// Operations that its queue pairs have begun.
    pub fn operations(&self) -> u64 {
        self.inner.operations.load(Ordering::SeqCst)
    }

    /// Bytes that its queue pairs have written to, and read from, their peers.
    pub fn moved(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (count(&self.inner.written), count(&self.inner.read))
    }

    /// Queue pairs that it can have from now on.
    pub fn limit_queue_pairs(&self, most: usize) {
        self.inner.most_queue_pairs.store(most, Ordering::SeqCst);
    }

    /// Bytes that can be registered from now on, as if the limit of locked memory were this.
    pub fn limit_registered(&self, most: u64) {
        self.inner.most_registered.store(most, Ordering::SeqCst);
    }

    /// Whether it reaches memory behind other devices from now on, as soft-RoCE does not.
    pub fn set_takes_dma_buf(&self, takes: bool) {
        self.inner.takes_dma_buf.store(takes, Ordering::SeqCst);
    }

    /// Whether its port is up from now on. Going down moves all of its queue pairs to ERR.
    pub fn set_active(&self, active: bool) {
        self.inner.active.store(active, Ordering::SeqCst);
        if !active {
            self.kill_all();
        }
    }

    /// It is lost, and nothing on it works any more.
    pub fn fail(&self) {
        self.inner.failed.store(true, Ordering::SeqCst);
        self.kill_all();
    }

    /// Moves all of its queue pairs to ERR.
    pub fn kill_all(&self) {
        let mut state = self.inner.network.state();
        let numbers: Vec<u32> = state.queue_pairs_of(self.inner.number).collect();
        for number in numbers {
            state.kill(number);
        }
    }
}

impl Inner {
    /// Counts an operation, and says what happens to it.
    fn begin(&self) -> Option<Effect> {
        let mut faults = self.faults();
        let at = self.operations.fetch_add(1, Ordering::SeqCst);
        faults.remove(&at)
    }

    fn map(&self, dma_buf: &DmaBuf<'_>) -> Result<Mapping> {
        if !self.takes_dma_buf.load(Ordering::SeqCst) {
            return Err(Error::Device {
                doing: "register memory behind another device",
                cause: format!("the driver of {} takes no dma-buf", self.info.name),
            });
        }
        Mapping::new(dma_buf)
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<u64, Effect>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for LoopbackDevice {
    fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    fn is_active(&self) -> bool {
        self.inner.active.load(Ordering::SeqCst)
    }

    fn has_failed(&self) -> bool {
        self.inner.failed.load(Ordering::SeqCst)
    }

    fn owns(&self, memory: &Memory) -> bool {
        region_of(&self.inner.network.state(), &self.inner, memory).is_some()
    }

    fn register(&self, pages: Pages, purpose: Purpose) -> Result<Memory> {
        let inner = &self.inner;
        let mut state = inner.network.state();
        let length = pages.len() as u64;
        if state.registered(inner.number) + length > inner.most_registered.load(Ordering::SeqCst) {
            return Err(Error::Memlock { bytes: length });
        }
        let region = Region {
            device: inner.number,
            length,
            purpose,
        };
        let lkey = state.add_region(region);
        let registration = Registered {
            inner: Arc::clone(inner),
            lkey,
        };
        Ok(Memory::new(pages, Box::new(registration)))
    }

    fn try_dma_buf(&self, dma_buf: &DmaBuf<'_>) -> Result<()> {
        self.inner.map(dma_buf).map(drop)
    }

    fn queue_pair(&self, _depth: u16) -> Result<Arc<dyn QueuePair>> {
        let mut state = self.inner.network.state();
        let most = self.inner.most_queue_pairs.load(Ordering::SeqCst);
        if state.queue_pairs_of(self.inner.number).count() >= most {
            return Err(Error::Device {
                doing: "create a queue pair",
                cause: "the device has none left".to_owned(),
            });
        }
        Ok(queue_pair::LoopbackQueuePair::create(&self.inner, &mut state))
    }

    fn usage(&self) -> Usage {
        let state = self.inner.network.state();
        Usage {
            queue_pairs: state.queue_pairs_of(self.inner.number).count(),
            regions: state.regions_of(self.inner.number).count(),
            registered_bytes: state.registered(self.inner.number),
        }
    }
}

impl fmt::Debug for LoopbackDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackDevice")
            .field("name", &self.inner.info.name)
            .finish_non_exhaustive()
    }
}

struct Registered {
    inner: Arc<Inner>,
    lkey: u32,
}

impl Registration for Registered {
    fn release(&mut self) -> bool {
        self.inner.network.state().remove_region(self.lkey);
        true
    }

    fn lkey(&self) -> u32 {
        self.lkey
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The region of memory that is registered with this device.
fn region_of(state: &State, inner: &Inner, memory: &Memory) -> Option<Region> {
    let registered = memory.registration().as_any().downcast_ref::<Registered>()?;
    state
        .region(registered.lkey)
        .filter(|region| region.device == inner.number)
}

#[cfg(test)]
mod tests;
