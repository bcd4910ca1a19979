//! An open device.

use super::{
    completion,
    device::{Choice, GidEntry, Port, Sysfs},
    memory::Region,
    queue_pair::{QueuePair, Shared},
    sys::{self, Verbs},
    windows,
};
use crate::fabric::{
    self, Device, DeviceInfo, Direction, DmaBuf, Error, Memory, Pages, Purpose, Registration, Result,
    Unavailable, Usage,
};
use std::{
    collections::HashMap,
    ffi::{CStr, c_int},
    fmt, io,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

/// How to use a device. The defaults are right for a RoCE v2 fabric that needs no marks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which one.
    pub choice: Choice,
    /// Traffic class (DSCP and ECN) of its packets.
    pub traffic_class: u8,
    /// Service level: the priority, 0 to 7 with RoCE.
    pub service_level: u8,
    /// Routers that a packet may pass.
    pub hop_limit: u8,
    /// How long an answer is waited for before it is asked for again: 4.096 µs · 2^`timeout` (InfiniBand Architecture 9.7.6).
    pub timeout: u8,
    /// How often it is asked for again, 0 to 6. (7 is for ever to soft-RoCE, and 6 is as good.)
    pub retries: u8,
    /// Whether to use memory windows where the device has them. Without, a window's memory is registered for each exposure
    /// with the rights of that one: closing it is as good, but every queue pair of this device can use its key meanwhile.
    pub memory_windows: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            choice: Choice::default(),
            traffic_class: 0,
            service_level: 0,
            hop_limit: 64,
            // 0.54 s, so that a peer is given up after 4 s: a link may flap, and a switch may reboot its forwarding.
            timeout: 17,
            retries: 6,
            memory_windows: true,
        }
    }
}

/// Opens the best device that `options` allow.
///
/// # Errors
/// [`Error::Unavailable`] when there is none, [`Error::Device`] when it does not answer.
///
/// # Panics
/// Outside a Tokio runtime with I/O.
pub fn open(options: &Options) -> Result<Arc<dyn Device>> {
    let verbs = Verbs::load()?;
    let usable = Sysfs::default().choose(&options.choice)?;
    let mut last = None;
    for (port, gid) in usable {
        match open_port(verbs, options, port, gid) {
            Ok(device) => return Ok(device),
            Err(error) => {
                tracing::debug!(%error, "an RDMA device cannot be used");
                last.get_or_insert(error);
            }
        }
    }
    // `choose` gives at least one.
    Err(last.unwrap_or(Error::Dead))
}

/// Opens a port that [`Sysfs::choose`] found usable.
pub(super) fn open_port(
    verbs: &'static Verbs,
    options: &Options,
    port: Port,
    gid: GidEntry,
) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(Opened(Context::open(verbs, options, port, gid)?)))
}

/// What soft-RoCE calls its vendor.
const SOFT_ROCE: u32 = 0xff_ffff;

/// An object of libibverbs. Its calls may come from any thread (verbs are thread-safe).
pub(super) struct Handle<T>(NonNull<T>);

