//! Objects that gateways are in the middle of reading. A client asked once, with one signature, for one version of an object;
//! a gateway fetches it a window at a time, and its client may take long.

use super::{Limits, Refusal};
use crate::engine::{ObjectInfo, Summed};
use crc_fast::{CrcAlgorithm, Digest};
use penstock_rdma::{local::Lent, protocol::ReadingId};
use std::{
    collections::HashMap,
    io::{self, Read},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All of a storage node.
pub(super) struct Readings {
    table: Mutex<HashMap<ReadingId, Arc<Reading>>>,
    files: Arc<Semaphore>,
    idle: Duration,
}

/// The bytes that a client was given access to, open until they are released.
pub(crate) struct Reading {
    owner: String,
    pub info: ObjectInfo,
    pub lent: Lent,
    used: Mutex<Instant>,
    _files: OwnedSemaphorePermit,
}

impl Readings {
    pub fn new(limits: &Limits) -> Self {
        Self {
            table: Mutex::default(),
            files: Arc::new(Semaphore::new(limits.reading_files.min(Semaphore::MAX_PERMITS))),
            idle: limits.reading_idle,
        }
    }

    /// Keeps `lent` for its gateway to ask for more; `None` where as many files are open as may be.
    pub fn keep(&self, owner: &str, info: ObjectInfo, lent: Lent) -> Option<Kept<'_>> {
        self.end_idle();
        let files = u32::try_from(lent.files().len()).ok()?;
        let reading = Reading {
            owner: owner.to_owned(),
            info,
            lent,
            used: Mutex::new(Instant::now()),
            _files: Arc::clone(&self.files).try_acquire_many_owned(files).ok()?,
        };
        let id = ReadingId::random();
        self.table().insert(id, Arc::new(reading));
        Some(Kept {
            readings: self,
            id,
            is_told: false,
        })
    }

    /// A reading of `owner`.
    pub fn find(&self, id: ReadingId, owner: &str) -> Result<Arc<Reading>, Refusal> {
        let table = self.table();
        let found = table.get(&id).filter(|reading| reading.owner == owner);
        let found = found.ok_or(Refusal::NoSuchReading)?;
        *lock(&found.used) = Instant::now();
        Ok(Arc::clone(found))
    }

    /// Ends it, if it is `owner`'s. What is under way of it goes on.
    pub fn release(&self, id: ReadingId, owner: &str) {
        let mut table = self.table();
        if table.get(&id).is_some_and(|reading| reading.owner == owner) {
            table.remove(&id);
        }
    }

    /// Ends those whose gateway asks for nothing any more.
    pub fn end_idle(&self) {
        self.table()
            .retain(|_, reading| lock(&reading.used).elapsed() < self.idle);
    }

    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ReadingId, Arc<Reading>>> {
        lock(&self.table)
    }
}

/// A new reading, which ends if its gateway is not told of it.
pub(super) struct Kept<'r> {
    readings: &'r Readings,
    id: ReadingId,
    is_told: bool,
}

impl Kept<'_> {
    /// Its name, which from now on the gateway releases.
    pub fn for_the_gateway(mut self) -> ReadingId {
        self.is_told = true;
        self.id
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.readings.table().remove(&self.id);
        }
    }
}

/// A part of what was lent, as a reader.
pub(super) struct LentReader {
    lent: Lent,
    at: u64,
    end: u64,
    digest: Digest,
}

impl LentReader {
    pub fn new(lent: Lent, part: Range<u64>) -> Self {
        Self {
            lent,
            at: part.start,
            end: part.end,
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }
}

impl Summed for LentReader {
    fn crc64nvme(&self) -> u64 {
        self.digest.finalize()
    }
}

impl Read for LentReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = into.len().min(left);
        let got = self.lent.read_at(&mut into[..length], self.at)?;
        self.digest.update(&into[..got]);
        self.at += got as u64;
        Ok(got)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
