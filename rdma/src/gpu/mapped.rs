//! Lent files as pages that a GPU reads by DMA straight from the page cache: no processor copies a byte.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{fs::File, io, ops::Deref, ptr, ptr::NonNull};

/// A part of a file that nobody changes, mapped for reading. Its pages are brought into memory before this returns.
pub(crate) struct Mapped {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and is only read.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Whole pages that hold `length` bytes from `offset` on, and where the bytes begin in them.
    ///
    /// # Errors
    /// When the file cannot be mapped.
    pub fn new(file: &File, offset: u64, length: usize) -> io::Result<(Self, usize)> {
        let page = rustix::param::page_size() as u64;
        let skip = offset % page;
        let length = (length + skip as usize).next_multiple_of(page as usize);
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ,
                flags,
                file,
                offset - skip,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok((Self { start, length }, skip as usize))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`. What a storage node lends is never changed and never made shorter; who reads it
        // has pinned it, so that every page is there.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it any more.
        let _unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn any_part_of_a_file_is_mapped() {
        let mut file =
            File::from(rustix::fs::memfd_create("mapped", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let bytes: Vec<u8> = (0..20_000_u32).map(|number| (number % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        for (offset, length) in [(0, 20_000), (1, 10), (4096, 4096), (4095, 2), (12_345, 7_655)] {
            let (mapped, skip) = Mapped::new(&file, offset, length).unwrap();
            let from = offset as usize;
            assert_eq!(
                mapped[skip..skip + length],
                bytes[from..from + length],
                "{offset} {length}"
            );
        }
    }
}