impl<T> Handle<T> {
    /// None where the library says that it failed.
    pub(super) fn new(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub(super) fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}

// SAFETY: libibverbs and its drivers lock what they share.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// What the owner of a device has.
struct Opened(Arc<Context>);

/// What everything on a device shares, and keeps open.
pub(super) struct Context {
    pub(super) verbs: &'static Verbs,
    raw: Handle<sys::ibv_context>,
    pub(super) pd: Handle<sys::ibv_pd>,
    pub(super) channel: Handle<sys::ibv_comp_channel>,
    pub(super) info: DeviceInfo,
    pub(super) options: Options,
    pub(super) gid_index: u8,
    pub(super) lid: u16,
    /// READs that it may have under way to a peer, per queue pair.
    pub(super) reads: u8,
    pub(super) largest_message: u32,
    max_work_requests: u16,
    /// Whether windows are type-2 memory windows.
    pub(super) memory_windows: bool,
    /// Whether its driver lets a memory window reach all of the region that it is bound to, so that each needs a region of
    /// its own extent: soft-RoCE (Linux 6.1 to 6.17 at least) checks the bounds of the region alone.
    pub(super) loose_windows: bool,
    active: AtomicBool,
    failed: AtomicBool,
    queue_pairs: Mutex<HashMap<u64, Arc<Shared>>>,
    next_id: AtomicU64,
    regions: AtomicUsize,
    registered_bytes: AtomicU64,
    dying: AtomicUsize,
    /// Tells the completion task that a queue pair was killed.
    killed: Arc<Notify>,
    /// Tells the completion task to end.
    ended: Arc<Notify>,
}

impl Context {
    fn open(verbs: &'static Verbs, options: &Options, port: Port, gid: GidEntry) -> Result<Arc<Self>> {
        let raw = open_device(verbs, &port)?;
        let mut unfinished = Unfinished {
            verbs,
            raw,
            pd: None,
            channel: None,
        };
        let mut device = sys::ibv_device_attr::zeroed();
        // SAFETY: the device is open, and `device` is what the call fills.
        check("ask what the device can do", unsafe {
            (verbs.ibv_query_device)(raw.get(), &mut device)
        })?;
        let mut state = sys::ibv_port_attr::zeroed();
        // SAFETY: as above.
        check("ask for the state of the port", unsafe {
            (verbs.ibv_query_port)(raw.get(), port.number, &mut state)
        })?;
        if state.state != sys::IBV_PORT_ACTIVE {
            return Err(Unavailable::PortDown {
                device: port.device,
                port: port.number,
            }
            .into());
        }
        // SAFETY: the device is open.
        let pd = Handle::new(unsafe { (verbs.ibv_alloc_pd)(raw.get()) });
        let pd = pd.ok_or_else(|| last_error("make a protection domain"))?;
        unfinished.pd = Some(pd);
        // SAFETY: as above.
        let channel = Handle::new(unsafe { (verbs.ibv_create_comp_channel)(raw.get()) });
        let channel = channel.ok_or_else(|| last_error("make a completion channel"))?;
        unfinished.channel = Some(channel);
        // SAFETY: both exist, and their descriptors with them.
        let (completions, events) = unsafe { ((*channel.get()).fd, (*raw.get()).async_fd) };
        let task = completion::Task::new(completions, events)
            .map_err(|error| device_error("watch the device", &error))?;

        let windows = sys::IBV_DEVICE_MEM_WINDOW_TYPE_2A | sys::IBV_DEVICE_MEM_WINDOW_TYPE_2B;
        let context = Arc::new(Self {
            verbs,
            raw,
            pd,
            channel,
            info: DeviceInfo {
                name: port.device,
                port: port.number,
                gid: gid.gid,
                mtu: mtu_bytes(state.active_mtu),
                read_depth: small(device.max_qp_rd_atom),
                netdev: gid.netdev,
                numa_node: port.numa_node,
                pci_address: port.pci_address,
                gbits: port.gbits,
            },
            options: options.clone(),
            gid_index: gid.index,
            lid: state.lid,
            reads: small(device.max_qp_init_rd_atom),
            largest_message: state.max_msg_sz,
            max_work_requests: u16::try_from(device.max_qp_wr).unwrap_or(u16::MAX),
            memory_windows: options.memory_windows
                && device.device_cap_flags & windows != 0
                && device.max_mw > 0,
            loose_windows: device.vendor_id == SOFT_ROCE,
            active: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            queue_pairs: Mutex::default(),
            next_id: AtomicU64::new(1),
            regions: AtomicUsize::new(0),
            registered_bytes: AtomicU64::new(0),
            dying: AtomicUsize::new(0),
            killed: Arc::default(),
            ended: Arc::default(),
        });
        // From here on the context closes what is open.
        std::mem::forget(unfinished);
        task.spawn(&context, context.killed.clone(), context.ended.clone());
        Ok(context)
    }

