//! The table of sessions: who owns them, which requests were seen, and when they end.

use super::{Limits, Refusal, refusal::Limit};
use penstock_rdma::{
    fabric::{Gid, QpAddress, QueuePair, Rail, Rails},
    protocol::{Grant, Psn, SequenceWindow, SessionId},
};
use std::{
    collections::HashMap,
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All sessions of a storage node.
pub(super) struct Sessions {
    rails: Rails,
    idle: Duration,
    in_flight: usize,
    per_key: usize,
    per_gateway: usize,
    places: Arc<Semaphore>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<SessionId, Arc<Session>>,
    /// Places of each access key that ever had one; there are few keys.
    places: HashMap<String, Arc<Semaphore>>,
    /// By number of the rail; as many more references as sessions are being made over it.
    being_made: HashMap<u64, Arc<()>>,
    closed: bool,
}

/// The rail that a session is being made over, and is counted on meanwhile: others are made at the same time.
pub(super) struct Chosen {
    pub rail: Arc<Rail>,
    _counted: Arc<()>,
}

/// A client's queue pair and this end's.
pub(super) struct Session {
    id: SessionId,
    owner: String,
    pub rail: Arc<Rail>,
    pub queue_pair: Arc<dyn QueuePair>,
    pub grant: Grant,
    peer: (QpAddress, Psn),
    sequence: Mutex<SequenceWindow>,
    in_flight: Arc<Semaphore>,
    used: Mutex<Instant>,
    /// Held until the queue pair is gone, so that a limit on sessions is one on queue pairs.
    _place: Place,
}

/// A place for one more session.
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_key: OwnedSemaphorePermit,
}

/// A request of a session, which keeps it from ending for idleness.
pub(super) struct Lease {
    pub session: Arc<Session>,
    _in_flight: OwnedSemaphorePermit,
}

