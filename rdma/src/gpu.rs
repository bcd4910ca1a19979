//! GPU memory as the place where objects come from and go to.
//!
//! ```text
//!   storage node ══ RDMA ══▶ NIC ── dma-buf ──▶ GPU memory                            straight: where both drivers can
//!   storage node ── RDMA, lent file, HTTP ──▶ pinned chunks ── DMA ──▶ GPU memory      staged: everywhere else
//! ```
//! [`cuda`] is the driver of NVIDIA's GPUs, loaded at run time: what is built here runs without one, and says so. A GPU's memory is
//! no memory of this process, so nothing here gives a slice of it; it is copied, or a NIC reaches it.

mod crc;
pub mod cuda;
#[cfg(any(test, feature = "loopback"))]
pub mod fake;
mod mapped;
mod pinned;

pub(crate) use mapped::Mapped;
pub(crate) use pinned::Locked;
pub use pinned::Pinning;

use crate::fabric::{DmaBuf, Error as FabricError, Foreign, Memory, Pages, Pool};
use std::{
    any::Any,
    collections::HashMap,
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes of a staging chunk. A copy of this size moves at the full rate of a PCIe link.
pub(crate) const CHUNK: usize = 4 << 20;
/// Staging chunks of a GPU, pinned as they are first needed.
const STAGING: u64 = 128 << 20;

/// Why GPU memory could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no driver.
    #[error(
        "there is no GPU to use: libcuda.so.1 is not installed; install NVIDIA's driver, or, in a container, ask for a GPU"
    )]
    NoLibrary,
    /// There is no such GPU.
    #[error(
        "there is no GPU {ordinal}: this process sees {count} (CUDA_VISIBLE_DEVICES, or the container's resources, limit it)"
    )]
    NoDevice {
        /// Which one was asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// The driver refused.
    #[error("the GPU did not {doing}: {cause}")]
    Driver {
        /// What it was to do, as "allocate memory".
        doing: &'static str,
        /// What it said.
        cause: String,
    },
}

/// The outcome of something asked of a GPU.
pub type Result<T> = std::result::Result<T, Error>;

/// What is known of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Name of the product.
    pub name: String,
    /// PCI address, as in `/sys/bus/pci/devices`.
    pub pci_address: Option<String>,
    /// The NUMA node that it is attached to, where the kernel says it.
    pub numa_node: Option<u16>,
    /// Whether its driver exports memory as dma-buf.
    pub exports: bool,
    /// Whether its driver locks pages that may only be read: those of files of others.
    pub reads_files: bool,
    /// Whether it computes checksums.
    pub sums: bool,
}

/// What the data path asks of a GPU's driver.
pub trait Driver: Send + Sync + 'static {
    /// Which GPU it is.
    fn info(&self) -> &GpuInfo;
    /// Memory of the GPU, at least `length` bytes, in whatever state.
    ///
    /// # Errors
    /// [`Error::Driver`] when there is not so much left.
    fn allocate(&self, length: usize) -> Result<Arc<dyn Allocation>>;
    /// Locks pages of this process in place, so that copies from them, and to them unless they are `read_only`, are DMA. They are unlocked
    /// when the value is dropped.
    ///
    /// # Safety
    /// The bytes are whole pages, which outlive the value.
    ///
    /// # Errors
    /// [`Error::Driver`].
    #[expect(unsafe_code, reason = "what its caller must see to")]
    unsafe fn pin(&self, pages: &[u8], read_only: bool) -> Result<Box<dyn Any + Send + Sync>>;
    /// The implementation's own type.
    fn as_any(&self) -> &dyn Any;
}

/// A piece of GPU memory.
pub trait Allocation: Send + Sync + 'static {
    /// The GPU's address of its first byte.
    fn address(&self) -> u64;
    /// Its length in bytes.
    fn len(&self) -> usize;
    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// A dma-buf that holds it, and where it begins in that.
    ///
    /// # Errors
    /// [`Error::Driver`] where its driver exports none.
    fn export(&self) -> Result<(OwnedFd, u64)>;
    /// Copies `from` to the place `at`, and returns when it is there.
    ///
    /// # Errors
    /// [`Error::Driver`], also when it lies outside.
    fn write(&self, at: usize, from: &[u8]) -> Result<()>;
    /// Copies from the place `at`, and returns when it is done.
    ///
    /// # Errors
    /// As [`Allocation::write`].
    fn read(&self, at: usize, into: &mut [u8]) -> Result<()>;
    /// CRC-64/NVME of `length` bytes from the place `at` on, computed by the GPU; `None` where it cannot
    /// ([`GpuInfo::sums`]).
    ///
    /// # Errors
    /// As [`Allocation::write`].
    fn checksum(&self, at: usize, length: usize) -> Result<Option<u64>>;
    /// Makes what a NIC has written visible to everything that the GPU does from now on (CUDA, GPUDirect RDMA, "Synchronization and
    /// Memory Ordering").
    ///
    /// # Errors
    /// [`Error::Driver`].
    fn flush(&self) -> Result<()>;
}

