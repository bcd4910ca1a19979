//! One volume's part of an engine: a bucket and a prefix in it, with a deadline on everything.

use super::{failure::Failure, staging::Staged};
use bytes::Bytes;
use futures::StreamExt;
use penstock_rdma::local::SLOW_DISK;
use penstock_store::engine::{
    Body, Borrower, ByteRange, Engine, Error, Lending, Lent, ListPage, ListQuery, ObjectInfo, ObjectRef,
    Precondition, PutOptions,
};
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Longest key in bytes (S3, "Object key naming").
pub const KEY_MAX: usize = 1024;
/// A copy moves bytes on the server without a sign of progress, so it is given this many deadlines.
const COPY_DEADLINES: u32 = 10;
/// An object in more files is read a range at a time, so that open files hold few descriptors each.
const MOST_FILES: usize = 32;
/// How often the bytes of one read are asked for when they break off.
const READ_ATTEMPTS: u32 = 3;

type Result<T> = std::result::Result<T, Failure>;

/// One version of an object. Two are the same when their bytes are: how precise `modified` is depends on who says it (HEAD says
/// seconds, a listing more, and the answer to a PUT nothing where the storage node is not ours).
#[derive(Debug, Clone)]
pub struct Version {
    /// Entity tag.
    pub etag: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: SystemTime,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.etag == other.etag && self.size == other.size
    }
}

impl Eq for Version {}

impl From<ObjectInfo> for Version {
    fn from(info: ObjectInfo) -> Self {
        Self {
            etag: info.etag,
            size: info.size,
            modified: info.modified,
        }
    }
}

/// Where a volume's objects are. Paths are relative to the volume: `folder/file`, never with a leading slash.
#[derive(Clone)]
pub struct Storage {
    engine: Arc<dyn Engine>,
    bucket: String,
    /// Empty, or ends with a slash.
    prefix: String,
    deadline: Duration,
}

impl Storage {
    /// The objects of `bucket` whose keys begin with `prefix` (without a trailing slash; empty for the whole bucket).
    pub fn new(engine: Arc<dyn Engine>, bucket: &str, prefix: &str, deadline: Duration) -> Self {
        let prefix = prefix.trim_matches('/');
        Self {
            engine,
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
            deadline,
        }
    }

