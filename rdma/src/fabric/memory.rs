//! Registered memory, and the pages under it.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{
    any::Any,
    fmt, io,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
};

const HUGE_PAGE: usize = 2 << 20;

/// Anonymous pages, zeroed; huge ones where the system has some to give and the length is a multiple of 2 MiB.
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages belong to this value alone, as those of a `Box<[u8]>` do.
unsafe impl Send for Pages {}
// SAFETY: shared access only reads.
unsafe impl Sync for Pages {}

impl Pages {
    /// At least `length` bytes (and one page).
    ///
    /// # Errors
    /// When the system has no memory to give.
    pub fn new(length: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let length = length.max(1).div_ceil(page) * page;
        let map = |flags| {
            // SAFETY: a new private anonymous mapping touches nothing that exists.
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags) }
        };
        let huge = length
            .is_multiple_of(HUGE_PAGE)
            .then(|| map(MapFlags::PRIVATE | MapFlags::HUGETLB));
        let start = match huge {
            Some(Ok(start)) => start,
            _ => map(MapFlags::PRIVATE)?,
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// Address of the first byte.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable, initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it any more.
        let _unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A device's hold on pages.
pub trait Registration: Any + Send + Sync {
    /// Takes the pages from the device; called once, at the end. `false` says that the device does not let go: then the
    /// pages stay mapped for ever, because it may still write to them.
    fn release(&mut self) -> bool;
    /// The key of this end's own operations.
    fn lkey(&self) -> u32;
    /// The implementation's own type.
    fn as_any(&self) -> &dyn Any;
}

/// Registered memory that no device touches now. Whoever has it may read and write it.
pub struct Memory {
    registration: Box<dyn Registration>,
    /// What else must end before the pages do.
    hold: Option<Box<dyn Any + Send + Sync>>,
    pages: ManuallyDrop<Pages>,
}

impl Memory {
    /// For implementations of [`super::Device::register`].
    pub fn new(pages: Pages, registration: Box<dyn Registration>) -> Self {
        Self {
            registration,
            hold: None,
            pages: ManuallyDrop::new(pages),
        }
    }

    /// With something that depends on the pages, and is dropped before them.
    pub(crate) fn with(mut self, hold: Box<dyn Any + Send + Sync>) -> Self {
        self.hold = Some(hold);
        self
    }

    /// The device's hold on it.
    pub fn registration(&self) -> &dyn Registration {
        &*self.registration
    }

    /// Address of the first byte, as the device knows it.
    pub fn address(&self) -> u64 {
        self.pages.address()
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.hold = None;
        if self.registration.release() {
            // SAFETY: dropped once, here, and used no more.
            unsafe { ManuallyDrop::drop(&mut self.pages) };
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("length", &self.pages.length)
            .finish_non_exhaustive()
    }
}
