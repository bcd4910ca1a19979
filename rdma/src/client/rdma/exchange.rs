//! One request by RDMA: a window is opened, named in the request, and closed.

use super::{
    super::{
        request::{Repeat, Request},
        send::pause_before,
    },
    Rdma,
    connect::{Session, insert},
    judge::{Answer, Verdict, Window, judge},
    lanes::Lane,
};
use crate::{
    Error, Policy, Result,
    fabric::{Direction, Memory},
    protocol::{NO_FALLBACK, WindowToken, header},
};
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

impl Rdma {
    /// Performs a request whose bytes go to or come from `memory[bytes]`, which belongs to `lane`. Sessions that turn out dead
    /// are replaced once; a storage node that is busy is asked again, as often as the options say.
    pub async fn perform(
        &self,
        lane: &Lane,
        request: &Request,
        mut memory: Memory,
        bytes: Range<usize>,
        direction: Direction,
    ) -> (Memory, Result<Outcome>) {
        let (mut renewed, mut tried) = (false, 0);
        loop {
            let session = match lane.sessions.get().await {
                Ok(session) => session,
                Err(error) => return (memory, Ok(Outcome::NoSession(error))),
            };
            let (returned, verdict) = self
                .once(&session, request, memory, bytes.clone(), direction)
                .await;
            drop(session);
            memory = returned;
            let outcome = match verdict {
                Verdict::Moved(answer) => Ok(Outcome::Moved(answer)),
                Verdict::Declined(body) => Ok(Outcome::Declined(body)),
                Verdict::TooSmall { needed } => Ok(Outcome::TooSmall { needed }),
                Verdict::Final(error) => Err(error),
                Verdict::NotOurs(cause) => {
                    self.lanes.mistrust(&cause);
                    Ok(Outcome::Unavailable(self.plain.no_fast_path(cause)))
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

    async fn once(
        &self,
        session: &Arc<Session>,
        request: &Request,
        memory: Memory,
        bytes: Range<usize>,
        direction: Direction,
    ) -> (Memory, Verdict<Incoming>) {
        let size = bytes.len() as u64;
        if size > u64::from(session.grant.max) {
            return (memory, Verdict::Declined(None));
        }
        let queue_pair = Arc::clone(&session.queue_pair);
        let exposed = match queue_pair.expose(memory, bytes, direction).await {
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
        let token = WindowToken {
            session: session.id,
            window: exposed.window(),
        };
        let mut request = request.clone();
        insert(&mut request.headers, header::TOKEN, &token.encode());
        insert(
            &mut request.headers,
            header::SEQUENCE,
            &session.sequence().to_string(),
        );
        if self.plain.inner.options.policy == Policy::Require && direction == Direction::Written {
            insert(&mut request.headers, header::FALLBACK, NO_FALLBACK);
        }
        request.patience = session.grant.operation + Duration::from_secs(size / SLOWEST);
        let answer = self.plain.send_once(&request).await;
        let (window, verdict) = judge(answer, direction, size);
        let memory = match window {
            // Where closing fails, the queue pair is dead and the bytes are there all the same.
            Window::Closed => exposed.take_back().await.0,
            Window::InDoubt => exposed.kill().await,
        };
        (memory, verdict)
    }
}
