//! NVIDIA's GPUs by the CUDA driver API, which is loaded when it is first needed.
#![allow(unsafe_code)]

use super::{
    Allocation, Driver, Error, Gpu, GpuInfo, Result,
    crc::{BLOCK, KERNEL, NAME, THREADS, Tables},
};
use cudarc::driver::{DriverError, result, sys};
use std::{
    any::Any,
    ffi::{CStr, c_int, c_void},
    fs,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// GPU memory is exported in pieces of this size, and an allocation that is a multiple of it shares none.
const PIECE: usize = 2 << 20;
/// `CU_MEMHOSTREGISTER_PORTABLE`: for all GPUs.
const PORTABLE: u32 = 0x01;
/// `CU_MEMHOSTREGISTER_READ_ONLY`.
const READ_ONLY: u32 = 0x08;

/// A GPU that this process sees.
///
/// # Errors
/// [`Error::NoLibrary`], [`Error::NoDevice`], and [`Error::Driver`] when it does not start.
pub fn open(ordinal: u32) -> Result<Gpu> {
    let count = count()?;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    let cuda = Cuda::open(ordinal)?;
    Ok(Gpu::new(Arc::new(Opened(Arc::new(cuda)))))
}

/// How many GPUs this process sees.
///
/// # Errors
/// [`Error::NoLibrary`], and [`Error::Driver`] when the driver does not start.
pub fn count() -> Result<u32> {
    static STARTED: OnceLock<Result<()>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // SAFETY: the library has no constructor that asks anything of its user.
            if !unsafe { sys::is_culib_present() } {
                return Err(Error::NoLibrary);
            }
            match result::init() {
                Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(()),
                started => started.map_err(|error| failed("start", error)),
            }
        })
        .clone()?;
    match result::device::get_count() {
        Ok(count) => Ok(u32::try_from(count).unwrap_or_default()),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_INITIALIZED | sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Ok(0)
        }
        Err(error) => Err(failed("say how many there are", error)),
    }
}

/// Memory of GPU `ordinal` that somebody else manages, as a framework's tensor.
///
/// # Safety
/// `address` is that of `length` bytes that `cuMemAlloc` or the like gave, they are not freed before `owner` is dropped, and nothing
/// uses them while an operation of this crate does.
pub unsafe fn adopt(
    gpu: &Gpu,
    address: u64,
    length: usize,
    owner: Box<dyn Any + Send + Sync>,
) -> Option<Arc<dyn Allocation>> {
    let driver: &dyn Any = gpu.driver().as_any();
    let opened = driver.downcast_ref::<Opened>()?;
    Some(Arc::new(Piece {
        cuda: Arc::clone(&opened.0),
        address,
        length,
        owner: Some(owner),
    }))
}

struct Opened(Arc<Cuda>);

/// A GPU with its primary context, which it shares with the CUDA runtime of the process.
struct Cuda {
    device: sys::CUdevice,
    context: Context,
    info: GpuInfo,
    /// Whether the GPU may see an older state than what a NIC wrote, until it is told.
    flushes: bool,
    /// What computes checksums; `None` where the driver does not take the kernel.
    summing: Option<Mutex<Summing>>,
    /// Streams that nobody uses now.
    streams: Mutex<Vec<Stream>>,
}

#[derive(Clone, Copy)]
struct Context(sys::CUcontext);

// SAFETY: a context may be current on any number of threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

struct Stream(sys::CUstream);

// SAFETY: a stream may be used by any thread, and this is by one at a time.
unsafe impl Send for Stream {}

