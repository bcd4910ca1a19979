//! What a queue pair is while it lives, dies and is buried.
//!
//! ```text
//!   Init ── connect ──▶ Ready ── kill, error, last owner gone ──▶ Dying ── all flushed ──▶ Buried ──▶ Dead
//! ```
//! Memory of an operation that failed comes back when the queue pair is Dead, that is, destroyed: from then on no device
//! can reach it, whatever its driver thinks of flushing.

use super::{
    super::{
        context::{Context, Handle, check, last_error},
        sys,
        windows::{Opening, Windows, right},
    },
    initialise,
    work::{Finished, Outcome, Request, Work},
};
use crate::fabric::{Direction, Error, Memory, Registration, Result};
use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    ffi::c_int,
    fmt, mem, ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

/// What a device did that cannot be trusted any more.
pub(super) const KEPT: &str = "the device does not let go of its memory";
/// The id of every receive; sends count from 0.
const RECEIVE: u64 = u64::MAX;
/// Completions that are taken at a time.
const BATCH: usize = 32;

/// A queue pair and everything that belongs to it.
pub(in super::super) struct Shared {
    pub(super) context: Arc<Context>,
    id: u64,
    number: u32,
    /// Operations, and receives for immediates, under way at a time.
    pub(super) depth: usize,
    state: Mutex<State>,
    /// An immediate came, or the queue pair is dying or dead.
    changed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Life {
    Init,
    Ready,
    Dying(Instant),
    /// Being destroyed: nothing but that touches it.
    Buried,
    Dead,
}

pub(super) struct State {
    life: Life,
    qp: Handle<sys::ibv_qp>,
    cq: Handle<sys::ibv_cq>,
    /// What the peer may do.
    rights: c_int,
    pub(super) windows: Windows,
    posted: HashMap<u64, Work>,
    /// For room in the queue, first come first served.
    waiting: VecDeque<Work>,
    next: u64,
    /// Posted receives.
    receives: usize,
    immediates: VecDeque<u32>,
    /// Outcomes that wait for the queue pair's death.
    failed: Vec<Finished>,
    buried: Vec<Box<dyn Any + Send>>,
}

impl Shared {
    pub(in super::super) fn new(context: &Arc<Context>, id: u64, depth: u16) -> Result<Arc<Self>> {
        let depth = usize::from(depth);
        // Every operation and every receive completes once.
        let entries = c_int::try_from(2 * depth).unwrap_or(c_int::MAX);
        let name = ptr::without_provenance_mut(usize::try_from(id).unwrap_or(usize::MAX));
        let verbs = context.verbs;
        // SAFETY: device and channel exist. The name is a number, never followed.
        let cq = unsafe { (verbs.ibv_create_cq)(context.device(), entries, name, context.channel.get(), 0) };
        let cq = Handle::new(cq).ok_or_else(|| last_error("make a completion queue"))?;
        let made = || {
            let mut attributes = sys::ibv_qp_init_attr::zeroed();
            attributes.send_cq = cq.get();
            attributes.recv_cq = cq.get();
            attributes.qp_type = sys::IBV_QPT_RC;
            attributes.cap.max_send_wr = depth as u32;
            attributes.cap.max_recv_wr = depth as u32;
            attributes.cap.max_send_sge = 1;
            attributes.cap.max_recv_sge = 1;
            // SAFETY: the protection domain and the completion queue exist.
            let qp = unsafe { (verbs.ibv_create_qp)(context.pd.get(), &mut attributes) };
            let qp = Handle::new(qp).ok_or_else(|| last_error("make a queue pair"))?;
            // SAFETY: the completion queue exists.
            let ready = check("watch a completion queue", unsafe {
                sys::req_notify_cq(cq.get())
            })
            .and_then(|()| initialise(context, qp.get()));
            if ready.is_err() {
                // SAFETY: nothing was posted on it.
                unsafe { (verbs.ibv_destroy_qp)(qp.get()) };
            }
            ready.map(|()| qp)
        };
        let qp = match made() {
            Ok(qp) => qp,
            Err(error) => {
                // SAFETY: no queue pair uses it.
                unsafe { (verbs.ibv_destroy_cq)(cq.get()) };
                return Err(error);
            }
        };
        Ok(Arc::new(Self {
            context: context.clone(),
            id,
            // SAFETY: it exists.
            number: unsafe { (*qp.get()).qp_num },
            depth,
            state: Mutex::new(State {
                life: Life::Init,
                qp,
                cq,
                rights: 0,
                windows: Windows::default(),
                posted: HashMap::new(),
                waiting: VecDeque::new(),
                next: 0,
                receives: 0,
                immediates: VecDeque::new(),
                failed: Vec::new(),
                buried: Vec::new(),
            }),
            changed: Notify::new(),
        }))
    }

