//! The fabric: what the data path asks of RDMA devices, registered memory and queue pairs.
//!
//! ```text
//!   client                                    server
//!   Memory ── expose ──▶ Exposed (Window) ◀── QueuePair::write / read ── Memory (staging)
//! ```
//! Memory changes hands by value. What a device may touch is owned by the queue pair or by an [`Exposed`], and neither
//! gives a slice of it: reading, writing, moving or freeing such memory cannot be written down. It comes back when its
//! operation completed, or when its queue pair is dead and nothing can land any more. A future that is dropped kills its
//! queue pair; its memory is kept until that is done.

mod foreign;
#[cfg(any(test, feature = "loopback"))]
pub mod loopback;
mod memory;
mod nearness;
mod pool;
mod rails;

pub use foreign::{DmaBuf, Foreign};
pub use memory::{Memory, Pages, Registration};
pub(crate) use nearness::nearness;
pub use pool::{Pool, PoolUsage, Pooled, Slot};
pub use rails::{Look, Rail, Rails, Source};

use futures::future::BoxFuture;
use std::{any::Any, fmt, net::Ipv6Addr, ops::Range, sync::Arc, time::Duration};

/// A global identifier of a port (InfiniBand Architecture, 4.1.1); with RoCE v2 an IPv6 or IPv4-mapped address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gid(pub [u8; 16]);

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from(self.0);
        match address.to_ipv4_mapped() {
            Some(address) => address.fmt(f),
            None => address.fmt(f),
        }
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a queue pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpAddress {
    /// Queue pair number, 24 bits.
    pub qpn: u32,
    /// GID of its port.
    pub gid: Gid,
    /// LID of its port; 0 with RoCE.
    pub lid: u16,
    /// Number of its port on its device, from 1.
    pub port: u8,
}

/// The other end of a connection, and how both ends talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The other queue pair.
    pub peer: QpAddress,
    /// First packet sequence number that this end sends, 24 bits.
    pub local_psn: u32,
    /// First packet sequence number that the other end sends, 24 bits.
    pub peer_psn: u32,
    /// Path MTU in bytes: 256, 512, 1024, 2048 or 4096.
    pub mtu: u16,
    /// READs that may be under way to the end that answers them.
    pub read_depth: u8,
}

/// What memory is registered for. Each kind gets the least rights that do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// This end's own operations only; no peer can reach it (local write).
    Staging,
    /// Windows that a peer writes to or reads from, while [`QueuePair::expose`]d and not longer.
    Windows,
}

/// What a peer may do with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer writes it: a GET.
    Written,
    /// The peer reads it: a PUT.
    Read,
}

/// Memory that a peer may reach: what a token says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its address as the device knows it.
    pub address: u64,
    /// Its length in bytes.
    pub size: u32,
    /// The key that opens it. A capability: never logged.
    pub rkey: u32,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A place inside a peer's window.
#[derive(Clone, Copy)]
pub struct Remote {
    /// Address, as the token says it, plus the offset.
    pub address: u64,
    /// The window's key.
    pub rkey: u32,
}

/// What is known of the device and port in use.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    /// Device name as in `/sys/class/infiniband`.
    pub name: String,
    /// Port number, from 1.
    pub port: u8,
    /// The GID in use.
    pub gid: Gid,
    /// Active path MTU in bytes.
    pub mtu: u16,
    /// READs that it answers at the same time, per queue pair.
    pub read_depth: u8,
    /// Its network interface, with RoCE.
    pub netdev: Option<String>,
    /// Its NUMA node, where the kernel says it.
    pub numa_node: Option<u16>,
    /// Its PCI address, where it has one.
    pub pci_address: Option<String>,
    /// Nominal rate in Gb/s.
    pub gbits: f64,
}

