//! The remote engine: a storage node, asked over the client of `penstock-rdma`.

mod failure;

use crate::engine::{
    Attributes, Body, Borrower, BucketInfo, ByteRange, Checksums, CompleteOptions, Copied, CopyOptions,
    DeleteOptions, Deleted, Engine, Error, Headers, Lending, ListPage, ListQuery, Loan, Object, ObjectInfo,
    ObjectRef, PartInfo, PartOptions, PartRef, Precondition, PutOptions, Result, UploadInfo, UploadOptions,
    Versioning, body_error, compared, file_body,
};
use bytes::{Bytes, BytesMut};
use failure::{About, failed};
use futures::StreamExt;
use penstock_rdma::{self as rdma, Client, Condition, ListingQuery, ObjectHead, ObjectHeaders, Via};
use std::{fs::File, ops::Range, sync::Arc};

const WITH_ATTRIBUTES: &str = "Writing attributes through this engine";
const ENCRYPTING: &str = "Encrypting through this engine";

/// Objects that live on a storage node.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    traffic: Option<Arc<dyn Traffic>>,
}

/// Is told what moved, and by which transport.
pub trait Traffic: std::fmt::Debug + Send + Sync + 'static {
    /// Object bytes that were read.
    fn read(&self, via: Via, bytes: u64);
    /// Object bytes that were written.
    fn written(&self, via: Via, bytes: u64);
}

impl Remote {
    /// The engine over a client of a storage node.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            traffic: None,
        }
    }

    /// Tells `traffic` of everything that moves.
    pub fn told_to(self, traffic: Arc<dyn Traffic>) -> Self {
        Self {
            traffic: Some(traffic),
            ..self
        }
    }

    /// The client that is asked.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// HEAD answers carry no error code: 404 may mean the object or its bucket.
    async fn which_is_missing(&self, object: &ObjectRef) -> Error {
        match self.client.head_bucket(&object.bucket).await {
            Ok(()) => Error::NoSuchKey(object.clone()),
            Err(error) if error.code() == Some("NotFound") => Error::NoSuchBucket(object.bucket.clone()),
            Err(error) => failed(error, &About::object(object)),
        }
    }
}

