//! Registered memory that is used again: registering pins pages and costs more than copying them.

use super::{Device, Error, Memory, Pages, Purpose, Result};
use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bounded pool of registered chunks of one size.
///
/// ```text
///   take ──▶ Pooled ── into_memory ──▶ (Memory ──▶ an operation, Slot)
///              ▲                                        │         │ dropped: the place is free, and its memory is
///              └──────────── Slot::put_back ◀───────────┘         ▼ replaced by new memory when it is needed
/// ```
/// Chunks are registered when they are first needed and stay registered. Their bytes are whatever their last user left.
pub struct Pool {
    register: Box<Register>,
    chunk: usize,
    places: usize,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Memory>>,
}

type Register = dyn Fn(Pages) -> Result<Memory> + Send + Sync;

/// What a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUsage {
    /// Chunks that are taken.
    pub used: usize,
    /// Chunks that can be taken without waiting.
    pub free: usize,
    /// Bytes of the chunks that are taken or kept registered for the next user.
    pub bytes: u64,
}

impl Pool {
    /// Chunks of `chunk` bytes, as many as fit into `limit_bytes`, and at least one. Registers nothing yet.
    pub fn new(device: Arc<dyn Device>, purpose: Purpose, chunk: usize, limit_bytes: u64) -> Arc<Self> {
        Self::with(move |pages| device.register(pages, purpose), chunk, limit_bytes)
    }