impl Cuda {
    fn open(ordinal: u32) -> Result<Self> {
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let device = result::device::get(ordinal).map_err(|error| failed("open", error))?;
        // SAFETY: the device exists.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(|error| failed("make a context", error))?;
        let attribute = |which| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, which) }.unwrap_or_default()
        };
        use sys::CUdevice_attribute as Attribute;
        let ordering = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING);
        let all = sys::CUGPUDirectRDMAWritesOrdering::CU_GPU_DIRECT_RDMA_WRITES_ORDERING_ALL_DEVICES as c_int;
        let pci_address = pci_address(device);
        let mut cuda = Self {
            device,
            context: Context(context),
            info: GpuInfo {
                name: result::device::get_name(device).unwrap_or_else(|_| "GPU".to_owned()),
                numa_node: pci_address.as_deref().and_then(numa_node),
                pci_address,
                exports: attribute(Attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED) == 1,
                reads_files: attribute(Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED) == 1,
                sums: false,
            },
            flushes: ordering < all,
            summing: None,
            streams: Mutex::default(),
        };
        cuda.summing = cuda
            .enter()
            .and_then(|()| Summing::new())
            .inspect_err(|error| tracing::debug!(%error, "the GPU computes no checksums"))
            .ok()
            .map(Mutex::new);
        cuda.info.sums = cuda.summing.is_some();
        Ok(cuda)
    }

    /// Makes the GPU the one that calls of this thread are for.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context.0) }.map_err(|error| failed("become current", error))
    }

    /// Runs `copy` on a stream of its own, and waits for its end.
    fn copy(
        &self,
        doing: &'static str,
        copy: impl FnOnce(sys::CUstream) -> std::result::Result<(), DriverError>,
    ) -> Result<()> {
        self.enter()?;
        let idle = self.streams.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let stream = match idle {
            Some(stream) => stream,
            None => result::stream::create(result::stream::StreamKind::NonBlocking)
                .map(Stream)
                .map_err(|error| failed("make a stream", error))?,
        };
        let begun = copy(stream.0);
        // SAFETY: the stream exists. Also after an error: nothing of it may be under way when this returns.
        let ended = unsafe { result::stream::synchronize(stream.0) };
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
        begun.and(ended).map_err(|error| failed(doing, error))
    }
}

/// The kernel that sums, and memory of the GPU for its tables and results. Dropped with its context current.
struct Summing {
    module: Module,
    tables: sys::CUdeviceptr,
    partial: sys::CUdeviceptr,
    /// Values that `partial` has room for.
    room: usize,
}

struct Module {
    module: sys::CUmodule,
    kernel: sys::CUfunction,
}

// SAFETY: the driver locks what it shares.
unsafe impl Send for Module {}

impl Summing {
    /// For the context that is current.
    fn new() -> Result<Self> {
        let failed = |error| failed("load its kernel", error);
        // SAFETY: PTX that ends in a zero byte.
        let module = unsafe { result::module::load_data(KERNEL.as_ptr().cast()) }.map_err(failed)?;
        let mut summing = Self {
            module: Module {
                module,
                kernel: ptr::null_mut(),
            },
            tables: 0,
            partial: 0,
            room: 0,
        };
        // SAFETY: the module exists.
        summing.module.kernel =
            unsafe { result::module::get_function(module, NAME.to_owned()) }.map_err(failed)?;
        let tables = &Tables::get().kernel;
        // SAFETY: the context is current, and as many bytes are copied as were allocated.
        unsafe {
            summing.tables = result::malloc_sync(size_of_val(tables)).map_err(failed)?;
            result::memcpy_htod_sync(summing.tables, tables).map_err(failed)?;
        }
        Ok(summing)
    }

    /// Room for the results of so many blocks, on the GPU and here. With the context current.
    fn room(&mut self, blocks: u64) -> Result<Vec<u64>> {
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        if blocks > self.room {
            let room = blocks.next_power_of_two();
            // SAFETY: the context is current; the old memory is used by nothing.
            unsafe {
                let new = result::malloc_sync(room * size_of::<u64>())
                    .map_err(|error| failed("allocate memory", error))?;
                let old = std::mem::replace(&mut self.partial, new);
                if old != 0 {
                    let _freed = result::free_sync(old);
                }
            }
            self.room = room;
        }
        Ok(vec![0; blocks])
    }