impl Sessions {
    /// An empty table, which ends idle sessions by itself while it exists.
    pub fn begin(limits: &Limits, rails: Rails) -> Arc<Self> {
        let sessions = Arc::new(Self {
            rails,
            idle: limits.idle,
            in_flight: limits.in_flight.clamp(1, Semaphore::MAX_PERMITS),
            per_key: limits.sessions_per_key.min(Semaphore::MAX_PERMITS),
            per_gateway: limits.sessions_of_gateways.min(Semaphore::MAX_PERMITS),
            places: Arc::new(Semaphore::new(limits.sessions.min(Semaphore::MAX_PERMITS))),
            table: Mutex::default(),
        });
        let watched = Arc::downgrade(&sessions);
        let every = (limits.idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(sessions) = watched.upgrade() else {
                    return;
                };
                sessions.end_useless().await;
                sessions.move_one().await;
            }
        });
        sessions
    }

    /// The rail for a session with `peer`: one that its packets reach without a router if there is one, and the one with the
    /// fewest sessions of those.
    pub fn rail_for(&self, peer: &QpAddress) -> Result<Chosen, Refusal> {
        let all = self.rails.all();
        if all.is_empty() {
            return Err(Refusal::Unsupported);
        }
        let mut table = self.table();
        let best = best_rail(&self.rails.active(), peer, &table);
        let rail = best.ok_or(Refusal::Busy(Limit::Port))?;
        table
            .being_made
            .retain(|number, _| all.iter().any(|rail| rail.number() == *number));
        let counted = Arc::clone(table.being_made.entry(rail.number()).or_default());
        Ok(Chosen {
            rail,
            _counted: counted,
        })
    }

    /// Ends one session at rest that would get a rail with less to do if it were made now, as after a port came back. Its
    /// client makes another one when it needs it.
    async fn move_one(&self) {
        let rails = self.rails.active();
        let moved = {
            let mut table = self.table();
            let found = table.sessions.values().find(|session| {
                let better = best_rail(&rails, &session.peer.0, &table);
                let gains = better
                    .is_some_and(|better| table.count_over(&better) + 2 <= table.count_over(&session.rail));
                gains && self.rests(session)
            });
            let id = found.map(|session| session.id);
            id.and_then(|id| table.sessions.remove(&id))
        };
        if let Some(session) = moved {
            tracing::debug!(session = ?session.id, "an RDMA session ends, to be made anew over a rail with less to do");
            session.queue_pair.kill().await;
        }
    }

    fn rests(&self, session: &Session) -> bool {
        session.in_flight.available_permits() == self.in_flight
    }

    /// A place for one more session of `owner`.
    pub fn reserve(&self, owner: &str) -> Result<Place, Refusal> {
        self.reserve_of(owner, self.per_key)
    }

    /// A place for one more session of the gateways, which share one key.
    pub fn reserve_for_gateway(&self, owner: &str) -> Result<Place, Refusal> {
        self.reserve_of(owner, self.per_gateway)
    }

    fn reserve_of(&self, owner: &str, most: usize) -> Result<Place, Refusal> {
        let of_key = {
            let mut table = self.table();
            let places = table
                .places
                .entry(owner.to_owned())
                .or_insert_with(|| Arc::new(Semaphore::new(most)));
            Arc::clone(places).try_acquire_owned()
        };
        let of_key = of_key.map_err(|_| Refusal::Busy(Limit::SessionsPerKey))?;
        let of_all = Arc::clone(&self.places).try_acquire_owned();
        Ok(Place {
            _of_all: of_all.map_err(|_| Refusal::Busy(Limit::Sessions))?,
            _of_key: of_key,
        })
    }

    /// Takes in a session that is connected. A connect that was recorded and is sent again names a queue pair and a PSN
    /// that stand already.
    pub fn add(
        &self,
        place: Place,
        owner: &str,
        chosen: Chosen,
        queue_pair: Arc<dyn QueuePair>,
        grant: Grant,
        peer: (QpAddress, Psn),
    ) -> Result<SessionId, Refusal> {
        let id = SessionId::random();
        let session = Arc::new(Session {
            id,
            owner: owner.to_owned(),
            rail: Arc::clone(&chosen.rail),
            queue_pair,
            grant,
            peer,
            sequence: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(self.in_flight)),
            used: Mutex::new(Instant::now()),
            _place: place,
        });
        let mut table = self.table();
        if table.closed {
            return Err(Refusal::Unsupported);
        }
        if table.sessions.values().any(|other| other.peer == peer) {
            return Err(Refusal::Duplicate);
        }
        table.sessions.insert(id, session);
        Ok(id)
    }

    /// Lets a request of `owner` in, once.
    pub fn admit(&self, id: SessionId, owner: &str, sequence: u64) -> Result<Lease, Refusal> {
        let session = {
            let mut table = self.table();
            let found = table.sessions.get(&id).filter(|session| session.owner == owner);
            let session = Arc::clone(found.ok_or(Refusal::NoSuchSession)?);
            if !session.queue_pair.is_alive() {
                table.sessions.remove(&id);
                return Err(Refusal::NoSuchSession);
            }
            session
        };
        lock(&session.sequence)
            .take(sequence)
            .map_err(|_| Refusal::Sequence)?;
        let in_flight = Arc::clone(&session.in_flight).try_acquire_owned();
        let in_flight = in_flight.map_err(|_| Refusal::Busy(Limit::InFlight))?;
        *lock(&session.used) = Instant::now();
        Ok(Lease {
            session,
            _in_flight: in_flight,
        })
    }

    /// Ends a session, if it is `owner`'s. When this returns, nothing of it is under way.
    pub async fn end_of(&self, id: SessionId, owner: &str) {
        let found = {
            let mut table = self.table();
            let is_theirs = table
                .sessions
                .get(&id)
                .is_some_and(|session| session.owner == owner);
            if is_theirs {
                table.sessions.remove(&id)
            } else {
                None
            }
        };
        if let Some(session) = found {
            session.queue_pair.kill().await;
        }
    }

    /// Ends all sessions of an access key that gives access to nothing any more.
    pub async fn end_all_of(&self, owner: &str) {
        let theirs: Vec<_> = {
            let mut table = self.table();
            let theirs = table.sessions.extract_if(|_, session| session.owner == owner);
            theirs.map(|(_, session)| session).collect()
        };
        for session in theirs {
            session.queue_pair.kill().await;
        }
    }

    /// Ends a session whose queue pair failed.
    pub async fn end(&self, session: &Session) {
        self.table().sessions.remove(&session.id);
        session.queue_pair.kill().await;
    }

    pub async fn end_all(&self) {
        let all = {
            let mut table = self.table();
            table.closed = true;
            std::mem::take(&mut table.sessions)
        };
        for session in all.into_values() {
            session.queue_pair.kill().await;
        }
    }

    pub fn count(&self) -> usize {
        self.table().sessions.len()
    }

    /// Ends sessions that nobody uses or can use.
    async fn end_useless(&self) {
        let useless: Vec<_> = {
            let mut table = self.table();
            let out = |session: &Session| {
                let idle = self.rests(session) && lock(&session.used).elapsed() >= self.idle;
                idle || !session.queue_pair.is_alive()
            };
            table.sessions.extract_if(|_, session| out(session)).collect()
        };
        for (id, session) in useless {
            tracing::debug!(session = ?id, "an RDMA session ends: it was idle, or its connection died");
            session.queue_pair.kill().await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl Table {
    fn count_over(&self, rail: &Rail) -> usize {
        let over = |session: &&Arc<Session>| session.rail.number() == rail.number();
        let being_made = self.being_made.get(&rail.number());
        self.sessions.values().filter(over).count()
            + being_made.map_or(0, |counted| Arc::strong_count(counted) - 1)
    }
}

fn best_rail(active: &[Arc<Rail>], peer: &QpAddress, table: &Table) -> Option<Arc<Rail>> {
    let near = |rail: &Rail| same_network(rail.device().info().gid, peer.gid);
    let best = active
        .iter()
        .min_by_key(|rail| (!near(rail), table.count_over(rail)));
    best.cloned()
}

/// Whether two ports are, as far as their addresses tell, on one network: /24 with IPv4, /64 with IPv6 and InfiniBand.
fn same_network(one: Gid, other: Gid) -> bool {
    let is_ipv4 = |gid: Gid| Ipv6Addr::from(gid.0).to_ipv4_mapped().is_some();
    let bytes = if is_ipv4(one) { 15 } else { 8 };
    one.0[..bytes] == other.0[..bytes]
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.session.used) = Instant::now();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
