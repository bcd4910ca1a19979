//! The sessions of a client over one rail, made when they are needed.

use super::{
    super::Client,
    connect::{NoSession, Session, connect, disconnect},
};
use crate::{Result, fabric::Device};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A server that does not speak the protocol is asked again after this.
const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);
/// One that has no session to give, or cannot be reached, after this.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Requests on one session before another one is made.
const FULL: usize = 4;

/// Until when no session is asked for, and why. What the server said holds for all rails.
#[derive(Default)]
pub(super) struct Refused(Mutex<Option<(Instant, String)>>);

impl Refused {
    fn set(&self, pause: Duration, cause: String) {
        *lock(&self.0) = Some((Instant::now() + pause, cause));
    }

    /// The server took a token and did not do what the protocol says.
    pub fn mistrust(&self, cause: &str) {
        self.set(UNSUPPORTED_FOR, cause.to_owned());
    }

    fn now(&self) -> Option<String> {
        let mut refused = lock(&self.0);
        if refused
            .as_ref()
            .is_some_and(|(until, _)| Instant::now() >= *until)
        {
            *refused = None;
        }
        refused.as_ref().map(|(_, cause)| cause.clone())
    }
}

pub(super) struct Sessions {
    plain: Client,
    device: Arc<dyn Device>,
    immediate: bool,
    sessions: Mutex<Vec<Arc<Session>>>,
    /// Held while a session is made, so that one is made at a time.
    connecting: tokio::sync::Mutex<()>,
    by_server: Arc<Refused>,
    /// What is wrong with this rail.
    here: Refused,
}

enum Pick {
    /// One with room for another request, or that must do.
    Good(Arc<Session>),
    /// One that has much to do; another one may be made.
    Full(Arc<Session>),
    None,
}

impl Sessions {
    /// With immediates for GETs or without.
    pub fn new(plain: Client, device: Arc<dyn Device>, by_server: Arc<Refused>, immediate: bool) -> Self {
        Self {
            plain,
            device,
            immediate,
            sessions: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            by_server,
            here: Refused::default(),
        }
    }

    /// A session that is alive: the least used one, or a new one. Who has one to use does not wait for another to be made.
    ///
    /// # Errors
    /// [`Error::NoFastPath`](crate::Error::NoFastPath), with the reason.
    pub async fn get(&self) -> Result<Arc<Session>> {
        let _turn = match self.pick() {
            Pick::Good(session) => return Ok(session),
            Pick::Full(session) => match self.connecting.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(session),
            },
            Pick::None => self.connecting.lock().await,
        };
        // One may have been made meanwhile.
        let least = match self.pick() {
            Pick::Good(session) => return Ok(session),
            Pick::Full(session) => Some(session),
            Pick::None => None,
        };
        match (self.connect().await, least) {
            (Ok(session), _) | (Err(_), Some(session)) => Ok(session),
            (Err(error), None) => Err(error),
        }
    }

    fn pick(&self) -> Pick {
        let mut sessions = lock(&self.sessions);
        let dead: Vec<_> = sessions.extract_if(.., |session| !session.is_alive()).collect();
        let least = sessions.iter().min_by_key(|session| Arc::strong_count(session));
        let Some(session) = least.cloned() else {
            return Pick::None;
        };
        // One count is the table's, one is `session`.
        let used = Arc::strong_count(&session).saturating_sub(2);
        let enough = sessions.len() >= self.plain.inner.options.rdma_sessions;
        drop(sessions);
        drop(dead);
        if used < FULL || enough {
            Pick::Good(session)
        } else {
            Pick::Full(session)
        }
    }

    async fn connect(&self) -> Result<Arc<Session>> {
        if let Some(cause) = self.by_server.now().or_else(|| self.here.now()) {
            return Err(self.plain.no_fast_path(cause));
        }
        let (pause, cause) = match connect(&self.plain, &self.device, self.immediate).await {
            Ok(session) => {
                let session = Arc::new(session);
                lock(&self.sessions).push(Arc::clone(&session));
                return Ok(session);
            }
            Err(NoSession::Unsupported(cause)) => (
                UNSUPPORTED_FOR,
                format!("it offers no RDMA ({cause}); it is asked again in a minute"),
            ),
            Err(NoSession::Busy(error)) => (BUSY_FOR, error.to_string()),
            Err(NoSession::Failed(error)) => {
                self.here.set(BUSY_FOR, error.to_string());
                return Err(error);
            }
        };
        tracing::info!(endpoint = %self.plain.inner.endpoint, cause, "no RDMA session");
        self.by_server.set(pause, cause.clone());
        Err(self.plain.no_fast_path(cause))
    }

    /// Kills all, without telling the server.
    pub fn kill_all(&self) {
        for session in std::mem::take(&mut *lock(&self.sessions)) {
            drop(session.queue_pair.kill());
        }
    }

    /// Ends all, and waits until the storage node knows.
    pub async fn end_all(&self) {
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        for session in sessions {
            session.queue_pair.kill().await;
            if let Err(error) = disconnect(&self.plain, session.id).await {
                tracing::debug!(%error, ?session, "the storage node was not told that a session ended");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
