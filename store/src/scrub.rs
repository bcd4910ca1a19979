//! Reads everything that is stored and compares it with its checksums, so that what a disk has spoiled is known before it is needed.
//!
//! It reads as clients do, every version of every object, one after the other; what only a customer's key decrypts it compares as it
//! is on the disk. Parts of unfinished uploads are not looked at: they are
//! when they have become an object.

use crate::{
    engine::{Engine, Error, ObjectRef, Opened, Result, VersionQuery},
    metrics::Metrics,
};
use penstock_rdma::admin::{BrokenObject, ScrubStatus};
use penstock_service::CancellationToken;
use std::{
    io::Read,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::Notify, task::spawn_blocking};

/// What is listed at once.
const PAGE: usize = 1000;
/// What is read at once.
const PIECE: usize = 1 << 20;
/// So many are named; all are counted.
const MOST_NAMED: usize = 1000;
/// Before what could not be read is tried once more.
const PAUSE: Duration = Duration::from_millis(100);

/// Passes over everything, and what the last one found. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Scrub {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    status: Mutex<ScrubStatus>,
    wanted: Notify,
}

/// How fast a pass may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Full,
    /// Bytes a second.
    Limited(u64),
}

impl Scrub {
    /// Over what is in `engine`.
    pub fn new(engine: Arc<dyn Engine>, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                engine,
                metrics,
                status: Mutex::default(),
                wanted: Notify::new(),
            }),
        }
    }

    /// Passes until it is stopped: with so much time between at this pace, and at full speed whenever one is asked for.
    pub async fn run(self, every: Duration, pace: Pace, stop: CancellationToken) {
        loop {
            let pace = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => pace,
                () = self.shared.wanted.notified() => Pace::Full,
            };
            if let Err(error) = self.pass(pace, &stop).await {
                let cause = penstock_service::chain(&error);
                tracing::warn!(cause, "a scrub broke off; the next one begins anew");
            }
        }
    }

    /// Asks for a pass. `false` where one is under way.
    pub fn ask(&self) -> bool {
        let mut status = self.status();
        if status.running {
            return false;
        }
        // Whoever asks and looks at once must not see the end of the pass before.
        *status = ScrubStatus {
            running: true,
            started: Some(SystemTime::now().into()),
            ..ScrubStatus::default()
        };
        drop(status);
        self.shared.wanted.notify_one();
        true
    }

    /// What the pass under way has found until now, or the last one.
    pub fn told(&self) -> ScrubStatus {
        self.status().clone()
    }

    fn status(&self) -> MutexGuard<'_, ScrubStatus> {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pass.
    ///
    /// # Errors
    /// When the engine cannot list; what a single object's bytes are is no error of the pass.
    pub async fn pass(&self, pace: Pace, stop: &CancellationToken) -> Result<ScrubStatus> {
        *self.status() = ScrubStatus {
            running: true,
            started: Some(SystemTime::now().into()),
            ..ScrubStatus::default()
        };
        let outcome = self.look(pace, stop).await;
        let mut status = self.status();
        status.running = false;
        if outcome.is_ok() && !stop.is_cancelled() {
            status.finished = Some(SystemTime::now().into());
            self.shared.metrics.scrubbed(status.broken);
            tracing::info!(
                objects = status.objects,
                bytes = status.bytes,
                broken = status.broken,
                "scrubbed"
            );
        }
        outcome.map(|()| status.clone())
    }

    async fn look(&self, pace: Pace, stop: &CancellationToken) -> Result<()> {
        let pacer = Arc::new(Pacer::new(pace));
        let engine = &*self.shared.engine;
        for bucket in engine.buckets().await? {
            let mut query = VersionQuery {
                limit: PAGE,
                ..VersionQuery::default()
            };
            loop {
                let page = match engine.versions(&bucket.name, &query).await {
                    // It was deleted meanwhile.
                    Err(Error::NoSuchBucket(_)) => break,
                    page => page?,
                };
                for version in page.versions {
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                    if version.object.is_none() {
                        continue;
                    }
                    let mut object = ObjectRef::new(&bucket.name, &version.key);
                    object.version = Some(version.version);
                    self.compare(&object, &pacer, stop).await;
                }
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn compare(&self, object: &ObjectRef, pacer: &Arc<Pacer>, stop: &CancellationToken) {
        let mut read = self.read(object, pacer, stop).await;
        if read.is_err() {
            // What fails twice is no passing want of memory or descriptors.
            tokio::time::sleep(PAUSE).await;
            read = self.read(object, pacer, stop).await;
        }
        let read = match read {
            Ok(None) => return,
            Ok(Some(length)) => Ok(length),
            Err(cause) => Err(cause),
        };
        let mut status = self.status();
        status.objects += 1;
        match read {
            Ok(length) => {
                status.bytes += length;
                self.shared.metrics.compared(length);
            }
            Err(cause) => {
                tracing::error!(%object, cause, "an object is broken: its bytes cannot be read, or are not those that were written");
                status.broken += 1;
                if status.objects_broken.len() < MOST_NAMED {
                    status.objects_broken.push(BrokenObject {
                        bucket: object.bucket.clone(),
                        key: object.key.clone(),
                        version: object
                            .version
                            .map(|version| version.to_string())
                            .unwrap_or_default(),
                        cause,
                    });
                }
            }
        }
    }
}

impl Scrub {
    /// How many bytes an object has, `None` where it was deleted meanwhile; or why it cannot be read.
    async fn read(
        &self,
        object: &ObjectRef,
        pacer: &Arc<Pacer>,
        stop: &CancellationToken,
    ) -> std::result::Result<Option<u64>, String> {
        let opened = self.shared.engine.open_to_compare(object).await;
        let opened = match opened {
            Err(
                Error::NoSuchKey(_) | Error::NoSuchVersion(_) | Error::NoSuchBucket(_) | Error::Marker(_),
            ) => {
                return Ok(None);
            }
            Err(error) => return Err(penstock_service::chain(&error)),
            Ok(opened) => opened,
        };
        let (pacer, stop) = (Arc::clone(pacer), stop.clone());
        match spawn_blocking(move || read(opened, &pacer, &stop)).await {
            Ok(Ok(length)) => Ok(Some(length)),
            Ok(Err(error)) => Err(penstock_service::chain(&error)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Keeps a pass, all objects together, to its pace.
struct Pacer {
    pace: Pace,
    begun: Instant,
    bytes: AtomicU64,
}

impl Pacer {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            begun: Instant::now(),
            bytes: AtomicU64::new(0),
        }
    }

    /// Waits until so many bytes more may have been read. Blocks, not for longer than a second.
    fn wait(&self, more: usize) {
        let bytes = self.bytes.fetch_add(more as u64, Ordering::Relaxed) + more as u64;
        if let Pace::Limited(rate) = self.pace {
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
            let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            std::thread::sleep(
                due.saturating_sub(self.begun.elapsed())
                    .min(Duration::from_secs(1)),
            );
        }
    }
}

/// Reads to the end, which is an error where the checksum is another one.
fn read(mut opened: Opened, pacer: &Pacer, stop: &CancellationToken) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        let got = opened.reader.read(&mut piece)?;
        length += got as u64;
        if got == 0 || stop.is_cancelled() {
            return Ok(length);
        }
        pacer.wait(got);
    }
}
