//! Who asked for what, of buckets that want to know: the lines of AWS ("Amazon S3 server access log format"), collected in memory and
//! written as objects into a bucket every few minutes.
//!
//! Best effort, as AWS's: lines wait in bounded memory, and those that a crash or a full memory takes are lost. A bucket that keeps
//! no log costs a request one look at a flag.

mod line;

pub(crate) use line::{Entry, Facts};

use crate::{
    access::{ACCOUNT, Principal},
    engine::{Engine, Error, Headers, ObjectRef, PutOptions, Result},
    metrics::Metrics,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use penstock_service::CancellationToken;
use s3s::{
    dto::BucketLoggingStatus,
    xml::{Deserialize, Deserializer},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use time::{OffsetDateTime, macros::format_description};
use tokio::sync::Notify;

/// The document's name in a bucket.
pub(crate) const DOCUMENT: &str = "logging";
/// Lines that wait for delivery, in all. What comes beyond is dropped, and counted.
const MOST_WAITING: usize = 32 << 20;
/// Lines for one place that are delivered before their time.
const LARGE: usize = 4 << 20;

/// Where the lines of a bucket go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    bucket: String,
    prefix: String,
}

#[derive(Default)]
struct Waiting {
    lines: HashMap<Place, Vec<u8>>,
    bytes: usize,
}

impl Waiting {
    /// Whether there was room.
    fn add(&mut self, place: &Place, line: &[u8]) -> bool {
        if self.bytes + line.len() > MOST_WAITING {
            return false;
        }
        self.bytes += line.len();
        match self.lines.get_mut(place) {
            Some(lines) => lines.extend_from_slice(line),
            None => drop(self.lines.insert(place.clone(), line.to_vec())),
        }
        true
    }
}

/// The logs of all buckets. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    engine: Arc<dyn Engine>,
    metrics: Metrics,
    /// Whether any bucket keeps a log.
    is_kept: AtomicBool,
    places: RwLock<HashMap<String, Place>>,
    /// Held while a bucket's document is read and acted on, so that the last one holds.
    reading: tokio::sync::Mutex<()>,
    waiting: Mutex<Waiting>,
    large: Notify,
}