    /// The key of a path; for logs too.
    pub fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    fn object(&self, path: &str) -> ObjectRef {
        ObjectRef::new(self.bucket.clone(), self.key(path))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Failure::Deadline(limit)),
        }
    }

    /// The version that is there now.
    pub async fn head(&self, path: &str) -> Result<Version> {
        let object = self.object(path);
        let info = self.within(self.deadline, self.engine.head(&object)).await?;
        Ok(info.into())
    }

    /// One page of keys under a path prefix; keys in it are relative to `prefix`.
    pub async fn list(
        &self,
        prefix: &str,
        grouped: bool,
        after: Option<String>,
        limit: usize,
    ) -> Result<ListPage> {
        let full = self.key(prefix);
        let query = ListQuery {
            prefix: full.clone(),
            delimiter: grouped.then(|| "/".to_owned()),
            start_after: after,
            limit,
        };
        let mut page = self
            .within(self.deadline, self.engine.list(&self.bucket, &query))
            .await?;
        for (key, _) in &mut page.objects {
            key.drain(..full.len().min(key.len()));
        }
        for key in &mut page.common_prefixes {
            key.drain(..full.len().min(key.len()));
        }
        Ok(page)
    }

    /// Whether anything is under a path prefix.
    pub async fn any_under(&self, prefix: &str) -> Result<bool> {
        let page = self.list(prefix, false, None, 1).await?;
        Ok(!page.objects.is_empty())
    }

    /// Every path under a path prefix, relative to it.
    pub async fn all_under(&self, prefix: &str) -> Result<Vec<String>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.list(prefix, false, after, 1000).await?;
            all.extend(page.objects.into_iter().map(|(key, _)| key));
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Writes an empty object; with `new`, only where there is none.
    pub async fn put_empty(&self, path: &str, new: bool) -> Result<Version> {
        let options = PutOptions {
            precondition: Precondition {
                if_none_match: new.then(|| "*".to_owned()),
                ..Precondition::default()
            },
            size: Some(0),
            ..PutOptions::default()
        };
        let object = self.object(path);
        let body = futures::stream::empty().boxed();
        let info = self
            .within(self.deadline, self.engine.put(&object, options, body))
            .await?;
        Ok(info.into())
    }

    /// Writes an object of `size` bytes. The deadline counts from the last byte that moved.
    pub async fn put(&self, path: &str, size: u64, body: Body) -> Result<Version> {
        let progress = Progress::default();
        let seen = progress.clone();
        let body = body.inspect(move |_| seen.moved()).boxed();
        let options = PutOptions {
            size: Some(size),
            ..PutOptions::default()
        };
        let object = self.object(path);
        let call = self.engine.put(&object, options, body);
        Ok(progress.guard(self.deadline, call).await??.into())
    }

    /// Makes a staged file an object. A storage node on this host reads it by itself.
    pub async fn put_staged(&self, path: &str, staged: &Arc<Staged>) -> Result<Version> {
        let size = staged.size();
        let file = staged
            .open_for_reading()
            .ok()
            .filter(|_| self.engine.takes_files());
        let Some(file) = file else {
            return self.put(path, size, staged.body()).await;
        };
        // Nothing is seen of its progress, so it is given the time that a slow disk takes.
        let limit = self.deadline + Duration::from_secs(size / SLOW_DISK);
        let object = self.object(path);
        let put = self
            .engine
            .put_file(&object, PutOptions::default(), file, 0..size);
        Ok(self.within(limit, put).await?.into())
    }

    /// The files of one version, if the storage node is on this host and lends them.
    pub async fn lend(&self, path: &str, version: &Version) -> Result<Option<Lent>> {
        if version.size == 0 || !self.engine.takes_files() {
            return Ok(None);
        }
        let only_this = Precondition {
            if_match: Some(version.etag.clone()),
            ..Precondition::default()
        };
        let borrower = Borrower {
            uid: rustix::process::geteuid().as_raw(),
            held_limit: u64::MAX,
        };
        let object = self.object(path);
        let lending = self.engine.lend(&object, None, &only_this, borrower);
        match self.within(self.deadline, lending).await? {
            Lending::Lent(loan) if loan.info.size == version.size && loan.files.len() <= MOST_FILES => {
                Ok(loan.into_lent().ok())
            }
            _ => Ok(None),
        }
    }

    /// Opens one version of an object from `first` on for at most `length` bytes; the caller reads the body with [`Self::next`].
    pub async fn open(&self, path: &str, version: &Version, first: u64, length: u64) -> Result<Body> {
        let range = ByteRange::From {
            first,
            last: Some(first + length - 1),
        };
        let only_this = Precondition {
            if_match: Some(version.etag.clone()),
            ..Precondition::default()
        };
        let object = self.object(path);
        let opened = self
            .within(self.deadline, self.engine.get(&object, Some(range), &only_this))
            .await;
        match opened {
            // The version is gone: for whoever has it open that is the same as being replaced.
            Err(failure) if failure.is_missing() => Err(Error::PreconditionFailed(object).into()),
            other => Ok(other?.body),
        }
    }

    /// The next piece of an opened body; `None` at its end.
    pub async fn next(&self, body: &mut Body) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.deadline, body.next()).await {
            Ok(piece) => piece.transpose().map_err(Failure::Broken),
            Err(_) => Err(Failure::Deadline(self.deadline)),
        }
    }

    /// Reads `length` bytes of one version. Tried again when the bytes break off on the way.
    pub async fn read(&self, path: &str, version: &Version, first: u64, length: u64) -> Result<Vec<Bytes>> {
        let mut attempt = 1;
        loop {
            let outcome = self.read_once(path, version, first, length).await;
            match outcome {
                Err(Failure::Broken(_) | Failure::Cut { .. }) if attempt < READ_ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn read_once(&self, path: &str, version: &Version, first: u64, length: u64) -> Result<Vec<Bytes>> {
        let mut body = self.open(path, version, first, length).await?;
        let (mut pieces, mut got) = (Vec::new(), 0);
        while let Some(piece) = self.next(&mut body).await? {
            got += piece.len() as u64;
            pieces.push(piece);
        }
        if got == length {
            Ok(pieces)
        } else {
            Err(Failure::Cut {
                expected: length,
                got,
            })
        }
    }

    /// Reads a whole version piece by piece into `write(offset, bytes)`.
    pub async fn fetch<F, Fut>(&self, path: &str, version: &Version, write: F) -> Result<()>
    where
        F: Fn(u64, Bytes) -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        if version.size == 0 {
            return Ok(());
        }
        let mut body = self.open(path, version, 0, version.size).await?;
        let mut got = 0;
        while let Some(piece) = self.next(&mut body).await? {
            let at = got;
            got += piece.len() as u64;
            write(at, piece).await?;
        }
        if got == version.size {
            Ok(())
        } else {
            Err(Failure::Cut {
                expected: version.size,
                got,
            })
        }
    }

    /// Removes an object; fine when there is none.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let object = self.object(path);
        self.within(self.deadline, self.engine.delete(&object)).await
    }

    /// Copies on the server.
    pub async fn copy(&self, from: &str, to: &str) -> Result<Version> {
        let (from, to) = (self.object(from), self.object(to));
        let copied = self
            .within(
                self.deadline * COPY_DEADLINES,
                self.engine.copy(&from, &to, None.into()),
            )
            .await?;
        Ok(copied.info.into())
    }
}

/// When a byte last moved.
#[derive(Clone)]
struct Progress {
    last: Arc<Mutex<Instant>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            last: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

impl Progress {
    fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn guard<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Result<T> {
        let mut call = std::pin::pin!(call);
        loop {
            let end = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            tokio::select! {
                outcome = &mut call => return Ok(outcome),
                () = tokio::time::sleep_until(end) => {
                    let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
                    if last + limit <= Instant::now() {
                        return Err(Failure::Deadline(limit));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_counts_from_the_last_byte() {
        let progress = Progress::default();
        let seen = progress.clone();
        let slow_but_alive = async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                seen.moved();
            }
        };
        assert!(
            progress
                .guard(Duration::from_secs(10), slow_but_alive)
                .await
                .is_ok()
        );
        let dead = progress.guard(Duration::from_secs(10), std::future::pending::<()>());
        assert!(matches!(dead.await, Err(Failure::Deadline(_))));
    }
}
