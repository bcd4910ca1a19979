//! Work requests: what is asked of a queue pair, and what belongs to it until it is done.

use super::super::{memory::Region, sys, windows::MemoryWindow};
use crate::fabric::{Memory, Remote, Result};
use tokio::sync::oneshot;

/// What comes of a request: the memory that was handed in, and how it went.
pub(super) type Outcome = (Option<Memory>, Result<()>);

/// What is asked of a queue pair.
pub(super) enum Request {
    Write {
        from: sys::ibv_sge,
        to: Remote,
        immediate: Option<u32>,
    },
    Read {
        into: sys::ibv_sge,
        from: Remote,
    },
    Bind {
        window: MemoryWindow,
        /// The region under it, if that is for this window alone.
        region: Option<Region>,
        rkey: u32,
        info: sys::ibv_mw_bind_info,
    },
    Invalidate {
        rkey: u32,
    },
}

// SAFETY: the region that a binding names belongs to the memory that goes with the request.
unsafe impl Send for Request {}

/// A request with its memory, and who waits for its outcome.
pub(super) struct Work {
    pub(super) request: Request,
    pub(super) memory: Option<Memory>,
    pub(super) waiting: oneshot::Sender<Outcome>,
}

/// An outcome on its way to who waits for it.
pub(super) struct Finished {
    pub(super) waiting: oneshot::Sender<Outcome>,
    pub(super) outcome: Outcome,
}

impl Finished {
    /// Memory of an outcome that nobody waits for any more goes.
    pub(super) fn deliver(self) {
        let _nobody_waits = self.waiting.send(self.outcome);
    }
}

impl Work {
    /// Posts it.
    ///
    /// # Safety
    /// `qp` exists, and the work stays until its completion or the queue pair's end.
    pub(super) unsafe fn post(&self, qp: *mut sys::ibv_qp, id: u64) -> i32 {
        let mut request = sys::ibv_send_wr::zeroed();
        let mut element;
        request.wr_id = id;
        request.send_flags = sys::IBV_SEND_SIGNALED;
        match &self.request {
            Request::Write { from, to, immediate } => {
                element = *from;
                request.opcode = match immediate {
                    Some(_) => sys::IBV_WR_RDMA_WRITE_WITH_IMM,
                    None => sys::IBV_WR_RDMA_WRITE,
                };
                request.imm_data_or_rkey = immediate.unwrap_or_default().to_be();
                transfer(&mut request, &mut element, *to);
            }
            Request::Read { into, from } => {
                element = *into;
                request.opcode = sys::IBV_WR_RDMA_READ;
                transfer(&mut request, &mut element, *from);
            }
            Request::Bind {
                window, rkey, info, ..
            } => {
                request.opcode = sys::IBV_WR_BIND_MW;
                request.bind_mw = window.raw();
                request.bind_rkey = *rkey;
                request.bind_info = *info;
            }
            Request::Invalidate { rkey } => {
                request.opcode = sys::IBV_WR_LOCAL_INV;
                request.imm_data_or_rkey = *rkey;
            }
        }
        // SAFETY: by the caller; drivers copy the request and its element before they return.
        unsafe { sys::post_send(qp, &mut request) }
    }
}

fn transfer(request: &mut sys::ibv_send_wr, element: &mut sys::ibv_sge, remote: Remote) {
    request.remote_addr = remote.address;
    request.rkey = remote.rkey;
    // Some drivers take an element of no bytes for one of 2 GiB.
    if element.length > 0 {
        request.sg_list = element;
        request.num_sge = 1;
    }
}
