//! What a bucket is configured with: documents that are kept as they came, and reading what cannot be configured.

use super::{Front, attributes::malformed, convert, error};
use crate::{engine::Engine, lifecycle::DOCUMENT};
use http::StatusCode;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        BucketLifecycleConfiguration, CORSConfiguration, DeleteBucketOwnershipControlsInput,
        DeleteBucketOwnershipControlsOutput, DeletePublicAccessBlockInput, DeletePublicAccessBlockOutput,
        GetBucketAccelerateConfigurationInput, GetBucketAccelerateConfigurationOutput,
        GetBucketNotificationConfigurationInput, GetBucketNotificationConfigurationOutput,
        GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput, GetBucketReplicationInput,
        GetBucketReplicationOutput, GetBucketRequestPaymentInput, GetBucketRequestPaymentOutput,
        GetBucketWebsiteInput, GetBucketWebsiteOutput, GetPublicAccessBlockInput, GetPublicAccessBlockOutput,
        NotificationConfiguration, ObjectOwnership, OwnershipControls, Payer, PublicAccessBlockConfiguration,
        PutBucketNotificationConfigurationInput, PutBucketNotificationConfigurationOutput,
        PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput, PutBucketRequestPaymentInput,
        PutBucketRequestPaymentOutput, PutPublicAccessBlockInput, PutPublicAccessBlockOutput, Tagging,
    },
    xml::{Deserialize, Deserializer, Serialize, Serializer},
};
use std::marker::PhantomData;

/// A document that a bucket may have.
pub(super) struct Document<T> {
    /// As the S3 API calls it in a query.
    name: &'static str,
    /// The error of there being none.
    missing: (&'static str, &'static str),
    of: PhantomData<fn() -> T>,
}

pub(super) const TAGGING: Document<Tagging> =
    Document::new("tagging", ("NoSuchTagSet", "The TagSet does not exist"));
pub(super) const LIFECYCLE: Document<BucketLifecycleConfiguration> = Document::new(
    DOCUMENT,
    (
        "NoSuchLifecycleConfiguration",
        "The lifecycle configuration does not exist",
    ),
);
pub(super) const CORS: Document<CORSConfiguration> = Document::new(
    "cors",
    ("NoSuchCORSConfiguration", "The CORS configuration does not exist"),
);
const PUBLIC_ACCESS_BLOCK: Document<PublicAccessBlockConfiguration> = Document::new(
    "publicAccessBlock",
    (
        "NoSuchPublicAccessBlockConfiguration",
        "The public access block configuration was not found",
    ),
);
const OWNERSHIP: Document<OwnershipControls> = Document::new(
    "ownershipControls",
    (
        "OwnershipControlsNotFoundError",
        "The bucket ownership controls were not found",
    ),
);

impl<T> Document<T> {
    pub const fn new(name: &'static str, missing: (&'static str, &'static str)) -> Self {
        Self {
            name,
            missing,
            of: PhantomData,
        }
    }

    /// The document, if there is one.
    pub async fn find(&self, front: &Front, bucket: &str) -> S3Result<Option<T>>
    where
        T: for<'xml> Deserialize<'xml>,
    {
        self.find_in(&*front.engine, bucket).await
    }

    pub(super) async fn find_in(&self, engine: &dyn Engine, bucket: &str) -> S3Result<Option<T>>
    where
        T: for<'xml> Deserialize<'xml>,
    {
        let found = engine.document(bucket, self.name).await;
        let Some(document) = found.map_err(error::answer)? else {
            return Ok(None);
        };
        let read = T::deserialize(&mut Deserializer::new(&document));
        read.map(Some).map_err(|error| {
            tracing::error!(bucket, document = self.name, %error, "what was kept cannot be read");
            S3Error::new(S3ErrorCode::InternalError)
        })
    }

    pub async fn get(&self, front: &Front, bucket: &str) -> S3Result<T>
    where
        T: for<'xml> Deserialize<'xml>,
    {
        let found = self.find(front, bucket).await?;
        found.ok_or_else(|| not_found(self.missing))
    }

    /// Keeps a document in place of the one that is there, or removes it.
    pub async fn put(&self, front: &Front, bucket: &str, document: Option<&T>) -> S3Result<()>
    where
        T: Serialize,
    {
        let mut bytes = None;
        if let Some(document) = document {
            let mut written = Vec::new();
            document
                .serialize(&mut Serializer::new(&mut written))
                .map_err(|error| S3Error::with_source(S3ErrorCode::InternalError, Box::new(error)))?;
            bytes = Some(written);
        }
        front.keep(bucket, self.name, bytes).await
    }
}

