//! One request by RDMA: a window is opened, named in the request, and closed. A large read is several requests
//! ([`super::slices`]).

use super::{
    super::{
        request::{Repeat, Request},
        send::pause_before,
    },
    Rdma,
    connect::{Session, insert},
    judge::{Answer, Verdict, Window, judge},
    lanes::Lane,
    sessions::Sessions,
    slices::{OneWindow, Parts, Plan},
};
use crate::{
    Error, Policy, Result,
    fabric::{self, Direction, Exposed, Memory, QueuePair},
    gpu::GpuMemory,
    protocol::{NO_FALLBACK, WindowToken, header},
};
use futures::future::BoxFuture;
use http::Response;
use hyper::body::Incoming;
use std::{future::Future, ops::Range, sync::Arc, time::Duration};

/// Slower than this nothing moves, emulated devices included; an answer is waited for accordingly.
const SLOWEST: u64 = 1 << 20;

/// What came of a request.
#[derive(Debug)]
pub(in super::super) enum Outcome {
    Moved(Answer),
    /// The bytes can go as an HTTP body; for a GET it is here.
    Declined(Option<Response<Incoming>>),
    /// The window holds less than this many bytes, and holds none now.
    TooSmall {
        needed: u64,
    },
    /// There is no session, so nothing was asked.
    NoSession(Error),
    /// There is no way by RDMA now. The request was not performed, or may be repeated.
    Unavailable(Error),
}

type Opening<M> = BoxFuture<'static, std::result::Result<Exposed<M>, (M, fabric::Error)>>;

/// Memory whose bytes a request moves.
pub(super) trait Landing: Send + Sized + 'static {
    /// The sessions that are for it.
    fn sessions(lane: &Lane) -> &Sessions;
    /// Opens a part of it.
    fn expose(
        self,
        queue_pair: Arc<dyn QueuePair>,
        bytes: Range<usize>,
        direction: Direction,
    ) -> Opening<Self>;
    /// Reads as planned into a part of it.
    fn in_slices(
        self,
        rdma: &Rdma,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        bytes: Range<usize>,
    ) -> impl Future<Output = (Self, Verdict<Incoming>)> + Send;
}

impl Landing for Memory {
    fn sessions(lane: &Lane) -> &Sessions {
        &lane.sessions
    }

    fn expose(
        self,
        queue_pair: Arc<dyn QueuePair>,
        bytes: Range<usize>,
        direction: Direction,
    ) -> Opening<Self> {
        queue_pair.expose(self, bytes, direction)
    }

    async fn in_slices(
        self,
        rdma: &Rdma,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        bytes: Range<usize>,
    ) -> (Self, Verdict<Incoming>) {
        let verify = rdma.plain.inner.options.verify;
        let mut parts = Parts::of(self, bytes, verify);
        let (window, mut verdict) = rdma.in_slices(session, request, plan, &mut parts).await;
        if window == Window::InDoubt {
            session.queue_pair.kill().await;
        }
        let (memory, sums) = parts.whole().await;
        if let Verdict::Moved(answer) = &mut verdict
            && answer.slices.len() == sums.len()
        {
            for (piece, sum) in answer.slices.iter_mut().zip(sums) {
                piece.arrived = Some(sum);
            }
        }
        (memory, verdict)
    }
}

impl Landing for GpuMemory {
    fn sessions(lane: &Lane) -> &Sessions {
        &lane.gpu_sessions
    }

    fn expose(
        self,
        queue_pair: Arc<dyn QueuePair>,
        bytes: Range<usize>,
        direction: Direction,
    ) -> Opening<Self> {
        Box::pin(async move { Exposed::foreign(queue_pair, self, &bytes, direction) })
    }

    async fn in_slices(
        self,
        rdma: &Rdma,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        bytes: Range<usize>,
    ) -> (Self, Verdict<Incoming>) {
        // A registration of this memory takes long, so that there is one for all; and a GPU sums all of it in no time.
        let exposed = match open(session, self, bytes, Direction::Written).await {
            Ok(exposed) => exposed,
            Err(failed) => return failed,
        };
        let mut ground = OneWindow(exposed.window());
        let (window, verdict) = rdma.in_slices(session, request, plan, &mut ground).await;
        (closed(exposed, window).await, verdict)
    }
}

/// Opens a part of memory. One that cannot be opened comes back, with the queue pair dead.
async fn open<L: Landing>(
    session: &Session,
    memory: L,
    bytes: Range<usize>,
    direction: Direction,
) -> std::result::Result<Exposed<L>, (L, Verdict<Incoming>)> {
    let queue_pair = Arc::clone(&session.queue_pair);
    match memory.expose(queue_pair, bytes, direction).await {
        Ok(exposed) => Ok(exposed),
        Err((memory, error)) => {
            // Whatever is wrong with it, it opens no windows.
            session.queue_pair.kill().await;
            let verdict = Verdict::Session {
                error: error.into(),
                performed: false,
            };
            Err((memory, verdict))
        }
    }
}

