//! The local engine: objects on this node's disk.
//!
//! ```text
//! DIR/lock         held by the one process that may use DIR
//! DIR/index.redb   buckets, objects, versions, uploads, parts, references to data files
//! DIR/tmp/         files being written, and those that were removed while a backup is made; emptied at start
//! DIR/data/xx/     immutable data files, one per PUT or part
//! ```
//! A write is: temporary file → fsync → rename into `data` → fsync of that folder → index commit → answer. A crash at any
//! point leaves the old or the new object, never half of one; what it leaves in `data` that no row of the index refers to
//! is reclaimed at the next start. An object is a list of extents of data files, and files are reference-counted, so a copy
//! and the completion of an upload move rows, not bytes.

mod backup;
mod bucket;
mod change;
mod cipher;
mod commit;
mod data;
mod index;
mod joined;
mod lend;
mod list;
mod lock;
mod multipart;
mod names;
mod object;
mod open;
mod read;
mod reencrypt;
mod removal;
mod rows;
mod sweep;
mod versions;
mod write;

pub(crate) use backup::partial;
pub use backup::{Manifest, Progress, RestoreError, restore};
pub use lend::ViewError;
pub use open::OpenError;

use crate::access::{KeyStore, MasterKey};
use crate::engine::{
    Amendment, Begun, Body, Borrower, BucketChange, BucketInfo, ByteRange, CompleteOptions, Copied,
    CopyOptions, CustomerKey, DataKey, DeleteOptions, Deleted, Encrypted, Encryption, Engine, Error, Lending,
    ListPage, ListQuery, Object, ObjectInfo, ObjectRef, Opened, PartInfo, PartOptions, PartRef, Precondition,
    PutOptions, Result, ServerKey, UploadInfo, UploadOptions, VersionPage, VersionQuery,
};
use commit::Committer;
use data::Data;
use index::Index;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use write::Cipher;

/// Objects on this node's disk. Cheap to clone; clones are the same engine.
#[derive(Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    index: Arc<Index>,
    data: Arc<Data>,
    committer: Committer,
    /// Of the master key, where there is one.
    server_key: OnceLock<ServerKey>,
    /// The last field: released when the index is closed.
    _lock: open::Lock,
}

impl Inner {
    /// A new data key, and how it is kept.
    fn begin(&self, encryption: Option<&Encryption>) -> Result<(Option<Cipher>, Option<Encrypted>)> {
        let Some(encryption) = encryption else {
            return Ok((None, None));
        };
        let (key, encrypted) = encryption.begin(self.server_key.get())?;
        let is_customers = encrypted.is_customers();
        Ok((Some(Cipher { key, is_customers }), Some(encrypted)))
    }

    /// The data key of an object; `None` where it is not encrypted.
    fn unlock(
        &self,
        object: &ObjectRef,
        found: Option<&Encrypted>,
        key: Option<&CustomerKey>,
    ) -> Result<Option<DataKey>> {
        let opened = Encrypted::open(found, key, self.server_key.get());
        opened.inspect_err(|error| {
            if matches!(error, Error::Internal { .. }) {
                tracing::error!(%object, "the key of an encrypted object cannot be opened");
            }
        })
    }
}

/// How much is stored, and how much could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Objects in all buckets.
    pub objects: u64,
    /// Their bytes together; copies count each.
    pub bytes: u64,
    /// Bytes free on the disk.
    pub disk_free: u64,
    /// Size of the disk in bytes.
    pub disk_size: u64,
}

