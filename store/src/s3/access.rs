//! Whether a request may be done: what s3s asks before each operation, and what only the operations themselves know to ask.

use super::{convert, error, service::note_operation};
use crate::{
    access::{Authority, Demand, Origin, Principal, Situation, Target, demands},
    access_log::note_requester,
    local_path::Peer,
    rdma::{Carried, is_signed, signed_names},
};
use http::{Extensions, HeaderMap, HeaderName, StatusCode, Uri, header::AUTHORIZATION};
use penstock_rdma::{local::CONNECT, protocol::header::TOKEN, relay::PASSED_ON};
use percent_encoding::percent_decode_str;
use s3s::{
    S3Error, S3Request, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::{CopyObjectInput, CopySource, UploadPartCopyInput},
    path::S3Path,
    s3_error,
};
use std::{borrow::Cow, sync::Arc};

#[async_trait::async_trait]
impl S3Auth for Authority {
    /// s3s compares signatures in constant time.
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.secret_of(access_key) {
            Some(secret) => Ok(SecretKey::from(secret)),
            None => Err(unknown()),
        }
    }
}

fn unknown() -> S3Error {
    s3_error!(
        InvalidAccessKeyId,
        "The access key is not known to this storage node, or has expired."
    )
}

/// In the extensions of a request: the one who asks may not be told that there is no such object.
#[derive(Clone, Copy)]
pub(super) struct Hidden;

/// Looks at every request that s3s has understood.
pub(super) struct Access(pub Authority);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        note_operation(&operation);
        let signer = context.credentials().cloned();
        let principal = match &signer {
            None => Principal::Anonymous,
            Some(signer) => self.0.principal(&signer.access_key).ok_or_else(unknown)?,
        };
        note_requester(&principal);
        if matches!(principal, Principal::Gateway) {
            return Err(s3_error!(
                AccessDenied,
                "A gateway's key carries what others have signed, and gives access to nothing by itself."
            ));
        }
        if signer.is_some()
            && let Some(name) = unsigned(context.uri(), context.headers())
        {
            let message = format!("There were headers present in the request which were not signed: {name}");
            return Err(error::coded("AccessDenied", StatusCode::FORBIDDEN, message));
        }
        let whence = Whence::of(context.extensions_mut());
        let target = match context.s3_path() {
            S3Path::Root => Target::Service,
            S3Path::Bucket { bucket } => Target::Bucket(bucket),
            S3Path::Object { bucket, key } => Target::Object(bucket, Cow::Borrowed(key)),
        };
        let free = self.0.allows_all(&principal, target.bucket()).await;
        let hides = if free.map_err(error::answer)? {
            false
        } else {
            let mut situation = whence.situation(&principal, context.uri(), context.headers());
            situation.is_head = operation == "HeadBucket";
            self.decide(&operation, &target, &situation, context.headers())
                .await?
        };
        if hides {
            context.extensions_mut().insert(Hidden);
        }
        context.extensions_mut().insert(principal);
        // What may be asked without a signature later on is what this operation is. A signature in a query proves nothing of
        // headers.
        let is_plain = operation == "GetObject" && context.uri().query().is_none();
        let presented = context.headers().get(CONNECT).cloned();
        if let Some(signer) = signer
            && let Some(presented) = presented.filter(|_| is_plain)
            && is_signed(context.headers(), &CONNECT)
            && let Some(peer) = context.extensions_mut().get::<Arc<Peer>>()
        {
            peer.signed(&presented, &signer);
        }
        Ok(())
    }

    async fn copy_object(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        let source = request.input.copy_source.clone();
        self.check_source(&source, request).await?;
        self.check_tags(request).await
    }

    async fn upload_part_copy(&self, request: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        let source = request.input.copy_source.clone();
        self.check_source(&source, request).await
    }
}

