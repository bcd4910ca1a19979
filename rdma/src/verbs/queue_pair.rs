//! RC queue pairs: what their users see.

mod shared;
mod work;

pub(super) use shared::Shared;

use super::{
    context::{Context, Handle, check, mtu_number},
    memory::Region,
    sys,
    windows::{self, MemoryWindow, Opening},
};
use crate::fabric::{
    self, Connection, Direction, DmaBuf, Error, Exposed, Memory, QpAddress, Registration, Remote, Result,
    Window,
};
use futures::{FutureExt, future::BoxFuture};
use shared::{KEPT, State};
use std::{any::Any, fmt, ops::Range, sync::Arc};
use tokio::sync::oneshot;
use work::{Outcome, Request};

/// What an owner has. The connection dies with the last of its owners and of the futures that they made.
pub(super) struct QueuePair {
    owner: Arc<Owner>,
}

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill_now();
    }
}

/// Kills the queue pair unless what it guards came to its end.
struct Unfinished(Option<Arc<Owner>>);

impl Unfinished {
    fn finished(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(owner) = self.0.take() {
            owner.0.kill_now();
        }
    }
}

impl QueuePair {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            owner: Arc::new(Owner(shared)),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Posts at once, so that the order is that of the calls.
    fn perform(&self, request: Request, memory: Option<Memory>) -> BoxFuture<'static, Outcome> {
        self.finish(self.shared().submit(request, memory))
    }

    /// Waits for an outcome; who stops waiting kills the queue pair.
    fn finish(&self, outcome: oneshot::Receiver<Outcome>) -> BoxFuture<'static, Outcome> {
        let guard = Unfinished(Some(self.owner.clone()));
        async move {
            match outcome.await {
                Ok(outcome) => {
                    guard.finished();
                    outcome
                }
                // Only when the runtime of the device is gone: then nothing can say when the memory is free.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }

    /// Performs an operation on `memory[bytes]`, and gives the memory back.
    fn transfer(
        &self,
        memory: Memory,
        bytes: &Range<usize>,
        request: impl FnOnce(sys::ibv_sge) -> Request,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        let element = match self.element(&memory, bytes) {
            Ok(element) => element,
            Err(error) => return async { (memory, Err(error)) }.boxed(),
        };
        let outcome = self.perform(request(element), Some(memory));
        async move {
            match outcome.await {
                (Some(memory), result) => (memory, result),
                // Memory that was handed in comes back.
                (None, _) => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn element(&self, memory: &Memory, bytes: &Range<usize>) -> Result<sys::ibv_sge> {
        let context = &self.shared().context;
        let region = Region::of(context, memory)?;
        let length = length(memory, bytes)?;
        if length > context.largest_message.min(1 << 31) {
            return Err(Error::Device {
                doing: "transfer memory",
                cause: format!("{length} bytes are more than one operation can move"),
            });
        }
        Ok(sys::ibv_sge {
            addr: memory.address() + bytes.start as u64,
            length,
            lkey: region.lkey(),
        })
    }

    /// Opens a window over `memory[bytes]` by itself.
    fn open(
        &self,
        memory: Memory,
        bytes: &Range<usize>,
        direction: Direction,
    ) -> BoxFuture<'static, (Memory, Result<Window>)> {
        let shared = self.shared();
        // While this is held the queue pair does not die, so that whatever is made here is closed by its death.
        let mut state = shared.state();
        let (prepared, size) = match self.prepare(&mut state, &memory, bytes, direction) {
            Ok(prepared) => prepared,
            Err(error) => return async { (memory, Err(error)) }.boxed(),
        };
        let address = memory.address() + bytes.start as u64;
        let window = move |rkey| Window { address, size, rkey };
        let (request, rkey) = match prepared {
            Prepared::Registered(region) => {
                let rkey = region.rkey();
                state.windows.opened(rkey, Opening::Region(region));
                return async move { (memory, Ok(window(rkey))) }.boxed();
            }
            Prepared::Unbound { window, mr, region } => {
                let rkey = window.next_key();
                let info = sys::ibv_mw_bind_info {
                    mr: mr.get(),
                    addr: address,
                    length: u64::from(size),
                    mw_access_flags: windows::right(direction).unsigned_abs(),
                };
                (
                    Request::Bind {
                        window,
                        region,
                        rkey,
                        info,
                    },
                    rkey,
                )
            }
        };
        let outcome = self.finish(shared.submit_locked(&mut state, request, Some(memory)));
        async move {
            match outcome.await {
                (Some(memory), result) => (memory, result.map(|()| window(rkey))),
                (None, _) => std::future::pending().await,
            }
        }
        .boxed()
    }

    /// What a window over `memory[bytes]` takes, and its size.
    fn prepare(
        &self,
        state: &mut State,
        memory: &Memory,
        bytes: &Range<usize>,
        direction: Direction,
    ) -> Result<(Prepared, u32)> {
        let context = &self.shared().context;
        let mr = Region::of(context, memory)?.mr;
        let size = length(memory, bytes)?;
        if size == 0 {
            return Err(Error::Device {
                doing: "open a window",
                cause: "it would be empty".to_owned(),
            });
        }
        if !state.is_ready() {
            return Err(Error::Dead);
        }
        state.allow(context, direction)?;
        let register = || {
            // SAFETY: `Exposed` keeps the memory until the window is closed or the queue pair dead, and the region is released
            // before either is said.
            unsafe { windows::register(context, memory, bytes.start, size, direction) }
        };
        if !context.memory_windows {
            return Ok((Prepared::Registered(register()?), size));
        }
        let window = match state.windows.take_free() {
            Some(window) => window,
            None => MemoryWindow::new(context)?,
        };
        if !context.loose_windows {
            return Ok((
                Prepared::Unbound {
                    window,
                    mr,
                    region: None,
                },
                size,
            ));
        }
        match register() {
            Ok(region) => {
                let mr = region.mr;
                let region = Some(region);
                Ok((Prepared::Unbound { window, mr, region }, size))
            }
            Err(error) => {
                state.windows.put_free(window);
                Err(error)
            }
        }
    }
}

/// What opens a window, before it does.
enum Prepared {
    Registered(Region),
    Unbound {
        window: MemoryWindow,
        mr: Handle<sys::ibv_mr>,
        region: Option<Region>,
    },
}

impl fabric::QueuePair for QueuePair {
    fn address(&self) -> QpAddress {
        let (shared, context) = (self.shared(), &self.shared().context);
        QpAddress {
            qpn: shared.number(),
            gid: context.info.gid,
            lid: context.lid,
            port: context.info.port,
        }
    }

    fn connect(&self, connection: &Connection) -> Result<()> {
        let shared = self.shared();
        let context = &shared.context;
        let doing = "connect a queue pair";
        let refused = |cause: String| Error::Device { doing, cause };
        let mtu = mtu_number(connection.mtu)
            .filter(|_| connection.mtu <= context.info.mtu)
            .ok_or_else(|| refused(format!("its port has no path MTU of {} bytes", connection.mtu)))?;

        let mut rtr = sys::ibv_qp_attr::zeroed();
        rtr.qp_state = sys::IBV_QPS_RTR;
        rtr.path_mtu = mtu;
        rtr.dest_qp_num = connection.peer.qpn & 0xff_ffff;
        rtr.rq_psn = connection.peer_psn & 0xff_ffff;
        rtr.max_dest_rd_atomic = connection.read_depth.min(context.info.read_depth).max(1);
        // 0.64 ms until a peer whose immediate finds no receive asks again (InfiniBand Architecture, table 45).
        rtr.min_rnr_timer = 12;
        rtr.ah_attr = sys::ibv_ah_attr {
            grh: sys::ibv_global_route {
                dgid: gid_words(connection.peer.gid.0),
                flow_label: 0,
                sgid_index: context.gid_index,
                hop_limit: context.options.hop_limit,
                traffic_class: context.options.traffic_class,
            },
            dlid: connection.peer.lid,
            sl: context.options.service_level,
            src_path_bits: 0,
            static_rate: 0,
            is_global: 1,
            port_num: context.info.port,
        };
        let to_rtr = sys::IBV_QP_STATE
            | sys::IBV_QP_AV
            | sys::IBV_QP_PATH_MTU
            | sys::IBV_QP_DEST_QPN
            | sys::IBV_QP_RQ_PSN
            | sys::IBV_QP_MAX_DEST_RD_ATOMIC
            | sys::IBV_QP_MIN_RNR_TIMER;

        let mut rts = sys::ibv_qp_attr::zeroed();
        rts.qp_state = sys::IBV_QPS_RTS;
        rts.timeout = context.options.timeout.min(31);
        rts.retry_cnt = context.options.retries.min(6);
        // Not 7, which is for ever.
        rts.rnr_retry = 6;
        rts.sq_psn = connection.local_psn & 0xff_ffff;
        rts.max_rd_atomic = connection.read_depth.min(context.reads).max(1);
        let to_rts = sys::IBV_QP_STATE
            | sys::IBV_QP_TIMEOUT
            | sys::IBV_QP_RETRY_CNT
            | sys::IBV_QP_RNR_RETRY
            | sys::IBV_QP_SQ_PSN
            | sys::IBV_QP_MAX_QP_RD_ATOMIC;

        let outcome = {
            let mut state = shared.state();
            state.begin_connecting(doing)?;
            state
                .modify(context, doing, &mut rtr, to_rtr)
                .and_then(|()| state.modify(context, doing, &mut rts, to_rts))
                .and_then(|()| state.connected(shared.depth))
        };
        if outcome.is_err() {
            shared.kill_now();
        }
        outcome
    }

    fn is_alive(&self) -> bool {
        !self.shared().context.has_failed() && self.shared().state().is_alive()
    }

    fn write(
        &self,
        from: Memory,
        bytes: Range<usize>,
        to: Remote,
        immediate: Option<u32>,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        self.transfer(from, &bytes, |from| Request::Write { from, to, immediate })
    }

    fn read(
        &self,
        into: Memory,
        bytes: Range<usize>,
        from: Remote,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        self.transfer(into, &bytes, |into| Request::Read { into, from })
    }

    fn expose(
        self: Arc<Self>,
        memory: Memory,
        bytes: Range<usize>,
        direction: Direction,
    ) -> BoxFuture<'static, std::result::Result<Exposed, (Memory, Error)>> {
        let opened = self.open(memory, &bytes, direction);
        async move {
            match opened.await {
                (memory, Ok(window)) => Ok(Exposed::new(self, memory, window)),
                (memory, Err(error)) => Err((memory, error)),
            }
        }
        .boxed()
    }

    unsafe fn open_dma_buf(&self, dma_buf: &DmaBuf<'_>, direction: Direction) -> Result<Window> {
        let shared = self.shared();
        let mut state = shared.state();
        if !state.is_ready() {
            return Err(Error::Dead);
        }
        state.allow(&shared.context, direction)?;
        // SAFETY: by the caller; the region is released before the window is called closed or the queue pair dead.
        let region = unsafe { windows::register_dma_buf(&shared.context, dma_buf, direction) }?;
        let (address, rkey) = (dma_buf.address, region.rkey());
        state.windows.opened(rkey, Opening::Region(region));
        Ok(Window {
            address,
            size: u32::try_from(dma_buf.length).unwrap_or(u32::MAX),
            rkey,
        })
    }

    fn close_window(&self, window: Window) -> BoxFuture<'static, Result<()>> {
        let shared = self.shared();
        let mut state = shared.state();
        if state.windows.is_memory_window(window.rkey) {
            drop(state);
            let outcome = self.perform(Request::Invalidate { rkey: window.rkey }, None);
            return async move { outcome.await.1 }.boxed();
        }
        let opening = state.windows.take_open(window.rkey);
        drop(state);
        let outcome = match opening {
            Some(Opening::Region(mut region)) => {
                if region.release() {
                    Ok(())
                } else {
                    // Stays open, and keeps the queue pair from being called dead.
                    shared
                        .state()
                        .windows
                        .opened(window.rkey, Opening::Region(region));
                    Err(Error::Device {
                        doing: "close a window",
                        cause: KEPT.to_owned(),
                    })
                }
            }
            // All windows are closed when a queue pair is destroyed.
            _ => Err(Error::Dead),
        };
        async { outcome }.boxed()
    }

    fn immediate(&self) -> BoxFuture<'static, Result<u32>> {
        let owner = self.owner.clone();
        async move { owner.0.next_immediate().await }.boxed()
    }

    fn kill(&self) -> BoxFuture<'static, ()> {
        self.shared().kill_now();
        let shared = self.shared().clone();
        async move { shared.until_dead().await }.boxed()
    }

    fn bury(&self, memory: Box<dyn Any + Send>) {
        self.shared().bury(memory);
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared().fmt(f)
    }
}

