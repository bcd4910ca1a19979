//! A client's use of its rails: which one a request takes, and which one next when that fails.

use super::{
    Rdma, WINDOW,
    connect::Session,
    exchange::Outcome,
    sessions::{Refused, Sessions},
};
use crate::{
    Error, Policy, Result,
    client::{Client, request::Request, send::pause_before},
    fabric::{Direction, Memory, Pages, Pool, Pooled, Purpose, Rail, Rails, Slot, nearness},
    gpu::GpuMemory,
};
use bytes::Bytes;
use std::{
    cmp::Reverse,
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A session that could not be had is not asked for again before this: longer than failures are remembered.
const SESSION_PAUSE: Duration = Duration::from_millis(1100);
/// A rail whose connection broke is the last choice for this long.
const DOUBT_FOR: Duration = Duration::from_secs(5);

/// One rail to one storage node, as one client uses it.
pub(in super::super) struct Lane {
    pub(super) rail: Arc<Rail>,
    /// Of the client's, by number.
    pub(super) node: usize,
    /// What requests to it are sent with.
    pub(super) plain: Client,
    pub(super) sessions: Sessions,
    /// For GPU memory; made when there is some.
    pub(super) gpu_sessions: Sessions,
    /// Windows of GETs.
    windows: Arc<Pool>,
    /// Windows of PUTs, each as large as a part.
    parts: Arc<Pool>,
    doubted: Mutex<Option<Instant>>,
}

impl Lane {
    /// A connection over it broke.
    pub fn doubt(&self) {
        *lock(&self.doubted) = Some(Instant::now());
    }

    fn key(&self) -> Key {
        (self.node, self.rail.number())
    }

    fn is_doubted(&self) -> bool {
        lock(&self.doubted).is_some_and(|since| since.elapsed() < DOUBT_FOR)
    }

    fn pool(&self, direction: Direction) -> &Arc<Pool> {
        match direction {
            Direction::Written => &self.windows,
            Direction::Read => &self.parts,
        }
    }

    /// Memory that holds `length` bytes: of the pool where its chunks do, else registered for this once.
    pub async fn loan(&self, length: usize, direction: Direction) -> Result<(Memory, Option<Place>)> {
        let pool = self.pool(direction);
        if length > pool.chunk() {
            return Ok((self.register(length).await?, None));
        }
        let (memory, slot) = pool.take().await?.into_memory();
        Ok((memory, Some((slot, Arc::clone(pool)))))
    }

    pub async fn register(&self, length: usize) -> Result<Memory> {
        let device = Arc::clone(self.rail.device());
        let registered = tokio::task::spawn_blocking(move || {
            let pages = Pages::new(length).map_err(|error| {
                Error::Invalid(format!("{length} bytes of memory cannot be had: {error}"))
            })?;
            Ok(device.register(pages, Purpose::Windows)?)
        });
        registered
            .await
            .unwrap_or_else(|error| Err(Error::Invalid(format!("memory was not registered: {error}"))))
    }
}

/// A place in a pool, whose memory a request has.
type Place = (Slot, Arc<Pool>);

/// Memory that a request is done with.
pub(in super::super) enum Returned {
    Pooled(Pooled, Arc<Pool>),
    Once(Memory),
}

impl Returned {
    /// The first `length` bytes for the caller, without a copy as long as enough chunks are left for requests: what a caller
    /// holds on to must never keep others from moving bytes.
    pub fn hand_out(self, length: usize) -> Bytes {
        if let Self::Pooled(chunk, pool) = &self {
            let usage = pool.usage();
            if usage.free < usage.used {
                return Bytes::copy_from_slice(&chunk[..length]);
            }
        }
        Bytes::from_owner(Filled { memory: self, length })
    }
}

impl Deref for Returned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pooled(chunk, _) => chunk,
            Self::Once(memory) => memory,
        }
    }
}

/// Bytes in a chunk, which goes back to the pool with the last of them.
struct Filled {
    memory: Returned,
    length: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

/// Numbers of the storage node and of the rail.
type Key = (usize, u64);

/// The lanes of a client.
pub(super) struct Lanes {
    plain: Client,
    rails: Rails,
    /// For each storage node, why it gives no session now.
    by_server: Vec<Arc<Refused>>,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
}

impl Lanes {
    pub fn new(plain: Client, rails: Rails) -> Self {
        Self {
            by_server: plain.nodes().map(|_| Arc::default()).collect(),
            plain,
            rails,
            lanes: Mutex::default(),
        }
    }

