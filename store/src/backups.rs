//! The backups of a storage node: made while it serves, in a folder that it was given, each below its name.

use crate::{
    local::{Local, Manifest, Progress, partial},
    metrics::Metrics,
};
use penstock_rdma::admin::{BackupInfo, BackupList, BackupRequest, BackupStatus};
use penstock_service::CancellationToken;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use time::{OffsetDateTime, format_description::StaticFormatDescription, macros::format_description};
use tokio::task::{JoinHandle, spawn_blocking};

const LONGEST_NAME: usize = 128;
/// Between two that are due, as after one that could not be made.
const AGAIN: Duration = Duration::from_mins(5);
/// What a backup is called that nobody names; in order of time.
const BY_TIME: StaticFormatDescription = format_description!("[year][month][day]T[hour][minute][second]Z");

/// Why a backup is not made, or not deleted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No folder can be called so.
    #[error("a backup is called by up to 128 letters, digits, '-', '_' and '.', and does not begin with '.'")]
    Name,
    /// No backup would stay.
    #[error("at least one backup has to be kept")]
    Keep,
    /// There is one.
    #[error("there is a backup {0} already")]
    Exists(String),
    /// One at a time.
    #[error("a backup is being made already")]
    InProgress,
    /// There is none.
    #[error("there is no backup {0}")]
    NotThere(String),
    /// The folder of backups.
    #[error("the folder of backups {} cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes, tells of and deletes backups. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Backups {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    local: Local,
    metrics: Metrics,
    stop: CancellationToken,
    last: Mutex<Option<Last>>,
}

struct Last {
    name: String,
    started: OffsetDateTime,
    progress: Arc<Progress>,
    running: bool,
    error: Option<String>,
}

impl Last {
    fn status(&self) -> BackupStatus {
        BackupStatus {
            name: self.name.clone(),
            running: self.running,
            started: self.started,
            files: self.progress.files.load(Ordering::Relaxed),
            done: self.progress.done.load(Ordering::Relaxed),
            copied: self.progress.copied.load(Ordering::Relaxed),
            error: self.error.clone(),
        }
    }
}

impl Backups {
    /// In `folder`, which is made if it is not there. What was under way when the process ended is removed. What is being made is given up when `stop` says so.
    ///
    /// # Errors
    /// [`BackupError::Folder`].
    pub async fn open(
        folder: PathBuf,
        local: Local,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Result<Self, BackupError> {
        let backups = Self {
            shared: Arc::new(Shared {
                folder,
                local,
                metrics,
                stop,
                last: Mutex::default(),
            }),
        };
        let newest = backups
            .blocking(|shared| {
                fs::create_dir_all(&shared.folder)?;
                remove_remains(&shared.folder)?;
                Ok(shared.all()?.last().map(|newest| newest.created))
            })
            .await?;
        if let Some(newest) = newest {
            backups.shared.metrics.backed_up(newest);
        }
        Ok(backups)
    }

    /// Makes one whenever the newest is older than `every`, until the process stops; so many of the newest are kept.
    pub async fn run(self, every: Duration, keep: Option<u32>) {
        loop {
            let newest = self
                .list()
                .await
                .ok()
                .and_then(|list| list.backups.into_iter().last());
            let age = newest.map(|newest| OffsetDateTime::now_utc() - newest.created);
            // A clock that was wrong must not put it off for longer than it would be.
            let age = age.map(|age| Duration::try_from(age).unwrap_or_default());
            let wait = age.map_or(Duration::ZERO, |age| every.saturating_sub(age));
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let request = BackupRequest { name: None, keep };
            match self.begin(request).await {
                Ok((_, making)) => drop(making.await),
                // An administrator's, which is as good.
                Err(BackupError::InProgress) => {}
                Err(error) => {
                    let cause = penstock_service::chain(&error);
                    tracing::error!(cause, "a backup could not be begun");
                    self.shared.metrics.backup_failed();
                }
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN.min(every)) => {}
            }
        }
    }

    /// Begins to make one.
    ///
    /// # Errors
    /// As [`BackupError`] says.
    pub async fn start(&self, request: BackupRequest) -> Result<BackupStatus, BackupError> {
        self.begin(request).await.map(|(status, _)| status)
    }

    async fn begin(&self, request: BackupRequest) -> Result<(BackupStatus, JoinHandle<()>), BackupError> {
        let started = OffsetDateTime::now_utc();
        let name = match request.name {
            Some(name) => name,
            None => started.format(&BY_TIME).map_err(|_| BackupError::Name)?,
        };
        check(&name)?;
        if request.keep == Some(0) {
            return Err(BackupError::Keep);
        }
        let folder = self.shared.folder.join(&name);
        let found = folder.clone();
        if self.blocking(move |_| found.try_exists()).await? {
            return Err(BackupError::Exists(name));
        }
        let last = Last {
            name: name.clone(),
            started,
            progress: Arc::default(),
            running: true,
            error: None,
        };
        let (status, progress) = (last.status(), Arc::clone(&last.progress));
        {
            let mut now = self.last();
            if now.as_ref().is_some_and(|last| last.running) {
                return Err(BackupError::InProgress);
            }
            *now = Some(last);
        }
        let this = self.clone();
        let making = tokio::spawn(async move { this.make(folder, progress, request.keep).await });
        Ok((status, making))
    }

