//! Reads everything that is stored and compares it with its checksums, so that what a disk has spoiled is known before it is needed.
//!
//! It reads as clients do, every version of every object, one after the other. Parts of unfinished uploads are not looked at: they are
//! when they have become an object.

use crate::{
    engine::{Engine, Error, ObjectRef, Opened, Precondition, Result, VersionQuery},
    metrics::Metrics,
};
use penstock_rdma::admin::{BrokenObject, ScrubStatus};
use penstock_service::CancellationToken;
use std::{
    io::Read,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::{sync::Notify, task::spawn_blocking};

/// What is listed at once.
const PAGE: usize = 1000;
/// What is read at once.
const PIECE: usize = 1 << 20;
/// So many are named; all are counted.
const MOST_NAMED: usize = 1000;

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
                    self.compare(&object, pace, stop).await;
                }
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
        }
        Ok(())
    }

    async fn compare(&self, object: &ObjectRef, pace: Pace, stop: &CancellationToken) {
        let opened = self
            .shared
            .engine
            .open(object, None, &Precondition::default())
            .await;
        let read = match opened {
            // It was deleted meanwhile.
            Err(
                Error::NoSuchKey(_) | Error::NoSuchVersion(_) | Error::NoSuchBucket(_) | Error::Marker(_),
            ) => return,
            Err(error) => Err(penstock_service::chain(&error)),
            Ok(opened) => {
                let stop = stop.clone();
                let read = spawn_blocking(move || read(opened, pace, &stop)).await;
                match read {
                    Ok(Ok(length)) => Ok(length),
                    Ok(Err(error)) => Err(penstock_service::chain(&error)),
                    Err(error) => Err(error.to_string()),
                }
            }
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

/// Reads to the end, which is an error where the checksum is another one.
fn read(mut opened: Opened, pace: Pace, stop: &CancellationToken) -> std::io::Result<u64> {
    let begun = Instant::now();
    let mut piece = vec![0; PIECE];
    let mut length = 0;
    loop {
        let got = opened.reader.read(&mut piece)?;
        length += got as u64;
        if got == 0 || stop.is_cancelled() {
            return Ok(length);
        }
        if let Pace::Limited(rate) = pace {
            let due = Duration::from_millis(length.saturating_mul(1000) / rate.max(1));
            std::thread::sleep(due.saturating_sub(begun.elapsed()).min(Duration::from_secs(1)));
        }
    }
}