    pub(super) fn device(&self) -> *mut sys::ibv_context {
        self.raw.get()
    }

    /// Whether its port is up and the device works.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire) && !self.has_failed()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn set_active(&self, active: bool) {
        let (device, port) = (&self.info.name, self.info.port);
        if active {
            tracing::info!(device, port, "the RDMA port is up");
        } else {
            tracing::warn!(device, port, "the RDMA port is down");
        }
        self.active.store(active, Ordering::Release);
    }

    /// The device is lost: nothing on it works any more.
    pub(super) fn fail(&self) {
        tracing::error!(
            device = self.info.name,
            "the RDMA device failed; it must be opened again"
        );
        self.failed.store(true, Ordering::Release);
        for queue_pair in self.all() {
            queue_pair.kill_now();
        }
    }

    /// A queue pair waits to be destroyed.
    pub(super) fn died(&self) {
        self.dying.fetch_add(1, Ordering::AcqRel);
        self.killed.notify_one();
    }

    /// One waits no more.
    pub(super) fn buried(&self) {
        self.dying.fetch_sub(1, Ordering::AcqRel);
    }

    /// The queue pairs that wait to be destroyed.
    pub(super) fn dying(&self) -> Vec<Arc<Shared>> {
        if self.dying.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.all()
    }

