//! Pages that a GPU copies from and to by DMA, with or without a NIC beside.
#![allow(unsafe_code)]

use super::{Driver, Gpu, Mapped};
use crate::fabric::{
    Device, DeviceInfo, DmaBuf, Look, Memory, Pages, Purpose, QueuePair, Registration, Result, Source, Usage,
};
use std::{any::Any, fmt, ops::Deref, sync::Arc};

/// Locks the pages of memory in place, for as long as it exists. Where the driver does not, copies only take longer.
fn pinned(driver: &dyn Driver, memory: Memory) -> Memory {
    // SAFETY: `Memory` drops the pin before its pages.
    match unsafe { driver.pin(&memory, false) } {
        Ok(pin) => memory.with(pin),
        Err(error) => {
            tracing::debug!(%error, "pages are not pinned, copies to the GPU take longer");
            memory
        }
    }
}

/// A mapped file whose pages are locked.
pub(crate) struct Locked {
    // Dropped first.
    _pin: Box<dyn Any + Send + Sync>,
    mapped: Mapped,
}

impl Deref for Locked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.mapped
    }
}

pub(super) fn lock(driver: &dyn Driver, mapped: Mapped) -> super::Result<Locked> {
    // SAFETY: fields are dropped in their order, and a mapping does not move with its value.
    let pin = unsafe { driver.pin(&mapped, true) }?;
    Ok(Locked { _pin: pin, mapped })
}

/// Pinned memory that no NIC knows.
pub(super) fn memory(driver: &dyn Driver, pages: Pages) -> Memory {
    pinned(driver, Memory::new(pages, Box::new(Unregistered)))
}

struct Unregistered;

impl Registration for Unregistered {
    fn release(&mut self) -> bool {
        true
    }

    fn lkey(&self) -> u32 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Devices whose memory is pinned for a GPU too, so that what cannot go straight to the GPU is copied once and at full rate.
pub struct Pinning<S> {
    source: S,
    gpu: Gpu,
}

impl<S: Source> Pinning<S> {
    /// The devices of `source`, with memory for `gpu`. What one GPU's driver pins is pinned for its others.
    pub fn new(source: S, gpu: Gpu) -> Self {
        Self { source, gpu }
    }
}

impl<S: Source> Source for Pinning<S> {
    fn look(&self, known: &[DeviceInfo]) -> Look {
        let mut look = self.source.look(known);
        for device in &mut look.opened {
            *device = Arc::new(PinningDevice {
                device: Arc::clone(device),
                gpu: self.gpu.clone(),
            });
        }
        look
    }
}

struct PinningDevice {
    device: Arc<dyn Device>,
    gpu: Gpu,
}

impl Device for PinningDevice {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn is_active(&self) -> bool {
        self.device.is_active()
    }

    fn has_failed(&self) -> bool {
        self.device.has_failed()
    }

    fn owns(&self, memory: &Memory) -> bool {
        self.device.owns(memory)
    }

    fn register(&self, pages: Pages, purpose: Purpose) -> Result<Memory> {
        Ok(pinned(
            &**self.gpu.driver(),
            self.device.register(pages, purpose)?,
        ))
    }

    fn try_dma_buf(&self, dma_buf: &DmaBuf<'_>) -> Result<()> {
        self.device.try_dma_buf(dma_buf)
    }

    fn queue_pair(&self, depth: u16) -> Result<Arc<dyn QueuePair>> {
        self.device.queue_pair(depth)
    }

    fn usage(&self) -> Usage {
        self.device.usage()
    }
}

impl fmt::Debug for PinningDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)
    }
}
