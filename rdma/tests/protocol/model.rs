//! A client with a GET and a PUT under way, a storage node, the network between them, and somebody who has recorded what he saw.
//!
//! ```text
//!  client   Waiting ─Send─▶ Sent ─Receive, GiveUp─▶ Used (the caller has its memory again) ─Retry─▶ Waiting
//!  server            Arrive ─▶ Moving: operations NotBegun ─▶ UnderWay ─▶ Done, Failed ─Answer, Abort─▶ Answered
//! ```
//! Sequence numbers are judged by the code that judges them in the storage node. The rules can be left out one by one.

use penstock_rdma::protocol::SequenceWindow;
use std::collections::BTreeSet;

/// Rules of the document, each of which some property rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Section 5.2: no answer leaves while an operation is under way.
    DrainBeforeAnswer,
    /// Section 5.2: what cannot be drained is ended by the death of its queue pair.
    KillBeforeAnswer,
    /// Section 5.4: a PUT is stored whole or not at all.
    StoreWhole,
    /// Section 6: a number is used once.
    UseOnce,
    /// Section 3: a session is never resumed; a new one has another id.
    FreshSessions,
    /// Section 8.3: the window is closed, then the memory is the client's again.
    CloseBeforeUse,
    /// Section 8.4: in doubt, the queue pair dies first.
    KillInDoubt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Get,
    Put,
}