    async fn make(&self, folder: PathBuf, progress: Arc<Progress>, keep: Option<u32>) {
        let base = self.blocking(|shared| Ok(shared.all()?.pop())).await;
        let base = base.ok().flatten().map(|base| self.shared.folder.join(base.name));
        let shared = &self.shared;
        let made = shared.local.back_up(folder, base, progress, shared.stop.clone());
        let made = made.await;
        let mut error = None;
        match &made {
            Ok(manifest) => {
                shared.metrics.backed_up(manifest.created);
                let (objects, bytes, missing) = (manifest.objects, manifest.bytes, manifest.missing);
                tracing::info!(objects, bytes, missing, "a backup was made");
                if let Some(keep) = keep {
                    self.thin_out(usize::try_from(keep).unwrap_or(usize::MAX)).await;
                }
            }
            Err(failure) => {
                let cause = penstock_service::chain(failure);
                tracing::error!(cause, "a backup could not be made");
                shared.metrics.backup_failed();
                error = Some(cause);
            }
        }
        if let Some(last) = &mut *self.last() {
            (last.running, last.error) = (false, error);
        }
    }

    /// Deletes the oldest.
    async fn thin_out(&self, keep: usize) {
        let all = self.blocking(|shared| shared.all()).await.unwrap_or_default();
        for old in all.iter().take(all.len().saturating_sub(keep)) {
            match self.delete(&old.name).await {
                Ok(()) => tracing::info!(backup = %old.name, "an old backup was deleted"),
                Err(error) => {
                    let cause = penstock_service::chain(&error);
                    tracing::warn!(backup = %old.name, cause, "an old backup could not be deleted");
                }
            }
        }
    }

    /// Those that are there, the oldest first, and how the one under way or the last one goes.
    ///
    /// # Errors
    /// [`BackupError::Folder`].
    pub async fn list(&self) -> Result<BackupList, BackupError> {
        // In this order: one that is not under way any more is among them.
        let last = self.last().as_ref().map(Last::status);
        let backups = self.blocking(|shared| shared.all()).await?;
        Ok(BackupList { last, backups })
    }

    /// Deletes one.
    ///
    /// # Errors
    /// As [`BackupError`] says.
    pub async fn delete(&self, name: &str) -> Result<(), BackupError> {
        check(name)?;
        let named = name.to_owned();
        let deleted = self.blocking(move |shared| {
            let (folder, deleting) = (shared.folder.join(&named), deleting(&shared.folder, &named));
            if Manifest::read(&folder)?.is_none() {
                return Ok(false);
            }
            // Half of one must not look like one.
            fs::rename(folder, &deleting)?;
            fs::remove_dir_all(&deleting)?;
            Ok(true)
        });
        match deleted.await? {
            true => Ok(()),
            false => Err(BackupError::NotThere(name.to_owned())),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.shared.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackupError> {
        let shared = Arc::clone(&self.shared);
        let done = spawn_blocking(move || work(&shared))
            .await
            .map_err(io::Error::other);
        done.flatten().map_err(|source| BackupError::Folder {
            folder: self.shared.folder.clone(),
            source,
        })
    }
}

impl Shared {
    /// The oldest first.
    fn all(&self) -> io::Result<Vec<BackupInfo>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if check(&name).is_err() {
                continue;
            }
            match Manifest::read(&entry.path()) {
                Ok(Some(manifest)) => all.push(BackupInfo {
                    name,
                    created: manifest.created,
                    objects: manifest.objects,
                    bytes: manifest.bytes,
                    missing: manifest.missing,
                }),
                Ok(None) => {}
                Err(error) => tracing::warn!(backup = %name, %error, "a backup cannot be read"),
            }
        }
        all.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        Ok(all)
    }
}

fn deleting(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.deleted"))
}

/// Removes what was being made or deleted.
fn remove_remains(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_remains = entry.file_name().to_str().is_some_and(|found| {
            let inner = found.strip_prefix('.').and_then(|rest| rest.rsplit_once('.'));
            inner.is_some_and(|(name, _)| {
                [partial(&folder.join(name)), deleting(folder, name)].contains(&entry.path())
                    && check(name).is_ok()
            })
        });
        if is_remains && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn check(name: &str) -> Result<(), BackupError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with('.');
    match is_name && name.bytes().all(is_good) {
        true => Ok(()),
        false => Err(BackupError::Name),
    }
}