    /// Whether there is any rail, be its port up or down.
    pub fn exist(&self) -> bool {
        !self.rails.all().is_empty()
    }

    /// Why none can be used.
    pub fn why_none(&self) -> String {
        match self.rails.standing() {
            Ok(_) => "the storage node was not reached by RDMA".to_owned(),
            Err(why) => format!("this end has no RDMA: {why}"),
        }
    }

    fn of(&self, node: usize, rail: Arc<Rail>) -> Arc<Lane> {
        let lane = lock(&self.lanes).get(&(node, rail.number())).cloned();
        lane.unwrap_or_else(|| {
            let options = &self.plain.inner.options;
            let half = options.rdma_memory / 2;
            let plain = self.plain.node(node).clone();
            let by_server = self.by_server.get(node).cloned().unwrap_or_default();
            let sessions = |immediate| {
                let (device, by_server) = (Arc::clone(rail.device()), Arc::clone(&by_server));
                Sessions::new(plain.clone(), device, by_server, immediate)
            };
            let lane = Arc::new(Lane {
                sessions: sessions(false),
                gpu_sessions: sessions(true),
                windows: rail.pool(Purpose::Windows, WINDOW, half),
                parts: rail.pool(Purpose::Windows, options.part_size, half),
                doubted: Mutex::default(),
                rail,
                node,
                plain,
            });
            // Who comes second takes what is there.
            let mut lanes = lock(&self.lanes);
            Arc::clone(lanes.entry(lane.key()).or_insert(lane))
        })
    }

    /// The lane for the next request, of those that are not `tried` yet: to the first of `nodes`, by the rail with the fewest
    /// bytes under way for its rate.
    pub fn next(&self, tried: &[Key], nodes: &[usize]) -> Option<Arc<Lane>> {
        let all = self.rails.all();
        // The sessions of a device that is gone end here.
        let gone: Vec<_> = lock(&self.lanes)
            .extract_if(|(_, number), _| all.iter().all(|rail| rail.number() != *number))
            .collect();
        drop(gone);
        let active: Vec<_> = all.into_iter().filter(|rail| rail.is_active()).collect();
        let lanes = nodes.iter().flat_map(|node| {
            let untried = active
                .iter()
                .filter(|rail| !tried.contains(&(*node, rail.number())));
            untried.map(|rail| self.of(*node, Arc::clone(rail)))
        });
        let place = |lane: &Lane| nodes.iter().position(|node| *node == lane.node);
        lanes.min_by(|one, other| {
            let burden = |lane: &Lane| {
                // A port that does not tell its rate is a slow one.
                let gbits = lane.rail.device().info().gbits.max(1.0);
                lane.rail.taken_bytes() as f64 / gbits
            };
            one.is_doubted()
                .cmp(&other.is_doubted())
                .then(place(one).cmp(&place(other)))
                .then(burden(one).total_cmp(&burden(other)))
        })
    }

    /// By this rail, to the storage node for the request.
    fn by(&self, rail: &Arc<Rail>, request: &Request) -> Arc<Lane> {
        let mut lanes = self
            .plain
            .ranked(request)
            .into_iter()
            .map(|node| self.of(node, Arc::clone(rail)));
        let first = lanes.next();
        let usable = first
            .clone()
            .into_iter()
            .chain(lanes)
            .find(|lane| !lane.is_doubted());
        usable.or(first).unwrap_or_else(|| self.of(0, Arc::clone(rail)))
    }

    /// The lane whose device `memory` is registered with, if it can be used now.
    pub fn owning(&self, memory: &Memory, request: &Request) -> Option<Arc<Lane>> {
        let rails = self.rails.active();
        let rail = rails.into_iter().find(|rail| rail.device().owns(memory))?;
        Some(self.by(&rail, request))
    }

    /// The lane that reaches GPU memory by itself: of those that do, the one nearest to the GPU.
    ///
    /// # Errors
    /// Why there is none, of the nearest one.
    pub fn reaching(&self, memory: &GpuMemory, request: &Request) -> std::result::Result<Arc<Lane>, String> {
        let mut rails = self.rails.active();
        let gpu = memory.gpu().info();
        // Equals stay in their order.
        rails.sort_by_key(|rail| {
            let nic = rail.device().info();
            Reverse(nearness(
                (nic.pci_address.as_deref(), nic.numa_node),
                (gpu.pci_address.as_deref(), gpu.numa_node),
            ))
        });
        let mut why = None;
        for rail in rails {
            match memory.reached_by(rail.number(), |dma_buf| rail.device().try_dma_buf(dma_buf)) {
                Ok(()) => return Ok(self.by(&rail, request)),
                Err(error) => {
                    why.get_or_insert(error.to_string());
                }
            }
        }
        Err(why.unwrap_or_else(|| self.why_none()))
    }