#[async_trait::async_trait]
impl Engine for Remote {
    async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let outcome = self.client.create_bucket(bucket).await;
        outcome.map_err(|error| failed(error, &About::bucket(bucket)))
    }

    async fn bucket(&self, bucket: &str) -> Result<BucketInfo> {
        // HeadBucket says no date; ListBuckets does.
        let buckets = self.buckets().await?;
        let found = buckets.into_iter().find(|info| info.name == bucket);
        found.ok_or_else(|| Error::NoSuchBucket(bucket.to_owned()))
    }

    async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        let outcome = self.client.delete_bucket(bucket).await;
        outcome.map_err(|error| failed(error, &About::bucket(bucket)))
    }

    async fn buckets(&self) -> Result<Vec<BucketInfo>> {
        let buckets = self.client.buckets().await;
        let buckets = buckets.map_err(|error| failed(error, &About::bucket("")))?;
        Ok(buckets
            .into_iter()
            .map(|bucket| BucketInfo {
                name: bucket.name,
                created: bucket.created,
                // Not asked for: what it has it says when it is.
                versioning: Versioning::default(),
                lock: None,
                quota: None,
            })
            .collect())
    }

    async fn put(&self, object: &ObjectRef, options: PutOptions, body: Body) -> Result<ObjectInfo> {
        let PutOptions {
            headers,
            precondition,
            size,
            crc64nvme,
            attributes,
            encryption,
            ..
        } = options;
        carried(&attributes, WITH_ATTRIBUTES)?;
        carried(&encryption, ENCRYPTING)?;
        let body = compared(body, crc64nvme);
        let sent = to_headers(&headers);
        let condition = to_condition(&precondition);
        let written = self
            .client
            .put(&object.bucket, &object.key, size, &sent, &condition, body)
            .await
            .map_err(|error| failed(error, &About::object(object)))?;
        if let Some(traffic) = &self.traffic {
            traffic.written(written.moved.via, written.moved.bytes);
        }
        Ok(ObjectInfo {
            size: written.moved.bytes,
            etag: written.etag,
            modified: written.modified,
            crc64nvme: written.crc64nvme,
            headers,
            version: None,
            attributes: Attributes::default(),
        })
    }

    async fn get(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
    ) -> Result<Object> {
        carried(&precondition.key, ENCRYPTING)?;
        let range = range.map(to_range);
        let condition = to_condition(precondition);
        let opened = self
            .client
            .get(&object.bucket, &object.key, range, &condition)
            .await;
        let download = opened.map_err(|error| failed(error, &About::object(object)))?;
        let (traffic, via, fallback) = (self.traffic.clone(), download.via, download.fallback);
        Ok(Object {
            info: to_info(download.head),
            range: download.range,
            body: download
                .body
                .inspect(move |piece| {
                    if let (Some(traffic), Ok(piece)) = (&traffic, piece) {
                        traffic.read(fallback.via(via), piece.len() as u64);
                    }
                })
                .map(|piece| piece.map_err(std::io::Error::other))
                .boxed(),
        })
    }

    async fn lend(
        &self,
        object: &ObjectRef,
        range: Option<ByteRange>,
        precondition: &Precondition,
        _borrower: Borrower,
    ) -> Result<Lending> {
        carried(&precondition.key, ENCRYPTING)?;
        let (range, condition) = (range.map(to_range), to_condition(precondition));
        let borrowed = self
            .client
            .borrow(&object.bucket, &object.key, range, &condition)
            .await;
        let download = match borrowed.map_err(|error| failed(error, &About::object(object)))? {
            Some(download) => download,
            None => return Ok(Lending::Refused("elsewhere")),
        };
        let rdma::Download {
            head,
            range,
            lent,
            body,
            ..
        } = download;
        // It holds the files too.
        drop(body);
        // Who reads how much of it, nobody sees.
        if let Some(traffic) = &self.traffic {
            traffic.read(Via::Shm, range.end - range.start);
        }
        match lent.map(rdma::local::Lent::into_parts) {
            Some(Ok((files, extents, hold))) => Ok(Lending::Lent(Box::new(Loan {
                info: to_info(head),
                range,
                files,
                extents,
                hold,
            }))),
            _ => Ok(Lending::Refused("elsewhere")),
        }
    }

    fn takes_files(&self) -> bool {
        self.client.is_local()
    }

    async fn put_file(
        &self,
        object: &ObjectRef,
        options: PutOptions,
        file: File,
        range: Range<u64>,
    ) -> Result<ObjectInfo> {
        if options.crc64nvme.is_some() {
            let size = Some(range.end.saturating_sub(range.start));
            let options = PutOptions { size, ..options };
            return self.put(object, options, file_body(file, range)).await;
        }
        let PutOptions {
            headers,
            precondition,
            attributes,
            encryption,
            ..
        } = options;
        carried(&attributes, WITH_ATTRIBUTES)?;
        carried(&encryption, ENCRYPTING)?;
        let (sent, condition) = (to_headers(&headers), to_condition(&precondition));
        let size = range.end.saturating_sub(range.start);
        let written = self
            .client
            .put_file(&object.bucket, &object.key, file, range, &sent, &condition)
            .await
            .map_err(|error| failed(error, &About::object(object)))?;
        if let Some(traffic) = &self.traffic {
            traffic.written(written.moved.via, size);
        }
        Ok(ObjectInfo {
            size,
            etag: written.etag,
            modified: written.modified,
            crc64nvme: written.crc64nvme,
            headers,
            version: None,
            attributes: Attributes::default(),
        })
    }

    async fn head(&self, object: &ObjectRef) -> Result<ObjectInfo> {
        match self.client.head(&object.bucket, &object.key).await {
            Ok(head) => Ok(to_info(head)),
            Err(error) if error.code() == Some("NotFound") => Err(self.which_is_missing(object).await),
            Err(error) => Err(failed(error, &About::object(object))),
        }
    }

    async fn delete_with(&self, object: &ObjectRef, options: &DeleteOptions) -> Result<Deleted> {
        if object.version.is_some() || options.is_conditional() {
            return Err(Error::NotSupported(
                "Deleting a version, or on a condition, through this engine",
            ));
        }
        let outcome = self.client.delete(&object.bucket, &object.key).await;
        outcome.map_err(|error| failed(error, &About::object(object)))?;
        Ok(Deleted::default())
    }

    async fn copy(&self, from: &ObjectRef, to: &ObjectRef, options: CopyOptions) -> Result<Copied> {
        let headers = options.headers;
        let others = CopyOptions {
            headers: None,
            ..options
        };
        carried(
            &others,
            "Copying with more than other headers through this engine",
        )?;
        let headers = headers.as_ref().map(to_headers);
        let copied = self
            .client
            .copy((&from.bucket, &from.key), (&to.bucket, &to.key), headers.as_ref())
            .await;
        copied.map_err(|error| match error.code() {
            Some("NoSuchKey") => Error::NoSuchKey(from.clone()),
            _ => failed(error, &About::object(to)),
        })?;
        let info = self.head(to).await?;
        Ok(Copied { info, source: None })
    }

    async fn list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage> {
        let asked = ListingQuery {
            prefix: query.prefix.clone(),
            delimiter: query.delimiter.clone(),
            start_after: query.start_after.clone(),
            continuation: None,
            limit: query.limit,
        };
        let listing = self.client.list(bucket, &asked).await;
        let listing = listing.map_err(|error| failed(error, &About::bucket(bucket)))?;
        let last_key = listing.objects.last().map(|(key, _)| key);
        let next = listing
            .next
            .and_then(|_| last_key.max(listing.common_prefixes.last()).cloned());
        Ok(ListPage {
            objects: listing
                .objects
                .into_iter()
                .map(|(key, head)| (key, to_info(head)))
                .collect(),
            common_prefixes: listing.common_prefixes,
            next,
        })
    }

    async fn create_upload(&self, object: &ObjectRef, options: UploadOptions) -> Result<String> {
        let headers = options.headers;
        let others = UploadOptions {
            headers: Headers::default(),
            ..options
        };
        carried(&others, "Uploading with more than headers through this engine")?;
        let begun = self
            .client
            .create_upload(&object.bucket, &object.key, &to_headers(&headers))
            .await;
        begun.map_err(|error| failed(error, &About::object(object)))
    }

    async fn upload_part(
        &self,
        object: &ObjectRef,
        upload: &str,
        number: u16,
        PartOptions {
            size, crc64nvme, key, ..
        }: PartOptions,
        body: Body,
    ) -> Result<PartInfo> {
        carried(&key, ENCRYPTING)?;
        let mut body = compared(body, crc64nvme);
        // A part is sent from memory, so that it can be sent again.
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(body_error)?;
            if bytes.is_empty() && size == Some(piece.len() as u64) {
                bytes = BytesMut::from(piece);
                continue;
            }
            bytes.extend_from_slice(&piece);
        }
        if let Some(expected) = size
            && expected != bytes.len() as u64
        {
            return Err(Error::IncompleteBody {
                expected,
                got: bytes.len() as u64,
            });
        }
        let bytes: Bytes = bytes.freeze();
        let part = self
            .client
            .upload_part(&object.bucket, &object.key, upload, number, bytes)
            .await
            .map_err(|error| failed(error, &About::upload(object, upload)))?;
        Ok(to_part(part))
    }

    async fn complete_upload(
        &self,
        object: &ObjectRef,
        upload: &str,
        parts: &[PartRef],
        options: &CompleteOptions,
    ) -> Result<ObjectInfo> {
        let others = CompleteOptions {
            precondition: Precondition::default(),
            ..options.clone()
        };
        carried(&others, "Comparing more than parts through this engine")?;
        let named: Vec<_> = parts
            .iter()
            .map(|part| rdma::PartId {
                number: part.number,
                etag: part.etag.clone(),
            })
            .collect();
        let condition = to_condition(&options.precondition);
        self.client
            .complete_upload(&object.bucket, &object.key, upload, &named, &condition)
            .await
            .map_err(|error| failed(error, &About::upload(object, upload)))?;
        self.head(object).await
    }

    async fn abort_upload(&self, object: &ObjectRef, upload: &str) -> Result<()> {
        let outcome = self
            .client
            .abort_upload(&object.bucket, &object.key, upload)
            .await;
        outcome.map_err(|error| failed(error, &About::upload(object, upload)))
    }

    async fn parts(&self, object: &ObjectRef, upload: &str) -> Result<Vec<PartInfo>> {
        let parts = self.client.parts(&object.bucket, &object.key, upload).await;
        let parts = parts.map_err(|error| failed(error, &About::upload(object, upload)))?;
        Ok(parts.into_iter().map(to_part).collect())
    }

    async fn uploads(&self, bucket: &str) -> Result<Vec<UploadInfo>> {
        let uploads = self.client.uploads(bucket).await;
        let uploads = uploads.map_err(|error| failed(error, &About::bucket(bucket)))?;
        Ok(uploads
            .into_iter()
            .map(|upload| UploadInfo {
                key: upload.key,
                id: upload.id,
                started: upload.started,
                checksum: None,
            })
            .collect())
    }
}

