//! PUT and UploadPart.

use super::{Rdma, exchange::Outcome};
use crate::{
    Error, Policy, Result, Via,
    client::{Client, request::Request},
    fabric::Direction,
};
use bytes::Bytes;
use http::Response;

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
        let fill = |memory: &mut [u8]| memory[..bytes.len()].copy_from_slice(bytes);
        let (_loan, outcome) = self.exchange(request, bytes.len(), Direction::Read, fill).await;
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
            Outcome::Unavailable(error) | Outcome::NoSession(error) => Ok(Err(error)),
        }
    }
}