impl Access {
    /// Refuses what may not be done; says whether it is to be hidden that there is no such object.
    async fn decide(
        &self,
        operation: &str,
        target: &Target<'_>,
        situation: &Situation<'_>,
        headers: &HeaderMap,
    ) -> S3Result<bool> {
        let names_version = situation.parameter("versionId").is_some();
        let allowed = match demands(operation, target, headers, names_version) {
            Some(demands) => self.0.allows(&demands, situation).await.map_err(error::answer)?,
            None => matches!(situation.principal, Principal::Root),
        };
        let is_lost = operation == "DeleteObjects"
            && matches!(situation.principal, Principal::Anonymous)
            && !self
                .0
                .lets_delete(target.bucket().unwrap_or(""))
                .await
                .map_err(error::answer)?;
        if !allowed || is_lost {
            return Err(denied(situation.principal));
        }
        if matches!(situation.principal, Principal::Anonymous) && situation.overrides_answer() {
            return Err(s3_error!(
                InvalidRequest,
                "Request specific response headers cannot be used for anonymous GET requests."
            ));
        }
        let Target::Object(bucket, key) = target else {
            return Ok(false);
        };
        hides_absence(&self.0, situation, bucket, key).await
    }

    /// A copy takes the tags along, unless it is told which to have: that is reading the ones and writing the others.
    async fn check_tags(&self, request: &S3Request<CopyObjectInput>) -> S3Result<()> {
        let input = &request.input;
        let principal = principal_of(&request.extensions)?;
        let replaces = input
            .tagging_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == "REPLACE");
        let target = (input.bucket.as_str(), input.key.as_str());
        let (free, source) = (
            self.0
                .allows_all(principal, Some(target.0))
                .await
                .map_err(error::answer)?,
            convert::copy_source(&input.copy_source)?,
        );
        let free = free
            && self
                .0
                .allows_all(principal, Some(&source.bucket))
                .await
                .map_err(error::answer)?;
        if free || replaces {
            return Ok(());
        }
        if input.tagging.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-tagging has no effect without x-amz-tagging-directive: REPLACE."
            ));
        }
        // What cannot be looked at cannot be copied, and is told of there.
        let has_tags = match self.0.head(&source).await {
            Ok(info) => !info.attributes.tags.is_empty(),
            Err(_) => false,
        };
        let names_version = source.version.is_some();
        let demands = [
            Demand::reading_tags(&source.bucket, &source.key, names_version),
            Demand::writing_tags(target.0, target.1),
        ];
        let mut situation = situation(principal, request);
        situation.version = source.version.map(|version| version.to_string());
        if has_tags && !self.0.allows(&demands, &situation).await.map_err(error::answer)? {
            return Err(denied(principal));
        }
        Ok(())
    }

    /// Whoever copies must be allowed to read what he copies.
    async fn check_source<T>(&self, source: &CopySource, request: &mut S3Request<T>) -> S3Result<()> {
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = source
        else {
            // Refused by the operation itself.
            return Ok(());
        };
        let hides = {
            let principal = principal_of(&request.extensions)?;
            let mut situation = situation(principal, request);
            situation
                .version
                .clone_from(&version_id.as_deref().map(str::to_owned));
            let reading = Demand::reading(bucket, key, version_id.is_some());
            let allowed = self
                .0
                .allows(&[reading], &situation)
                .await
                .map_err(error::answer)?;
            if !allowed {
                return Err(denied(principal));
            }
            hides_absence(&self.0, &situation, bucket, key).await?
        };
        // What is not there can only be the source.
        request.extensions.remove::<Hidden>();
        if hides {
            request.extensions.insert(Hidden);
        }
        Ok(())
    }
}

/// Whether the one who asks may not know that there is no such object: he may not list it.
pub(super) async fn hides_absence(
    authority: &Authority,
    situation: &Situation<'_>,
    bucket: &str,
    key: &str,
) -> S3Result<bool> {
    if matches!(situation.principal, Principal::Root) {
        return Ok(false);
    }
    let mut listing = situation.clone();
    listing.list(key);
    let lists = authority.allows(&[Demand::listing(bucket)], &listing).await;
    Ok(!lists.map_err(error::answer)?)
}

