//! Registered memory, and the pages under it.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{
    any::Any,
    fmt, io,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    sync::Arc,
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
///
/// It can be taken apart, so that a device has one part while this end reads another; the pages and their registration end with
/// the last part.
pub struct Memory {
    region: Arc<Region>,
    /// The bytes of the pages that are this value's alone.
    start: usize,
    length: usize,
}

/// Pages with a device's hold on them.
struct Region {
    registration: Box<dyn Registration>,
    /// What else must end before the pages do.
    hold: Option<Box<dyn Any + Send + Sync>>,
    /// The bytes are those of the [`Memory`]s that refer to it: only their addresses are asked for here.
    pages: ManuallyDrop<Pages>,
}

impl Memory {
    /// For implementations of [`super::Device::register`].
    pub fn new(pages: Pages, registration: Box<dyn Registration>) -> Self {
        Self {
            start: 0,
            length: pages.length,
            region: Arc::new(Region {
                registration,
                hold: None,
                pages: ManuallyDrop::new(pages),
            }),
        }
    }

    /// With something that depends on the pages, and is dropped before them. For memory that was never taken apart.
    pub(crate) fn with(mut self, hold: Box<dyn Any + Send + Sync>) -> Self {
        match Arc::get_mut(&mut self.region) {
            Some(region) => region.hold = Some(hold),
            None => unreachable!("nobody else has a part of memory that was just registered"),
        }
        self
    }

    /// The device's hold on it.
    pub fn registration(&self) -> &dyn Registration {
        &*self.region.registration
    }

    /// Address of the first byte, as the device knows it.
    pub fn address(&self) -> u64 {
        self.region.pages.address() + self.start as u64
    }

    /// Takes the bytes from `at` on off it.
    ///
    /// # Panics
    /// When there are fewer bytes than `at`.
    #[must_use = "the bytes are lost to the whole"]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.length, "{at} of {} bytes cannot be kept", self.length);
        let rest = Self {
            region: Arc::clone(&self.region),
            start: self.start + at,
            length: self.length - at,
        };
        self.length = at;
        rest
    }

    /// Puts `next` behind it again.
    ///
    /// # Errors
    /// `next`, when its bytes do not follow in the same pages.
    pub fn unsplit(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.region, &next.region) || self.start + self.length != next.start {
            return Err(next);
        }
        self.length += next.length;
        Ok(())
    }

    fn first(&self) -> *mut u8 {
        // SAFETY: `start` is at most the length of the pages.
        unsafe { self.region.pages.start.as_ptr().add(self.start) }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised bytes inside of the pages, which live as long as `self.region`; no other `Memory` has them.
        unsafe { std::slice::from_raw_parts(self.first(), self.length) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.length) }
    }
}

impl Drop for Region {
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
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Held(Arc<AtomicBool>);

    impl Registration for Held {
        fn release(&mut self) -> bool {
            self.0.store(false, Ordering::SeqCst);
            true
        }
        fn lkey(&self) -> u32 {
            0
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn parts_are_apart_and_come_together_again() {
        let held = Arc::new(AtomicBool::new(true));
        let mut memory = Memory::new(Pages::new(8192).unwrap(), Box::new(Held(Arc::clone(&held))));
        let address = memory.address();
        let mut middle = memory.split_off(100);
        let mut last = middle.split_off(50);
        for (part, start, length) in [
            (&mut memory, 0, 100),
            (&mut middle, 100, 50),
            (&mut last, 150, 8042),
        ] {
            assert_eq!((part.address() - address, part.len()), (start, length));
            part.fill(u8::try_from(start).unwrap());
        }
        let last = memory.unsplit(last).unwrap_err();
        assert_eq!(last.len(), 8042, "what does not follow comes back");
        let other = Memory::new(Pages::new(1).unwrap(), Box::new(Held(Arc::default())));
        assert!(memory.unsplit(other).is_err());
        memory.unsplit(middle).unwrap();
        memory.unsplit(last).unwrap();
        let none = memory.split_off(8192);
        assert!(none.is_empty() && memory.len() == 8192);
        assert_eq!(
            (memory[99], memory[100], memory[149], memory[150]),
            (0, 100, 100, 150)
        );
        drop(memory);
        assert!(
            held.load(Ordering::SeqCst),
            "the pages are there until the last part goes"
        );
        drop(none);
        assert!(!held.load(Ordering::SeqCst));
    }
}
