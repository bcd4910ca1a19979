//! A queue pair: a queue of operations, and a task that performs them in order.

use super::{
    Effect, Inner,
    network::{Bound, End, Phase, State},
    region_of,
};
use crate::fabric::{
    Connection, Direction, DmaBuf, Error, Exposed, Memory, Purpose, QpAddress, QueuePair, Remote, Result,
    Window,
};
use futures::future::{BoxFuture, FutureExt};
use std::{
    any::Any,
    fmt,
    ops::Range,
    ptr,
    sync::{Arc, atomic::Ordering},
};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

pub(super) struct LoopbackQueuePair {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Work>,
    immediates: Arc<Mutex<mpsc::UnboundedReceiver<u32>>>,
}

struct Shared {
    device: Arc<Inner>,
    number: u32,
    phase: watch::Receiver<Phase>,
    /// Operations that were posted and have not given their memory back.
    under_way: watch::Sender<usize>,
}

struct Work {
    kind: Kind,
    memory: Memory,
    bytes: Range<usize>,
    remote: Remote,
    done: oneshot::Sender<(Memory, Result<()>)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Write { immediate: Option<u32> },
    Read,
}

impl LoopbackQueuePair {
    pub fn create(device: &Arc<Inner>, state: &mut State) -> Arc<dyn QueuePair> {
        let (phase, watched) = watch::channel(Phase::Init);
        let (to_us, immediates) = mpsc::unbounded_channel();
        let number = state.add_queue_pair(End {
            device: device.number,
            gid: device.info.gid,
            phase,
            immediates: to_us,
        });
        let shared = Arc::new(Shared {
            device: Arc::clone(device),
            number,
            phase: watched,
            under_way: watch::Sender::new(0),
        });
        let (queue, queued) = mpsc::unbounded_channel();
        tokio::spawn(perform(Arc::clone(&shared), queued));
        Arc::new(Self {
            shared,
            queue,
            immediates: Arc::new(Mutex::new(immediates)),
        })
    }

    fn post(
        &self,
        kind: Kind,
        memory: Memory,
        bytes: Range<usize>,
        remote: Remote,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        if bytes.start > bytes.end || bytes.end > memory.len() {
            let refused = Error::Device {
                doing: "post an operation",
                cause: "the bytes lie outside of the memory".to_owned(),
            };
            return std::future::ready((memory, Err(refused))).boxed();
        }
        let (done, outcome) = oneshot::channel();
        self.shared.under_way.send_modify(|count| *count += 1);
        let work = Work {
            kind,
            memory,
            bytes,
            remote,
            done,
        };
        if let Err(unsent) = self.queue.send(work) {
            self.shared.under_way.send_modify(|count| *count -= 1);
            return std::future::ready((unsent.0.memory, Err(Error::Dead))).boxed();
        }
        let mut unfinished = Unfinished(Some(Arc::clone(&self.shared)));
        async move {
            match outcome.await {
                Ok(outcome) => {
                    unfinished.ended();
                    outcome
                }
                // The runtime that performed it is gone, and the memory with it.
                Err(_) => std::future::pending().await,
            }
        }
        .boxed()
    }
}

/// A caller that goes away before its operation ends takes the queue pair with it.
struct Unfinished(Option<Arc<Shared>>);

impl Unfinished {
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.die();
        }
    }
}

impl Shared {
    fn die(&self) {
        self.device.network.state().kill(self.number);
    }

    fn is_dead(&self) -> bool {
        *self.phase.borrow() == Phase::Dead
    }

    async fn death(&self) {
        let mut phase = self.phase.clone();
        // The sender lives as long as the queue pair; without it, it is dead.
        let _gone = phase.wait_for(|phase| *phase == Phase::Dead).await;
    }