impl Local {
    /// Opens the store in `folder`, and creates it where there is none. What a crash left over is reclaimed in the
    /// background. Call it inside a Tokio runtime.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(folder: impl AsRef<Path>) -> std::result::Result<Self, OpenError> {
        let folder = folder.as_ref().to_owned();
        let opened = tokio::task::spawn_blocking(move || open::open(folder)).await;
        let inner = opened.map_err(|_| OpenError::Interrupted)??;
        let local = Self {
            inner: Arc::new(inner),
        };
        sweep::start(Arc::clone(&local.inner.index), Arc::clone(&local.inner.data));
        Ok(local)
    }

    /// Opens files that are lent through `view`: the same folder, seen through a read-only mount. Whoever has such a
    /// descriptor cannot get one that writes, not even the files' owner or root.
    ///
    /// # Errors
    /// When `view` is another folder, or can be written to.
    pub fn lend_through(&self, view: &Path) -> std::result::Result<(), ViewError> {
        self.inner.data.lend_through(&self.inner.folder, view)
    }

    /// Encrypts with this master key what is to be encrypted by the storage node, and decrypts it. To be called once, before
    /// anything is read or written; without it neither is possible.
    pub fn encrypt_with(&self, master: &MasterKey) {
        let _there_already = master
            .data_keys()
            .map(|key| self.inner.server_key.set(key.into()));
    }

    /// Bytes of deleted objects that are still lent, so that their space is not free.
    pub fn held(&self) -> u64 {
        self.inner.data.held()
    }

    /// How much is stored, and how much could be.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn usage(&self) -> std::io::Result<Usage> {
        let (disk_free, disk_size) = self.inner.data.space()?;
        let (objects, bytes) = self.inner.index.totals();
        Ok(Usage {
            objects,
            bytes,
            disk_free,
            disk_size,
        })
    }

    /// Whether the engine can do its work: a real read of the index, and a real write to the disk.
    ///
    /// # Errors
    /// What does not work.
    pub async fn probe(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            inner.index.probe().map_err(internal("read the index"))?;
            let path = inner.folder.join("tmp").join("probe");
            let written = std::fs::write(&path, b"probe").and_then(|()| std::fs::remove_file(&path));
            written.map_err(|error| storage_error(error, "tmp/probe", "wrote to the disk"))
        })
        .await
    }

    /// Whether the engine is beyond what waiting can heal, so that the process should be started anew.
    ///
    /// # Errors
    /// Why.
    pub fn alive(&self) -> std::result::Result<(), String> {
        self.inner.committer.alive()
    }

    /// Waits until the reclaiming of what a crash left over, which [`Local::open`] started, has ended.
    pub async fn reclaimed(&self) {
        self.inner.data.swept().await;
    }
}

impl Local {
    /// Objects and bytes of all versions, of each bucket that has any.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn usage_of_buckets(&self) -> Result<HashMap<String, (u64, u64)>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.index.usage().map_err(internal("read the index"))).await
    }
}

#[async_trait::async_trait]
impl KeyStore for Local {
    async fn keys(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.index.keys().map_err(internal("read the index"))).await
    }

    async fn set_key(&self, access_key: &str, row: Option<Vec<u8>>) -> Result<()> {
        let access_key = access_key.to_owned();
        let change = self.inner.committer.change(None, move |change| {
            change.set_key(&access_key, row.as_deref())?;
            Ok(Ok(()))
        });
        change.await
    }

    async fn master_key_id(&self) -> Result<Option<u64>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.index.master_key_id().map_err(internal("read the index"))).await
    }

    async fn set_master_key_id(&self, id: u64) -> Result<()> {
        let change = self.inner.committer.change(None, move |change| {
            change.set_master_key_id(id)?;
            Ok(Ok(()))
        });
        change.await
    }
}

#[async_trait::async_trait]
impl Engine for Local {
    async fn create_bucket(&self, bucket: &str) -> Result<()> {
        bucket::create(&self.inner, bucket).await
    }

    async fn bucket(&self, bucket: &str) -> Result<BucketInfo> {
        let (inner, bucket) = (Arc::clone(&self.inner), bucket.to_owned());
        blocking(move || {
            let found = inner.index.bucket(&bucket).map_err(internal("read the index"))?;
            found.ok_or(Error::NoSuchBucket(bucket))
        })
        .await
    }