fn to_condition(precondition: &Precondition) -> Condition {
    Condition {
        if_match: precondition.if_match.clone(),
        if_none_match: precondition.if_none_match.clone(),
    }
}

fn to_headers(headers: &Headers) -> ObjectHeaders {
    ObjectHeaders {
        content_type: headers.content_type.clone(),
        content_encoding: headers.content_encoding.clone(),
        content_disposition: headers.content_disposition.clone(),
        content_language: headers.content_language.clone(),
        cache_control: headers.cache_control.clone(),
        metadata: headers.metadata.clone(),
    }
}

fn to_info(head: ObjectHead) -> ObjectInfo {
    ObjectInfo {
        size: head.size,
        etag: head.etag,
        modified: head.modified,
        crc64nvme: head.crc64nvme,
        headers: Headers {
            content_type: head.headers.content_type,
            content_encoding: head.headers.content_encoding,
            content_disposition: head.headers.content_disposition,
            content_language: head.headers.content_language,
            cache_control: head.headers.cache_control,
            metadata: head.headers.metadata,
        },
        version: None,
        attributes: Attributes::default(),
    }
}

/// What the client does not carry is refused, and not left out: `others` are what is asked for besides what it does.
fn carried<T: Default + PartialEq>(others: &T, what: &'static str) -> Result<()> {
    match *others == T::default() {
        true => Ok(()),
        false => Err(Error::NotSupported(what)),
    }
}

fn to_part(part: rdma::Part) -> PartInfo {
    PartInfo {
        number: part.number,
        size: part.size,
        etag: part.etag,
        modified: part.modified,
        crc64nvme: None,
        checksums: Checksums::default(),
    }
}

fn to_range(range: ByteRange) -> rdma::Range {
    match range {
        ByteRange::From { first, last } => rdma::Range::From { first, last },
        ByteRange::Suffix { length } => rdma::Range::Suffix { length },
    }
}
