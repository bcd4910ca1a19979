//! Who asked for what, of buckets that want to know: the lines of AWS ("Amazon S3 server access log format"), collected in memory and
//! written as objects into a bucket every few minutes.
//!
//! Best effort, as AWS's: lines wait in bounded memory, and those that a crash or a full memory takes are lost. While no bucket
//! keeps a log, a request costs one look at a flag.

mod line;

pub(crate) use line::{Entry, Facts};

use crate::{
    access::{ACCOUNT, Principal},
    engine::{Encryption, Engine, Error, Headers, ObjectRef, PutOptions, Result},
    metrics::Metrics,
    s3::encrypts_by_default,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::StatusCode;
use penstock_service::CancellationToken;
use s3s::{
    S3Error,
    dto::BucketLoggingStatus,
    xml::{Deserialize, Deserializer},
};
use std::{
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
/// Lines for one place that wait, so that one that cannot be written to leaves room for others.
const MOST_OF_ONE: usize = 8 << 20;
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
    lines: HashMap<Place, Lines>,
    /// Of all places.
    bytes: usize,
}

/// The lines for one place.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Bytes of those that are being delivered, which may come back.
    under_way: usize,
}

impl Waiting {
    /// Whether there was room.
    fn add(&mut self, place: &Place, line: &[u8]) -> bool {
        let of_place = self.lines.get(place);
        let of_place = of_place.map_or(0, |lines| lines.text.len() + lines.under_way);
        if self.bytes + line.len() > MOST_WAITING || of_place + line.len() > MOST_OF_ONE {
            return false;
        }
        self.bytes += line.len();
        match self.lines.get_mut(place) {
            Some(lines) => lines.text.extend_from_slice(line),
            None => {
                let lines = Lines {
                    text: line.to_vec(),
                    under_way: 0,
                };
                self.lines.insert(place.clone(), lines);
            }
        }
        true
    }

    /// All that is there, for delivery.
    fn take(&mut self) -> Vec<(Place, Bytes)> {
        let places = self.lines.iter_mut().map(|(place, lines)| {
            lines.under_way = lines.text.len();
            (place.clone(), Bytes::from(mem::take(&mut lines.text)))
        });
        places.collect()
    }

    /// What was taken for a place is gone, or comes back.
    fn settle(&mut self, place: &Place, back: Option<&[u8]>) {
        let Some(lines) = self.lines.get_mut(place) else {
            return;
        };
        match back {
            Some(before) => drop(lines.text.splice(..0, before.iter().copied())),
            None => self.bytes -= lines.under_way,
        }
        lines.under_way = 0;
        if lines.text.is_empty() {
            self.lines.remove(place);
        }
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
    /// One delivery at a time, so that the last one finds all that there is.
    delivering: tokio::sync::Mutex<()>,
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
            delivering: tokio::sync::Mutex::default(),
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
            self.0.metrics.access_log_dropped(count(line.as_bytes()));
        } else if waiting
            .lines
            .get(place)
            .is_some_and(|lines| lines.text.len() >= LARGE)
        {
            self.0.large.notify_one();
        }
    }

    /// Delivers until it is stopped, with so much time between, or when there is much.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        let mut all = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                // What cannot be written would be tried again with every line.
                () = self.0.large.notified(), if all => {}
            }
            all = self.deliver().await;
        }
    }

    /// Writes all lines that wait, and returns whether that was done. Those that cannot be written now wait on.
    pub async fn deliver(&self) -> bool {
        let _alone = self.0.delivering.lock().await;
        let waiting = self.waiting().take();
        let mut all = true;
        for (place, lines) in waiting {
            let Err(error) = self.put(&place, lines.clone()).await else {
                self.waiting().settle(&place, None);
                continue;
            };
            let kept = !matches!(error, Error::NoSuchBucket(_));
            all &= !kept;
            self.waiting().settle(&place, kept.then_some(&lines));
            let lines = count(&lines);
            if !kept {
                self.0.metrics.access_log_dropped(lines);
            }
            let (bucket, cause) = (&place.bucket, penstock_service::chain(&error));
            tracing::warn!(bucket, lines, kept, cause, "an access log could not be delivered");
        }
        all
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
            encryption: encrypts_by_default(&*self.0.engine, &place.bucket)
                .await
                .then_some(Encryption::Server),
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

/// How many lines there are.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
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
    /// What DeleteObjects did.
    pub deleted: Vec<BatchDeleted>,
}

