//! What the devices of a network have in common: who is there, and what may be reached.

use super::{Inner, LoopbackDevice, mapping::Mapping};
use crate::fabric::{Connection, DeviceInfo, Direction, Gid, Purpose, Remote};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
};
use tokio::sync::{mpsc, watch};

/// Devices that reach each other. Cheap to clone; clones are the same network.
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

impl Network {
    /// A network without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new device on it.
    pub fn device(&self, name: &str) -> Arc<LoopbackDevice> {
        let number = {
            let mut state = self.state();
            state.devices += 1;
            state.devices
        };
        let mut gid = [0; 16];
        gid[0] = 0xfd;
        gid[12..].copy_from_slice(&number.to_be_bytes());
        Arc::new(LoopbackDevice {
            inner: Arc::new(Inner {
                network: self.clone(),
                number,
                info: DeviceInfo {
                    name: name.to_owned(),
                    port: 1,
                    gid: Gid(gid),
                    mtu: 4096,
                    read_depth: 16,
                    netdev: None,
                    numa_node: None,
                    pci_address: None,
                    gbits: 1.0,
                },
                operations: AtomicU64::new(0),
                faults: Mutex::default(),
                written: AtomicU64::new(0),
                read: AtomicU64::new(0),
                most_queue_pairs: AtomicUsize::new(usize::MAX),
                most_registered: AtomicU64::new(u64::MAX),
                takes_dma_buf: AtomicBool::new(true),
                active: AtomicBool::new(true),
                failed: AtomicBool::new(false),
            }),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct State {
    devices: u32,
    regions: HashMap<u32, Region>,
    windows: HashMap<u32, Bound>,
    queue_pairs: HashMap<u32, End>,
}

#[derive(Clone, Copy)]
pub(super) struct Region {
    pub device: u32,
    pub length: u64,
    pub purpose: Purpose,
}

/// A window bound to a queue pair.
pub(super) struct Bound {
    pub queue_pair: u32,
    pub address: u64,
    pub size: u64,
    pub direction: Direction,
    /// What is mapped for it, when its address is not one of this process.
    pub mapped: Option<Mapping>,
}

/// A queue pair as its peer finds it.
pub(super) struct End {
    pub device: u32,
    pub gid: Gid,
    pub phase: watch::Sender<Phase>,
    pub immediates: mpsc::UnboundedSender<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Init,
    Ready(Connection),
    Dead,
}

impl State {
    pub fn region(&self, lkey: u32) -> Option<Region> {
        self.regions.get(&lkey).copied()
    }

    pub fn regions_of(&self, device: u32) -> impl Iterator<Item = &Region> {
        self.regions
            .values()
            .filter(move |region| region.device == device)
    }

    pub fn registered(&self, device: u32) -> u64 {
        self.regions_of(device).map(|region| region.length).sum()
    }

    pub fn add_region(&mut self, region: Region) -> u32 {
        let key = unused(|key| self.regions.contains_key(&key), u32::MAX);
        self.regions.insert(key, region);
        key
    }

    pub fn remove_region(&mut self, lkey: u32) {
        self.regions.remove(&lkey);
    }

    pub fn queue_pairs_of(&self, device: u32) -> impl Iterator<Item = u32> {
        self.queue_pairs
            .iter()
            .filter(move |(_, end)| end.device == device)
            .map(|(number, _)| *number)
    }

    pub fn add_queue_pair(&mut self, end: End) -> u32 {
        let number = unused(|number| self.queue_pairs.contains_key(&number), 1 << 24);
        self.queue_pairs.insert(number, end);
        number
    }

    pub fn remove_queue_pair(&mut self, number: u32) {
        self.kill(number);
        self.queue_pairs.remove(&number);
    }

    pub fn phase(&self, number: u32) -> Phase {
        self.queue_pairs
            .get(&number)
            .map_or(Phase::Dead, |end| *end.phase.borrow())
    }

    pub fn set_phase(&self, number: u32, phase: Phase) {
        if let Some(end) = self.queue_pairs.get(&number) {
            end.phase.send_replace(phase);
        }
    }

    /// Moves to ERR; its windows open nothing any more.
    pub fn kill(&mut self, number: u32) {
        self.set_phase(number, Phase::Dead);
        self.windows.retain(|_, bound| bound.queue_pair != number);
    }

    pub fn bind(&mut self, bound: Bound) -> u32 {
        let key = unused(|key| self.windows.contains_key(&key), u32::MAX);
        self.windows.insert(key, bound);
        key
    }

    pub fn unbind(&mut self, rkey: u32, queue_pair: u32) -> bool {
        let bound = self.windows.get(&rkey);
        let ours = bound.is_some_and(|bound| bound.queue_pair == queue_pair);
        if ours {
            self.windows.remove(&rkey);
        }
        ours
    }

    /// The peer of a connected queue pair, if it is connected back to it.
    pub fn peer(&self, number: u32, gid: Gid, connection: &Connection) -> Option<(u32, &End)> {
        let peer = connection.peer.qpn;
        let end = self.queue_pairs.get(&peer)?;
        let Phase::Ready(back) = *end.phase.borrow() else {
            return None;
        };
        let known = end.gid == connection.peer.gid
            && back.peer.qpn == number
            && back.peer.gid == gid
            && back.peer_psn == connection.local_psn
            && back.local_psn == connection.peer_psn
            && back.mtu == connection.mtu;
        known.then_some((peer, end))
    }

    /// Where in this process the bytes are that `number` has opened in this direction.
    pub fn opened(&self, number: u32, at: Remote, length: u64, direction: Direction) -> Option<usize> {
        let bound = self.windows.get(&at.rkey)?;
        let offset = at.address.checked_sub(bound.address)?;
        let inside = offset.checked_add(length)? <= bound.size;
        if bound.queue_pair != number || bound.direction != direction || !inside {
            return None;
        }
        match &bound.mapped {
            Some(mapped) => mapped.address().checked_add(usize::try_from(offset).ok()?),
            None => usize::try_from(at.address).ok(),
        }
    }
}

fn unused(taken: impl Fn(u32) -> bool, below: u32) -> u32 {
    loop {
        let key = rand::random_range(1..below);
        if !taken(key) {
            return key;
        }
    }
}
