//! Who is at the other end of the socket, and what it was lent.

use super::bond::Bond;
use crate::{
    access::{Authority, Principal},
    engine::Hold,
    metrics::Metrics,
};
use http::HeaderValue;
use penstock_rdma::local::Descriptors;
use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// What peers may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of deleted objects that one user may keep from being freed, by leases. Beyond it nothing more is lent to that
    /// user until leases end.
    pub held: u64,
    /// Leases of one connection.
    pub leases: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            held: 8 << 30,
            leases: 16_384,
        }
    }
}

/// What all peers have together.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) limits: Limits,
    metrics: Metrics,
    next: Arc<AtomicU64>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        Self {
            limits,
            metrics,
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    pub(crate) fn peer(&self, uid: u32) -> Peer {
        Peer {
            uid,
            ledger: self.clone(),
            arrived: Mutex::default(),
            leases: Mutex::default(),
            bond: Mutex::default(),
        }
    }
}

/// One connection to the socket. Its leases end with it.
pub(crate) struct Peer {
    pub uid: u32,
    pub ledger: Ledger,
    arrived: Mutex<Vec<OwnedFd>>,
    leases: Mutex<HashMap<u64, Leased>>,
    bond: Mutex<Bond>,
}

struct Leased {
    _hold: Hold,
    _counted: crate::metrics::Counted,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// A request begins: these descriptors are its own, and those of no other.
    pub fn begin(&self, descriptors: &Descriptors) {
        *locked(&self.arrived) = descriptors.take();
    }

    /// A request has ended: what nobody took is closed.
    pub fn end(&self) {
        locked(&self.arrived).clear();
    }

    /// The descriptor that came with the request.
    pub fn arrived(&self) -> Option<OwnedFd> {
        let mut arrived = locked(&self.arrived);
        if arrived.len() == 1 { arrived.pop() } else { None }
    }

    /// A request was signed by `signer`, and with it what it `presented`.
    pub fn signed(&self, presented: &HeaderValue, signer: &s3s::auth::Credentials) {
        locked(&self.bond).sign(presented, signer);
    }

    /// Whose signature what a request without one `presented` stands for, now.
    pub fn bound_to(&self, presented: &HeaderValue, authority: &Authority) -> Option<Principal> {
        let bond = locked(&self.bond);
        let signer = bond.signer(presented, |key| authority.secret_of(key), Instant::now());
        authority.principal(signer?)
    }

    /// What the client is to sign, and, once it has, for how long it need not again.
    pub fn offer(&self) -> Option<HeaderValue> {
        locked(&self.bond).offer(Instant::now())
    }

    /// Whether one more lease may be given.
    pub fn may_borrow(&self) -> bool {
        locked(&self.leases).len() < self.ledger.limits.leases
    }

    /// Notes a lease of so many files, and names it.
    pub fn lease(&self, hold: Hold, files: usize) -> u64 {
        let id = self.ledger.next.fetch_add(1, Ordering::Relaxed);
        let counted = self.ledger.metrics.lent(files);
        locked(&self.leases).insert(
            id,
            Leased {
                _hold: hold,
                _counted: counted,
            },
        );
        id
    }

    /// The client says that it closed what these leases lent. Of other connections it can end none.
    pub fn returned(&self, header: &str) {
        let mut leases = locked(&self.leases);
        for id in header.split(',').filter_map(|id| id.parse().ok()) {
            leases.remove(&id);
        }
    }
}

/// Descriptors on their way into an answer, in its extensions.
#[derive(Clone)]
pub(crate) struct LentFiles(Arc<Mutex<Vec<OwnedFd>>>);

impl LentFiles {
    pub fn new(files: Vec<OwnedFd>) -> Self {
        Self(Arc::new(Mutex::new(files)))
    }

    pub fn take(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut locked(&self.0))
    }
}
