//! The S3 front door: the S3 API over HTTP, in terms of an [`Engine`].
//!
//! ```text
//! HTTP ─ service (counts, refuses what must not be read) ─ s3s (routes, SigV4) ─ access (may he?) ─ Front ─ Engine
//!                └ bound (one request of a connection that was signed for) ───────────────────────┘
//! ```
//! What is not built answers `NotImplemented`, also for single headers: a request is done as asked, or refused.

mod access;
mod acl;
mod attributes;
mod body;
mod bound;
mod bucket;
mod config;
mod convert;
mod copy;
mod cors;
mod delete;
mod encryption;
mod error;
mod facts;
mod fields;
mod form;
mod get;
mod hosts;
mod known;
mod lend;
mod lifecycle;
mod list;
mod lock;
mod logging;
mod multipart;
mod policy;
mod put;
mod service;
mod tagging;
mod uploads;
mod versions;

pub(crate) use access::Whence;
pub(crate) use config::restricts_public_buckets;
pub(crate) use encryption::encrypts_by_default;
pub(crate) use error::{answer as engine_error, coded as refusal};
pub(crate) use service::note_operation;
pub use service::{Parts, Service};

use crate::{
    access::Authority,
    access_log::{self, AccessLog},
    engine::Engine,
    metrics::Metrics,
    rdma::Rdma,
};
use access::Hidden;
use hosts::Hosts;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto, s3_error};
use std::{future::Future, sync::Arc};

/// The S3 operations over an engine.
#[derive(Clone)]
struct Front {
    engine: Arc<dyn Engine>,
    region: String,
    metrics: Metrics,
    rdma: Rdma,
    authority: Authority,
    hosts: Hosts,
    access_log: Option<AccessLog>,
}

impl Front {
    /// Keeps a document of a bucket, or removes it; from then on the bucket is looked at anew.
    async fn keep(&self, bucket: &str, name: &'static str, document: Option<Vec<u8>>) -> S3Result<()> {
        let (front, bucket) = (self.clone(), bucket.to_owned());
        let kept = to_its_end(async move {
            let kept = front.engine.set_document(&bucket, name, document).await;
            front.authority.forget(&bucket);
            if name == access_log::DOCUMENT {
                front.look_at_log(&bucket).await;
            }
            kept
        });
        kept.await?.map_err(error::answer)
    }

    /// Whether a bucket keeps an access log may have changed.
    async fn look_at_log(&self, bucket: &str) {
        if let Some(log) = &self.access_log
            && let Err(error) = log.look(bucket).await
        {
            let cause = penstock_service::chain(&error);
            tracing::error!(
                bucket,
                cause,
                "the bucket's access log stays as it was: its document cannot be read"
            );
        }
    }
}

/// Writes each operation of the S3 trait as a call of the function that does it.
macro_rules! operations {
    ($($name:ident: $module:ident, $input:ident => $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Front {
            $(async fn $name(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                let hides = request.extensions.get::<Hidden>().is_some();
                let answer = $module::$name(self, request).await;
                answer.map_err(|error| if hides { hidden(error) } else { error })
            })*
        }
    };
}

/// Does something to its end, though the client goes away meanwhile: what it changes on disk and in memory belongs together.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> S3Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|error| s3_error!(error, InternalError))
}

/// Who may not list is told of what is not there as of what he may not have.
fn hidden(error: S3Error) -> S3Error {
    match error.code() {
        S3ErrorCode::NoSuchKey | S3ErrorCode::NoSuchVersion => s3_error!(AccessDenied, "Access Denied"),
        _ => error,
    }
}