    async fn one(&self, work: &mut Work) -> Result<()> {
        if self.is_dead() {
            return Err(Error::Dead);
        }
        let effect = self.device.begin();
        match &effect {
            None | Some(Effect::Corrupt) => {}
            Some(Effect::Fail) => return Err(Error::Completion("remote operation error")),
            Some(Effect::Never) => {
                self.death().await;
                return Err(Error::Dead);
            }
            Some(Effect::Delay(time)) => tokio::select! {
                () = self.death() => return Err(Error::Dead),
                () = tokio::time::sleep(*time) => {}
            },
            Some(Effect::Hold(until)) => {
                let mut until = until.clone();
                tokio::select! {
                    () = self.death() => return Err(Error::Dead),
                    _ = until.wait_for(|go| *go) => {}
                }
            }
            Some(Effect::KillPeer) => {
                let mut state = self.device.network.state();
                if let Phase::Ready(connection) = state.phase(self.number) {
                    state.kill(connection.peer.qpn);
                }
            }
        }
        self.transfer(work, matches!(effect, Some(Effect::Corrupt)))
    }

    /// What a NIC does with an operation: every check, then the bytes. Death waits for the lock, so nothing lands after it.
    fn transfer(&self, work: &mut Work, corrupt: bool) -> Result<()> {
        let mut state = self.device.network.state();
        let Phase::Ready(connection) = state.phase(self.number) else {
            return Err(Error::Dead);
        };
        if region_of(&state, &self.device, &work.memory).is_none() {
            return Err(Error::Completion("local protection error"));
        }
        let gid = self.device.info.gid;
        let Some((peer, end)) = state.peer(self.number, gid, &connection) else {
            return Err(Error::Completion("transport retry counter exceeded"));
        };
        let immediates = end.immediates.clone();
        let local = &mut work.memory[work.bytes.clone()];
        let length = local.len();
        let direction = match work.kind {
            Kind::Write { .. } => Direction::Written,
            Kind::Read => Direction::Read,
        };
        // An operation on no bytes has no key to check (InfiniBand Architecture, 9.4.3).
        if length > 0 {
            let Some(address) = state.opened(peer, work.remote, length as u64, direction) else {
                state.kill(peer);
                return Err(Error::Completion("remote access error"));
            };
            match work.kind {
                Kind::Write { .. } => {
                    let remote = ptr::with_exposed_provenance_mut::<u8>(address);
                    // SAFETY: a window is open only while the `Exposed` that owns its pages holds them (it closes the
                    // window or kills the queue pair first, and either waits for this lock), nobody has a slice of
                    // them meanwhile, and the bounds were checked. Both are different mappings.
                    unsafe { ptr::copy_nonoverlapping(local.as_ptr(), remote, length) };
                    if corrupt {
                        // SAFETY: as above, the first of at least one byte.
                        unsafe { *remote ^= 1 };
                    }
                    self.device.written.fetch_add(length as u64, Ordering::SeqCst);
                }
                Kind::Read => {
                    let remote = ptr::with_exposed_provenance::<u8>(address);
                    // SAFETY: as for writing.
                    unsafe { ptr::copy_nonoverlapping(remote, local.as_mut_ptr(), length) };
                    if corrupt {
                        local[0] ^= 1;
                    }
                    self.device.read.fetch_add(length as u64, Ordering::SeqCst);
                }
            }
        }
        if let Kind::Write {
            immediate: Some(immediate),
        } = work.kind
        {
            let _nobody_waits = immediates.send(immediate);
        }
        Ok(())
    }
}

async fn perform(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Work>) {
    while let Some(mut work) = queue.recv().await {
        let outcome = shared.one(&mut work).await;
        if outcome.is_err() {
            shared.die();
        }
        // Where nobody waits any more, the queue pair is dead and the memory goes.
        let _nobody_waits = work.done.send((work.memory, outcome));
        shared.under_way.send_modify(|count| *count -= 1);
    }
}

impl QueuePair for LoopbackQueuePair {
    fn address(&self) -> QpAddress {
        QpAddress {
            qpn: self.shared.number,
            gid: self.shared.device.info.gid,
            lid: 0,
            port: self.shared.device.info.port,
        }
    }

    fn connect(&self, connection: &Connection) -> Result<()> {
        let state = self.shared.device.network.state();
        match state.phase(self.shared.number) {
            Phase::Init => {
                state.set_phase(self.shared.number, Phase::Ready(*connection));
                Ok(())
            }
            Phase::Ready(_) => Err(Error::Device {
                doing: "connect a queue pair",
                cause: "it is connected already".to_owned(),
            }),
            Phase::Dead => Err(Error::Dead),
        }
    }