/// The length of a part of memory, in the 32 bits that operations and windows have for it.
fn length(memory: &Memory, bytes: &Range<usize>) -> Result<u32> {
    let inside = bytes.start <= bytes.end && bytes.end <= memory.len();
    let length = inside.then(|| bytes.end - bytes.start);
    length
        .and_then(|length| u32::try_from(length).ok())
        .ok_or_else(|| Error::Device {
            doing: "use a part of memory",
            cause: format!(
                "{bytes:?} is not within its {} bytes, or 4 GiB and more",
                memory.len()
            ),
        })
}

fn gid_words(gid: [u8; 16]) -> [u64; 2] {
    let value = u128::from_ne_bytes(gid);
    // In memory order, whatever the machine's.
    let (low, high) = (value as u64, (value >> 64) as u64);
    if cfg!(target_endian = "little") {
        [low, high]
    } else {
        [high, low]
    }
}

/// Moves a new queue pair from RESET to INIT, with no rights for its peer.
fn initialise(context: &Context, qp: *mut sys::ibv_qp) -> Result<()> {
    let mut attributes = sys::ibv_qp_attr::zeroed();
    attributes.qp_state = sys::IBV_QPS_INIT;
    attributes.port_num = context.info.port;
    let mask = sys::IBV_QP_STATE | sys::IBV_QP_PKEY_INDEX | sys::IBV_QP_PORT | sys::IBV_QP_ACCESS_FLAGS;
    // SAFETY: the queue pair exists.
    check("initialise a queue pair", unsafe {
        (context.verbs.ibv_modify_qp)(qp, &mut attributes, mask)
    })
}
