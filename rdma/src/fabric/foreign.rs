//! Memory behind another device, a GPU for instance, that a NIC reaches by itself.
#![allow(unsafe_code)]

use super::{Direction, Error, Exposed, QueuePair, Result};
use std::{ops::Range, os::fd::BorrowedFd, sync::Arc};

/// A part of a dma-buf (Linux, `Documentation/driver-api/dma-buf.rst`), which is how drivers share memory.
#[derive(Debug, Clone, Copy)]
pub struct DmaBuf<'m> {
    /// What the owner's driver exported.
    pub fd: BorrowedFd<'m>,
    /// Where the part begins in it.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The address that tokens have for its first byte: that of the owner, as a GPU's pointer.
    pub address: u64,
}

impl DmaBuf<'_> {
    /// A part of the part; `None` where that lies outside, or is empty, or 4 GiB and more.
    pub fn part(&self, bytes: &Range<usize>) -> Option<(Self, u32)> {
        let size = u32::try_from(bytes.end.checked_sub(bytes.start)?).ok()?;
        let fits = size > 0 && bytes.end as u64 <= self.length;
        let part = Self {
            offset: self.offset + bytes.start as u64,
            length: u64::from(size),
            address: self.address + bytes.start as u64,
            ..*self
        };
        fits.then_some((part, size))
    }
}

/// Memory that no pointer of this process reaches, so that nothing but its owner's driver and a NIC touch it. It stays allocated as
/// long as the value exists.
pub trait Foreign: Send + 'static {
    /// All of it; `None` where its driver exports nothing.
    fn dma_buf(&self) -> Option<DmaBuf<'_>>;
}

impl<M: Foreign> Exposed<M> {
    /// Opens `memory[bytes]` to the peer of `queue_pair`. Blocks for as long as a registration takes.
    ///
    /// # Errors
    /// As [`QueuePair::open_dma_buf`]; the memory comes back.
    pub fn foreign(
        queue_pair: Arc<dyn QueuePair>,
        memory: M,
        bytes: &Range<usize>,
        direction: Direction,
    ) -> std::result::Result<Self, (M, Error)> {
        let opened = open(&*queue_pair, &memory, bytes, direction);
        match opened {
            Ok(window) => Ok(Self::new(queue_pair, memory, window)),
            Err(error) => Err((memory, error)),
        }
    }
}

fn open(
    queue_pair: &dyn QueuePair,
    memory: &impl Foreign,
    bytes: &Range<usize>,
    direction: Direction,
) -> Result<super::Window> {
    let refused = |cause: String| Error::Device {
        doing: "open a window",
        cause,
    };
    let whole = memory
        .dma_buf()
        .ok_or_else(|| refused("its driver does not export the memory".to_owned()))?;
    let (part, _) = whole.part(bytes).ok_or_else(|| {
        refused(format!(
            "{bytes:?} is not within its {} bytes, is empty, or 4 GiB and more",
            whole.length
        ))
    })?;
    // SAFETY: `Exposed`, which this is for, owns the memory until the window is closed or the queue pair dead.
    unsafe { queue_pair.open_dma_buf(&part, direction) }
}