impl AccessLog {
    /// With what buckets say now.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub async fn open(engine: Arc<dyn Engine>, metrics: Metrics) -> Result<Self> {
        let buckets = engine.buckets().await?;
        let log = Self(Arc::new(Inner {
            engine,
            metrics,
            is_kept: AtomicBool::new(false),
            places: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
            large: Notify::new(),
        }));
        for bucket in buckets {
            log.look(&bucket.name).await?;
        }
        Ok(log)
    }

    /// Looks at what a bucket says; to be called when that may have changed, also when it is gone.
    ///
    /// # Errors
    /// When the engine cannot be read; what was the case stays so.
    pub async fn look(&self, bucket: &str) -> Result<()> {
        let _alone = self.0.reading.lock().await;
        let place = match self.0.engine.document(bucket, DOCUMENT).await {
            Ok(document) => document.and_then(|document| read(bucket, &document)),
            Err(Error::NoSuchBucket(_)) => None,
            Err(error) => return Err(error),
        };
        let mut places = self.0.places.write().unwrap_or_else(PoisonError::into_inner);
        match place {
            Some(place) => drop(places.insert(bucket.to_owned(), place)),
            None => drop(places.remove(bucket)),
        }
        self.0.is_kept.store(!places.is_empty(), Ordering::Release);
        Ok(())
    }

    /// Whether there is any bucket to ask for.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_kept.load(Ordering::Acquire)
    }

    /// Whether a bucket keeps a log.
    pub(crate) fn is_of(&self, bucket: &str) -> bool {
        let places = self.0.places.read().unwrap_or_else(PoisonError::into_inner);
        places.contains_key(bucket)
    }

    /// Keeps a line of a bucket, with its line feed.
    pub(crate) fn write(&self, bucket: &str, line: &str) {
        let places = self.0.places.read().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = places.get(bucket) else {
            return;
        };
        let mut waiting = self.waiting();
        if !waiting.add(place, line.as_bytes()) {
            self.0.metrics.access_log_dropped(1);
        }
        if waiting.lines.get(place).is_some_and(|lines| lines.len() >= LARGE) {
            self.0.large.notify_one();
        }
    }

    /// Delivers until it is stopped, with so much time between, or when there is much.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                () = self.0.large.notified() => {}
            }
            self.deliver().await;
        }
    }

    /// Writes all lines that wait. Those that cannot be written now wait on, if there is room.
    pub async fn deliver(&self) {
        let waiting = mem::take(&mut *self.waiting());
        for (place, lines) in waiting.lines {
            let lines = Bytes::from(lines);
            let Err(error) = self.put(&place, lines.clone()).await else {
                continue;
            };
            let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            let has_place = !matches!(error, Error::NoSuchBucket(_));
            let kept = has_place && self.waiting().add(&place, &lines);
            if !kept {
                self.0.metrics.access_log_dropped(count);
            }
            let (bucket, cause) = (&place.bucket, penstock_service::chain(&error));
            tracing::warn!(
                bucket,
                lines = count,
                kept,
                cause,
                "an access log could not be delivered"
            );
        }
    }

    async fn put(&self, place: &Place, lines: Bytes) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let when = format_description!("[year]-[month]-[day]-[hour]-[minute]-[second]");
        let when = now.format(&when).map_err(|error| Error::Internal {
            doing: "wrote the time",
            source: error.into(),
        })?;
        let key = format!("{}{when}-{:016X}", place.prefix, rand::random::<u64>());
        let options = PutOptions {
            headers: Headers {
                content_type: Some("text/plain".to_owned()),
                ..Headers::default()
            },
            size: Some(lines.len() as u64),
            ..PutOptions::default()
        };
        let body = stream::once(async move { Ok(lines) }).boxed();
        let object = ObjectRef::new(place.bucket.as_str(), key);
        self.0.engine.put(&object, options, body).await.map(drop)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(bucket: &str, document: &[u8]) -> Option<Place> {
    match BucketLoggingStatus::deserialize(&mut Deserializer::new(document)) {
        Ok(status) => status.logging_enabled.map(|enabled| Place {
            bucket: enabled.target_bucket,
            prefix: enabled.target_prefix,
        }),
        Err(error) => {
            tracing::error!(bucket, %error, "where a bucket's access log goes cannot be read, so it keeps none");
            None
        }
    }
}

/// What only the inside of an operation knows of a request.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// Who asked, as AWS writes it.
    pub requester: Option<String>,
    /// What DeleteObjects did: keys, versions, and codes of errors.
    pub deleted: Vec<(String, Option<String>, Option<String>)>,
}

tokio::task_local! {
    static NOTED: RefCell<Noted>;
}

/// Does something, and tells what was noted meanwhile.
pub(crate) async fn noting<T>(work: impl Future<Output = T>) -> (T, Noted) {
    let noted = RefCell::new(Noted::default());
    NOTED
        .scope(noted, async {
            let done = work.await;
            (done, NOTED.with(RefCell::take))
        })
        .await
}

/// Says who asks, once that is proven.
pub(crate) fn note_requester(principal: &Principal) {
    // Without a scope the bucket keeps no log.
    let _unscoped = NOTED.try_with(|noted| {
        noted.borrow_mut().requester = match principal {
            Principal::Anonymous => None,
            Principal::Key(key) => Some(format!("arn:aws:iam::{ACCOUNT}:user/{}", key.name)),
            Principal::Root | Principal::Gateway => Some(ACCOUNT.to_owned()),
        };
    });
}

/// Says what became of one of the keys of a multi-object delete.
pub(crate) fn note_deleted(key: &str, version: Option<&str>, code: Option<&str>) {
    let _unscoped = NOTED.try_with(|noted| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let deleted = (key.to_owned(), owned(version), owned(code));
        noted.borrow_mut().deleted.push(deleted);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded() {
        let place = |prefix: &str| Place {
            bucket: "b".into(),
            prefix: prefix.into(),
        };
        let mut waiting = Waiting::default();
        let line = vec![b'x'; MOST_WAITING / 2];
        assert!(waiting.add(&place("a"), &line));
        assert!(waiting.add(&place("b"), &line));
        assert!(!waiting.add(&place("a"), b"x"));
        assert!(!waiting.add(&place("c"), b"x"));
        assert_eq!(waiting.lines.len(), 2);
    }
}