    pub(super) fn registered(&self, regions: usize, bytes: u64) {
        self.regions.fetch_add(regions, Ordering::Relaxed);
        self.registered_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn deregistered(&self, regions: usize, bytes: u64) {
        self.regions.fetch_sub(regions, Ordering::Relaxed);
        self.registered_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn map(&self) -> MutexGuard<'_, HashMap<u64, Arc<Shared>>> {
        self.queue_pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<Arc<Shared>> {
        self.map().values().cloned().collect()
    }

    pub(super) fn find(&self, id: u64) -> Option<Arc<Shared>> {
        self.map().get(&id).cloned()
    }

    pub(super) fn forget(&self, id: u64) {
        let gone = self.map().remove(&id);
        drop(gone);
    }
}

impl Device for Opened {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    fn owns(&self, memory: &Memory) -> bool {
        Region::of(&self.0, memory).is_ok()
    }

    fn register(&self, pages: Pages, purpose: Purpose) -> Result<Memory> {
        Region::of_pages(&self.0, pages, purpose)
    }

    fn try_dma_buf(&self, dma_buf: &DmaBuf<'_>) -> Result<()> {
        // SAFETY: no queue pair knows its key, and it is released at once.
        let mut region = unsafe { windows::register_dma_buf(&self.0, dma_buf, Direction::Written) }?;
        region.release();
        Ok(())
    }

    fn queue_pair(&self, depth: u16) -> Result<Arc<dyn fabric::QueuePair>> {
        let context = &self.0;
        if !context.is_active() {
            return Err(Unavailable::PortDown {
                device: context.info.name.clone(),
                port: context.info.port,
            }
            .into());
        }
        let id = context.next_id.fetch_add(1, Ordering::Relaxed);
        let shared = Shared::new(context, id, depth.clamp(1, context.max_work_requests))?;
        context.map().insert(id, shared.clone());
        Ok(Arc::new(QueuePair::new(shared)))
    }

    fn usage(&self) -> Usage {
        Usage {
            queue_pairs: self.0.map().len(),
            regions: self.0.regions.load(Ordering::Relaxed),
            registered_bytes: self.0.registered_bytes.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("info", &self.info)
            .field("memory_windows", &self.memory_windows)
            .finish_non_exhaustive()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.ended.notify_one();
        close(self.verbs, self.raw, Some(self.pd), Some(self.channel));
    }
}

/// Closes what was opened when something after it fails.
struct Unfinished {
    verbs: &'static Verbs,
    raw: Handle<sys::ibv_context>,
    pd: Option<Handle<sys::ibv_pd>>,
    channel: Option<Handle<sys::ibv_comp_channel>>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        close(self.verbs, self.raw, self.pd, self.channel);
    }
}

fn close(
    verbs: &Verbs,
    raw: Handle<sys::ibv_context>,
    pd: Option<Handle<sys::ibv_pd>>,
    channel: Option<Handle<sys::ibv_comp_channel>>,
) {
    // SAFETY: whatever lives on the device keeps the context, so that nothing is left on it; closed once.
    let outcomes = unsafe {
        [
            channel.map_or(0, |channel| (verbs.ibv_destroy_comp_channel)(channel.get())),
            pd.map_or(0, |pd| (verbs.ibv_dealloc_pd)(pd.get())),
            (verbs.ibv_close_device)(raw.get()),
        ]
    };
    if outcomes != [0; 3] {
        tracing::warn!(?outcomes, "an RDMA device did not close cleanly");
    }
}

fn open_device(verbs: &Verbs, port: &Port) -> Result<Handle<sys::ibv_context>> {
    let mut count = 0;
    // SAFETY: the call fills `count` and gives an array of that many, or null.
    let list = unsafe { (verbs.ibv_get_device_list)(&mut count) };
    if list.is_null() {
        return Err(Unavailable::KernelModuleMissing.into());
    }
    let devices = usize::try_from(count).unwrap_or_default();
    // SAFETY: as above. A name is a C string that lives as long as the list; the device that is opened outlives it.
    let (opened, known) = unsafe {
        let devices = std::slice::from_raw_parts(list, devices);
        let device = devices.iter().find(|device| {
            let name = (verbs.ibv_get_device_name)(**device);
            !name.is_null() && CStr::from_ptr(name).to_bytes() == port.device.as_bytes()
        });
        let opened = device.and_then(|device| Handle::new((verbs.ibv_open_device)(*device)));
        let why = io::Error::last_os_error();
        (opened.ok_or(why), device.is_some())
    };
    // SAFETY: the list is given back once.
    unsafe { (verbs.ibv_free_device_list)(list) };
    opened.map_err(|error| {
        let remedy = if known {
            format!("it cannot be opened ({error}); in a container, give it the device files below /dev/infiniband")
        } else {
            "libibverbs has no driver for it; install the package ibverbs-providers (Debian)".to_owned()
        };
        Unavailable::NoDevice(format!(" {} for this process", port.device), remedy).into()
    })
}

/// The outcome of a call that returns an error number.
pub(super) fn check(doing: &'static str, outcome: c_int) -> Result<()> {
    match outcome {
        0 => Ok(()),
        // Some functions return -1 and set errno.
        -1 => Err(last_error(doing)),
        number => Err(device_error(doing, &io::Error::from_raw_os_error(number))),
    }
}

/// The error of the call that just failed.
pub(super) fn last_error(doing: &'static str) -> Error {
    device_error(doing, &io::Error::last_os_error())
}

fn device_error(doing: &'static str, error: &io::Error) -> Error {
    Error::Device {
        doing,
        cause: error.to_string(),
    }
}

/// An `enum ibv_mtu` in bytes.
fn mtu_bytes(mtu: c_int) -> u16 {
    match mtu {
        1 => 256,
        2 => 512,
        4 => 2048,
        5 => 4096,
        _ => 1024,
    }
}

/// The `enum ibv_mtu` of so many bytes.
pub(super) fn mtu_number(bytes: u16) -> Option<c_int> {
    match bytes {
        256 => Some(1),
        512 => Some(2),
        1024 => Some(3),
        2048 => Some(4),
        4096 => Some(5),
        _ => None,
    }
}

fn small(count: c_int) -> u8 {
    u8::try_from(count.max(0)).unwrap_or(u8::MAX)
}
