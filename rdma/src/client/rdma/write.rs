//! PUT and UploadPart.

use super::{Rdma, exchange::Outcome};
use crate::{
    Error, Policy, Result, Via,
    client::{Client, request::Request},
    fabric::{Direction, Memory, Pages, Purpose, Slot},
};
use bytes::Bytes;
use http::Response;
use std::sync::Arc;

/// Memory for one PUT, and its place in the pool if it comes from there.
type Loan = (Memory, Option<Slot>);

impl Client {
    /// Sends a request that writes `bytes`, by the best way there is; returns its answer, and which way that was.
    pub(in super::super) async fn send_bytes(
        &self,
        request: Request,
        bytes: Bytes,
    ) -> Result<(Response<()>, Via)> {
        if let Some(response) = self.hand_bytes(&request, &bytes).await? {
            return Ok((response, Via::Shm));
        }
        let small = (bytes.len() as u64) < self.inner.options.rdma_threshold
            && self.inner.options.policy == Policy::Prefer;
        // Nothing has no way to go.
        if !bytes.is_empty() && !small {
            match self.by_rdma() {
                Some(rdma) => match rdma.send_bytes(&request, &bytes).await? {
                    Ok(response) => return Ok((response, Via::Rdma)),
                    Err(error) => self.by_http(Some(error))?,
                },
                None => self.by_http(None)?,
            }
        }
        let (response, _) = self.fetch(&request.body(bytes)).await?;
        Ok((response, Via::Http))
    }
}

impl Rdma {
    /// The inner error says why the bytes did not go this way, and may go another one.
    async fn send_bytes(
        &self,
        request: &Request,
        bytes: &Bytes,
    ) -> Result<std::result::Result<Response<()>, Error>> {
        let (mut memory, slot) = match self.loan(bytes.len()).await {
            Ok(loan) => loan,
            Err(error) => return Ok(Err(error)),
        };
        memory[..bytes.len()].copy_from_slice(bytes);
        let (memory, outcome) = self
            .perform(request, memory, 0..bytes.len(), Direction::Read)
            .await;
        drop(slot.map(|slot| slot.put_back(memory)));
        match outcome? {
            Outcome::Moved(answer) => {
                let mut response = Response::new(());
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                Ok(Ok(response))
            }
            Outcome::Declined(_) => Ok(Err(self
                .plain
                .no_fast_path("it takes these bytes as an HTTP body only"))),
            Outcome::TooSmall { .. } => Err(self
                .plain
                .malformed("it found a PUT too large for its own window")),
            Outcome::Unavailable(error) => Ok(Err(error)),
        }
    }

    /// Memory that holds `length` bytes: of the pool where its chunks do, else registered for this one write.
    async fn loan(&self, length: usize) -> Result<Loan> {
        if length <= self.parts.chunk() {
            let (memory, slot) = self.parts.take().await?.into_memory();
            return Ok((memory, Some(slot)));
        }
        Ok((self.register(length).await?, None))
    }

    pub(super) async fn register(&self, length: usize) -> Result<Memory> {
        let device = Arc::clone(&self.device);
        let registered = tokio::task::spawn_blocking(move || {
            let pages = Pages::new(length).map_err(|error| {
                Error::Invalid(format!("{length} bytes of memory cannot be had: {error}"))
            })?;
            Ok(device.register(pages, Purpose::Windows)?)
        });
        registered
            .await
            .unwrap_or_else(|error| Err(Error::Invalid(format!("memory was not registered: {error}"))))
    }
}
