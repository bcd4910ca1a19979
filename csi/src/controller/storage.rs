//! What the controller does on a storage node. Every request has a deadline, and everything may be repeated.

use super::error::Error;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use penstock_store::engine::{self, Engine, ListQuery, ObjectRef, Precondition, PutOptions};
use std::{future::Future, sync::Arc, time::Duration};

/// How long the storage node may take for one request.
const DEADLINE: Duration = Duration::from_secs(30);
/// Keys of one page of a listing.
const PAGE: usize = 1000;
/// Objects deleted at the same time: enough to share the storage node's fsyncs, few enough to leave it to others.
const PARALLEL: usize = 16;

/// A storage node.
pub(super) struct Storage {
    engine: Arc<dyn Engine>,
}

async fn within<T>(call: impl Future<Output = Result<T, engine::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Error::Deadline(DEADLINE)),
    }
}

/// The beginning of all keys of a folder; of a bucket where the folder is empty.
fn beginning(folder: &str) -> String {
    if folder.is_empty() {
        String::new()
    } else {
        format!("{folder}/")
    }
}

impl Storage {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }

    /// Makes a bucket where there is none.
    pub(super) async fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        match within(self.engine.create_bucket(bucket)).await {
            Err(Error::Engine(engine::Error::BucketExists(_))) => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes an empty bucket where there is one.
    pub(super) async fn delete_bucket(&self, bucket: &str) -> Result<(), Error> {
        match within(self.engine.delete_bucket(bucket)).await {
            Err(Error::Engine(engine::Error::NoSuchBucket(_))) => Ok(()),
            outcome => outcome,
        }
    }

    pub(super) async fn has_bucket(&self, bucket: &str) -> Result<bool, Error> {
        Ok(self.first_key(bucket, "").await?.is_some())
    }

    /// Whether a bucket is there; with a folder, whether something is in it.
    pub(super) async fn is_taken(&self, bucket: &str, folder: &str) -> Result<bool, Error> {
        let found = self.first_key(bucket, &beginning(folder)).await?;
        Ok(found.is_some_and(|key| folder.is_empty() || key.is_some()))
    }

    /// The first key that begins so, if any; `None` without the bucket.
    async fn first_key(&self, bucket: &str, beginning: &str) -> Result<Option<Option<String>>, Error> {
        let query = ListQuery {
            prefix: beginning.to_owned(),
            limit: 1,
            ..ListQuery::default()
        };
        match within(self.engine.list(bucket, &query)).await {
            Ok(page) => Ok(Some(page.objects.into_iter().next().map(|(key, _)| key))),
            Err(Error::Engine(engine::Error::NoSuchBucket(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a folder where there is none: an empty object whose key ends with a slash, as S3 tools make them.
    pub(super) async fn create_folder(&self, bucket: &str, folder: &str) -> Result<(), Error> {
        match self
            .put_new(&ObjectRef::new(bucket, beginning(folder)), Vec::new())
            .await
        {
            Err(Error::Engine(engine::Error::PreconditionFailed(_))) => Ok(()),
            outcome => outcome,
        }
    }

    /// Writes an object where there is none. `false` when there is no such bucket.
    pub(super) async fn create(&self, object: &ObjectRef, bytes: Vec<u8>) -> Result<bool, Error> {
        match self.put_new(object, bytes).await {
            Ok(()) => Ok(true),
            Err(Error::Engine(engine::Error::NoSuchBucket(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put_new(&self, object: &ObjectRef, bytes: Vec<u8>) -> Result<(), Error> {
        let options = PutOptions {
            precondition: Precondition {
                if_none_match: Some("*".to_owned()),
                ..Precondition::default()
            },
            size: Some(bytes.len() as u64),
            ..PutOptions::default()
        };
        let body = stream::iter([Ok(Bytes::from(bytes))]).boxed();
        within(self.engine.put(object, options, body)).await?;
        Ok(())
    }

    /// Reads an object; `None` when there is none.
    pub(super) async fn read(&self, object: &ObjectRef) -> Result<Option<Vec<u8>>, Error> {
        let anything = Precondition::default();
        let opened = match within(self.engine.get(object, None, &anything)).await {
            Ok(opened) => opened,
            Err(Error::Engine(engine::Error::NoSuchKey(_) | engine::Error::NoSuchBucket(_))) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let bytes = opened.body.try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        });
        match tokio::time::timeout(DEADLINE, bytes).await {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(source)) => Err(Error::Broken {
                object: object.clone(),
                source,
            }),
            Err(_) => Err(Error::Deadline(DEADLINE)),
        }
    }

    /// Deletes an object where there is one.
    pub(super) async fn delete(&self, object: &ObjectRef) -> Result<(), Error> {
        match within(self.engine.delete(object)).await {
            Err(Error::Engine(engine::Error::NoSuchBucket(_))) => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes every object and unfinished upload of a folder, or of the bucket where the folder is empty, and says how many
    /// objects those were. A call that breaks off has deleted some, and the next one goes on.
    pub(super) async fn delete_all(&self, bucket: &str, folder: &str) -> Result<u64, Error> {
        let beginning = beginning(folder);
        let uploads = match within(self.engine.uploads(bucket)).await {
            Err(Error::Engine(engine::Error::NoSuchBucket(_))) => return Ok(0),
            uploads => uploads?,
        };
        for upload in uploads
            .into_iter()
            .filter(|upload| upload.key.starts_with(&beginning))
        {
            let object = ObjectRef::new(bucket, upload.key);
            match within(self.engine.abort_upload(&object, &upload.id)).await {
                Err(Error::Engine(engine::Error::NoSuchUpload(_))) => {}
                outcome => outcome?,
            }
        }
        let mut query = ListQuery {
            prefix: beginning,
            limit: PAGE,
            ..ListQuery::default()
        };
        let mut deleted = 0;
        loop {
            let page = match within(self.engine.list(bucket, &query)).await {
                Err(Error::Engine(engine::Error::NoSuchBucket(_))) => return Ok(deleted),
                page => page?,
            };
            deleted += page.objects.len() as u64;
            stream::iter(page.objects)
                .map(|(key, _)| async move { self.delete(&ObjectRef::new(bucket, key)).await })
                .buffer_unordered(PARALLEL)
                .try_collect::<()>()
                .await?;
            if page.next.is_none() {
                return Ok(deleted);
            }
            query.start_after = page.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storage_node_that_does_not_answer_exceeds_the_deadline() {
        let outcome = within(std::future::pending::<Result<(), engine::Error>>()).await;
        let status = tonic::Status::from(outcome.unwrap_err());
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.message(), "the storage node gave no answer within 30 s");
    }
}
