//! The S3 front door: the S3 API over HTTP, in terms of an [`Engine`].
//!
//! ```text
//! HTTP ─ service (counts, refuses what must not be read) ─ s3s (routes, SigV4) ─ access ─ Front ─ Engine
//!                └ bound (one request of a connection that was signed for) ───────────────────────┘
//! ```
//! What is not built answers `NotImplemented`, also for single headers: a request is done as asked, or refused.

mod access;
mod body;
mod bound;
mod bucket;
mod convert;
mod error;
mod lend;
mod list;
mod multipart;
mod object;
mod service;

pub(crate) use access::Keys;
pub use service::Service;
pub(crate) use service::note_operation;

use crate::{engine::Engine, metrics::Metrics, rdma::Rdma};
use s3s::{S3, S3Request, S3Response, S3Result, dto};
use std::sync::Arc;

/// The S3 operations over an engine.
#[derive(Clone)]
struct Front {
    engine: Arc<dyn Engine>,
    region: String,
    metrics: Metrics,
    rdma: Rdma,
}

/// Writes each operation of the S3 trait as a call of the function that does it.
macro_rules! operations {
    ($($name:ident: $module:ident, $input:ident => $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Front {
            $(async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                $module::$name(self, request).await
            })*
        }
    };
}

operations! {
    create_bucket: bucket, CreateBucketInput => CreateBucketOutput;
    head_bucket: bucket, HeadBucketInput => HeadBucketOutput;
    delete_bucket: bucket, DeleteBucketInput => DeleteBucketOutput;
    list_buckets: bucket, ListBucketsInput => ListBucketsOutput;
    get_bucket_location: bucket, GetBucketLocationInput => GetBucketLocationOutput;
    put_object: object, PutObjectInput => PutObjectOutput;
    get_object: object, GetObjectInput => GetObjectOutput;
    head_object: object, HeadObjectInput => HeadObjectOutput;
    delete_object: object, DeleteObjectInput => DeleteObjectOutput;
    delete_objects: object, DeleteObjectsInput => DeleteObjectsOutput;
    copy_object: object, CopyObjectInput => CopyObjectOutput;
    list_objects: list, ListObjectsInput => ListObjectsOutput;
    list_objects_v2: list, ListObjectsV2Input => ListObjectsV2Output;
    create_multipart_upload: multipart, CreateMultipartUploadInput => CreateMultipartUploadOutput;
    upload_part: multipart, UploadPartInput => UploadPartOutput;
    upload_part_copy: multipart, UploadPartCopyInput => UploadPartCopyOutput;
    complete_multipart_upload: multipart, CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
    abort_multipart_upload: multipart, AbortMultipartUploadInput => AbortMultipartUploadOutput;
    list_parts: multipart, ListPartsInput => ListPartsOutput;
    list_multipart_uploads: multipart, ListMultipartUploadsInput => ListMultipartUploadsOutput;
}