/// A GPU, and pinned memory for what is staged on its way. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    /// Whether files are read by DMA; not where their pages could not be locked.
    reads_files: AtomicBool,
    staging: Arc<Pool>,
}

impl Gpu {
    /// The GPU of a driver. [`cuda::open`] is how programs get one.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        let pins = Arc::clone(&driver);
        let staging = Pool::with(move |pages| Ok(pinned::memory(&*pins, pages)), CHUNK, STAGING);
        Self(Arc::new(Inner {
            reads_files: AtomicBool::new(false),
            driver,
            staging,
        }))
    }

    /// Which one it is.
    pub fn info(&self) -> &GpuInfo {
        self.0.driver.info()
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.0.driver
    }

    /// Whether the GPU reads lent files from the page cache by DMA, where its driver can. Processors then copy nothing, which takes a third
    /// of their time; but the driver locks pages one after the other, which several processors that copy outrun.
    pub fn set_reads_files(&self, reads: bool) {
        self.0
            .reads_files
            .store(reads && self.info().reads_files, Ordering::Relaxed);
    }

    pub(crate) fn reads_files(&self) -> bool {
        self.0.reads_files.load(Ordering::Relaxed)
    }

    /// Locks what is mapped of a file. Where that fails once, it is not tried again.
    pub(crate) fn lock(&self, mapped: Mapped) -> Option<Locked> {
        match pinned::lock(&**self.driver(), mapped) {
            Ok(locked) => Some(locked),
            Err(error) => {
                tracing::info!(%error, "files are copied to reach the GPU, as its driver does not read them from the page cache");
                self.set_reads_files(false);
                None
            }
        }
    }

    pub(crate) fn staging(&self) -> &Arc<Pool> {
        &self.0.staging
    }

    /// Memory of it.
    ///
    /// # Errors
    /// [`Error::Driver`] when there is not so much left.
    pub fn allocate(&self, length: usize) -> Result<GpuMemory> {
        let allocation = self.0.driver.allocate(length.max(1))?;
        Ok(self.memory(allocation))
    }

    /// Pages of this process that are locked in place, so that copies from and to them are DMA.
    ///
    /// # Errors
    /// When the system has no memory to give. Where the driver does not lock them, copies only take longer.
    pub fn host_memory(&self, length: usize) -> std::io::Result<Memory> {
        Ok(pinned::memory(&**self.driver(), Pages::new(length)?))
    }

    /// Memory that somebody else manages, as a framework's tensor.
    pub fn memory(&self, allocation: Arc<dyn Allocation>) -> GpuMemory {
        let exported = if self.info().exports {
            allocation.export().map_err(|error| error.to_string())
        } else {
            Err("the GPU's driver exports no memory".to_owned())
        };
        GpuMemory {
            gpu: self.clone(),
            allocation,
            exported,
            reached: Mutex::default(),
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("info", self.info())
            .finish_non_exhaustive()
    }
}

/// Memory of a GPU that nothing here touches now. Exporting it and asking NICs whether they reach it takes time: keep it and use it
/// again.
pub struct GpuMemory {
    gpu: Gpu,
    allocation: Arc<dyn Allocation>,
    exported: std::result::Result<(OwnedFd, u64), String>,
    /// Whether devices can reach it, by the numbers of their rails.
    reached: Mutex<HashMap<u64, std::result::Result<(), FabricError>>>,
}

impl GpuMemory {
    /// The GPU that it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.allocation.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The GPU's address of its first byte.
    pub fn address(&self) -> u64 {
        self.allocation.address()
    }

    /// The piece of GPU memory under it, to copy from and to.
    pub fn allocation(&self) -> &Arc<dyn Allocation> {
        &self.allocation
    }

    /// Why no NIC can reach it, if its driver does not export it.
    pub(crate) fn why_staged(&self) -> Option<&str> {
        self.exported.as_ref().err().map(String::as_str)
    }

    /// What `ask` said of this rail, the first time.
    pub(crate) fn reached_by(
        &self,
        rail: u64,
        ask: impl FnOnce(&DmaBuf<'_>) -> crate::fabric::Result<()>,
    ) -> crate::fabric::Result<()> {
        let known = self
            .reached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&rail)
            .cloned();
        if let Some(known) = known {
            return known;
        }
        let outcome = match self.dma_buf() {
            Some(dma_buf) => ask(&dma_buf),
            None => Err(FabricError::Device {
                doing: "register memory behind another device",
                cause: self.why_staged().unwrap_or_default().to_owned(),
            }),
        };
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.insert(rail, outcome.clone());
        outcome
    }
}

impl Foreign for GpuMemory {
    fn dma_buf(&self) -> Option<DmaBuf<'_>> {
        let (fd, offset) = self.exported.as_ref().ok()?;
        Some(DmaBuf {
            fd: fd.as_fd(),
            offset: *offset,
            length: self.len() as u64,
            address: self.address(),
        })
    }
}

impl fmt::Debug for GpuMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuMemory")
            .field("gpu", &self.gpu.info().name)
            .field("length", &self.len())
            .field("exported", &self.exported.is_ok())
            .finish_non_exhaustive()
    }
}
