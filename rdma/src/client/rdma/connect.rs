//! Connect and disconnect.

use super::{
    super::{
        Client,
        request::{Repeat, Request},
    },
    arrivals::Arrivals,
};
use crate::{
    Error, Result,
    fabric::{Connection, Device, QueuePair},
    protocol::{CONNECT, DISCONNECT, Grant, NAME, Offer, ParseError, Psn, QpToken, SessionId, code, header},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Windows that may be open on one queue pair.
const QUEUE_DEPTH: u16 = 128;

/// A connected queue pair, and the name that the storage node knows it by.
pub(super) struct Session {
    pub id: SessionId,
    pub queue_pair: Arc<dyn QueuePair>,
    pub grant: Grant,
    /// Where the last WRITE of a GET carries an immediate.
    pub arrivals: Option<Arrivals>,
    /// The storage node's.
    pub plain: Client,
    sequence: AtomicU64,
}

/// Why there is no session.
pub(super) enum NoSession {
    /// The server does not speak the protocol, or not now. It is not asked again for a while, and never sent a token.
    Unsupported(String),
    /// The server has as many sessions as it may have.
    Busy(Error),
    /// It cannot be reached, or this end cannot.
    Failed(Error),
}

impl Session {
    /// The next sequence number.
    pub fn sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    pub fn is_alive(&self) -> bool {
        self.queue_pair.is_alive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for Session {
    /// Tells the storage node, which would else keep its end until it is idle for long.
    fn drop(&mut self) {
        let (plain, id) = (self.plain.clone(), self.id);
        // Outside a runtime there is nothing to send with.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = disconnect(&plain, id).await {
                    tracing::debug!(%error, session = ?id, "the storage node was not told that a session ended");
                }
            });
        }
    }
}

/// Ends a session on the storage node; it need not be there any more.
pub(super) async fn disconnect(plain: &Client, id: SessionId) -> Result<()> {
    let mut request = command(DISCONNECT);
    insert(&mut request.headers, header::SESSION, &id.encode());
    plain.send_once(&request).await.map_err(|failure| failure.error)?;
    Ok(())
}

/// Makes a queue pair, and a session of it, in which GETs end with an immediate if `immediate` says so.
pub(super) async fn connect(
    plain: &Client,
    device: &Arc<dyn Device>,
    immediate: bool,
) -> std::result::Result<Session, NoSession> {
    if !device.is_active() {
        let cause = format!("the port of RDMA device {} is down", device.info().name);
        return Err(NoSession::Failed(plain.no_fast_path(cause)));
    }
    let made = {
        let device = Arc::clone(device);
        tokio::task::spawn_blocking(move || device.queue_pair(QUEUE_DEPTH)).await
    };
    let queue_pair = made
        .map_err(|error| NoSession::Failed(Error::Invalid(format!("no queue pair was made: {error}"))))?
        .map_err(|error| NoSession::Failed(error.into()))?;
    let info = device.info();
    let offer = Offer {
        mtu: info.mtu,
        read_depth: info.read_depth.max(1),
        // Host memory is coherent: there the answer alone says that the bytes are there.
        immediate,
    };
    let psn = Psn::random();
    let mut request = command(CONNECT);
    for (name, value) in [
        (header::PROTOCOL, NAME.to_owned()),
        (header::TOKEN, QpToken(queue_pair.address()).encode()),
        (header::PSN, psn.encode()),
        (header::CAPS, offer.encode()),
    ] {
        insert(&mut request.headers, name, &value);
    }
    let response = match plain.send_once(&request).await {
        Ok(response) => response,
        Err(failure) => return Err(refused(failure.error)),
    };
    let connected = Connected::parse(response.status(), response.headers(), &offer)
        .map_err(|error| NoSession::Unsupported(error.to_string()))?;
    let mut session = Session {
        id: connected.session,
        queue_pair,
        grant: connected.grant,
        arrivals: None,
        sequence: AtomicU64::new(1),
        plain: plain.clone(),
    };
    let connection = Connection {
        peer: connected.peer.0,
        local_psn: psn.number(),
        peer_psn: connected.psn.number(),
        mtu: connected.grant.mtu,
        read_depth: connected.grant.read_depth,
    };
    session
        .queue_pair
        .connect(&connection)
        .map_err(|error| NoSession::Failed(error.into()))?;
    session.arrivals = immediate.then(|| Arrivals::of(&session.queue_pair));
    tracing::debug!(?session, grant = ?session.grant, "connected by RDMA");
    Ok(session)
}

fn refused(error: Error) -> NoSession {
    match &error {
        Error::Refused { code, .. } if code == code::SLOW_DOWN => NoSession::Busy(error),
        // Of this moment: a proxy without its server, a node that fails.
        Error::Refused {
            status: 500 | 502..=504,
            ..
        } => NoSession::Busy(error),
        Error::Refused { .. } => NoSession::Unsupported(error.to_string()),
        _ => NoSession::Failed(error),
    }
}

/// What a server of ours answers.
struct Connected {
    session: SessionId,
    peer: QpToken,
    psn: Psn,
    grant: Grant,
}

impl Connected {
    fn parse(
        status: StatusCode,
        headers: &HeaderMap,
        offer: &Offer,
    ) -> std::result::Result<Self, ParseError> {
        let wrong = |field, cause| ParseError { field, cause };
        let text = |name: &HeaderName, field| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .ok_or(wrong(field, "is missing from the answer to connect"))
        };
        if status != StatusCode::OK {
            return Err(wrong("the status of the answer to connect", "is not 200"));
        }
        if text(&header::PROTOCOL, "x-amz-rdma-protocol")? != NAME {
            return Err(wrong("x-amz-rdma-protocol", "names another protocol"));
        }
        let grant = Grant::parse(text(&header::CAPS, "x-amz-rdma-caps")?)?;
        if grant.mtu > offer.mtu || grant.read_depth > offer.read_depth || grant.immediate != offer.immediate
        {
            return Err(wrong("x-amz-rdma-caps", "grants what was not offered"));
        }
        Ok(Self {
            session: SessionId::parse(text(&header::SESSION, "x-amz-rdma-session")?)?,
            peer: QpToken::parse_reply(text(&header::REPLY, "x-amz-rdma-reply")?)?,
            psn: Psn::parse(text(&header::PSN, "x-amz-rdma-psn")?)?,
            grant,
        })
    }
}

fn command(path: &str) -> Request {
    Request {
        path_and_query: path.to_owned(),
        repeat: Repeat::Unperformed,
        ..Request::service(Method::POST)
    }
}

/// For values that are printable ASCII by their making.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(mut value) = HeaderValue::from_str(value) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}