/// An open device with one port and GID of it, and one protection domain.
pub trait Device: Send + Sync + fmt::Debug + 'static {
    /// Which device this is.
    fn info(&self) -> &DeviceInfo;
    /// Whether its port is up and the device works, as far as is known.
    fn is_active(&self) -> bool {
        true
    }
    /// Whether it is lost and must be opened anew (a fatal error, or it was taken out).
    fn has_failed(&self) -> bool {
        false
    }
    /// Whether `memory` is registered with it.
    fn owns(&self, memory: &Memory) -> bool;
    /// Registers memory. Costs time (page pinning), so registered memory is kept in pools.
    ///
    /// # Errors
    /// [`Error::Memlock`] when the process may not pin so much, [`Error::Device`] otherwise.
    fn register(&self, pages: Pages, purpose: Purpose) -> Result<Memory>;
    /// Whether it can reach memory behind another device: registers it once, as [`Foreign`] windows are, and lets go of it.
    ///
    /// # Errors
    /// [`Error::Device`] when it cannot, with what its driver said.
    fn try_dma_buf(&self, dma_buf: &DmaBuf<'_>) -> Result<()>;
    /// A new RC queue pair (state INIT) on which at most `depth` operations are under way at a time.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has none left or refuses.
    fn queue_pair(&self, depth: u16) -> Result<Arc<dyn QueuePair>>;
    /// Queue pairs and memory regions that exist now, for leak tests and metrics.
    fn usage(&self) -> Usage;
}

/// What exists on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Queue pairs, dead ones that still hold memory included.
    pub queue_pairs: usize,
    /// Memory regions.
    pub regions: usize,
    /// Registered bytes.
    pub registered_bytes: u64,
}

/// A reliable connection (RC, InfiniBand Architecture 9.7). Its own peer can do nothing to it but answer, and reach what
/// was exposed on it.
pub trait QueuePair: Send + Sync + fmt::Debug + 'static {
    /// Where it is, for the peer.
    fn address(&self) -> QpAddress;
    /// INIT → RTR → RTS.
    ///
    /// # Errors
    /// [`Error::Dead`], or [`Error::Device`] when the peer's address cannot be used.
    fn connect(&self, connection: &Connection) -> Result<()>;
    /// Whether operations can still succeed.
    fn is_alive(&self) -> bool;
    /// RDMA WRITE of `from[bytes]` to the peer, with `immediate` if it wants one. Waits for room in the queue.
    /// Operations of one queue pair are performed in the order in which these calls are made.
    fn write(
        &self,
        from: Memory,
        bytes: Range<usize>,
        to: Remote,
        immediate: Option<u32>,
    ) -> BoxFuture<'static, (Memory, Result<()>)>;
    /// RDMA READ from the peer into `into[bytes]`.
    fn read(
        &self,
        into: Memory,
        bytes: Range<usize>,
        from: Remote,
    ) -> BoxFuture<'static, (Memory, Result<()>)>;
    /// Opens `memory[bytes]` to the peer: a type-2 memory window bound to this queue pair where the device has them.
    /// The memory must be registered for [`Purpose::Windows`].
    fn expose(
        self: Arc<Self>,
        memory: Memory,
        bytes: Range<usize>,
        direction: Direction,
    ) -> BoxFuture<'static, std::result::Result<Exposed, (Memory, Error)>>;
    /// Opens memory behind another device to the peer, by a registration for this exposure alone: no memory window can be
    /// bound over one. For [`Exposed::foreign`] only. Blocks for as long as a registration takes.
    ///
    /// # Safety
    /// The memory is not freed, and nobody relies on what is in it, until the window is closed or the queue pair dead.
    ///
    /// # Errors
    /// [`Error::Dead`], and [`Error::Device`] when the device cannot reach it.
    #[expect(unsafe_code, reason = "what its caller must see to")]
    unsafe fn open_dma_buf(&self, dma_buf: &DmaBuf<'_>, direction: Direction) -> Result<Window>;
    /// Closes a window: when this resolves to `Ok` the peer can reach it no more. For [`Exposed`] only.
    fn close_window(&self, window: Window) -> BoxFuture<'static, Result<()>>;
    /// The immediate of the next WRITE that carried one.
    fn immediate(&self) -> BoxFuture<'static, Result<u32>>;
    /// Moves to ERR. When this resolves nothing of its peer can land any more and nothing of its own is under way.
    /// Begins at the call, also when the future is dropped.
    fn kill(&self) -> BoxFuture<'static, ()>;
    /// Kills, and keeps `memory` until that is done.
    fn bury(&self, memory: Box<dyn Any + Send>);
}

/// Memory that a peer may reach. There is no way to its bytes before it is taken back; dropping it kills the queue pair.
#[must_use]
pub struct Exposed<M: Send + 'static = Memory> {
    held: Option<(Arc<dyn QueuePair>, M)>,
    window: Window,
}

