//! The sessions of a client, made when they are needed.

use super::{
    super::Client,
    connect::{NoSession, Session, connect, disconnect},
};
use crate::{Result, fabric::Device};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// A server that does not speak the protocol is asked again after this.
const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);
/// One that has no session to give, or cannot be reached, after this.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Requests on one session before another one is made.
const FULL: usize = 4;

pub(super) struct Sessions {
    plain: Client,
    device: Arc<dyn Device>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: Vec<Arc<Session>>,
    /// Until when no session is asked for, and why.
    refused: Option<(Instant, String)>,
}

impl Sessions {
    pub fn new(plain: Client, device: Arc<dyn Device>) -> Self {
        Self {
            plain,
            device,
            state: Mutex::default(),
        }
    }

    /// A session that is alive: the least used one, or a new one.
    ///
    /// # Errors
    /// [`Error::NoFastPath`], with the reason.
    pub async fn get(&self) -> Result<Arc<Session>> {
        let mut state = self.state.lock().await;
        state.sessions.retain(|session| session.is_alive());
        let least = state
            .sessions
            .iter()
            .min_by_key(|session| Arc::strong_count(session))
            .cloned();
        if let Some(session) = &least {
            // One count is the table's, one is `session`.
            let used = Arc::strong_count(session).saturating_sub(2);
            if used < FULL || state.sessions.len() >= self.plain.inner.options.rdma_sessions {
                return Ok(Arc::clone(session));
            }
        }
        match (self.connect(&mut state).await, least) {
            (Ok(session), _) | (Err(_), Some(session)) => Ok(session),
            (Err(error), None) => Err(error),
        }
    }

    async fn connect(&self, state: &mut State) -> Result<Arc<Session>> {
        if let Some((until, cause)) = &state.refused
            && Instant::now() < *until
        {
            return Err(self.plain.no_fast_path(cause.clone()));
        }
        state.refused = None;
        let (pause, cause) = match connect(&self.plain, &self.device).await {
            Ok(session) => {
                let session = Arc::new(session);
                state.sessions.push(Arc::clone(&session));
                return Ok(session);
            }
            Err(NoSession::Unsupported(cause)) => (
                UNSUPPORTED_FOR,
                format!("it offers no RDMA ({cause}); it is asked again in a minute"),
            ),
            Err(NoSession::Busy(error)) => (BUSY_FOR, error.to_string()),
            Err(NoSession::Failed(error)) => {
                state.refused = Some((Instant::now() + BUSY_FOR, error.to_string()));
                return Err(error);
            }
        };
        tracing::info!(endpoint = %self.plain.inner.endpoint, cause, "no RDMA session");
        state.refused = Some((Instant::now() + pause, cause.clone()));
        Err(self.plain.no_fast_path(cause))
    }

    /// The server took a token and did not do what the protocol says: it gets no other for a while.
    pub async fn mistrust(&self, cause: &str) {
        let mut state = self.state.lock().await;
        for session in state.sessions.drain(..) {
            drop(session.queue_pair.kill());
        }
        state.refused = Some((Instant::now() + UNSUPPORTED_FOR, cause.to_owned()));
    }

    /// Ends all, and waits until the storage node knows.
    pub async fn end_all(&self) {
        let sessions = std::mem::take(&mut self.state.lock().await.sessions);
        for session in sessions {
            session.queue_pair.kill().await;
            if let Err(error) = disconnect(&self.plain, session.id).await {
                tracing::debug!(%error, ?session, "the storage node was not told that a session ended");
            }
        }
    }
}