    /// The lane for memory that a caller keeps: the one of the NUMA node if there is one, else the next.
    pub fn near(&self, numa_node: Option<u16>) -> Option<Arc<Lane>> {
        let near = self.rails.active().into_iter().find(|rail| {
            let node = rail.device().info().numa_node;
            node.is_some() && node == numa_node
        });
        near.map(|rail| self.of(0, rail)).or_else(|| self.next(&[], &[0]))
    }

    /// A session over any rail with any storage node.
    ///
    /// # Errors
    /// Why there is none, of the first rail that was tried.
    pub async fn session(&self) -> Result<Arc<Session>> {
        let nodes: Vec<_> = (0..self.by_server.len()).collect();
        let (mut tried, mut why) = (Vec::new(), None);
        while let Some(lane) = self.next(&tried, &nodes) {
            tried.push(lane.key());
            match lane.sessions.get().await {
                Ok(session) => return Ok(session),
                Err(error) => {
                    why.get_or_insert(error);
                }
            }
        }
        Err(why.unwrap_or_else(|| self.plain.no_fast_path(self.why_none())))
    }

    /// The server took a token and did not do what the protocol says: it gets no other for a while.
    pub fn mistrust(&self, node: usize, cause: &str) {
        if let Some(refused) = self.by_server.get(node) {
            refused.mistrust(cause);
        }
        for lane in lock(&self.lanes).values().filter(|lane| lane.node == node) {
            lane.sessions.kill_all();
            lane.gpu_sessions.kill_all();
        }
    }

    pub async fn end_all(&self) {
        let lanes: Vec<_> = lock(&self.lanes).values().cloned().collect();
        for lane in lanes {
            lane.sessions.end_all().await;
            lane.gpu_sessions.end_all().await;
        }
    }
}

impl Rdma {
    /// Performs a request whose `length` bytes go into, or come from, memory of whichever rail has a way to a storage node.
    /// `fill` writes them there, for each way that is tried. The memory comes back from the one that was not [`Outcome::Unavailable`].
    pub async fn exchange(
        &self,
        request: &Request,
        length: usize,
        direction: Direction,
        fill: impl Fn(&mut [u8]),
    ) -> (Option<Returned>, Result<Outcome>) {
        let options = &self.plain.inner.options;
        let nodes = self.plain.ranked(request);
        let mut waited = 0;
        loop {
            let (mut tried, mut why, mut no_session) = (Vec::new(), None, true);
            while let Some(lane) = self.lanes.next(&tried, &nodes) {
                tried.push(lane.key());
                let (mut memory, place) = match lane.loan(length, direction).await {
                    Ok(loan) => loan,
                    Err(error) => {
                        no_session = false;
                        why.get_or_insert(error);
                        continue;
                    }
                };
                fill(&mut memory);
                let (memory, outcome) = self.perform(&lane, request, memory, 0..length, direction).await;
                let returned = match place {
                    Some((slot, pool)) => Returned::Pooled(slot.put_back(memory), pool),
                    None => Returned::Once(memory),
                };
                let error = match outcome {
                    Ok(Outcome::NoSession(error)) => {
                        // Others need not wait for the same connection in vain.
                        if nodes.len() > 1 {
                            lane.doubt();
                        }
                        error
                    }
                    Ok(Outcome::Unavailable(error)) => {
                        no_session = false;
                        error
                    }
                    outcome => return (Some(returned), outcome),
                };
                tracing::debug!(%error, device = lane.rail.device().info().name, endpoint = %lane.plain.inner.endpoint, "no way by this RDMA device");
                why.get_or_insert(error);
            }
            let why = why.unwrap_or_else(|| self.plain.no_fast_path(self.lanes.why_none()));
            // Where no other way is allowed, a storage node that is being restarted is waited for.
            let wait = no_session && !matches!(why, Error::NoFastPath { .. });
            if !wait || options.policy != Policy::Require || waited >= options.retries {
                return (None, Ok(Outcome::Unavailable(why)));
            }
            tracing::debug!(error = %why, waited, "no RDMA session yet");
            tokio::time::sleep(pause_before(waited).max(SESSION_PAUSE)).await;
            waited += 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
