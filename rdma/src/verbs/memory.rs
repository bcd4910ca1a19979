//! Registrations of memory.

use super::{
    context::{Context, Handle},
    sys,
};
use crate::fabric::{DmaBuf, Error, Memory, Pages, Purpose, Registration, Result};
use rustix::{io::Errno, process::Resource};
use std::{any::Any, ffi::c_int, fs, io, os::fd::AsRawFd, sync::Arc};

/// A memory region (`ibv_mr`). The device may reach it until it is released.
pub(super) struct Region {
    context: Arc<Context>,
    pub(super) mr: Handle<sys::ibv_mr>,
    bytes: u64,
}

impl Region {
    /// Registers `bytes` from `address`.
    ///
    /// # Safety
    /// The bytes are mapped, and stay so until the region is released. With rights for a device to write them, nothing
    /// else reads or writes them while it may.
    unsafe fn new(context: &Arc<Context>, address: u64, bytes: u64, access: c_int) -> Result<Self> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let start = std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or_default());
        // SAFETY: the protection domain lives as long as `context`; the memory by the caller.
        let mr = unsafe { (context.verbs.ibv_reg_mr)(context.pd.get(), start, length, access) };
        let Some(mr) = Handle::new(mr) else {
            return Err(refused(bytes, io::Error::last_os_error()));
        };
        context.registered(1, bytes);
        Ok(Self {
            context: context.clone(),
            mr,
            bytes,
        })
    }

    /// Registers pages for good.
    pub(super) fn of_pages(context: &Arc<Context>, pages: Pages, purpose: Purpose) -> Result<Memory> {
        let access = match purpose {
            Purpose::Windows if context.memory_windows && !context.loose_windows => sys::IBV_ACCESS_MW_BIND,
            Purpose::Staging | Purpose::Windows => 0,
        };
        // SAFETY: the pages are mapped until `Memory` drops them, after the region; they are written by this end's own
        // operations alone, which own the `Memory` meanwhile.
        let region = unsafe {
            Self::new(
                context,
                pages.address(),
                pages.len() as u64,
                access | sys::IBV_ACCESS_LOCAL_WRITE,
            )
        }?;
        Ok(Memory::new(pages, Box::new(region)))
    }

    /// Registers a part of `memory` a second time, for one exposure.
    ///
    /// # Safety
    /// `memory` is neither used nor dropped before the region is released.
    pub(super) unsafe fn of_part(
        context: &Arc<Context>,
        memory: &Memory,
        start: usize,
        bytes: u32,
        access: c_int,
    ) -> Result<Self> {
        let address = memory.address() + start as u64;
        // SAFETY: by the caller.
        unsafe { Self::new(context, address, u64::from(bytes), access) }
    }

    /// Registers memory behind another device.
    ///
    /// # Safety
    /// With rights for a peer to write it, nobody relies on what is in it before the region is released. The exporter keeps
    /// the memory of an open dma-buf, and the region keeps that open.
    pub(super) unsafe fn of_dma_buf(
        context: &Arc<Context>,
        dma_buf: &DmaBuf<'_>,
        access: c_int,
    ) -> Result<Self> {
        let doing = "register memory behind another device";
        let register = context.verbs.ibv_reg_dmabuf_mr.ok_or_else(|| Error::Device {
            doing,
            cause: "libibverbs is too old; install rdma-core 34 or newer".to_owned(),
        })?;
        let length = usize::try_from(dma_buf.length).unwrap_or(usize::MAX);
        // SAFETY: the protection domain lives as long as `context`, the descriptor is open.
        let mr = unsafe {
            register(
                context.pd.get(),
                dma_buf.offset,
                length,
                dma_buf.address,
                dma_buf.fd.as_raw_fd(),
                access,
            )
        };
        let Some(mr) = Handle::new(mr) else {
            let error = io::Error::last_os_error();
            let cause = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    format!("the driver of {} takes no dma-buf", context.info.name)
                }
                _ => error.to_string(),
            };
            return Err(Error::Device { doing, cause });
        };
        context.registered(1, dma_buf.length);
        Ok(Self {
            context: context.clone(),
            mr,
            bytes: dma_buf.length,
        })
    }

    /// The key for peers.
    pub(super) fn rkey(&self) -> u32 {
        // SAFETY: the region exists.
        unsafe { (*self.mr.get()).rkey }
    }

    /// The region under `memory`, if it is one of this device.
    pub(super) fn of<'m>(context: &Arc<Context>, memory: &'m Memory) -> Result<&'m Self> {
        memory
            .registration()
            .as_any()
            .downcast_ref::<Self>()
            .filter(|region| Arc::ptr_eq(&region.context, context))
            .ok_or_else(|| Error::Device {
                doing: "use memory",
                cause: format!("it is not registered with {}", context.info.name),
            })
    }
}

impl Registration for Region {
    fn release(&mut self) -> bool {
        // SAFETY: called once; whoever has an operation under way on it owns it.
        let outcome = unsafe { (self.context.verbs.ibv_dereg_mr)(self.mr.get()) };
        if outcome == 0 {
            self.context.deregistered(1, self.bytes);
        } else {
            let error = io::Error::from_raw_os_error(outcome);
            tracing::error!(bytes = self.bytes, %error, "an RDMA device does not let go of memory");
        }
        outcome == 0
    }

    fn lkey(&self) -> u32 {
        // SAFETY: the region exists.
        unsafe { (*self.mr.get()).lkey }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Why memory could not be registered.
fn refused(bytes: u64, error: io::Error) -> Error {
    let out_of_memory = error.raw_os_error() == Some(Errno::NOMEM.raw_os_error());
    if out_of_memory && locked_memory_is_limited() {
        return Error::Memlock { bytes };
    }
    Error::Device {
        doing: "register memory",
        cause: error.to_string(),
    }
}

/// Whether the process may lock only so much memory: it has a limit, and not the capability that lifts it.
pub(super) fn locked_memory_is_limited() -> bool {
    locked_memory_limit().is_some() && !may_lock_any()
}

/// `RLIMIT_MEMLOCK` in bytes, if there is one.
pub(super) fn locked_memory_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Memlock).current
}

/// Whether the capability `IPC_LOCK` is effective.
pub(super) fn may_lock_any() -> bool {
    const IPC_LOCK: u32 = 14;
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(effective.trim(), 16).ok()
        })
        .is_some_and(|capabilities| capabilities >> IPC_LOCK & 1 == 1)
}