/// The memory, when nothing reaches it any more.
pub(super) async fn closed<L: Landing>(exposed: Exposed<L>, window: Window) -> L {
    match window {
        // Where closing fails, the queue pair is dead and the bytes are there all the same.
        Window::Closed => exposed.take_back().await.0,
        Window::InDoubt => exposed.kill().await,
    }
}

impl Rdma {
    /// Performs a request whose bytes go to or come from `memory[bytes]`, which belongs to `lane`. Sessions that turn out dead
    /// are replaced once; a storage node that is busy is asked again, as often as the options say.
    pub(super) async fn perform<L: Landing>(
        &self,
        lane: &Lane,
        request: &Request,
        mut memory: L,
        bytes: Range<usize>,
        direction: Direction,
    ) -> (L, Result<Outcome>) {
        let (mut renewed, mut tried) = (false, 0);
        loop {
            let session = match L::sessions(lane).get().await {
                Ok(session) => session,
                Err(error) => return (memory, Ok(Outcome::NoSession(error))),
            };
            // One that was too busy for several requests at a time is asked in one.
            let whole = tried > 0;
            let (returned, verdict) = self
                .once(&session, request, memory, bytes.clone(), direction, whole)
                .await;
            drop(session);
            memory = returned;
            let outcome = match verdict {
                Verdict::Moved(answer) => Ok(Outcome::Moved(answer)),
                Verdict::Declined(body) => Ok(Outcome::Declined(body)),
                Verdict::TooSmall { needed } => Ok(Outcome::TooSmall { needed }),
                Verdict::Final(error) => Err(error),
                Verdict::NotOurs(cause) => {
                    self.lanes.mistrust(lane.node, &cause);
                    Ok(Outcome::Unavailable(lane.plain.no_fast_path(cause)))
                }
                Verdict::Session { error, performed }
                    if performed && request.repeat == Repeat::Unperformed =>
                {
                    Err(error)
                }
                Verdict::Session { error, .. } if !renewed => {
                    lane.doubt();
                    tracing::debug!(%error, "an RDMA session is of no use any more; another one is tried");
                    renewed = true;
                    continue;
                }
                Verdict::Session { error, .. } => {
                    lane.doubt();
                    Ok(Outcome::Unavailable(error))
                }
                Verdict::Busy(error) if tried < self.plain.inner.options.retries => {
                    let pause = pause_before(tried);
                    tried += 1;
                    tracing::debug!(%error, tried, ?pause, "the storage node is busy");
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Verdict::Busy(error) => Ok(Outcome::Unavailable(error)),
            };
            return (memory, outcome);
        }
    }

    /// In one session, and in one request if `whole`, or if it is not worth more.
    async fn once<L: Landing>(
        &self,
        session: &Arc<Session>,
        request: &Request,
        memory: L,
        bytes: Range<usize>,
        direction: Direction,
        whole: bool,
    ) -> (L, Verdict<Incoming>) {
        let size = bytes.len() as u64;
        if size > u64::from(session.grant.max) {
            return (memory, Verdict::Declined(None));
        }
        let plan = (!whole && direction == Direction::Written)
            .then(|| Plan::of(request, bytes.len()))
            .flatten();
        if let Some(plan) = plan {
            return memory.in_slices(self, session, request, &plan, bytes).await;
        }
        let exposed = match open(session, memory, bytes, direction).await {
            Ok(exposed) => exposed,
            Err(failed) => return failed,
        };
        let asked = self.ask(session, request.clone(), exposed.window(), direction, size);
        let (window, verdict) = asked.await;
        (closed(exposed, window).await, verdict)
    }

    /// Sends a request for, or with, the bytes of a window that is open, or of a part of it. Before it is answered as many as
    /// `beside` bytes may have to move.
    pub(super) async fn ask(
        &self,
        session: &Session,
        mut request: Request,
        opened: fabric::Window,
        direction: Direction,
        beside: u64,
    ) -> (Window, Verdict<Incoming>) {
        let token = WindowToken {
            session: session.id,
            window: opened,
        };
        let sequence = session.sequence();
        insert(&mut request.headers, header::TOKEN, &token.encode());
        insert(&mut request.headers, header::SEQUENCE, &sequence.to_string());
        if self.plain.inner.options.policy == Policy::Require && direction == Direction::Written {
            insert(&mut request.headers, header::FALLBACK, NO_FALLBACK);
        }
        request.patience = session.grant.operation + Duration::from_secs(beside / SLOWEST);
        let answer = session.plain.send_once(&request).await;
        let (window, verdict) = judge(answer, direction, u64::from(opened.size));
        if let (Verdict::Moved(answer), Some(arrivals)) = (&verdict, &session.arrivals)
            && direction == Direction::Written
            && answer.bytes > 0
            && let Err(error) = arrivals
                .wait(sequence, &*session.queue_pair, session.grant.operation)
                .await
        {
            let verdict = Verdict::Session {
                error: error.into(),
                performed: true,
            };
            return (Window::InDoubt, verdict);
        }
        (window, verdict)
    }
}