    fn is_alive(&self) -> bool {
        !self.shared.is_dead()
    }

    fn write(
        &self,
        from: Memory,
        bytes: Range<usize>,
        to: Remote,
        immediate: Option<u32>,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        self.post(Kind::Write { immediate }, from, bytes, to)
    }

    fn read(
        &self,
        into: Memory,
        bytes: Range<usize>,
        from: Remote,
    ) -> BoxFuture<'static, (Memory, Result<()>)> {
        self.post(Kind::Read, into, bytes, from)
    }

    fn expose(
        self: Arc<Self>,
        memory: Memory,
        bytes: Range<usize>,
        direction: Direction,
    ) -> BoxFuture<'static, std::result::Result<Exposed, (Memory, Error)>> {
        let opened = {
            let mut state = self.shared.device.network.state();
            let region = region_of(&state, &self.shared.device, &memory);
            let fits = bytes.start < bytes.end && bytes.end <= memory.len();
            let size = u32::try_from(bytes.len()).ok().filter(|_| fits);
            match (state.phase(self.shared.number), region, size) {
                (Phase::Ready(_), Some(region), Some(size)) if region.purpose == Purpose::Windows => {
                    let address = memory.address() + bytes.start as u64;
                    let rkey = state.bind(Bound {
                        queue_pair: self.shared.number,
                        address,
                        size: u64::from(size),
                        direction,
                        mapped: None,
                    });
                    Ok(Window { address, size, rkey })
                }
                (Phase::Dead | Phase::Init, ..) => Err(Error::Dead),
                (_, None, _) => Err(Error::Completion("local protection error")),
                _ => Err(Error::Device {
                    doing: "open a window",
                    cause: "the memory is not registered for windows, or does not hold these bytes"
                        .to_owned(),
                }),
            }
        };
        let outcome = match opened {
            Ok(window) => Ok(Exposed::new(self, memory, window)),
            Err(error) => Err((memory, error)),
        };
        std::future::ready(outcome).boxed()
    }

    unsafe fn open_dma_buf(&self, dma_buf: &DmaBuf<'_>, direction: Direction) -> Result<Window> {
        let mapped = self.shared.device.map(dma_buf)?;
        let mut state = self.shared.device.network.state();
        let Phase::Ready(_) = state.phase(self.shared.number) else {
            return Err(Error::Dead);
        };
        let rkey = state.bind(Bound {
            queue_pair: self.shared.number,
            address: dma_buf.address,
            size: dma_buf.length,
            direction,
            mapped: Some(mapped),
        });
        Ok(Window {
            address: dma_buf.address,
            size: u32::try_from(dma_buf.length).unwrap_or(u32::MAX),
            rkey,
        })
    }

    fn close_window(&self, window: Window) -> BoxFuture<'static, Result<()>> {
        let mut state = self.shared.device.network.state();
        let closed = state.unbind(window.rkey, self.shared.number);
        std::future::ready(if closed { Ok(()) } else { Err(Error::Dead) }).boxed()
    }

    fn immediate(&self) -> BoxFuture<'static, Result<u32>> {
        let (shared, immediates) = (Arc::clone(&self.shared), Arc::clone(&self.immediates));
        async move {
            let mut immediates = immediates.lock().await;
            tokio::select! {
                biased;
                immediate = immediates.recv() => immediate.ok_or(Error::Dead),
                () = shared.death() => Err(Error::Dead),
            }
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'static, ()> {
        self.shared.die();
        let mut under_way = self.shared.under_way.subscribe();
        async move {
            // The sender is part of the queue pair; without it nothing is under way.
            let _gone = under_way.wait_for(|count| *count == 0).await;
        }
        .boxed()
    }

    fn bury(&self, memory: Box<dyn Any + Send>) {
        self.shared.die();
        drop(memory);
    }
}

impl Drop for LoopbackQueuePair {
    fn drop(&mut self) {
        let network = &self.shared.device.network;
        network.state().remove_queue_pair(self.shared.number);
    }
}

impl fmt::Debug for LoopbackQueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackQueuePair")
            .field("number", &self.shared.number)
            .finish_non_exhaustive()
    }
}