    pub(in super::super) fn number(&self) -> u32 {
        self.number
    }

    pub(in super::super) fn uses(&self, cq: *mut sys::ibv_cq) -> bool {
        self.state().cq.get() == cq
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a request, or queues it until there is room.
    pub(super) fn submit(&self, request: Request, memory: Option<Memory>) -> oneshot::Receiver<Outcome> {
        let mut state = self.state();
        let why = match state.life {
            Life::Ready => return self.submit_locked(&mut state, request, memory),
            Life::Init => Error::Device {
                doing: "use a queue pair",
                cause: "it is not connected".to_owned(),
            },
            Life::Dying(_) | Life::Buried | Life::Dead => Error::Dead,
        };
        drop(state);
        let (waiting, outcome) = oneshot::channel();
        // The device never saw it.
        Finished {
            waiting,
            outcome: (memory, Err(why)),
        }
        .deliver();
        outcome
    }

    /// The same for a queue pair that is ready.
    pub(super) fn submit_locked(
        &self,
        state: &mut State,
        request: Request,
        memory: Option<Memory>,
    ) -> oneshot::Receiver<Outcome> {
        let (waiting, outcome) = oneshot::channel();
        state.waiting.push_back(Work {
            request,
            memory,
            waiting,
        });
        self.post_waiting(state);
        outcome
    }

    /// Fills the queue.
    fn post_waiting(&self, state: &mut State) {
        while state.is_ready() && state.posted.len() < self.depth {
            let Some(work) = state.waiting.pop_front() else {
                return;
            };
            let id = state.next;
            state.next += 1;
            // SAFETY: the queue pair exists while it is ready; the work stays in `posted`.
            match check("post an operation", unsafe { work.post(state.qp.get(), id) }) {
                Ok(()) => {
                    state.posted.insert(id, work);
                }
                Err(error) => {
                    state.fail(work, error);
                    self.kill_locked(state);
                }
            }
        }
    }

    /// Takes what completed. For the completion task.
    pub(in super::super) fn complete(&self) {
        let mut finished = Vec::new();
        let mut state = self.state();
        let mut armed = false;
        let mut completions = [sys::ibv_wc::default(); BATCH];
        while !matches!(state.life, Life::Buried | Life::Dead) {
            // SAFETY: it exists until the queue pair is buried, and that needs the lock.
            let count = unsafe { sys::poll_cq(state.cq.get(), &mut completions) };
            match usize::try_from(count) {
                // Asking for the next event and looking once more: what completed in between gives no event.
                Ok(0) if !armed => {
                    armed = true;
                    // SAFETY: as above.
                    if unsafe { sys::req_notify_cq(state.cq.get()) } != 0 {
                        self.kill_locked(&mut state);
                        break;
                    }
                }
                Ok(0) => break,
                Ok(count) => {
                    for completion in &completions[..count.min(BATCH)] {
                        finished.extend(self.completed(&mut state, completion));
                    }
                }
                Err(_) => {
                    tracing::error!(queue_pair = ?self, "its completion queue cannot be read");
                    self.kill_locked(&mut state);
                    break;
                }
            }
        }
        self.post_waiting(&mut state);
        drop(state);
        finished.into_iter().for_each(Finished::deliver);
    }

    fn completed(&self, state: &mut State, completion: &sys::ibv_wc) -> Option<Finished> {
        let succeeded = completion.status == sys::IBV_WC_SUCCESS;
        if completion.wr_id == RECEIVE {
            state.receives = state.receives.saturating_sub(1);
            let immediate = completion.opcode == sys::IBV_WC_RECV_RDMA_WITH_IMM
                && completion.wc_flags & sys::IBV_WC_WITH_IMM != 0;
            if succeeded && immediate {
                state.immediates.push_back(u32::from_be(completion.imm_data));
                self.changed.notify_waiters();
            } else {
                // An error, or a message, which no peer of this protocol sends.
                self.kill_locked(state);
            }
            return None;
        }
        let Some(work) = state.posted.remove(&completion.wr_id) else {
            tracing::error!(queue_pair = ?self, "a completion of nothing");
            self.kill_locked(state);
            return None;
        };
        if succeeded {
            return Some(state.retire(work, Ok(())));
        }
        let killed_before = !state.is_ready();
        let error = match completion.status {
            sys::IBV_WC_WR_FLUSH_ERR => Error::Dead,
            status => Error::Completion(sys::status_name(status)),
        };
        if !killed_before {
            tracing::debug!(queue_pair = ?self, %error, vendor = completion.vendor_err, "an RDMA operation failed");
        }
        state.fail(work, error);
        self.kill_locked(state);
        None
    }

    pub(super) async fn next_immediate(&self) -> Result<u32> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if let Some(immediate) = state.immediates.pop_front() {
                    if state.is_ready() && state.post_receive().is_err() {
                        self.kill_locked(&mut state);
                    }
                    return Ok(immediate);
                }
                if !state.is_alive() {
                    return Err(Error::Dead);
                }
            }
            changed.await;
        }
    }

    pub(in super::super) fn kill_now(&self) {
        self.kill_locked(&mut self.state());
    }

    /// Moves it to ERR. Everything that is not done yet fails, when the queue pair is dead.
    fn kill_locked(&self, state: &mut State) {
        if !state.is_alive() {
            return;
        }
        let mut attributes = sys::ibv_qp_attr::zeroed();
        attributes.qp_state = sys::IBV_QPS_ERR;
        if let Err(error) = state.modify(
            &self.context,
            "kill a queue pair",
            &mut attributes,
            sys::IBV_QP_STATE,
        ) {
            // Destroying it is what counts.
            tracing::debug!(queue_pair = ?self, %error, "it cannot be moved to ERR");
        }
        state.life = Life::Dying(Instant::now());
        for work in mem::take(&mut state.waiting) {
            state.fail(work, Error::Dead);
        }
        self.context.died();
        self.changed.notify_waiters();
    }

    /// Since when it is dying, if it is.
    pub(in super::super) fn dying_since(&self) -> Option<Instant> {
        match self.state().life {
            Life::Dying(since) => Some(since),
            _ => None,
        }
    }

    /// Whether everything that was posted came back.
    pub(in super::super) fn is_flushed(&self) -> bool {
        let state = self.state();
        state.posted.is_empty() && state.receives == 0
    }

    /// Whether the caller is the one to destroy it.
    pub(in super::super) fn claim_burial(&self) -> bool {
        let mut state = self.state();
        let dying = matches!(state.life, Life::Dying(_));
        if dying {
            state.life = Life::Buried;
            self.context.buried();
        }
        dying
    }

    /// Destroys it, and gives back everything that it holds. Waits for the device.
    pub(in super::super) fn destroy(&self) {
        let (qp, cq, windows) = {
            let mut state = self.state();
            // What was not flushed in time.
            for work in mem::take(&mut state.posted).into_values() {
                state.fail(work, Error::Dead);
            }
            (state.qp, state.cq, mem::take(&mut state.windows))
        };
        // Before the queue pair: soft-RoCE counts a bound window as a user of it, and waits for its last user.
        let released = windows.close();
        let verbs = self.context.verbs;
        // SAFETY: who buries it is the only one to do so, and nobody else touches a queue pair that is buried.
        if let Err(error) = check("destroy a queue pair", unsafe {
            (verbs.ibv_destroy_qp)(qp.get())
        }) {
            tracing::error!(queue_pair = ?self, %error, "its memory is kept until that succeeds");
            self.state().life = Life::Dying(Instant::now());
            self.context.died();
            return;
        }
        // SAFETY: its queue pair is gone.
        if let Err(error) = check("destroy a completion queue", unsafe {
            (verbs.ibv_destroy_cq)(cq.get())
        }) {
            tracing::warn!(queue_pair = ?self, %error, "a completion queue is lost");
        }
        if !released {
            // The device may still write to it: it is never called dead, and its memory never comes back.
            tracing::error!(queue_pair = ?self, "{KEPT}");
            return;
        }
        let mut state = self.state();
        let finished = mem::take(&mut state.failed);
        let buried = mem::take(&mut state.buried);
        drop(state);
        drop(buried);
        finished.into_iter().for_each(Finished::deliver);
        self.context.forget(self.id);
        let mut state = self.state();
        state.life = Life::Dead;
        let buried = mem::take(&mut state.buried);
        drop(state);
        drop(buried);
        self.changed.notify_waiters();
    }

    pub(super) async fn until_dead(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().life == Life::Dead {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn bury(&self, memory: Box<dyn Any + Send>) {
        let mut state = self.state();
        if state.life == Life::Dead {
            return;
        }
        state.buried.push(memory);
        drop(state);
        self.kill_now();
    }
}

impl State {
    pub(super) fn is_ready(&self) -> bool {
        self.life == Life::Ready
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Init | Life::Ready)
    }

    pub(super) fn modify(
        &mut self,
        context: &Context,
        doing: &'static str,
        attributes: &mut sys::ibv_qp_attr,
        mask: c_int,
    ) -> Result<()> {
        // SAFETY: it exists while it is alive, and only then it is modified.
        check(doing, unsafe {
            (context.verbs.ibv_modify_qp)(self.qp.get(), attributes, mask)
        })
    }

    /// Gives the peer the right that a window needs, at the first such window: a queue pair that exposes nothing allows nothing.
    pub(super) fn allow(&mut self, context: &Context, direction: Direction) -> Result<()> {
        let rights = self.rights | right(direction);
        if rights != self.rights {
            let mut attributes = sys::ibv_qp_attr::zeroed();
            attributes.qp_access_flags = rights.unsigned_abs();
            self.modify(context, "allow access", &mut attributes, sys::IBV_QP_ACCESS_FLAGS)?;
            self.rights = rights;
        }
        Ok(())
    }

    /// Whether it can be connected: once.
    pub(super) fn begin_connecting(&self, doing: &'static str) -> Result<()> {
        match self.life {
            Life::Init => Ok(()),
            Life::Ready => Err(Error::Device {
                doing,
                cause: "it is connected already".to_owned(),
            }),
            Life::Dying(_) | Life::Buried | Life::Dead => Err(Error::Dead),
        }
    }

    /// It is in RTS. Its receives are posted: they are for immediates, and their return tells that it failed.
    pub(super) fn connected(&mut self, receives: usize) -> Result<()> {
        self.life = Life::Ready;
        (0..receives).try_for_each(|_| self.post_receive())
    }

    fn post_receive(&mut self) -> Result<()> {
        let mut request = sys::ibv_recv_wr::zeroed();
        request.wr_id = RECEIVE;
        // SAFETY: it exists while it is ready; the request names no memory.
        check("post a receive", unsafe {
            sys::post_recv(self.qp.get(), &mut request)
        })?;
        self.receives += 1;
        Ok(())
    }

    /// A request fails, and comes back when the queue pair is dead.
    fn fail(&mut self, work: Work, error: Error) {
        let failed = self.retire(work, Err(error));
        self.failed.push(failed);
    }

    /// What is left of a work request that ended.
    fn retire(&mut self, work: Work, outcome: Result<()>) -> Finished {
        let Work {
            request,
            memory,
            waiting,
        } = work;
        let mut outcome = outcome;
        match request {
            Request::Bind {
                mut window,
                region,
                rkey,
                ..
            } => {
                if outcome.is_ok() {
                    window.bound_as(rkey);
                }
                // One that was not bound is closed with the queue pair too, which failed.
                self.windows.opened(rkey, Opening::MemoryWindow(window, region));
            }
            Request::Invalidate { rkey } if outcome.is_ok() => {
                if let Some(Opening::MemoryWindow(window, region)) = self.windows.take_open(rkey) {
                    self.windows.put_free(window);
                    if let Some(mut region) = region
                        && !region.release()
                    {
                        self.windows.opened(rkey, Opening::Region(region));
                        outcome = Err(Error::Device {
                            doing: "close a window",
                            cause: KEPT.to_owned(),
                        });
                    }
                }
            }
            Request::Invalidate { .. } | Request::Write { .. } | Request::Read { .. } => {}
        }
        Finished {
            waiting,
            outcome: (memory, outcome),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("device", &self.context.info.name)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
