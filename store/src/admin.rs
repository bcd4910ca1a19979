//! The administrator's side of a storage node: keys, quotas, backups, how much there is. Below `/.penstock/v1` of the S3 address, signed
//! as S3 requests are, with the root key; the documents are in [`penstock_rdma::admin`].

mod backups;

use crate::{
    access::{KeyError, KeyRing, Principal},
    backups::Backups,
    engine::{self, BucketChange, Engine},
    local::Local,
    rdma::Rdma,
    s3::{Whence, note_operation, refusal, to_its_end},
    scrub::Scrub,
};
use http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use penstock_rdma::admin::{BASE, BucketStats, KeyList, KeyRequest, Quota, Stats};
use percent_encoding::percent_decode_str;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result, s3_error};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// A hundred scopes with the longest prefixes take this much.
const LARGEST: usize = 256 << 10;

/// What an administrator works on. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Admin {
    ring: Arc<KeyRing>,
    local: Local,
    scrub: Option<Scrub>,
    backups: Option<Backups>,
}

impl Admin {
    /// Of the node that keeps its objects in `local`.
    pub fn new(ring: Arc<KeyRing>, local: Local) -> Self {
        Self {
            ring,
            local,
            scrub: None,
            backups: None,
        }
    }

    /// With what looks at everything that is stored.
    #[must_use]
    pub fn scrubbing(self, scrub: Scrub) -> Self {
        Self {
            scrub: Some(scrub),
            ..self
        }
    }

    /// With a place for backups.
    #[must_use]
    pub fn backing_up(self, backups: Option<Backups>) -> Self {
        Self { backups, ..self }
    }

    pub(crate) fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring)
    }

    /// Answers a request of the root key below `/.penstock`.
    pub(crate) async fn call(&self, rdma: &Rdma, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let path = request.uri.path().to_owned();
        let rest = path.strip_prefix(BASE).and_then(|rest| rest.strip_prefix('/'));
        let (what, name) = match rest.map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
            Some((what, name)) => (what, percent_decode_str(name).decode_utf8_lossy().into_owned()),
            None => return Err(unknown_path()),
        };
        match (&request.method, what, name.as_str()) {
            (&Method::POST, "keys", "") => {
                note_operation("AdminCreateKey");
                let wanted: KeyRequest = document(request).await?;
                let ring = self.ring();
                let made = to_its_end(async move { ring.create(wanted).await }).await?;
                let made = made.map_err(key_error)?;
                tracing::info!(key = %made.info.access_key_id, name = %made.info.name, "a key was made");
                answer(StatusCode::CREATED, &made)
            }
            (&Method::GET, "keys", "") => {
                note_operation("AdminListKeys");
                let keys = self.ring.list();
                answer(StatusCode::OK, &KeyList { keys })
            }
            (&Method::DELETE, "keys", key) if !key.is_empty() => {
                note_operation("AdminRevokeKey");
                let (ring, rdma, named) = (self.ring(), rdma.clone(), key.to_owned());
                let revoked = to_its_end(async move {
                    let revoked = ring.revoke(&named).await?;
                    if revoked {
                        rdma.end_sessions_of(&named).await;
                    }
                    Ok(revoked)
                });
                if !revoked.await?.map_err(key_error)? {
                    let message = format!("There is no key {key:?}.");
                    return Err(refusal("NoSuchKey", StatusCode::NOT_FOUND, message));
                }
                tracing::info!(%key, "a key was revoked");
                Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
            }
            (&Method::GET, "stats", "") => {
                note_operation("AdminStats");
                let stats = self.stats().await.map_err(crate::s3::engine_error)?;
                answer(StatusCode::OK, &stats)
            }
            (&Method::POST, "scrub", "") => {
                note_operation("AdminStartScrub");
                if !self.scrub()?.ask() {
                    let message = "Everything is being looked at already.";
                    return Err(refusal("ScrubInProgress", StatusCode::CONFLICT, message));
                }
                Ok(S3Response::with_status(Body::empty(), StatusCode::ACCEPTED))
            }
            (&Method::GET, "scrub", "") => {
                note_operation("AdminScrubStatus");
                answer(StatusCode::OK, &self.scrub()?.told())
            }
            (&Method::PUT, "quotas", bucket) if !bucket.is_empty() => {
                note_operation("AdminSetQuota");
                let bucket = bucket.to_owned();
                let quota: Quota = document(request).await?;
                let changed = self
                    .local
                    .change_bucket(&bucket, BucketChange::Quota(quota.bytes))
                    .await;
                changed.map_err(crate::s3::engine_error)?;
                tracing::info!(%bucket, bytes = quota.bytes, "a quota was set");
                Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
            }
            (_, "backups", name) => backups::call(self.backups()?, name, request).await,
            (_, "keys" | "stats" | "scrub" | "quotas", _) => Err(s3_error!(MethodNotAllowed)),
            _ => Err(unknown_path()),
        }
    }

    fn scrub(&self) -> S3Result<&Scrub> {
        self.scrub
            .as_ref()
            .ok_or_else(|| s3_error!(NotImplemented, "This storage node does not scrub."))
    }

    fn backups(&self) -> S3Result<&Backups> {
        self.backups.as_ref().ok_or_else(|| {
            s3_error!(
                NotImplemented,
                "This storage node has no place for backups; start it with --backups."
            )
        })
    }

    async fn stats(&self) -> engine::Result<Stats> {
        let used = self.local.usage_of_buckets().await?;
        let buckets = self.local.buckets().await?.into_iter().map(|bucket| {
            let (objects, bytes) = used.get(&bucket.name).copied().unwrap_or_default();
            let quota = bucket.quota;
            let stats = BucketStats {
                objects,
                bytes,
                quota,
            };
            (bucket.name, stats)
        });
        let buckets = buckets.collect();
        let usage = self.local.usage().map_err(|error| engine::Error::Internal {
            doing: "asked the disk for its free space",
            source: error.into(),
        })?;
        Ok(Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            objects: usage.objects,
            bytes: usage.bytes,
            disk_free: Some(usage.disk_free),
            disk_size: Some(usage.disk_size),
            buckets,
        })
    }
}