/// Who asks, as [`Access::check`] found it.
pub(super) fn principal_of(extensions: &Extensions) -> S3Result<&Principal> {
    extensions
        .get::<Principal>()
        .ok_or_else(|| s3_error!(InternalError, "It is not known who asks."))
}

/// A header that changes what a request is and that its signer did not sign: whoever was handed a presigned URL, or sits on the way,
/// would choose it.
fn unsigned<'r>(uri: &Uri, headers: &'r HeaderMap) -> Option<&'r HeaderName> {
    let signed = if headers.contains_key(AUTHORIZATION) {
        Cow::Borrowed(signed_names(headers))
    } else {
        let pairs = uri
            .query()
            .unwrap_or("")
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let mut decoded = pairs.map(|(name, value)| (percent_decode_str(name), percent_decode_str(value)));
        let found = decoded.find(|(name, _)| name.clone().eq(b"X-Amz-SignedHeaders".iter().copied()));
        found.map_or(Cow::Borrowed(""), |(_, list)| list.decode_utf8_lossy())
    };
    headers.keys().find(|name| {
        // It is a part of the signature itself.
        let matters = name.as_str().starts_with("x-amz-") && name.as_str() != "x-amz-content-sha256";
        matters
            && !signed
                .split(';')
                .any(|signed| signed.eq_ignore_ascii_case(name.as_str()))
    })
}

/// Which way a request came.
pub(crate) struct Whence {
    origin: Option<Origin>,
    is_local: bool,
    by_rdma: bool,
}

impl Whence {
    pub fn of(extensions: &Extensions) -> Self {
        Self {
            origin: extensions.get().copied(),
            is_local: extensions.get::<Arc<Peer>>().is_some(),
            by_rdma: extensions.get::<Carried>().is_some(),
        }
    }

    /// Whether it came over TLS.
    pub fn by_tls(&self) -> bool {
        self.origin.is_some_and(|origin| origin.by_tls)
    }

    /// Whether what stands in its headers was seen by nobody on the way. Its bytes may go by RDMA nevertheless.
    pub fn keeps_secrets(&self, headers: &HeaderMap) -> bool {
        let in_the_open = headers.get(PASSED_ON).is_some_and(|by| by != "https");
        !in_the_open && (self.is_local || self.by_tls())
    }

    /// What is known of the request beside what it asks for.
    pub fn situation<'r>(
        &self,
        principal: &'r Principal,
        uri: &Uri,
        headers: &'r HeaderMap,
    ) -> Situation<'r> {
        let mut situation = Situation::of(principal).asked(uri.query(), headers);
        situation.address = self.origin.map(|origin| origin.address);
        // What RDMA moves is not encrypted.
        let by_rdma = self.by_rdma || headers.contains_key(TOKEN);
        situation.is_secure = !by_rdma && self.keeps_secrets(headers);
        situation
    }
}

/// The situation of a request that [`Access::check`] has let through.
pub(super) fn situation<'r, T>(principal: &'r Principal, request: &'r S3Request<T>) -> Situation<'r> {
    Whence::of(&request.extensions).situation(principal, &request.uri, &request.headers)
}

pub(super) fn denied(principal: &Principal) -> S3Error {
    match principal {
        Principal::Anonymous => s3_error!(
            AccessDenied,
            "The request is not signed; sign it with AWS Signature Version 4."
        ),
        Principal::Root => s3_error!(
            AccessDenied,
            "The bucket's policy denies this, to the root key too."
        ),
        Principal::Gateway => s3_error!(AccessDenied, "A gateway's key gives access to nothing by itself."),
        Principal::Key(key) => {
            let message = format!(
                "The key {:?} may not do this: neither its scopes nor the bucket's policy allow it, or the policy denies it.",
                key.name
            );
            error::coded("AccessDenied", StatusCode::FORBIDDEN, message)
        }
    }
}
