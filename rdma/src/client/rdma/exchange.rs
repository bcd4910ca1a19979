//! One request by RDMA: a window is opened, named in the request, and closed. A large read is several requests for parts of
//! the one window ([`super::slices`]).

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
    slices::Plan,
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
use std::{ops::Range, sync::Arc, time::Duration};

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
        let queue_pair = Arc::clone(&session.queue_pair);
        let exposed = match memory.expose(queue_pair, bytes, direction).await {
            Ok(exposed) => exposed,
            Err((memory, error)) => {
                // Whatever is wrong with it, it opens no windows.
                session.queue_pair.kill().await;
                let verdict = Verdict::Session {
                    error: error.into(),
                    performed: false,
                };
                return (memory, verdict);
            }
        };
        let opened = exposed.window();
        let plan = (!whole && direction == Direction::Written)
            .then(|| Plan::of(request, opened))
            .flatten();
        let (window, verdict) = match plan {
            Some(plan) => self.in_slices(session, request, &plan).await,
            None => self.ask(session, request.clone(), opened, direction, size).await,
        };
        let memory = match window {
            // Where closing fails, the queue pair is dead and the bytes are there all the same.
            Window::Closed => exposed.take_back().await.0,
            Window::InDoubt => exposed.kill().await,
        };
        (memory, verdict)
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
