//! A fake GPU, for tests only: its memory is a memory file, which the [loopback fabric](crate::fabric::loopback) can reach as a dma-buf.
//!
//! It checks bounds, and gives addresses that are none of this process, as a GPU's are none. It proves nothing about drivers.
#![allow(unsafe_code)]

use super::{Allocation, Driver, Error, Gpu, GpuInfo, Result};
use rustix::fs::MemfdFlags;
use std::{
    any::Any,
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// A GPU that is none.
pub struct FakeGpu {
    info: GpuInfo,
    counts: Arc<Counts>,
}

/// What was asked of a fake GPU.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes copied to it.
    pub copied_in: AtomicU64,
    /// Bytes copied from it.
    pub copied_out: AtomicU64,
    /// How often what NICs wrote was made visible.
    pub flushes: AtomicUsize,
    /// Pieces of its memory that exist.
    pub allocations: AtomicUsize,
    /// Pieces of pinned memory that exist.
    pub pins: AtomicUsize,
    /// Bytes that it computed checksums of.
    pub summed: AtomicU64,
}

impl FakeGpu {
    /// One that can do all that GPUs can, or one that can do the least.
    pub fn create(able: bool) -> (Gpu, Arc<Counts>) {
        let counts = Arc::<Counts>::default();
        let driver = Self {
            info: GpuInfo {
                name: "fake".to_owned(),
                pci_address: None,
                numa_node: None,
                exports: able,
                reads_files: able,
                sums: able,
            },
            counts: Arc::clone(&counts),
        };
        (Gpu::new(Arc::new(driver)), counts)
    }
}

impl Driver for FakeGpu {
    fn info(&self) -> &GpuInfo {
        &self.info
    }

    fn allocate(&self, length: usize) -> Result<Arc<dyn Allocation>> {
        static NEXT: AtomicU64 = AtomicU64::new(0x70_0000_0000_0000);
        let file = rustix::fs::memfd_create("fake-gpu", MemfdFlags::CLOEXEC)
            .map_err(|error| failed("allocate memory", &error.into()))?;
        let file = File::from(file);
        file.set_len(length as u64)
            .map_err(|error| failed("allocate memory", &error))?;
        self.counts.allocations.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(Piece {
            file,
            address: NEXT.fetch_add(1 << 40, Ordering::SeqCst),
            length,
            sums: self.info.sums,
            counts: Arc::clone(&self.counts),
        }))
    }

    unsafe fn pin(&self, _pages: &[u8], _read_only: bool) -> Result<Box<dyn Any + Send + Sync>> {
        self.counts.pins.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Pin(Arc::clone(&self.counts))))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Pin(Arc<Counts>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Piece {
    file: File,
    address: u64,
    length: usize,
    sums: bool,
    counts: Arc<Counts>,
}

impl Piece {
    fn check(&self, at: usize, length: usize) -> Result<()> {
        let inside = at.checked_add(length).is_some_and(|end| end <= self.length);
        inside.then_some(()).ok_or_else(|| Error::Driver {
            doing: "copy",
            cause: format!("{length} bytes at {at} lie outside of {} bytes", self.length),
        })
    }
}

impl Allocation for Piece {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.length
    }

    fn export(&self) -> Result<(OwnedFd, u64)> {
        let file = self
            .file
            .try_clone()
            .map_err(|error| failed("export memory", &error))?;
        Ok((file.into(), 0))
    }

    fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        self.check(at, from.len())?;
        self.counts
            .copied_in
            .fetch_add(from.len() as u64, Ordering::SeqCst);
        self.file
            .write_all_at(from, at as u64)
            .map_err(|error| failed("copy", &error))
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        self.check(at, into.len())?;
        self.counts
            .copied_out
            .fetch_add(into.len() as u64, Ordering::SeqCst);
        self.file
            .read_exact_at(into, at as u64)
            .map_err(|error| failed("copy", &error))
    }

    fn checksum(&self, at: usize, length: usize) -> Result<Option<u64>> {
        if !self.sums {
            return Ok(None);
        }
        self.counts.summed.fetch_add(length as u64, Ordering::SeqCst);
        let mut bytes = vec![0; length];
        self.check(at, length)?;
        self.file
            .read_exact_at(&mut bytes, at as u64)
            .map_err(|error| failed("compute a checksum", &error))?;
        Ok(Some(crc_fast::checksum(
            crc_fast::CrcAlgorithm::Crc64Nvme,
            &bytes,
        )))
    }

    fn flush(&self) -> Result<()> {
        self.counts.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.counts.allocations.fetch_sub(1, Ordering::SeqCst);
    }
}

fn failed(doing: &'static str, error: &std::io::Error) -> Error {
    Error::Driver {
        doing,
        cause: error.to_string(),
    }
}