    /// # Safety
    /// `length` bytes are at `from`, `partial` is as long as there are `blocks`, and neither is touched before the stream has ended.
    unsafe fn launch(
        &self,
        mut from: sys::CUdeviceptr,
        mut length: u64,
        blocks: u64,
        partial: &mut [u64],
        stream: sys::CUstream,
    ) -> std::result::Result<(), DriverError> {
        let (mut tables, mut into) = (self.tables, self.partial);
        let mut arguments: [*mut c_void; 4] = [
            ptr::from_mut(&mut from).cast(),
            ptr::from_mut(&mut length).cast(),
            ptr::from_mut(&mut tables).cast(),
            ptr::from_mut(&mut into).cast(),
        ];
        let grid = (u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1);
        // SAFETY: the arguments are the kernel's, in its order; the rest by the caller.
        unsafe {
            result::launch_kernel(
                self.module.kernel,
                grid,
                (THREADS, 1, 1),
                0,
                stream,
                &mut arguments,
            )?;
            result::memcpy_dtoh_async(partial, self.partial, stream)
        }
    }
}

impl Drop for Summing {
    fn drop(&mut self) {
        for memory in [self.tables, self.partial]
            .into_iter()
            .filter(|memory| *memory != 0)
        {
            // SAFETY: allocated here, and used by nothing any more.
            let _freed = unsafe { result::free_sync(memory) };
        }
        // SAFETY: nothing of it runs.
        let _unloaded = unsafe { result::module::unload(self.module.module) };
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner));
        if self.enter().is_ok() {
            self.summing = None;
            for stream in streams {
                // SAFETY: nothing is under way on it.
                let _gone = unsafe { result::stream::destroy(stream.0) };
            }
        }
        // SAFETY: retained once; whatever is on it keeps this value.
        let _released = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Driver for Opened {
    fn info(&self) -> &GpuInfo {
        &self.0.info
    }

    fn allocate(&self, length: usize) -> Result<Arc<dyn Allocation>> {
        let cuda = &self.0;
        cuda.enter()?;
        let whole = if cuda.info.exports {
            length.next_multiple_of(PIECE)
        } else {
            length
        };
        // SAFETY: the context is current.
        let address =
            unsafe { result::malloc_sync(whole) }.map_err(|error| failed("allocate memory", error))?;
        let piece = Piece {
            cuda: Arc::clone(cuda),
            address,
            length,
            owner: None,
        };
        piece.order();
        Ok(Arc::new(piece))
    }

    unsafe fn pin(&self, pages: &[u8], read_only: bool) -> Result<Box<dyn Any + Send + Sync>> {
        self.0.enter()?;
        let start = pages.as_ptr().cast_mut().cast::<c_void>();
        let how = if read_only { READ_ONLY } else { 0 };
        // SAFETY: by the caller.
        unsafe { sys::cuMemHostRegister_v2(start, pages.len(), PORTABLE | how) }
            .result()
            .map_err(|error| failed("pin memory", error))?;
        Ok(Box::new(Pin {
            cuda: Arc::clone(&self.0),
            start: start.expose_provenance(),
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Pages that the driver has locked in place.
struct Pin {
    cuda: Arc<Cuda>,
    start: usize,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.cuda.enter().is_ok() {
            // SAFETY: registered once, and nothing is copied from or to it.
            let outcome = unsafe { sys::cuMemHostUnregister(ptr::with_exposed_provenance_mut(self.start)) };
            if let Err(error) = outcome.result() {
                tracing::warn!(%error, "the GPU does not let go of pinned memory");
            }
        }
    }
}

struct Piece {
    cuda: Arc<Cuda>,
    address: sys::CUdeviceptr,
    length: usize,
    /// Who frees it; `None` where this value does.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

impl Piece {
    /// Synchronous copies of others are ordered with what a NIC does (CUDA, `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`).
    fn order(&self) {
        let on: u32 = 1;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
        // SAFETY: the attribute is a 32-bit boolean, and the memory exists.
        let outcome =
            unsafe { sys::cuPointerSetAttribute(ptr::from_ref(&on).cast(), attribute, self.address) };
        if let Err(error) = outcome.result() {
            tracing::debug!(%error, "the GPU does not order copies with its NICs' writes");
        }
    }

    fn place(&self, at: usize, length: usize) -> Result<sys::CUdeviceptr> {
        let inside = at.checked_add(length).is_some_and(|end| end <= self.length);
        inside
            .then_some(self.address + at as u64)
            .ok_or_else(|| Error::Driver {
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
        let doing = "export memory";
        self.cuda.enter()?;
        let (mut base, mut whole) = (0, 0);
        // SAFETY: the memory exists; the call fills both.
        unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut whole, self.address) }
            .result()
            .map_err(|error| failed(doing, error))?;
        let mut fd: c_int = -1;
        let kind = sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD;
        let page = rustix::param::page_size();
        // SAFETY: the range is an allocation; a handle of this kind is an `int`.
        unsafe {
            sys::cuMemGetHandleForAddressRange(
                ptr::from_mut(&mut fd).cast(),
                base,
                whole.next_multiple_of(page),
                kind,
                0,
            )
        }
        .result()
        .map_err(|error| failed(doing, error))?;
        // SAFETY: a new descriptor, which is ours.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok((fd, self.address - base))
    }

    fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        let to = self.place(at, from.len())?;
        // SAFETY: both sides hold so many bytes, and stay until the copy has ended, which `copy` waits for.
        self.cuda.copy("copy", |stream| unsafe {
            result::memcpy_htod_async(to, from, stream)
        })
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        let from = self.place(at, into.len())?;
        // SAFETY: as above.
        self.cuda.copy("copy", |stream| unsafe {
            result::memcpy_dtoh_async(into, from, stream)
        })
    }

    fn checksum(&self, at: usize, length: usize) -> Result<Option<u64>> {
        let from = self.place(at, length)?;
        let Some(summing) = &self.cuda.summing else {
            return Ok(None);
        };
        if length == 0 {
            return Ok(Some(Tables::get().join(&[u64::MAX])));
        }
        self.cuda.enter()?;
        let mut summing = summing.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = (length as u64).div_ceil(BLOCK);
        let mut partial = summing.room(blocks)?;
        self.cuda.copy("compute a checksum", |stream| {
            // SAFETY: the kernel reads `length` bytes from `from`, which are there, and writes a value for each block, for which there is
            // room; both stay until the stream has ended.
            unsafe { summing.launch(from, length as u64, blocks, &mut partial, stream) }
        })?;
        Ok(Some(Tables::get().join(&partial)))
    }

    fn flush(&self) -> Result<()> {
        if !self.cuda.flushes {
            return Ok(());
        }
        self.cuda.enter()?;
        // SAFETY: the context is current.
        unsafe {
            sys::cuFlushGPUDirectRDMAWrites(
                sys::CUflushGPUDirectRDMAWritesTarget::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX,
                sys::CUflushGPUDirectRDMAWritesScope::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER,
            )
        }
        .result()
        .map_err(|error| failed("flush what a NIC wrote", error))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.owner.is_none() && self.cuda.enter().is_ok() {
            // SAFETY: allocated here, freed once; no window is open over it.
            if let Err(error) = unsafe { result::free_sync(self.address) } {
                tracing::warn!(%error, "the GPU does not free memory");
            }
        }
    }
}

fn failed(doing: &'static str, error: DriverError) -> Error {
    let cause = error
        .error_string()
        .ok()
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_else(|| format!("{:?}", error.0));
    Error::Driver { doing, cause }
}

fn pci_address(device: sys::CUdevice) -> Option<String> {
    let mut text = [0_i8; 32];
    // SAFETY: the call writes a C string into so many bytes.
    unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as c_int, device) }
        .result()
        .ok()?;
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text.as_ptr().cast()) };
    Some(text.to_str().ok()?.to_ascii_lowercase())
}

fn numa_node(pci_address: &str) -> Option<u16> {
    let node = fs::read_to_string(format!("/sys/bus/pci/devices/{pci_address}/numa_node")).ok()?;
    // -1 where there is only one.
    node.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_is_told_so() {
        match open(0) {
            Err(Error::NoLibrary) => {}
            Err(Error::NoDevice { ordinal: 0, count: 0 }) => {}
            Ok(gpu) => assert!(!gpu.info().name.is_empty()),
            Err(other) => panic!("{other}"),
        }
        if let Ok(count) = count() {
            assert_eq!(
                open(count).unwrap_err(),
                Error::NoDevice {
                    ordinal: count,
                    count
                }
            );
        }
    }
}
