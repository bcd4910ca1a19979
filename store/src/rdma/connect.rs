//! The paths below `/.s3rdma-rc`, and `POST` of `connect` and `disconnect` among them.

use super::{
    Plane, Rdma, Refusal,
    refusal::Limit,
    request::{check_signed, text},
};
use crate::s3::note_operation;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use penstock_rdma::{
    admin,
    fabric::{Connection, Device, QueuePair, Rail},
    protocol::{
        CONNECT, DISCONNECT, Grant, NAME, Offer, Psn, QpToken, READ, RELEASE, RESERVED, SessionId, header,
    },
};
use s3s::{
    Body, S3Request, S3Response, S3Result, s3_error,
    validation::{AwsNameValidation, NameValidation},
};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Names of buckets, and those that are reserved for paths that are no bucket's: s3s would refuse them before they come here.
pub(crate) struct Names(AwsNameValidation);

impl Names {
    pub fn new() -> Self {
        Self(AwsNameValidation::new())
    }
}

impl NameValidation for Names {
    fn validate_bucket_name(&self, name: &str) -> bool {
        name == RESERVED || name == admin::RESERVED || self.0.validate_bucket_name(name)
    }
}

impl Rdma {
    /// Everything below `/.s3rdma-rc`. The signature was checked before, and there is one.
    pub(crate) async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let owner = request
            .credentials
            .as_ref()
            .map(|credentials| credentials.access_key.clone())
            .unwrap_or_default();
        let rdma = self;
        match request.uri.path() {
            _ if request.method != Method::POST => Err(s3_error!(MethodNotAllowed)),
            CONNECT => {
                note_operation("RdmaConnect");
                rdma.connect(&request.headers, &owner)
                    .await
                    .map_err(|refusal| rdma.refused(refusal).answer())
            }
            DISCONNECT => {
                note_operation("RdmaDisconnect");
                rdma.disconnect(&request.headers, &owner)
                    .await
                    .map_err(|refusal| rdma.refused(refusal).answer())
            }
            READ => {
                note_operation("RdmaRead");
                // Refusals of the transfer itself are counted there.
                rdma.read(&request.headers, &owner)
                    .await
                    .map_err(|refusal| refusal.answer())
            }
            RELEASE => {
                note_operation("RdmaRelease");
                rdma.release(&request.headers, &owner)
                    .map_err(|refusal| rdma.refused(refusal).answer())
            }
            _ => Err(s3_error!(MethodNotAllowed)),
        }
    }

    /// Ends the sessions of an access key that gives access to nothing any more.
    pub(crate) async fn end_sessions_of(&self, owner: &str) {
        if let Some(plane) = &self.plane {
            plane.sessions.end_all_of(owner).await;
        }
    }

    async fn connect(&self, headers: &HeaderMap, owner: &str) -> Result<S3Response<Body>, Refusal> {
        check_signed(headers)?;
        let plane = self.plane.as_ref().ok_or(Refusal::Unsupported)?;
        if headers.get(header::PROTOCOL).is_none_or(|name| name != NAME) {
            return Err(Refusal::Unsupported);
        }
        let peer = QpToken::parse(text(headers, &header::TOKEN, "x-amz-rdma-token")?)?.0;
        let peer_psn = Psn::parse(text(headers, &header::PSN, "x-amz-rdma-psn")?)?;
        let offer = match headers.get(header::CAPS) {
            None => Offer::default(),
            Some(_) => Offer::parse(text(headers, &header::CAPS, "x-amz-rdma-caps")?)?,
        };
        let chosen = plane.sessions.rail_for(&peer)?;
        let place = if self.is_gateway(owner) {
            plane.sessions.reserve_for_gateway(owner)?
        } else {
            plane.sessions.reserve(owner)?
        };
        let grant = plane.grant(&chosen.rail, offer);
        let psn = Psn::random();
        let connection = Connection {
            peer,
            local_psn: psn.number(),
            peer_psn: peer_psn.number(),
            mtu: grant.mtu,
            read_depth: grant.read_depth,
        };
        let device = Arc::clone(chosen.rail.device());
        // Drivers talk to their devices here, which takes milliseconds.
        let made = spawn_blocking(move || make(&*device, &connection)).await;
        let queue_pair = made.map_err(|_| Refusal::Busy(Limit::QueuePairs))??;
        let ours = QpToken(queue_pair.address());
        let session = plane
            .sessions
            .add(place, owner, chosen, queue_pair, grant, (peer, peer_psn))?;
        tracing::debug!(?session, ?peer, ?grant, "an RDMA session begins");
        let mut answer = S3Response::new(Body::empty());
        for (name, value) in [
            (header::PROTOCOL, NAME.to_owned()),
            (header::SESSION, session.encode()),
            (header::REPLY, ours.encode_reply()),
            (header::PSN, psn.encode()),
            (header::CAPS, grant.encode()),
        ] {
            if let Ok(mut value) = HeaderValue::from_str(&value) {
                // Not for logs.
                value.set_sensitive(name != header::CAPS && name != header::PROTOCOL);
                answer.headers.insert(name, value);
            }
        }
        Ok(answer)
    }

    async fn disconnect(&self, headers: &HeaderMap, owner: &str) -> Result<S3Response<Body>, Refusal> {
        check_signed(headers)?;
        let session = SessionId::parse(text(headers, &header::SESSION, "x-amz-rdma-session")?)?;
        if let Some(plane) = &self.plane {
            plane.sessions.end_of(session, owner).await;
        }
        Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
    }
}

impl Plane {
    fn grant(&self, rail: &Rail, offer: Offer) -> Grant {
        let device = rail.device().info();
        Grant {
            mtu: offer.mtu.min(device.mtu),
            read_depth: offer.read_depth.min(device.read_depth).max(1),
            immediate: offer.immediate,
            max: u32::MAX,
            idle: self.limits.idle,
            operation: self.limits.operation,
        }
    }
}

/// Operations that may be under way on one queue pair. Requests of a session share it.
const QUEUE_DEPTH: u16 = 128;

fn make(device: &dyn Device, connection: &Connection) -> Result<Arc<dyn QueuePair>, Refusal> {
    let queue_pair = device.queue_pair(QUEUE_DEPTH).map_err(|error| {
        tracing::warn!(%error, "an RDMA session was refused");
        Refusal::Busy(Limit::QueuePairs)
    })?;
    queue_pair.connect(connection).map_err(Refusal::Peer)?;
    Ok(queue_pair)
}
