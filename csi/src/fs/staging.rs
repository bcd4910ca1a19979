//! Files being written: each is a local file until its bytes are an object.

use super::failure::Failure;
use crate::metrics::Metrics;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use penstock_store::engine::Body;
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

/// How many bytes one piece of an upload has.
const PIECE: u64 = 1 << 20;
/// How much of a key the name of a kept file holds: a file's name may have 255 bytes, a key has up to 1024.
const NAMED: usize = 200;

/// The folder that holds staged files, and those whose upload failed for good.
#[derive(Clone)]
pub struct Staging {
    staged: PathBuf,
    kept: PathBuf,
    metrics: Metrics,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {} cannot be used; it must be a writable folder of this process' user", .path.display())]
pub struct FolderError {
    path: PathBuf,
    source: io::Error,
}

impl Staging {
    /// Prepares `state/staging` and `state/kept`. What a process that died left in `staging` was never acknowledged to
    /// anybody (its `close` failed), so it goes.
    ///
    /// # Errors
    /// When the folders cannot be made or emptied.
    pub fn prepare(state: &Path, metrics: Metrics) -> Result<Self, FolderError> {
        let (staged, kept) = (state.join("staging"), state.join("kept"));
        for path in [&staged, &kept] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| FolderError {
                path: path.clone(),
                source,
            })?;
        }
        let empty = || -> io::Result<()> {
            for entry in std::fs::read_dir(&staged)? {
                std::fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        empty().map_err(|source| FolderError {
            path: staged.clone(),
            source,
        })?;
        Ok(Self {
            staged,
            kept,
            metrics,
        })
    }

    /// A new, empty staged file.
    pub fn create(&self) -> Result<Arc<Staged>, Failure> {
        let path = self.staged.join(uuid::Uuid::now_v7().to_string());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Failure::Staging)?;
        Ok(Arc::new(Staged {
            file,
            path,
            size: AtomicU64::new(0),
            modified: Mutex::new(SystemTime::now()),
            dirty: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            metrics: self.metrics.clone(),
        }))
    }

    /// Puts a staged file aside that could not be uploaded, so that an administrator can still save its bytes. Once is enough.
    pub fn keep(&self, staged: &Staged, key: &str) {
        if staged.kept.swap(true, Ordering::AcqRel) {
            return;
        }
        let name = key.replace('/', "_");
        // The end of a key says more than its beginning.
        let from = name.ceil_char_boundary(name.len().saturating_sub(NAMED));
        let kept = self
            .kept
            .join(format!("{}-{}", uuid::Uuid::now_v7(), &name[from..]));
        match std::fs::rename(&staged.path, &kept) {
            Ok(()) => {
                tracing::error!(key, kept = %kept.display(), "the upload failed for good; its bytes were put aside")
            }
            Err(error) => tracing::error!(key, %error, "the upload failed for good and its bytes are lost"),
        }
    }
}

/// A file being written. Its local file goes with the last reference.
pub struct Staged {
    file: File,
    path: PathBuf,
    size: AtomicU64,
    modified: Mutex<SystemTime>,
    dirty: AtomicBool,
    kept: AtomicBool,
    metrics: Metrics,
}

impl Staged {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// When it was last written.
    pub fn modified(&self) -> SystemTime {
        *self.modified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it holds what no object holds.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Says whether an object holds its bytes.
    pub fn set_dirty(&self, dirty: bool) {
        self.dirty.store(dirty, Ordering::Release);
        if dirty {
            *self.modified.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        }
    }

    fn set_size(&self, size: u64) {
        let old = self.size.swap(size, Ordering::AcqRel);
        self.metrics.staged_bytes(old, size);
    }

    /// Writes without marking it dirty: bytes of the object it begins with.
    pub async fn fill(self: &Arc<Self>, offset: u64, data: Bytes) -> Result<(), Failure> {
        let end = offset + data.len() as u64;
        let staged = Arc::clone(self);
        blocking(move || staged.file.write_all_at(&data, offset)).await?;
        if end > self.size() {
            self.set_size(end);
        }
        Ok(())
    }

    /// Writes.
    pub async fn write(self: &Arc<Self>, offset: u64, data: Bytes) -> Result<(), Failure> {
        self.fill(offset, data).await?;
        self.set_dirty(true);
        Ok(())
    }

    /// Cuts or extends with zeros.
    pub async fn truncate(self: &Arc<Self>, size: u64) -> Result<(), Failure> {
        let staged = Arc::clone(self);
        blocking(move || staged.file.set_len(size)).await?;
        self.set_size(size);
        self.set_dirty(true);
        Ok(())
    }

    /// Up to `length` bytes from `offset` on.
    pub async fn read(self: &Arc<Self>, offset: u64, length: u64) -> Result<Bytes, Failure> {
        let length = length.min(self.size().saturating_sub(offset));
        let staged = Arc::clone(self);
        blocking(move || {
            let mut bytes = BytesMut::zeroed(usize::try_from(length).map_err(io::Error::other)?);
            staged.file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.freeze())
        })
        .await
    }

    /// The file, to be read by somebody else. Call it while nobody writes.
    pub fn open_for_reading(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Everything, in pieces.
    pub fn body(self: &Arc<Self>) -> Body {
        let size = self.size();
        futures::stream::try_unfold((Arc::clone(self), 0), move |(staged, at)| async move {
            if at >= size {
                return Ok(None);
            }
            let piece = staged
                .read(at, PIECE.min(size - at))
                .await
                .map_err(|failure| match failure {
                    Failure::Staging(source) => source,
                    other => io::Error::other(other),
                })?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (staged, next))))
        })
        .boxed()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.metrics.staged_bytes(self.size(), 0);
        // Gone already when it was kept.
        let _kept_elsewhere = std::fs::remove_file(&self.path);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Failure::Staging),
        Err(error) => Err(Failure::Staging(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_staged_file_reads_what_was_written_anywhere_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let staging = Staging::prepare(folder.path(), metrics.clone()).unwrap();
        let staged = staging.create().unwrap();
        staged.write(4, Bytes::from_static(b"tail")).await.unwrap();
        staged.write(0, Bytes::from_static(b"head")).await.unwrap();
        assert_eq!(staged.read(2, 100).await.unwrap(), "adtail");
        assert_eq!(staged.read(100, 5).await.unwrap(), "");
        staged.truncate(6).await.unwrap();
        assert_eq!(metrics.staged_total(), 6);
        let pieces: Vec<_> = staged.body().collect().await;
        assert_eq!(pieces.len(), 1);
        drop(staged);
        assert_eq!(metrics.staged_total(), 0);
        assert_eq!(
            std::fs::read_dir(folder.path().join("staging")).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn what_cannot_be_uploaded_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::prepare(folder.path(), Metrics::default()).unwrap();
        let staged = staging.create().unwrap();
        staged.write(0, Bytes::from_static(b"precious")).await.unwrap();
        staging.keep(&staged, "a/b");
        staging.keep(&staged, "a/b");
        drop(staged);
        let kept = || std::fs::read_dir(folder.path().join("kept")).unwrap();
        assert_eq!(kept().count(), 1);
        let first = kept().next().unwrap().unwrap();
        assert_eq!(std::fs::read(first.path()).unwrap(), b"precious");
        assert!(first.file_name().to_string_lossy().ends_with("-a_b"));

        let staged = staging.create().unwrap();
        staging.keep(&staged, &format!("{}/end", "ü".repeat(500)));
        assert_eq!(kept().count(), 2, "a key may be longer than a file's name");
    }
}