/// What the caller was told when it got its memory back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Waiting,
    Sent,
    Used(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    pub kind: Kind,
    pub phase: Phase,
    pub session: usize,
    pub sequence: u64,
    pub attempt: u8,
    /// The window of this attempt.
    pub open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Session {
    /// Its id on the wire.
    pub id: u8,
    /// The client's queue pair is not in ERR.
    pub client_alive: bool,
    /// The server has it, and its queue pair is not in ERR.
    pub server_alive: bool,
    /// Numbers in the order in which they were used.
    pub used: Vec<u64>,
    pub next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    NotBegun,
    UnderWay,
    Done,
    Failed,
}

/// A request that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    pub request: usize,
    pub attempt: u8,
    pub session: usize,
    pub sequence: u64,
    pub recorded: bool,
    pub operations: [Operation; 2],
    /// Its HTTP answer.
    pub answered: Option<Outcome>,
    pub stored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    Request {
        request: usize,
        attempt: u8,
        id: u8,
        sequence: u64,
        /// Sent by somebody else, again.
        recorded: bool,
    },
    Answer {
        request: usize,
        attempt: u8,
        success: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub requests: Vec<Request>,
    pub sessions: Vec<Session>,
    pub works: Vec<Work>,
    pub network: BTreeSet<Message>,
    pub seen: BTreeSet<Message>,
    /// Sessions before the last restart.
    pub before_restart: usize,
    /// Faults that may still happen.
    pub faults: u8,
    /// A device touched memory that the caller had again.
    pub touched: bool,
    /// A recording was refused.
    pub refused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    Connect,
    Send(usize),
    Receive(Message),
    GiveUp(usize),
    Retry(usize),
    Arrive(Message),
    Begin(usize, usize),
    /// The operation takes place.
    Land(usize, usize),
    Fail(usize, usize),
    Answer(usize),
    /// An answer of failure: an operation failed, or does not end in time.
    Abort(usize),
    Lose(Message),
    Replay(Message),
    ClientDies(usize),
    Restart,
}

#[derive(Debug, Clone)]
pub struct Protocol {
    pub without: Option<Rule>,
    pub faults: u8,
}

const SESSIONS: usize = 3;
const ATTEMPTS: u8 = 2;

impl Protocol {
    fn has(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub fn start(&self) -> State {
        let request = |kind| Request {
            kind,
            phase: Phase::Waiting,
            session: 0,
            sequence: 0,
            attempt: 0,
            open: false,
        };
        State {
            requests: vec![request(Kind::Get), request(Kind::Put)],
            sessions: Vec::new(),
            works: Vec::new(),
            network: BTreeSet::new(),
            seen: BTreeSet::new(),
            before_restart: 0,
            faults: self.faults,
            touched: false,
            refused: false,
        }
    }

    pub fn possible(&self, state: &State) -> Vec<Action> {
        let mut all = Vec::new();
        let current = state.sessions.iter().rposition(|session| session.client_alive);
        if current.is_none() && state.sessions.len() < SESSIONS {
            all.push(Action::Connect);
        }
        for (index, request) in state.requests.iter().enumerate() {
            match request.phase {
                Phase::Waiting if current.is_some() => all.push(Action::Send(index)),
                Phase::Sent => all.push(Action::GiveUp(index)),
                Phase::Used(Outcome::Failure) if request.attempt + 1 < ATTEMPTS => {
                    all.push(Action::Retry(index))
                }
                _ => {}
            }
        }
        for message in &state.network {
            all.push(match message {
                Message::Request { .. } => Action::Arrive(message.clone()),
                Message::Answer { .. } => Action::Receive(message.clone()),
            });
        }
        for (index, work) in state.works.iter().enumerate() {
            self.possible_of(state, index, work, &mut all);
        }
        if state.faults > 0 {
            all.extend(state.network.iter().cloned().map(Action::Lose));
            all.extend(state.seen.iter().cloned().map(Action::Replay));
            let alive = |end: fn(&Session) -> bool| state.sessions.iter().rposition(end);
            all.extend(alive(|session| session.client_alive).map(Action::ClientDies));
            all.extend(alive(|session| session.server_alive).map(|_| Action::Restart));
        }
        all
    }

    fn possible_of(&self, state: &State, index: usize, work: &Work, all: &mut Vec<Action>) {
        let faults = state.faults > 0;
        for (at, operation) in work.operations.iter().enumerate() {
            match operation {
                // In order, and none after a failure.
                Operation::NotBegun
                    if work.answered.is_none()
                        && !work.operations.contains(&Operation::Failed)
                        && work.operations[..at]
                            .iter()
                            .all(|before| *before != Operation::NotBegun) =>
                {
                    all.push(Action::Begin(index, at));
                }
                Operation::UnderWay if state.reaches(work) => {
                    all.push(Action::Land(index, at));
                    if faults {
                        all.push(Action::Fail(index, at));
                    }
                }
                Operation::UnderWay => all.push(Action::Fail(index, at)),
                _ => {}
            }
        }
        if work.answered.is_some() {
            return;
        }
        let count = |wanted| work.operations.iter().filter(|one| **one == wanted).count();
        let done = count(Operation::Done) == work.operations.len();
        let early =
            !self.has(Rule::DrainBeforeAnswer) && count(Operation::NotBegun) + count(Operation::Failed) == 0;
        if done || early {
            all.push(Action::Answer(index));
        }
        let hangs = count(Operation::UnderWay) > 0 && faults;
        if count(Operation::Failed) > 0 || hangs {
            all.push(Action::Abort(index));
        }
    }

    pub fn after(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Connect => {
                let count = next.sessions.len()
                    - if self.has(Rule::FreshSessions) {
                        0
                    } else {
                        next.before_restart
                    };
                next.sessions.push(Session {
                    id: count as u8,
                    client_alive: true,
                    server_alive: true,
                    used: Vec::new(),
                    next: 1,
                });
            }
            Action::Send(index) => {
                let current = next
                    .sessions
                    .iter()
                    .rposition(|session| session.client_alive)
                    .unwrap();
                let (session, request) = (&mut next.sessions[current], &mut next.requests[index]);
                (request.phase, request.session, request.open) = (Phase::Sent, current, true);
                request.sequence = session.next;
                session.next += 1;
                let message = Message::Request {
                    request: index,
                    attempt: request.attempt,
                    id: session.id,
                    sequence: request.sequence,
                    recorded: false,
                };
                next.network.insert(message.clone());
                next.seen.insert(message);
            }
            Action::Receive(message) => {
                next.network.remove(&message);
                let Message::Answer {
                    request,
                    attempt,
                    success,
                } = message
                else {
                    unreachable!()
                };
                let waiting = &next.requests[request];
                if waiting.phase == Phase::Sent && waiting.attempt == attempt {
                    if success {
                        next.requests[request].open &= !self.has(Rule::CloseBeforeUse);
                        next.requests[request].phase = Phase::Used(Outcome::Success);
                    } else {
                        self.doubt(&mut next, request);
                    }
                }
            }
            Action::GiveUp(index) => self.doubt(&mut next, index),
            Action::Retry(index) => {
                let request = &mut next.requests[index];
                request.attempt += 1;
                (request.phase, request.open) = (Phase::Waiting, false);
            }
            Action::Arrive(message) => self.arrive(&mut next, message),
            Action::Begin(work, at) => {
                let alive = next.sessions[next.works[work].session].server_alive;
                // What is posted to a dead queue pair fails.
                next.works[work].operations[at] = if alive {
                    Operation::UnderWay
                } else {
                    Operation::Failed
                };
            }
            Action::Land(work, at) => {
                let moved = &mut next.works[work];
                moved.operations[at] = Operation::Done;
                next.touched |= next.requests[moved.request].phase != Phase::Sent;
            }
            Action::Fail(work, at) => {
                if state.reaches(&state.works[work]) {
                    next.faults -= 1;
                }
                next.works[work].operations[at] = Operation::Failed;
            }
            Action::Answer(index) => {
                let work = &mut next.works[index];
                work.stored = next.requests[work.request].kind == Kind::Put;
                next.answer(index, Outcome::Success);
            }
            Action::Abort(index) => self.abort(&mut next, index),
            Action::Lose(message) => {
                next.network.remove(&message);
                next.faults -= 1;
            }
            Action::Replay(message) => {
                let Message::Request {
                    request,
                    attempt,
                    id,
                    sequence,
                    ..
                } = message
                else {
                    unreachable!()
                };
                next.network.insert(Message::Request {
                    request,
                    attempt,
                    id,
                    sequence,
                    recorded: true,
                });
                next.faults -= 1;
            }
            Action::ClientDies(session) => {
                next.sessions[session].client_alive = false;
                next.faults -= 1;
            }
            Action::Restart => {
                for session in 0..next.sessions.len() {
                    next.end(session);
                }
                // Those that had no answer get none.
                for index in 0..next.works.len() {
                    if next.works[index].answered.is_none() {
                        next.works[index].answered = Some(Outcome::Failure);
                    }
                }
                next.before_restart = next.sessions.len();
                next.faults -= 1;
            }
        }
        next
    }

    fn doubt(&self, state: &mut State, index: usize) {
        let request = &mut state.requests[index];
        request.phase = Phase::Used(Outcome::Failure);
        if self.has(Rule::KillInDoubt) {
            request.open = false;
            state.sessions[request.session].client_alive = false;
        }
    }

    fn arrive(&self, state: &mut State, message: Message) {
        state.network.remove(&message);
        let Message::Request {
            request,
            attempt,
            id,
            sequence,
            recorded,
        } = message
        else {
            unreachable!()
        };
        let found = state
            .sessions
            .iter()
            .rposition(|session| session.id == id && session.server_alive);
        let admitted = found.filter(|session| {
            let mut window = SequenceWindow::default();
            state.sessions[*session].used.iter().for_each(|used| {
                let _again = window.take(*used);
            });
            window.take(sequence).is_ok() || !self.has(Rule::UseOnce)
        });
        match admitted {
            Some(session) => {
                state.sessions[session].used.push(sequence);
                state.works.push(Work {
                    request,
                    attempt,
                    session,
                    sequence,
                    recorded,
                    operations: [Operation::NotBegun; 2],
                    answered: None,
                    stored: false,
                });
            }
            None if recorded => state.refused = true,
            None => {
                state.network.insert(Message::Answer {
                    request,
                    attempt,
                    success: false,
                });
            }
        }
    }

    fn abort(&self, state: &mut State, index: usize) {
        let hangs = !state.works[index].operations.contains(&Operation::Failed);
        if hangs {
            state.faults -= 1;
        }
        let session = state.works[index].session;
        if self.has(Rule::KillBeforeAnswer) {
            state.end(session);
        }
        if !self.has(Rule::StoreWhole) {
            state.works[index].stored = state.requests[state.works[index].request].kind == Kind::Put;
        }
        state.answer(index, Outcome::Failure);
    }
}

impl State {
    /// Whether operations of a request can still take place.
    pub fn reaches(&self, work: &Work) -> bool {
        let (session, request) = (&self.sessions[work.session], &self.requests[work.request]);
        let window = request.open && request.attempt == work.attempt && request.session == work.session;
        session.client_alive && session.server_alive && window
    }

    /// The server's queue pair goes to ERR.
    fn end(&mut self, session: usize) {
        self.sessions[session].server_alive = false;
        for work in self.works.iter_mut().filter(|work| work.session == session) {
            for operation in &mut work.operations {
                if *operation == Operation::UnderWay {
                    *operation = Operation::Failed;
                }
            }
        }
    }

    fn answer(&mut self, index: usize, outcome: Outcome) {
        let work = &mut self.works[index];
        work.answered = Some(outcome);
        if !work.recorded {
            self.network.insert(Message::Answer {
                request: work.request,
                attempt: work.attempt,
                success: outcome == Outcome::Success,
            });
        }
    }
}
