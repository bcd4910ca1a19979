//! A large read as several requests at a time, each for a slice of the bytes, into its own part of the one window that is open.
//!
//! ```text
//!   the first slice ── its entity tag, the object's size ──▶ slice, slice, slice, … ── all moved ──▶ one answer
//!                                                            │  each with If-Match
//!                     ◀── from the beginning, if replaced ───┘
//! ```
//! A storage node reads and sums the bytes of a request with one processor at a time. The window is given back by whoever
//! opened it, and only when every slice was answered or the queue pair is dead.

mod plan;

pub(super) use plan::Plan;

use super::{
    Rdma,
    connect::{Session, insert},
    judge::{Answer, Piece, Verdict, Window},
};
use crate::{
    Error,
    client::request::Request,
    fabric::Direction,
    protocol::{NO_FALLBACK, header},
};
use futures::stream::{FuturesUnordered, StreamExt};
use http::header::{IF_MATCH, IF_NONE_MATCH};
use hyper::body::Incoming;
use plan::{DEPTH, Facts};
use std::{ops::Range, sync::Arc};

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
    /// Moves what is planned, all of it in one version.
    pub(super) async fn in_slices(&self, session: &Arc<Session>, request: &Request, plan: &Plan) -> Judged {
        for _ in 0..ATTEMPTS {
            match self.attempt(session, request, plan).await {
                Ended::With(judged) => return judged,
                Ended::Replaced => tracing::debug!("an object was replaced while it was read"),
            }
        }
        self.unsliced(session, request, plan).await
    }

    async fn unsliced(&self, session: &Session, request: &Request, plan: &Plan) -> Judged {
        let size = u64::from(plan.window.size);
        self.ask(session, request.clone(), plan.window, Direction::Written, size)
            .await
    }

    async fn attempt(&self, session: &Arc<Session>, request: &Request, plan: &Plan) -> Ended {
        let asked = plan.first();
        let first = match self.slice(session, request, plan, &asked).await {
            (Window::Closed, Verdict::Moved(answer)) => answer,
            // An empty object has no range at all; it is one all the same.
            (Window::Closed, Verdict::Final(Error::Refused { status: 416, .. })) if !plan.ranged => {
                return Ended::With(self.unsliced(session, request, plan).await);
            }
            failed => return self.failed(session, request, plan, failed).await,
        };
        let facts = match plan.facts(&session.plain, &first) {
            Ok(facts) => facts,
            Err(error) => return Ended::With((Window::InDoubt, Verdict::Final(error))),
        };
        let needed = facts.needed();
        if needed > u64::from(plan.window.size) {
            return Ended::With((Window::Closed, Verdict::TooSmall { needed }));
        }
        let mut moved = vec![(asked.start, piece(&first))];
        match self.rest(session, request, plan, &facts, &mut moved).await {
            None => {
                moved.sort_unstable_by_key(|(start, _)| *start);
                let slices = moved.into_iter().map(|(_, slice)| slice).collect();
                Ended::With((Window::Closed, plan.joined(&facts, first, slices)))
            }
            Some((Window::Closed, Verdict::Final(Error::Refused { status: 412, .. }))) => Ended::Replaced,
            Some(failed) => self.failed(session, request, plan, failed).await,
        }
    }

    /// What the failure of a slice is for the whole.
    async fn failed(&self, session: &Session, request: &Request, plan: &Plan, failed: Judged) -> Ended {
        Ended::With(match failed {
            // There may be memory for one request and not for several; and else the whole comes as a body, if it may.
            (Window::Closed, Verdict::Declined(_)) => self.unsliced(session, request, plan).await,
            (_, Verdict::TooSmall { .. }) => {
                let cause = "it found more bytes in a range than were asked for".to_owned();
                (Window::InDoubt, Verdict::NotOurs(cause))
            }
            failed => failed,
        })
    }

    /// The slices behind the first one. What moved is added to `moved`, in any order. Returns the first failure; with a window
    /// that is not in doubt, every slice that was begun has ended.
    async fn rest(
        &self,
        session: &Arc<Session>,
        request: &Request,
        plan: &Plan,
        facts: &Facts,
        moved: &mut Vec<(u64, Piece)>,
    ) -> Option<Judged> {
        let mut request = request.clone();
        // Whether the caller wants this version is decided.
        request.headers.remove(IF_NONE_MATCH);
        request.headers.insert(IF_MATCH, facts.version.clone());
        let request = &request;
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
                    let judged = self.slice(&session, request, plan, &slice).await;
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
            // The queue pair dies, and the other slices with it.
            if failed.0 == Window::InDoubt {
                return Some(failed);
            }
            // Those that are under way end by themselves: others use the queue pair.
            failure.get_or_insert(failed);
        }
    }

    /// One slice.
    async fn slice(&self, session: &Session, request: &Request, plan: &Plan, slice: &Range<u64>) -> Judged {
        let range = crate::Range::From {
            first: slice.start,
            last: Some(slice.end - 1),
        };
        let part = plan
            .part(slice)
            .ok_or_else(|| Error::Invalid("a slice lies outside of its window".to_owned()));
        let prepared = part.and_then(|part| Ok((request.clone().range(Some(range))?, part)));
        match prepared {
            Ok((mut request, part)) => {
                // The body of a slice would be of no use.
                insert(&mut request.headers, header::FALLBACK, NO_FALLBACK);
                // It shares the way with the others.
                let beside = u64::from(plan.window.size);
                self.ask(session, request, part, Direction::Written, beside).await
            }
            Err(error) => (Window::Closed, Verdict::Final(error)),
        }
    }
}

fn piece(answer: &Answer) -> Piece {
    Piece {
        bytes: answer.bytes,
        checksum: answer.checksum,
    }
}
