//! Bytes by RDMA: the client of `s3rdma-rc-1` (`docs/protocol.md`).
//!
//! ```text
//!   get, put, upload_part ── read, write ── lanes ──┐   each rail in turn, the least used one first
//!   a gateway's: carry ─────────────────────────────┤
//!   get_into_memory, put_from_memory ───────────────┤── exchange: open a window, ask for it, close it or kill ── Sessions
//!                                                           └── slices: ask for parts of it, several at a time
//! ```
//! A token goes only to a server that has answered connect as the protocol says. Memory that was opened to it is touched
//! again only when the window is closed, or the queue pair dead.

mod arrivals;
mod carry;
mod connect;
mod exchange;
mod gpu;
mod judge;
mod lanes;
mod memory;
mod read;
mod sessions;
mod slices;
mod sum;
mod write;

pub use carry::RelayMemory;
pub(crate) use carry::{Carry, CarryOptions, Got, Put, Why};
pub(super) use gpu::Straight;

use super::Client;
use crate::fabric::Rails;
use crate::{Error, Policy, Result, Via, Way};
use lanes::Lanes;
use std::sync::Arc;

/// Bytes of one window of a GET. Enough of them are under way to hide a round trip, and one is small enough to be had.
const WINDOW: usize = 4 << 20;

/// The RDMA side of a client.
pub(super) struct Rdma {
    /// The same client without this side: what commands are sent with.
    plain: Client,
    lanes: Lanes,
}

impl Rdma {
    /// Nothing is sent and no memory registered yet.
    pub fn new(plain: Client, rails: Rails) -> Self {
        Self {
            lanes: Lanes::new(plain.clone(), rails),
            plain,
        }
    }
}

impl Client {
    /// The RDMA side, where there is a device and the policy allows it.
    pub(super) fn by_rdma(&self) -> Option<&Arc<Rdma>> {
        self.rdma.as_ref().filter(|rdma| rdma.lanes.exist())
    }

    /// Why there is no RDMA device here.
    fn no_device(&self) -> String {
        match &self.rdma {
            Some(rdma) => rdma.lanes.why_none(),
            None => "this end has no RDMA device".to_owned(),
        }
    }

    /// Whether bytes may go as an HTTP body, when they do not go by RDMA because of `why`.
    pub(super) fn by_http(&self, why: Option<Error>) -> Result<()> {
        if self.inner.options.policy != Policy::Require {
            if let Some(error) = why {
                tracing::debug!(%error, "bytes go as an HTTP body");
            }
            return Ok(());
        }
        Err(why.unwrap_or_else(|| {
            let device = self.no_device();
            self.no_fast_path(format!("no socket of it is known on this host, and {device}"))
        }))
    }

    /// Which way the bytes of large objects go now. Makes an RDMA session where there may be one and is none yet.
    ///
    /// # Errors
    /// When the storage node cannot be reached.
    pub async fn way(&self) -> Result<Way> {
        let http = |why: Option<String>| Way { via: Via::Http, why };
        let unserved = match self.is_local() {
            true => self.why_not_local().await,
            false => None,
        };
        if self.is_local() && unserved.is_none() {
            return Ok(Way {
                via: Via::Shm,
                why: None,
            });
        }
        let Some(rdma) = self.by_rdma() else {
            let wanted = self.inner.options.policy != Policy::Off;
            return Ok(http(wanted.then(|| unserved.unwrap_or_else(|| self.no_device()))));
        };
        match rdma.lanes.session().await {
            Ok(_) => Ok(Way {
                via: Via::Rdma,
                why: None,
            }),
            Err(Error::NoFastPath { cause, .. }) => Ok(http(Some(cause))),
            Err(error @ Error::Fabric(_)) => Ok(http(Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }

    /// Ends the RDMA sessions, so that the storage node need not wait for them to be idle. Requests make new ones.
    pub async fn disconnect(&self) {
        if let Some(rdma) = self.by_rdma() {
            rdma.lanes.end_all().await;
        }
    }
}