operations! {
    create_bucket: bucket, CreateBucketInput => CreateBucketOutput;
    head_bucket: bucket, HeadBucketInput => HeadBucketOutput;
    delete_bucket: bucket, DeleteBucketInput => DeleteBucketOutput;
    list_buckets: bucket, ListBucketsInput => ListBucketsOutput;
    get_bucket_location: bucket, GetBucketLocationInput => GetBucketLocationOutput;
    put_object: put, PutObjectInput => PutObjectOutput;
    get_object: get, GetObjectInput => GetObjectOutput;
    head_object: get, HeadObjectInput => HeadObjectOutput;
    delete_object: delete, DeleteObjectInput => DeleteObjectOutput;
    delete_objects: delete, DeleteObjectsInput => DeleteObjectsOutput;
    copy_object: copy, CopyObjectInput => CopyObjectOutput;
    get_object_attributes: facts, GetObjectAttributesInput => GetObjectAttributesOutput;
    list_object_versions: versions, ListObjectVersionsInput => ListObjectVersionsOutput;
    get_bucket_versioning: versions, GetBucketVersioningInput => GetBucketVersioningOutput;
    put_bucket_versioning: versions, PutBucketVersioningInput => PutBucketVersioningOutput;
    put_object_tagging: tagging, PutObjectTaggingInput => PutObjectTaggingOutput;
    get_object_tagging: tagging, GetObjectTaggingInput => GetObjectTaggingOutput;
    delete_object_tagging: tagging, DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
    put_bucket_tagging: tagging, PutBucketTaggingInput => PutBucketTaggingOutput;
    get_bucket_tagging: tagging, GetBucketTaggingInput => GetBucketTaggingOutput;
    delete_bucket_tagging: tagging, DeleteBucketTaggingInput => DeleteBucketTaggingOutput;
    get_object_lock_configuration: lock, GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput;
    put_object_lock_configuration: lock, PutObjectLockConfigurationInput => PutObjectLockConfigurationOutput;
    put_object_retention: lock, PutObjectRetentionInput => PutObjectRetentionOutput;
    get_object_retention: lock, GetObjectRetentionInput => GetObjectRetentionOutput;
    put_object_legal_hold: lock, PutObjectLegalHoldInput => PutObjectLegalHoldOutput;
    get_object_legal_hold: lock, GetObjectLegalHoldInput => GetObjectLegalHoldOutput;
    get_bucket_acl: acl, GetBucketAclInput => GetBucketAclOutput;
    put_bucket_acl: acl, PutBucketAclInput => PutBucketAclOutput;
    get_object_acl: acl, GetObjectAclInput => GetObjectAclOutput;
    put_object_acl: acl, PutObjectAclInput => PutObjectAclOutput;
    get_public_access_block: config, GetPublicAccessBlockInput => GetPublicAccessBlockOutput;
    put_public_access_block: config, PutPublicAccessBlockInput => PutPublicAccessBlockOutput;
    delete_public_access_block: config, DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput;
    get_bucket_ownership_controls: config, GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput;
    put_bucket_ownership_controls: config, PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput;
    delete_bucket_ownership_controls: config, DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput;
    get_bucket_cors: cors, GetBucketCorsInput => GetBucketCorsOutput;
    put_bucket_cors: cors, PutBucketCorsInput => PutBucketCorsOutput;
    delete_bucket_cors: cors, DeleteBucketCorsInput => DeleteBucketCorsOutput;
    get_bucket_policy_status: policy, GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput;
    put_bucket_request_payment: config, PutBucketRequestPaymentInput => PutBucketRequestPaymentOutput;
    put_bucket_logging: logging, PutBucketLoggingInput => PutBucketLoggingOutput;
    put_bucket_notification_configuration: config, PutBucketNotificationConfigurationInput => PutBucketNotificationConfigurationOutput;
    get_bucket_policy: policy, GetBucketPolicyInput => GetBucketPolicyOutput;
    put_bucket_policy: policy, PutBucketPolicyInput => PutBucketPolicyOutput;
    delete_bucket_policy: policy, DeleteBucketPolicyInput => DeleteBucketPolicyOutput;
    get_bucket_lifecycle_configuration: lifecycle, GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput;
    put_bucket_lifecycle_configuration: lifecycle, PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle: lifecycle, DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput;
    get_bucket_encryption: encryption, GetBucketEncryptionInput => GetBucketEncryptionOutput;
    put_bucket_encryption: encryption, PutBucketEncryptionInput => PutBucketEncryptionOutput;
    delete_bucket_encryption: encryption, DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput;
    get_bucket_website: config, GetBucketWebsiteInput => GetBucketWebsiteOutput;
    get_bucket_replication: config, GetBucketReplicationInput => GetBucketReplicationOutput;
    get_bucket_logging: logging, GetBucketLoggingInput => GetBucketLoggingOutput;
    get_bucket_notification_configuration: config, GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput;
    get_bucket_accelerate_configuration: config, GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput;
    get_bucket_request_payment: config, GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput;
    list_objects: list, ListObjectsInput => ListObjectsOutput;
    list_objects_v2: list, ListObjectsV2Input => ListObjectsV2Output;
    create_multipart_upload: multipart, CreateMultipartUploadInput => CreateMultipartUploadOutput;
    upload_part: multipart, UploadPartInput => UploadPartOutput;
    upload_part_copy: multipart, UploadPartCopyInput => UploadPartCopyOutput;
    complete_multipart_upload: multipart, CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
    abort_multipart_upload: multipart, AbortMultipartUploadInput => AbortMultipartUploadOutput;
    list_parts: multipart, ListPartsInput => ListPartsOutput;
    list_multipart_uploads: uploads, ListMultipartUploadsInput => ListMultipartUploadsOutput;
}
