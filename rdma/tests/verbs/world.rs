//! Two ends on the one device of the guest, as far from each other as a client and a storage node: each opens the device for
//! itself, so that they share no protection domain.

use penstock_rdma::{
    fabric::{
        Connection, Device, Direction, Error, Memory, Pages, Purpose, QueuePair, Remote, Usage, Window,
    },
    verbs::{self, Options},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Tests that change the device or measure it have it for themselves.
static DEVICE: RwLock<()> = RwLock::const_new(());

/// Longer than anything here takes, even emulated.
pub const PATIENCE: Duration = Duration::from_secs(60);

enum Hold {
    Shared(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
}

/// Both ends.
pub struct World {
    pub client: Arc<dyn Device>,
    pub server: Arc<dyn Device>,
    _hold: Hold,
}

/// A peer is given up after a second, so that tests need not wait long.
pub fn options() -> Options {
    Options {
        timeout: 15,
        ..Options::default()
    }
}

pub fn open(options: &Options) -> Arc<dyn Device> {
    verbs::open(options).unwrap_or_else(|error| {
        panic!("no RDMA device can be used here ({error}); this program is run by: make test SUITE=verbs")
    })
}

impl World {
    /// Beside other tests.
    pub async fn new() -> Self {
        Self::with(&options()).await
    }

    pub async fn with(options: &Options) -> Self {
        let hold = Hold::Shared(DEVICE.read().await);
        Self::opened(options, hold)
    }

    /// With the device for itself.
    pub async fn alone(options: &Options) -> Self {
        let hold = Hold::Alone(DEVICE.write().await);
        Self::opened(options, hold)
    }

    fn opened(options: &Options, hold: Hold) -> Self {
        Self {
            client: open(options),
            server: open(options),
            _hold: hold,
        }
    }

    /// A connected pair of queue pairs: (client's, server's).
    pub fn pair(&self) -> (Arc<dyn QueuePair>, Arc<dyn QueuePair>) {
        self.pair_of(16, self.client.info().mtu)
    }

    pub fn pair_of(&self, depth: u16, mtu: u16) -> (Arc<dyn QueuePair>, Arc<dyn QueuePair>) {
        let client = self.client.queue_pair(depth).unwrap();
        let server = self.server.queue_pair(depth).unwrap();
        connect(&client, &server, mtu);
        (client, server)
    }

    /// Memory of the server that no peer reaches, filled with a pattern.
    pub fn staging(&self, length: usize, seed: u64) -> Memory {
        memory(&self.server, Purpose::Staging, length, seed)
    }

    /// Memory of the client for windows, filled with a pattern.
    pub fn landing(&self, length: usize, seed: u64) -> Memory {
        memory(&self.client, Purpose::Windows, length, seed)
    }

    /// Ends a test: everything that it made must be gone.
    pub async fn end(self) {
        for (end, device) in [("client", &self.client), ("server", &self.server)] {
            if let Err(left) = settled(device, PATIENCE).await {
                panic!("the {end} did not give everything back: {left:?}");
            }
        }
    }
}

/// Waits until nothing is left on a device.
pub async fn settled(device: &Arc<dyn Device>, patience: Duration) -> Result<(), Usage> {
    let deadline = Instant::now() + patience;
    loop {
        let usage = device.usage();
        if usage == Usage::default() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(usage);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Connects two queue pairs with each other.
pub fn connect(one: &Arc<dyn QueuePair>, other: &Arc<dyn QueuePair>, mtu: u16) {
    let (psn, other_psn) = (0xfffff0, 0x123456);
    let connection = |peer: &Arc<dyn QueuePair>, local_psn, peer_psn| Connection {
        peer: peer.address(),
        local_psn,
        peer_psn,
        mtu,
        read_depth: 16,
    };
    one.connect(&connection(other, psn, other_psn)).unwrap();
    other.connect(&connection(one, other_psn, psn)).unwrap();
}

pub fn memory(device: &Arc<dyn Device>, purpose: Purpose, length: usize, seed: u64) -> Memory {
    let mut memory = device.register(Pages::new(length).unwrap(), purpose).unwrap();
    fill(&mut memory, seed);
    memory
}

/// Bytes that differ from place to place and from seed to seed.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(&mut bytes, seed);
    bytes
}

/// The first place where bytes differ from what they should be; `None` when they do not. Does not print megabytes.
pub fn difference(bytes: &[u8], expected: &[u8]) -> Option<String> {
    if bytes.len() != expected.len() {
        return Some(format!("{} bytes instead of {}", bytes.len(), expected.len()));
    }
    let at = bytes.iter().zip(expected).position(|(one, other)| one != other)?;
    Some(format!(
        "byte {at} is {:#x} instead of {:#x}",
        bytes[at], expected[at]
    ))
}

#[track_caller]
pub fn assert_same(bytes: &[u8], expected: &[u8]) {
    if let Some(difference) = difference(bytes, expected) {
        panic!("{difference}");
    }
}

/// Operations of 8 MiB on a window, one after the other, until one fails: then its memory and error.
pub struct Stream {
    under_way: JoinHandle<(Memory, Error)>,
    done: Arc<AtomicUsize>,
}

impl Stream {
    pub const SIZE: usize = 8 << 20;

    pub fn start(
        queue_pair: &Arc<dyn QueuePair>,
        memory: Memory,
        window: Window,
        direction: Direction,
    ) -> Self {
        let (queue_pair, done) = (queue_pair.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = done.clone();
        let under_way = tokio::spawn(async move {
            let mut memory = memory;
            loop {
                let operation = match direction {
                    Direction::Written => queue_pair.write(memory, 0..Self::SIZE, place(window, 0), None),
                    Direction::Read => queue_pair.read(memory, 0..Self::SIZE, place(window, 0)),
                };
                match operation.await {
                    (back, Ok(())) => memory = back,
                    (back, Err(error)) => return (back, error),
                }
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { under_way, done }
    }

    /// Waits until it is in the middle of an operation that is not its first.
    pub async fn flows(&self) {
        let flowing = async {
            while self.done.load(Ordering::SeqCst) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        in_time("the first operation", flowing).await;
    }

    pub async fn ended(self) -> (Memory, Error) {
        in_time("the end of a stream", self.under_way).await.unwrap()
    }
}

/// A place in a window.
pub fn place(window: Window, offset: u64) -> Remote {
    Remote {
        // A peer may ask for anything.
        address: window.address.wrapping_add(offset),
        rkey: window.rkey,
    }
}

pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