    /// As [`Pool::new`], with pages that `register` makes memory of.
    pub fn with(
        register: impl Fn(Pages) -> Result<Memory> + Send + Sync + 'static,
        chunk: usize,
        limit_bytes: u64,
    ) -> Arc<Self> {
        let chunk = chunk.max(1);
        let places = usize::try_from(limit_bytes / chunk as u64)
            .unwrap_or(usize::MAX)
            .clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            register: Box::new(register),
            chunk,
            places,
            free: Arc::new(Semaphore::new(places)),
            idle: Mutex::default(),
        })
    }

    /// Bytes of a chunk.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The next free chunk. Who waits longest gets it first.
    ///
    /// # Errors
    /// Those of registering.
    pub async fn take(self: &Arc<Self>) -> Result<Pooled> {
        // The semaphore is never closed.
        let place = self.free.clone().acquire_owned().await.map_err(|_| Error::Dead)?;
        let slot = self.slot(place);
        if let Some(memory) = self.idle().pop() {
            return Ok(slot.put_back(memory));
        }
        let pool = self.clone();
        // Pinning pages takes long enough to hold up the other tasks of this thread.
        let memory = tokio::task::spawn_blocking(move || pool.register())
            .await
            .map_err(|error| Error::Device {
                doing: "register memory",
                cause: error.to_string(),
            })??;
        Ok(slot.put_back(memory))
    }

    /// A chunk if one is free now. May block for as long as a registration takes.
    ///
    /// # Errors
    /// Those of registering.
    pub fn try_take(self: &Arc<Self>) -> Result<Option<Pooled>> {
        let Ok(place) = self.free.clone().try_acquire_owned() else {
            return Ok(None);
        };
        let slot = self.slot(place);
        let idle = self.idle().pop();
        let memory = match idle {
            Some(memory) => memory,
            None => self.register()?,
        };
        Ok(Some(slot.put_back(memory)))
    }

    /// What it holds now.
    pub fn usage(&self) -> PoolUsage {
        let free = self.free.available_permits();
        let used = self.places - free;
        let registered = used + self.idle().len();
        PoolUsage {
            used,
            free,
            bytes: registered as u64 * self.chunk as u64,
        }
    }

    fn register(&self) -> Result<Memory> {
        let pages = Pages::new(self.chunk).map_err(|error| Error::Device {
            doing: "allocate memory",
            cause: error.to_string(),
        })?;
        (self.register)(pages)
    }

    fn slot(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Slot {
        Slot {
            pool: self.clone(),
            _place: place,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("chunk", &self.chunk)
            .field("places", &self.places)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// A place in a [`Pool`] whose memory is elsewhere, with an operation for instance.
#[derive(Debug)]
#[must_use = "dropping it gives its memory up"]
pub struct Slot {
    pool: Arc<Pool>,
    // Given back after everything else is done.
    _place: OwnedSemaphorePermit,
}

impl Slot {
    /// Fills the place again.
    pub fn put_back(self, memory: Memory) -> Pooled {
        Pooled {
            held: Some((memory, self)),
        }
    }
}

/// A chunk taken from a [`Pool`]; dropping it gives it back.
#[derive(Debug)]
pub struct Pooled {
    // None only while it is taken apart.
    held: Option<(Memory, Slot)>,
}

impl Pooled {
    /// The memory for an operation, and the place to put it back into.
    pub fn into_memory(mut self) -> (Memory, Slot) {
        match self.held.take() {
            Some(held) => held,
            None => unreachable!("a chunk is taken apart once, by value"),
        }
    }
}

impl Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.held {
            Some((memory, slot)) => &memory[..slot.pool.chunk.min(memory.len())],
            None => &[],
        }
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.held {
            Some((memory, slot)) => {
                let length = slot.pool.chunk.min(memory.len());
                &mut memory[..length]
            }
            None => &mut [],
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some((memory, slot)) = self.held.take() else {
            return;
        };
        // Memory from elsewhere that is too short must not reach the next user.
        if memory.len() >= slot.pool.chunk {
            slot.pool.idle().push(memory);
        } else {
            mem::drop(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{DeviceInfo, DmaBuf, Gid, QueuePair, Registration, Usage};
    use std::{
        any::Any,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    /// A device that counts, and registers at most `most` chunks at a time.
    #[derive(Debug)]
    struct Counting {
        info: DeviceInfo,
        now: Arc<AtomicUsize>,
        ever: AtomicUsize,
        most: usize,
    }

    struct Counted(Arc<AtomicUsize>);

    impl Registration for Counted {
        fn release(&mut self) -> bool {
            self.0.fetch_sub(1, Ordering::SeqCst);
            true
        }
        fn lkey(&self) -> u32 {
            0
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    impl Device for Counting {
        fn info(&self) -> &DeviceInfo {
            &self.info
        }
        fn register(&self, pages: Pages, _: Purpose) -> Result<Memory> {
            if self.now.load(Ordering::SeqCst) == self.most {
                return Err(Error::Memlock {
                    bytes: pages.len() as u64,
                });
            }
            self.now.fetch_add(1, Ordering::SeqCst);
            self.ever.fetch_add(1, Ordering::SeqCst);
            Ok(Memory::new(pages, Box::new(Counted(self.now.clone()))))
        }
        fn owns(&self, memory: &Memory) -> bool {
            memory.registration().as_any().is::<Counted>()
        }
        fn try_dma_buf(&self, _: &DmaBuf<'_>) -> Result<()> {
            Err(Error::Dead)
        }
        fn queue_pair(&self, _: u16) -> Result<Arc<dyn QueuePair>> {
            Err(Error::Dead)
        }
        fn usage(&self) -> Usage {
            Usage::default()
        }
    }

    fn pool(chunk: usize, limit: u64, most: usize) -> (Arc<Counting>, Arc<Pool>) {
        let device = Arc::new(Counting {
            info: DeviceInfo {
                name: "counting".to_owned(),
                port: 1,
                gid: Gid([0; 16]),
                mtu: 1024,
                read_depth: 1,
                netdev: None,
                numa_node: None,
                pci_address: None,
                gbits: 1.0,
            },
            now: Arc::default(),
            ever: AtomicUsize::new(0),
            most,
        });
        let pool = Pool::new(device.clone(), Purpose::Staging, chunk, limit);
        (device, pool)
    }

    #[tokio::test]
    async fn chunks_are_registered_when_needed_and_used_again() {
        let (device, pool) = pool(5000, 15_999, usize::MAX);
        assert_eq!(
            pool.usage(),
            PoolUsage {
                used: 0,
                free: 3,
                bytes: 0
            }
        );
        let mut chunk = pool.take().await.unwrap();
        assert_eq!(chunk.len(), 5000);
        chunk[4999] = 7;
        assert_eq!(
            pool.usage(),
            PoolUsage {
                used: 1,
                free: 2,
                bytes: 5000
            }
        );
        drop(chunk);
        assert_eq!(
            pool.usage(),
            PoolUsage {
                used: 0,
                free: 3,
                bytes: 5000
            }
        );
        for _ in 0..10 {
            assert_eq!(pool.take().await.unwrap()[4999], 7);
        }
        assert_eq!(device.ever.load(Ordering::SeqCst), 1);
        drop(pool);
        assert_eq!(
            device.now.load(Ordering::SeqCst),
            0,
            "a dropped pool keeps nothing"
        );
    }

    #[tokio::test]
    async fn who_finds_no_free_chunk_waits_for_one() {
        let (_, pool) = pool(4096, 8192, usize::MAX);
        let (first, second) = (pool.take().await.unwrap(), pool.take().await.unwrap());
        assert!(pool.try_take().unwrap().is_none());
        let mut waiting = Box::pin(pool.take());
        assert!(
            tokio::time::timeout(Duration::from_millis(20), &mut waiting)
                .await
                .is_err()
        );
        drop(first);
        waiting.await.unwrap();
        drop(second);
        assert_eq!(pool.usage().free, 2);
    }

    #[tokio::test]
    async fn memory_that_is_lost_is_replaced() {
        let (device, pool) = pool(4096, 4096, usize::MAX);
        let (memory, slot) = pool.take().await.unwrap().into_memory();
        assert!(pool.try_take().unwrap().is_none(), "its place is taken");
        drop(slot);
        let again = pool.take().await.unwrap();
        assert_eq!(device.now.load(Ordering::SeqCst), 2);
        drop(memory);
        let (memory, slot) = again.into_memory();
        assert_eq!(slot.put_back(memory).len(), 4096);
        assert_eq!(device.now.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_registration_that_fails_costs_no_place() {
        let (_, pool) = pool(4096, 1 << 20, 1);
        let held = pool.take().await.unwrap();
        for _ in 0..1000 {
            assert!(matches!(pool.try_take(), Err(Error::Memlock { bytes: 4096 })));
        }
        assert!(matches!(pool.take().await, Err(Error::Memlock { bytes: 4096 })));
        drop(held);
        assert_eq!(
            pool.usage(),
            PoolUsage {
                used: 0,
                free: 256,
                bytes: 4096
            }
        );
    }
}