impl<M: Send + 'static> Exposed<M> {
    /// For implementations of [`QueuePair::expose`].
    pub fn new(queue_pair: Arc<dyn QueuePair>, memory: M, window: Window) -> Self {
        Self {
            held: Some((queue_pair, memory)),
            window,
        }
    }

    /// What the token says.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Closes the window and gives the memory back. Where closing fails, the queue pair is killed first.
    pub async fn take_back(mut self) -> (M, Result<()>) {
        let window = self.window;
        let outcome = match &self.held {
            Some((queue_pair, _)) => {
                let outcome = queue_pair.close_window(window).await;
                if outcome.is_err() {
                    queue_pair.kill().await;
                }
                outcome
            }
            None => Ok(()),
        };
        (self.release(), outcome)
    }

    /// Kills the queue pair and gives the memory back: after anything that is not a clean success.
    pub async fn kill(mut self) -> M {
        if let Some((queue_pair, _)) = &self.held {
            queue_pair.kill().await;
        }
        self.release()
    }

    /// Only once nothing can reach it.
    fn release(&mut self) -> M {
        match self.held.take() {
            Some((_, memory)) => memory,
            None => unreachable!("memory is held until it is released, once, by value"),
        }
    }
}

impl<M: Send + 'static> Drop for Exposed<M> {
    fn drop(&mut self) {
        if let Some((queue_pair, memory)) = self.held.take() {
            queue_pair.bury(Box::new(memory));
        }
    }
}

impl<M: Send + 'static> fmt::Debug for Exposed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.window.fmt(f)
    }
}

/// The outcome of an operation on the fabric.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the fabric did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no usable device.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The process may not pin so much memory.
    #[error(
        "{bytes} bytes cannot be registered: the limit of locked memory (ulimit -l, LimitMEMLOCK) is too low; raise it, or \
         run as root with the capability IPC_LOCK"
    )]
    Memlock {
        /// What was asked for.
        bytes: u64,
    },
    /// The device or its driver refused.
    #[error("{doing}: {cause}")]
    Device {
        /// What it was to do, as "create a queue pair".
        doing: &'static str,
        /// What it said.
        cause: String,
    },
    /// An operation completed with another status than success (InfiniBand Architecture 11.6.2); the queue pair is dead.
    #[error("the peer did not complete an RDMA operation: {0}")]
    Completion(&'static str),
    /// The queue pair was killed or its peer is gone.
    #[error("the RDMA connection is dead")]
    Dead,
    /// The operation did not end in time; the queue pair was killed.
    #[error("an RDMA operation did not end within {0:?}")]
    TimedOut(Duration),
}

/// Why there is no usable RDMA device. The names are the reasons of the condition `RdmaReady`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// `NoLibrary`
    #[error("libibverbs is not installed; install the packages libibverbs1 and ibverbs-providers (Debian)")]
    NoLibrary,
    /// `KernelModuleMissing`
    #[error(
        "the kernel offers no RDMA devices to programs; load the module ib_uverbs, and the driver of the NIC"
    )]
    KernelModuleMissing,
    /// `NoDevice`
    #[error("there is no RDMA device{0}; {1}")]
    NoDevice(String, String),
    /// `PortDown`
    #[error("port {port} of RDMA device {device} is not active; check its cable and `ip link`")]
    PortDown {
        /// Device name.
        device: String,
        /// Port number.
        port: u8,
    },
    /// `NoRoceV2Gid`
    #[error("port {port} of RDMA device {device} has no RoCE v2 GID; give its network interface an address")]
    NoRoceV2Gid {
        /// Device name.
        device: String,
        /// Port number.
        port: u8,
    },
    /// `MemlockTooLow`
    #[error(
        "memory cannot be registered: the limit of locked memory (ulimit -l, LimitMEMLOCK) is too low; raise it, or run as \
         root with the capability IPC_LOCK"
    )]
    MemlockTooLow,
    /// `DeviceFailed`
    #[error("the RDMA device does not work: {0}")]
    Failed(String),
}

impl Unavailable {
    /// The reason in one word, for conditions and labels.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoLibrary => "NoLibrary",
            Self::KernelModuleMissing => "KernelModuleMissing",
            Self::NoDevice(..) => "NoDevice",
            Self::PortDown { .. } => "PortDown",
            Self::NoRoceV2Gid { .. } => "NoRoceV2Gid",
            Self::MemlockTooLow => "MemlockTooLow",
            Self::Failed(_) => "DeviceFailed",
        }
    }
}
