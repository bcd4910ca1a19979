//! How this fabric reaches a dma-buf: by mapping it, which a memory file can be and a real GPU's memory mostly not.

use crate::fabric::{DmaBuf, Error, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{ffi::c_void, ptr::NonNull};

/// A mapped part of a file.
pub(super) struct Mapping {
    start: NonNull<c_void>,
    length: usize,
    /// Where the part begins in the pages that hold it.
    skip: usize,
}

// SAFETY: it is used as numbers, and given back once.
unsafe impl Send for Mapping {}

impl Mapping {
    pub fn new(dma_buf: &DmaBuf<'_>) -> Result<Self> {
        let refused = |cause: String| Error::Device {
            doing: "register memory behind another device",
            cause,
        };
        let page = rustix::param::page_size() as u64;
        let skip = dma_buf.offset % page;
        let sizes = (usize::try_from(skip), usize::try_from(dma_buf.length + skip));
        let (Ok(skip), Ok(length)) = sizes else {
            return Err(refused("it is too large".to_owned()));
        };
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                rights,
                MapFlags::SHARED,
                dma_buf.fd,
                dma_buf.offset - skip as u64,
            )
        };
        let start = start.map_err(|error| refused(error.to_string()))?;
        let start = NonNull::new(start).ok_or_else(|| refused("it is mapped nowhere".to_owned()))?;
        Ok(Self { start, length, skip })
    }

    /// Of the part's first byte, in this process.
    pub fn address(&self) -> usize {
        self.start.as_ptr().expose_provenance() + self.skip
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever looked up its address held the lock under which it is dropped.
        let _unmapped = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}
