//! A large read as several requests at a time, each for a slice of the bytes, into its own part of the memory.
//!
//! ```text
//!   the first slice ── its entity tag, the object's size ──▶ slice, slice, slice, … ── all moved ──▶ one answer
//!                                                            │  each with If-Match
//!                     ◀── from the beginning, if replaced ───┘
//! ```
//! A storage node reads and sums the bytes of a request with one processor at a time. Memory of this process has a window for each
//! slice, which is closed with it, and sums one slice while others move; a GPU's has one for all ([`ground`]).

mod ground;
mod plan;

pub(super) use ground::{Ground, OneWindow, Parts};
pub(super) use plan::Plan;

use super::{
    Rdma,
    connect::{Session, insert},
    judge::{Answer, Piece, Verdict, Window},
};
use crate::{
    Error,
    client::request::Request,
    protocol::{NO_FALLBACK, header},
};
use futures::stream::{FuturesUnordered, StreamExt};
use http::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::body::Incoming;
use plan::{DEPTH, Facts};
use std::{ops::Range, sync::Arc};
use tokio_util::sync::CancellationToken;

/// An object that is replaced in the middle so often is asked for in one request, which has one version by itself.
const ATTEMPTS: usize = 4;

/// How an attempt ended.
enum Ended {
    With(Judged),
    /// Another object has taken the place of the one that the first slice is of. No slice is under way.
    Replaced,
}

type Judged = (Window, Verdict<Incoming>);

impl Rdma {
    /// Moves what is planned, all of it in one version. When this resolves, no part of the ground is open that is memory of this
    /// process, and with a window that is not in doubt none at all.
    pub(super) async fn in_slices(
        &self,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        ground: &mut impl Ground,
    ) -> Judged {
        for _ in 0..ATTEMPTS {
            match self.attempt(session, request, plan, ground).await {
                Ended::With(judged) => return judged,
                Ended::Replaced => tracing::debug!("an object was replaced while it was read"),
            }
            ground.settle().await;
        }
        self.unsliced(session, request, plan, ground).await
    }

    async fn unsliced(
        &self,
        session: &Session,
        request: &Request,
        plan: &Plan,
        ground: &mut impl Ground,
    ) -> Judged {
        ground.settle().await;
        let never = CancellationToken::new();
        ground
            .ask(self, session, request.clone(), 0..plan.room, &never)
            .await
    }

    async fn attempt(
        &self,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        ground: &mut impl Ground,
    ) -> Ended {
        let (asked, doom) = (plan.first(), CancellationToken::new());
        let first = self.slice(session, request, plan, &*ground, &asked, &doom).await;
        let first = match first {
            (Window::Closed, Verdict::Moved(answer)) => answer,
            // An empty object has no range at all; it is one all the same.
            (Window::Closed, Verdict::Final(Error::Refused { status: 416, .. })) if !plan.ranged => {
                return Ended::With(self.unsliced(session, request, plan, ground).await);
            }
            failed => return self.failed(session, request, plan, ground, failed).await,
        };
        let facts = match plan.facts(&session.plain, &first) {
            Ok(facts) => facts,
            Err(error) => return Ended::With((Window::InDoubt, Verdict::Final(error))),
        };
        let needed = facts.needed();
        if needed > plan.room as u64 {
            return Ended::With((Window::Closed, Verdict::TooSmall { needed }));
        }
        let mut moved = vec![(asked.start, piece(&first))];
        match self
            .rest(session, request, plan, &*ground, &facts, &mut moved)
            .await
        {
            None => {
                moved.sort_unstable_by_key(|(start, _)| *start);
                let slices = moved.into_iter().map(|(_, slice)| slice).collect();
                Ended::With((Window::Closed, plan.joined(&facts, first, slices)))
            }
            Some((Window::Closed, Verdict::Final(Error::Refused { status: 412, .. }))) => Ended::Replaced,
            Some(failed) => self.failed(session, request, plan, ground, failed).await,
        }
    }

    /// What the failure of a slice is for the whole.
    async fn failed(
        &self,
        session: &Session,
        request: &Request,
        plan: &Plan,
        ground: &mut impl Ground,
        failed: Judged,
    ) -> Ended {
        Ended::With(match failed {
            // There may be memory for one request and not for several; and else the whole comes as a body, if it may.
            (Window::Closed, Verdict::Declined(_)) => self.unsliced(session, request, plan, ground).await,
            (_, Verdict::TooSmall { .. }) => {
                let cause = "it found more bytes in a range than were asked for".to_owned();
                (Window::InDoubt, Verdict::NotOurs(cause))
            }
            failed => failed,
        })
    }

    /// The slices behind the first one. What moved is added to `moved`, in any order. Returns the first failure, of those that leave
    /// a window in doubt if there are any. Every slice that was begun has ended.
    async fn rest(
        &self,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        ground: &impl Ground,
        facts: &Facts,
        moved: &mut Vec<(u64, Piece)>,
    ) -> Option<Judged> {
        let mut request = request.clone();
        // Whether the caller wants this version is decided.
        request.headers.remove(IF_NONE_MATCH);
        request.headers.insert(IF_MATCH, facts.version.clone());
        let (request, doom) = (&request, &CancellationToken::new());
        let mut slices = facts.rest();
        let (mut under_way, mut failure) = (FuturesUnordered::new(), None);
        loop {
            while failure.is_none()
                && under_way.len() < DEPTH
                && let Some(slice) = slices.next()
            {
                under_way.push(async move {
                    // Each counts as a request of the session.
                    let session = Arc::clone(session);
                    let judged = self.slice(&session, request, plan, ground, &slice, doom).await;
                    (slice, judged)
                });
            }
            let Some((slice, judged)) = under_way.next().await else {
                return failure;
            };
            let failed = match judged {
                (_, Verdict::Moved(answer)) => match facts.check(&session.plain, &slice, &answer) {
                    Ok(()) => {
                        moved.push((slice.start, piece(&answer)));
                        continue;
                    }
                    Err(error) => (Window::InDoubt, Verdict::Final(error)),
                },
                failed => failed,
            };
            // Those that are under way end by themselves: others use the queue pair. But when that must die, they die with it.
            if failed.0 == Window::InDoubt && !doom.is_cancelled() {
                doom.cancel();
                failure = Some(failed);
            } else {
                failure.get_or_insert(failed);
            }
        }
    }

    /// One slice.
    async fn slice(
        &self,
        session: &Session,
        request: &Request,
        plan: &Plan,
        ground: &impl Ground,
        slice: &Range<u64>,
        doom: &CancellationToken,
    ) -> Judged {
        let range = crate::Range::From {
            first: slice.start,
            last: Some(slice.end - 1),
        };
        let place = plan.place(slice);
        let prepared = place.and_then(|place| Ok((request.clone().range(Some(range))?, place)));
        match prepared {
            Ok((mut request, place)) => {
                // The body of a slice would be of no use.
                insert(&mut request.headers, header::FALLBACK, NO_FALLBACK);
                ground.ask(self, session, request, place, doom).await
            }
            Err(error) => (Window::Closed, Verdict::Final(error)),
        }
    }
}

fn piece(answer: &Answer) -> Piece {
    Piece {
        bytes: answer.bytes,
        checksum: answer.checksum,
        arrived: None,
    }
}