fn not_found((code, message): (&str, &'static str)) -> S3Error {
    error::coded(code, StatusCode::NOT_FOUND, message)
}

/// The operations on a document of a bucket: what is asked of it, after the check whose bucket it is. `found` is what was kept,
/// and becomes an answer; what is put is looked at, and perhaps completed, before it is kept.
macro_rules! documents {
    ($($document:ident:
       $get:ident($get_input:ident => $get_output:ident) |$found:ident| $answer:expr,
       $put:ident($put_input:ident => $put_output:ident) $input:ident by $check:ident,
       $delete:ident($delete_input:ident => $delete_output:ident);)*) => {$(
        pub(super) async fn $get(
            front: &$crate::s3::Front,
            request: s3s::S3Request<$get_input>,
        ) -> s3s::S3Result<s3s::S3Response<$get_output>> {
            $crate::s3::convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
            let $found = $document.get(front, &request.input.bucket).await?;
            Ok(s3s::S3Response::new($answer))
        }

        pub(super) async fn $put(
            front: &$crate::s3::Front,
            request: s3s::S3Request<$put_input>,
        ) -> s3s::S3Result<s3s::S3Response<$put_output>> {
            $crate::s3::convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
            let document = $check(request.input.$input)?;
            $document.put(front, &request.input.bucket, Some(&document)).await?;
            Ok(s3s::S3Response::new($put_output::default()))
        }

        pub(super) async fn $delete(
            front: &$crate::s3::Front,
            request: s3s::S3Request<$delete_input>,
        ) -> s3s::S3Result<s3s::S3Response<$delete_output>> {
            $crate::s3::convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
            $document.put(front, &request.input.bucket, None).await?;
            Ok(s3s::S3Response::new($delete_output {}))
        }
    )*};
}
pub(super) use documents;

documents! {
    PUBLIC_ACCESS_BLOCK:
        get_public_access_block(GetPublicAccessBlockInput => GetPublicAccessBlockOutput) |found|
            GetPublicAccessBlockOutput { public_access_block_configuration: Some(found) },
        put_public_access_block(PutPublicAccessBlockInput => PutPublicAccessBlockOutput) public_access_block_configuration by blocked,
        delete_public_access_block(DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput);
    OWNERSHIP:
        get_bucket_ownership_controls(GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput) |found|
            GetBucketOwnershipControlsOutput { ownership_controls: Some(found) },
        put_bucket_ownership_controls(PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput) ownership_controls by owned,
        delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput);
}

pub(super) async fn public_access_block(
    engine: &dyn Engine,
    bucket: &str,
) -> S3Result<Option<PublicAccessBlockConfiguration>> {
    PUBLIC_ACCESS_BLOCK.find_in(engine, bucket).await
}

/// Whether a public policy opens the bucket to nobody. What cannot be read closes it.
pub(crate) async fn restricts_public_buckets(engine: &dyn Engine, bucket: &str) -> bool {
    match public_access_block(engine, bucket).await {
        Ok(found) => found.is_some_and(|found| found.restrict_public_buckets == Some(true)),
        Err(_) => true,
    }
}

/// What is not said to be blocked is not.
fn blocked(given: PublicAccessBlockConfiguration) -> S3Result<PublicAccessBlockConfiguration> {
    Ok(PublicAccessBlockConfiguration {
        block_public_acls: given.block_public_acls.or(Some(false)),
        block_public_policy: given.block_public_policy.or(Some(false)),
        ignore_public_acls: given.ignore_public_acls.or(Some(false)),
        restrict_public_buckets: given.restrict_public_buckets.or(Some(false)),
    })
}

fn owned(given: OwnershipControls) -> S3Result<OwnershipControls> {
    let known = [
        ObjectOwnership::BUCKET_OWNER_ENFORCED,
        ObjectOwnership::BUCKET_OWNER_PREFERRED,
        ObjectOwnership::OBJECT_WRITER,
    ];
    match given.rules.as_slice() {
        [rule] if known.contains(&rule.object_ownership.as_str()) => Ok(given),
        _ => Err(malformed(
            "There is one rule, with an ObjectOwnership that S3 knows.",
        )),
    }
}

/// Reading what a bucket cannot have yet says truly that it does not.
macro_rules! never_there {
    ($($get:ident($input:ident => $output:ident): $answer:expr;)*) => {$(
        pub(super) async fn $get(front: &Front, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
            convert::check_owner(request.input.expected_bucket_owner.as_deref())?;
            front.engine.bucket(&request.input.bucket).await.map_err(error::answer)?;
            let answer: Result<$output, (&str, &'static str)> = $answer;
            answer.map(S3Response::new).map_err(not_found)
        }
    )*};
}

/// Accepts what is the case anyway, and nothing else.
macro_rules! always_so {
    ($($put:ident($input:ident => $output:ident): $what:literal, $is_so:expr;)*) => {$(
        pub(super) async fn $put(front: &Front, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
            let input = request.input;
            convert::check_owner(input.expected_bucket_owner.as_deref())?;
            let is_so: fn(&$input) -> bool = $is_so;
            if !is_so(&input) {
                return Err(error::not_implemented($what));
            }
            front.engine.bucket(&input.bucket).await.map_err(error::answer)?;
            Ok(S3Response::new($output {}))
        }
    )*};
}

always_so! {
    put_bucket_request_payment(PutBucketRequestPaymentInput => PutBucketRequestPaymentOutput):
        "Letting requesters pay", |input| input.request_payment_configuration.payer.as_str() == Payer::BUCKET_OWNER;
    put_bucket_notification_configuration(PutBucketNotificationConfigurationInput => PutBucketNotificationConfigurationOutput):
        "Notifications", |input| input.notification_configuration == NotificationConfiguration::default();
}

never_there! {
    get_bucket_website(GetBucketWebsiteInput => GetBucketWebsiteOutput):
        Err(("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"));
    get_bucket_replication(GetBucketReplicationInput => GetBucketReplicationOutput):
        Err(("ReplicationConfigurationNotFoundError", "The replication configuration was not found"));
    get_bucket_notification_configuration(GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput):
        Ok(GetBucketNotificationConfigurationOutput::default());
    get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput):
        Ok(GetBucketAccelerateConfigurationOutput::default());
    get_bucket_request_payment(GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput):
        Ok(GetBucketRequestPaymentOutput { payer: Some(Payer::from_static(Payer::BUCKET_OWNER)) });
}