fn unknown_path() -> S3Error {
    s3_error!(
        MethodNotAllowed,
        "Below /.penstock/v1 there are backups, keys, quotas, scrub and stats."
    )
}

/// The document that a request carries. Its signature has to be of it, as nothing else proves whose it is over plain HTTP.
async fn document<T: DeserializeOwned>(mut request: S3Request<Body>) -> S3Result<T> {
    let body = std::mem::replace(&mut request.input, Body::empty());
    let bytes = match Limited::new(body, LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err(s3_error!(InvalidRequest, "The document cannot be read: {error}")),
    };
    let told = request
        .headers
        .get("x-amz-content-sha256")
        .map(HeaderValue::as_bytes);
    let is_unsigned = told == Some(b"UNSIGNED-PAYLOAD");
    let whence = Whence::of(&request.extensions);
    let is_secure = whence
        .situation(&Principal::Root, &request.uri, &request.headers)
        .is_secure;
    let sum = hex::encode(Sha256::digest(&bytes));
    let is_theirs = told.is_some_and(|told| bool::from(told.ct_eq(sum.as_bytes())));
    if !(is_theirs || is_unsigned && is_secure) {
        return Err(refusal(
            "XAmzContentSHA256Mismatch",
            StatusCode::BAD_REQUEST,
            "The x-amz-content-sha256 header has to be the SHA-256 of the document.",
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("The document is not what it has to be: {error}.");
        refusal("InvalidRequest", StatusCode::BAD_REQUEST, message)
    })
}

fn answer(status: StatusCode, document: &impl Serialize) -> S3Result<S3Response<Body>> {
    let text = serde_json::to_vec(document).map_err(|error| s3_error!(error, InternalError))?;
    let mut answer = S3Response::with_status(Body::from(text), status);
    answer
        .headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn key_error(error: KeyError) -> S3Error {
    let message = error.to_string();
    match error {
        KeyError::Invalid(_) => refusal("InvalidRequest", StatusCode::BAD_REQUEST, message),
        KeyError::NameTaken(_) => refusal("KeyAlreadyExists", StatusCode::CONFLICT, message),
        KeyError::NotKept => s3_error!(NotImplemented, "This storage node keeps no keys."),
        KeyError::Sealed(_) => s3_error!(InternalError, "A key cannot be opened."),
        KeyError::Engine(error) => crate::s3::engine_error(error),
    }
}