/// What became of one of the keys of a multi-object delete.
#[derive(Debug)]
pub(crate) struct BatchDeleted {
    pub key: String,
    pub version: Option<String>,
    /// Why not.
    pub refused: Option<(StatusCode, String)>,
}

/// Notes of a request, also for who is there when it is given up.
pub(crate) type Notes = Arc<Mutex<Noted>>;

tokio::task_local! {
    static NOTES: Notes;
}

/// Does something whose inside may note what it knows.
pub(crate) async fn noting<T>(notes: &Notes, work: impl Future<Output = T>) -> T {
    NOTES.scope(Arc::clone(notes), work).await
}

fn note(what: impl FnOnce(&mut Noted)) {
    // Without a scope the bucket keeps no log.
    let _unscoped = NOTES.try_with(|notes| what(&mut notes.lock().unwrap_or_else(PoisonError::into_inner)));
}

/// Says who asks, once that is proven.
pub(crate) fn note_requester(principal: &Principal) {
    note(|noted| {
        noted.requester = match principal {
            Principal::Anonymous => None,
            Principal::Key(key) => Some(format!("arn:aws:iam::{ACCOUNT}:user/{}", key.name)),
            Principal::Root | Principal::Gateway => Some(ACCOUNT.to_owned()),
        };
    });
}

/// Says what became of one of the keys of a multi-object delete.
pub(crate) fn note_deleted(key: &str, version: Option<&str>, error: Option<&S3Error>) {
    note(|noted| {
        let status = |error: &S3Error| error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        noted.deleted.push(BatchDeleted {
            key: key.to_owned(),
            version: version.map(str::to_owned),
            refused: error.map(|error| (status(error), error.code().as_str().to_owned())),
        });
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
        let line = vec![b'x'; MOST_OF_ONE];
        for prefix in ["a", "b", "c", "d"] {
            assert!(waiting.add(&place(prefix), &line));
            assert!(!waiting.add(&place(prefix), b"x"), "one place has its share");
        }
        assert!(!waiting.add(&place("e"), b"x"), "all have theirs");
        // What is being delivered counts until it is known to be gone.
        let taken = waiting.take();
        assert_eq!(taken.len(), 4);
        assert!(!waiting.add(&place("a"), b"x"));
        waiting.settle(&place("a"), None);
        waiting.settle(&place("b"), Some(&line));
        assert!(waiting.add(&place("a"), b"new\n") && !waiting.add(&place("b"), b"x"));
        assert_eq!(waiting.bytes, 3 * MOST_OF_ONE + 4);
        assert_eq!(waiting.lines[&place("b")].text.len(), MOST_OF_ONE);
    }

    #[test]
    fn what_comes_back_is_before_what_came_meanwhile() {
        let place = Place {
            bucket: "b".into(),
            prefix: String::new(),
        };
        let mut waiting = Waiting::default();
        assert!(waiting.add(&place, b"1\n"));
        let taken = waiting.take();
        assert!(waiting.add(&place, b"2\n"));
        waiting.settle(&place, Some(&taken[0].1));
        assert_eq!(waiting.lines[&place].text, b"1\n2\n");
        assert_eq!(waiting.take()[0].1, &b"1\n2\n"[..]);
        waiting.settle(&place, None);
        assert!(waiting.lines.is_empty() && waiting.bytes == 0);
    }
}