    async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        bucket::delete(&self.inner, bucket).await
    }

    async fn buckets(&self) -> Result<Vec<BucketInfo>> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.index.buckets().map_err(internal("read the index"))).await
    }

    async fn change_bucket(&self, bucket: &str, change: BucketChange) -> Result<()> {
        bucket::change(&self.inner, bucket, change).await
    }

    async fn document(&self, bucket: &str, name: &'static str) -> Result<Option<Vec<u8>>> {
        bucket::document(&self.inner, bucket, name).await
    }

    async fn set_document(&self, bucket: &str, name: &'static str, document: Option<Vec<u8>>) -> Result<()> {
        bucket::set_document(&self.inner, bucket, name, document).await
    }

    async fn put(&self, object: &ObjectRef, options: PutOptions, body: Body) -> Result<ObjectInfo> {
        object::put(&self.inner, object, options, body).await
    }

    async fn get(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
    ) -> Result<Object> {
        read::get(&self.inner, object, range, precondition).await
    }

    async fn open(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
    ) -> Result<Opened> {
        read::open(&self.inner, object, range, precondition).await
    }

    async fn open_to_compare(&self, object: &ObjectRef) -> Result<Opened> {
        read::open_to_compare(&self.inner, object).await
    }

    async fn lend(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
        borrower: Borrower,
    ) -> Result<Lending> {
        lend::lend(&self.inner, object, range, precondition, borrower).await
    }

    async fn head(&self, object: &ObjectRef) -> Result<ObjectInfo> {
        let (inner, object) = (Arc::clone(&self.inner), object.clone());
        blocking(move || {
            let row = object::find(&inner.index, &object)?;
            inner
                .index
                .info(&object.bucket, &row)
                .map_err(internal("read the index"))
        })
        .await
    }

    async fn delete_with(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<Deleted> {
        object::delete(&self.inner, object, options).await
    }

    async fn amend(&self, object: &ObjectRef, amendment: Amendment) -> Result<ObjectInfo> {
        object::amend(&self.inner, object, amendment).await
    }

    async fn copy(&self, from: &ObjectRef, to: &ObjectRef, options: CopyOptions) -> Result<Copied> {
        object::copy(&self.inner, from, to, options).await
    }

    async fn versions(&self, bucket: &str, query: &VersionQuery) -> Result<VersionPage> {
        let (inner, bucket, query) = (Arc::clone(&self.inner), bucket.to_owned(), query.clone());
        blocking(move || {
            let page = versions::page(&inner.index, &bucket, &query).map_err(internal("listed a bucket"))?;
            page.ok_or(Error::NoSuchBucket(bucket))
        })
        .await
    }

    async fn list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage> {
        let (inner, bucket, query) = (Arc::clone(&self.inner), bucket.to_owned(), query.clone());
        blocking(move || {
            let page = list::page(&inner.index, &bucket, &query).map_err(internal("listed a bucket"))?;
            page.ok_or(Error::NoSuchBucket(bucket))
        })
        .await
    }

    async fn create_upload(&self, object: &ObjectRef, options: UploadOptions) -> Result<String> {
        multipart::create(&self.inner, object, options).await
    }

    async fn begun_upload(&self, object: &ObjectRef, upload: &str) -> Result<Begun> {
        multipart::begun(&self.inner, object, upload).await
    }

    async fn upload_part(
        &self,
        object: &ObjectRef,
        upload: &str,
        number: u16,
        options: PartOptions,
        body: Body,
    ) -> Result<PartInfo> {
        multipart::upload_part(&self.inner, object, upload, number, options, body).await
    }

    async fn complete_upload(
        &self,
        object: &ObjectRef,
        upload: &str,
        parts: &[PartRef],
        options: &CompleteOptions,
    ) -> Result<ObjectInfo> {
        multipart::complete(&self.inner, object, upload, parts, options).await
    }

    async fn abort_upload(&self, object: &ObjectRef, upload: &str) -> Result<()> {
        multipart::abort(&self.inner, object, upload).await
    }

    async fn parts(&self, object: &ObjectRef, upload: &str) -> Result<Vec<PartInfo>> {
        multipart::parts(&self.inner, object, upload).await
    }

    async fn uploads(&self, bucket: &str) -> Result<Vec<UploadInfo>> {
        multipart::uploads(&self.inner, bucket).await
    }
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(internal("ran a task")(error)),
    }
}

/// Wraps a failure of the store itself; `doing` as in "the store failed while it …".
fn internal<E>(doing: &'static str) -> impl FnOnce(E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| Error::Internal {
        doing,
        source: error.into(),
    }
}

/// A failure of the file system: a full disk is told from others.
fn storage_error(error: std::io::Error, what: &str, doing: &'static str) -> Error {
    match index::is_full(&error) {
        true => Error::NoSpace(what.to_owned()),
        false => internal(doing)(error),
    }
}
