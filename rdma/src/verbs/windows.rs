//! What a peer may reach: type-2 memory windows, or registrations for one exposure where the device has none, or both where
//! neither alone is enough.
//!
//! | | belongs to one queue pair | has its own extent and direction | closed by |
//! |---|---|---|---|
//! | memory window | yes | yes | a work request |
//! | registration | no: all queue pairs of the device | yes | a system call that unpins its pages |
//! | memory window over a registration (soft-RoCE) | yes, by the window | yes, by the registration | both |

use super::{
    context::{Context, Handle, last_error},
    memory::Region,
    sys,
};
use crate::fabric::{Direction, DmaBuf, Memory, Registration, Result};
use std::{collections::HashMap, ffi::c_int, sync::Arc};

/// The right that a peer needs.
pub(super) fn right(direction: Direction) -> c_int {
    match direction {
        Direction::Written => sys::IBV_ACCESS_REMOTE_WRITE,
        Direction::Read => sys::IBV_ACCESS_REMOTE_READ,
    }
}

/// A memory window (InfiniBand Architecture 10.6.7.2), bound or not. It must be closed, once its queue pair is destroyed.
pub(super) struct MemoryWindow {
    mw: Handle<sys::ibv_mw>,
}

impl MemoryWindow {
    pub(super) fn new(context: &Context) -> Result<Self> {
        // SAFETY: the protection domain exists.
        let mw = unsafe { sys::alloc_mw(context.pd.get(), sys::IBV_MW_TYPE_2) };
        let mw = Handle::new(mw).ok_or_else(|| last_error("make a memory window"))?;
        Ok(Self { mw })
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_mw {
        self.mw.get()
    }

    /// A key for the next binding: the same window, and 8 bits that differ from the last ones and cannot be foreseen.
    pub(super) fn next_key(&self) -> u32 {
        // SAFETY: the window exists.
        let last = unsafe { (*self.mw.get()).rkey };
        let step = rand::random_range(1..=255_u8);
        last & !0xff | u32::from((last as u8).wrapping_add(step))
    }

    /// Remembers the key of a binding that succeeded; drivers name the window by it in the next one.
    pub(super) fn bound_as(&mut self, key: u32) {
        // SAFETY: the window exists, and this is the only reference to it.
        unsafe { (*self.mw.get()).rkey = key };
    }

    /// Gives it back, bound or not: then nothing can be reached through it.
    fn close(self) {
        // SAFETY: it is given back once, and its queue pair performs nothing any more.
        let outcome = unsafe { sys::dealloc_mw(self.mw.get()) };
        if outcome != 0 {
            tracing::warn!(outcome, "a memory window cannot be given back");
        }
    }
}

/// What opens a window.
pub(super) enum Opening {
    /// With the region under it, if that is for this window alone.
    MemoryWindow(MemoryWindow, Option<Region>),
    Region(Region),
}

/// The windows of a queue pair.
#[derive(Default)]
pub(super) struct Windows {
    free: Vec<MemoryWindow>,
    open: HashMap<u32, Opening>,
}

impl Windows {
    pub(super) fn take_free(&mut self) -> Option<MemoryWindow> {
        self.free.pop()
    }

    pub(super) fn put_free(&mut self, window: MemoryWindow) {
        self.free.push(window);
    }

    pub(super) fn opened(&mut self, key: u32, opening: Opening) {
        self.open.insert(key, opening);
    }

    pub(super) fn is_memory_window(&self, key: u32) -> bool {
        matches!(self.open.get(&key), Some(Opening::MemoryWindow(..)))
    }

    pub(super) fn take_open(&mut self, key: u32) -> Option<Opening> {
        self.open.remove(&key)
    }

    /// Closes all of it, once nothing is under way. False when the device keeps hold of memory.
    pub(super) fn close(self) -> bool {
        let mut released = true;
        for window in self.free {
            window.close();
        }
        for opening in self.open.into_values() {
            let region = match opening {
                Opening::MemoryWindow(window, region) => {
                    window.close();
                    region
                }
                Opening::Region(region) => Some(region),
            };
            released &= region.is_none_or(|mut region| region.release());
        }
        released
    }
}

/// Registers what is exposed, for this exposure: for the peer, or for a memory window over it.
///
/// # Safety
/// As [`Region::of_part`].
pub(super) unsafe fn register(
    context: &Arc<Context>,
    memory: &Memory,
    start: usize,
    bytes: u32,
    direction: Direction,
) -> Result<Region> {
    let remote = if context.memory_windows {
        sys::IBV_ACCESS_MW_BIND
    } else {
        right(direction)
    };
    // SAFETY: by the caller.
    unsafe { Region::of_part(context, memory, start, bytes, remote | local(direction)) }
}

/// A peer's writes need the local right too (InfiniBand Architecture 10.6.3.1).
fn local(direction: Direction) -> c_int {
    match direction {
        Direction::Written => sys::IBV_ACCESS_LOCAL_WRITE,
        Direction::Read => 0,
    }
}

/// Registers a dma-buf for one exposure. The kernel binds no memory window over one (`ib_uverbs_reg_dmabuf_mr`).
///
/// # Safety
/// As [`Region::of_dma_buf`].
pub(super) unsafe fn register_dma_buf(
    context: &Arc<Context>,
    dma_buf: &DmaBuf<'_>,
    direction: Direction,
) -> Result<Region> {
    // SAFETY: by the caller.
    unsafe { Region::of_dma_buf(context, dma_buf, right(direction) | local(direction)) }
}
