//! The task that every open device has: it completes operations, learns of ports and devices that fail, and buries queue
//! pairs. It alone polls completion queues.

use super::{context::Context, queue_pair::Shared, sys};
use rustix::fs::OFlags;
use std::{
    ffi::c_int,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    ptr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
    time::Instant,
};

/// How long a queue pair may take to return what was posted on it, before it is destroyed all the same.
const FLUSH: Duration = Duration::from_secs(2);

/// The descriptors of a device, watched.
pub(super) struct Task {
    completions: AsyncFd<OwnedFd>,
    events: AsyncFd<OwnedFd>,
}

impl Task {
    /// Watches copies of the descriptors, so that libibverbs closing its own disturbs nothing.
    pub(super) fn new(completions: c_int, events: c_int) -> io::Result<Self> {
        let watched = |descriptor| -> io::Result<AsyncFd<OwnedFd>> {
            // SAFETY: the device is open, and its descriptors with it.
            let copy = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?;
            rustix::fs::fcntl_setfl(&copy, rustix::fs::fcntl_getfl(&copy)? | OFlags::NONBLOCK)?;
            // SAFETY: an owned descriptor stays open, and the same, as long as it is watched.
            Ok(unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?)
        };
        Ok(Self {
            completions: watched(completions)?,
            events: watched(events)?,
        })
    }

    pub(super) fn spawn(self, context: &Arc<Context>, killed: Arc<Notify>, ended: Arc<Notify>) {
        let context = Arc::downgrade(context);
        tokio::spawn(async move {
            tokio::select! {
                () = ended.notified() => {}
                () = self.run(&context, &killed) => {}
            }
        });
    }

    async fn run(&self, weak: &Weak<Context>, killed: &Notify) {
        // The next time to look after dying queue pairs, if there are any.
        let mut look = None;
        loop {
            let late = async {
                match look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = self.completions.readable() => {
                    let (Ok(mut ready), Some(context)) = (ready, weak.upgrade()) else { return };
                    while next_completion(&context) {}
                    ready.clear_ready();
                }
                ready = self.events.readable() => {
                    let (Ok(mut ready), Some(context)) = (ready, weak.upgrade()) else { return };
                    while next_event(&context) {}
                    ready.clear_ready();
                }
                () = killed.notified() => {}
                () = late => {}
            }
            let Some(context) = weak.upgrade() else { return };
            look = bury(&context);
        }
    }
}

/// Takes one event of a completion queue; false when there is none.
fn next_completion(context: &Context) -> bool {
    let (mut cq, mut id) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the channel exists; the call fills both. The descriptor does not block.
    let outcome = unsafe { (context.verbs.ibv_get_cq_event)(context.channel.get(), &mut cq, &mut id) };
    if outcome != 0 {
        return false;
    }
    // SAFETY: a completion queue is not destroyed before its events are acknowledged.
    unsafe { (context.verbs.ibv_ack_cq_events)(cq, 1) };
    if let Some(queue_pair) = context.find(id.addr() as u64) {
        queue_pair.complete();
    }
    true
}

/// Takes one event of the device; false when there is none.
fn next_event(context: &Context) -> bool {
    let mut event = sys::ibv_async_event::zeroed();
    // SAFETY: the device is open; the call fills `event`. The descriptor does not block.
    let outcome = unsafe { (context.verbs.ibv_get_async_event)(context.device(), &mut event) };
    if outcome != 0 {
        return false;
    }
    let failed: Vec<Arc<Shared>> = match event.event_type {
        sys::IBV_EVENT_QP_FATAL | sys::IBV_EVENT_QP_REQ_ERR | sys::IBV_EVENT_QP_ACCESS_ERR => {
            // SAFETY: the union has what belongs to the type, and a queue pair is not destroyed before its events are
            // acknowledged.
            let number = unsafe { (*event.element.qp).qp_num };
            let all = context.all().into_iter();
            all.filter(|queue_pair| queue_pair.number() == number).collect()
        }
        sys::IBV_EVENT_CQ_ERR => {
            // SAFETY: the union has what belongs to the type.
            let cq = unsafe { event.element.cq };
            let all = context.all().into_iter();
            all.filter(|queue_pair| queue_pair.uses(cq)).collect()
        }
        _ => Vec::new(),
    };
    // SAFETY: the union has what belongs to the type, if it is one of a port.
    let port = unsafe { event.element.port_num };
    let of_our_port = port == c_int::from(context.info.port);
    let kind = event.event_type;
    // SAFETY: the event was just taken.
    unsafe { (context.verbs.ibv_ack_async_event)(&mut event) };
    match kind {
        sys::IBV_EVENT_DEVICE_FATAL => context.fail(),
        sys::IBV_EVENT_PORT_ACTIVE if of_our_port => context.set_active(true),
        sys::IBV_EVENT_PORT_ERR if of_our_port => context.set_active(false),
        _ => {}
    }
    for queue_pair in failed {
        tracing::debug!(?queue_pair, kind, "the device says that a queue pair failed");
        queue_pair.kill_now();
    }
    true
}

/// Destroys the queue pairs that are dead and have returned everything; says when to look again, if some have not.
fn bury(context: &Arc<Context>) -> Option<Instant> {
    let now = Instant::now();
    let mut look = None;
    for queue_pair in context.dying() {
        let Some(since) = queue_pair.dying_since() else {
            continue;
        };
        let late = since + FLUSH;
        if !queue_pair.is_flushed() && now < late {
            look = Some(look.map_or(late, |look: Instant| look.min(late)));
            continue;
        }
        // Destroying asks the device and waits for its answer.
        if queue_pair.claim_burial() {
            tokio::task::spawn_blocking(move || queue_pair.destroy());
        }
    }
    look
}
