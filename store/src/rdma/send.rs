//! GET: from the disk through staging into the client's window, two chunks at a time.

use super::{
    Rdma, Refusal,
    request::Tokened,
    transfer::{CHUNK, Stopped, Transfer, free},
};
use crate::engine::Opened;
use crc_fast::{CrcAlgorithm, Digest};
use http::{HeaderMap, HeaderValue};
use penstock_rdma::{
    Via,
    fabric::{Pooled, Remote, Window},
    protocol::{Checksum, header},
};
use std::{io, io::Read, ops::Range};
use tokio::task::spawn_blocking;

/// What was written into a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub bytes: u64,
    pub crc64nvme: u64,
}

impl Delivered {
    /// The headers of the answer; `status` is its own.
    pub fn headers(&self, status: u16, object: Option<u64>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::REPLY, HeaderValue::from(status));
        headers.insert(header::BYTES, HeaderValue::from(self.bytes));
        let checksums = [
            (header::CHECKSUM, Some(self.crc64nvme)),
            (header::OBJECT_CHECKSUM, object),
        ];
        for (name, crc) in checksums {
            if let Some(value) = crc.and_then(|crc| Checksum(crc).encode().parse().ok()) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

impl Rdma {
    /// Whether a GET with a token can be tried; else its bytes go as a body.
    pub(crate) fn delivers(&self) -> bool {
        self.plane.is_some()
    }

    /// Writes the bytes of an opened object into the window of the request. [`Refusal::NotSupported`] says that they can
    /// go as a body.
    ///
    /// A caller that goes away stops it: what is under way ends, nothing new begins.
    pub(crate) async fn deliver(&self, request: &Tokened, opened: Opened) -> Result<Delivered, Refusal> {
        let delivered = self.try_deliver(request, opened).await;
        match delivered {
            Ok(delivered) => {
                self.metrics.sent(Via::Rdma, delivered.bytes);
                Ok(delivered)
            }
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    async fn try_deliver(&self, request: &Tokened, opened: Opened) -> Result<Delivered, Refusal> {
        let plane = self.plane.as_ref().ok_or(Refusal::NotSupported)?;
        let token = request.token;
        let lease = plane
            .sessions
            .admit(token.session, &request.owner, request.sequence)?;
        let needed = opened.range.end - opened.range.start;
        if needed > u64::from(token.window.size) {
            return Err(Refusal::WindowTooSmall {
                needed,
                size: token.window.size,
            });
        }
        if needed == 0 {
            return Ok(Delivered {
                bytes: 0,
                crc64nvme: Digest::new(CrcAlgorithm::Crc64Nvme).finalize(),
            });
        }
        let staging = plane.staging(&lease.session.rail);
        let first = free(&staging, plane.limits.patience).await?;
        let immediate = lease.session.grant.immediate;
        let mut transfer = Transfer::new(lease, plane.sessions.clone(), staging);
        let client_gone = transfer.stop.clone().drop_guard();
        let source = Source {
            reader: opened.reader,
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
            left: needed,
        };
        let window = token.window;
        // The low bits, as RFC 9293 has for its own numbers; a client has few requests under way.
        let immediate = immediate.then_some((request.sequence & u64::from(u32::MAX)) as u32);
        // A task of its own, so that what is under way is drained even if this request's future is dropped.
        let pumped = tokio::spawn(async move {
            let outcome = pump(&mut transfer, source, first, window, immediate).await;
            transfer.drain().await;
            outcome
        });
        let outcome = pumped.await;
        drop(client_gone);
        match outcome {
            Ok(Ok(crc64nvme)) => Ok(Delivered {
                bytes: needed,
                crc64nvme,
            }),
            Ok(Err(Stopped::Refused(refusal))) => Err(refusal),
            Ok(Err(Stopped::Gone)) => Err(Refusal::Read),
            Err(error) => {
                tracing::error!(%error, "a transfer by RDMA broke off");
                Err(Refusal::Read)
            }
        }
    }
}

/// Writes it all; returns the checksum of what was written. Operations may still be under way afterwards.
async fn pump(
    transfer: &mut Transfer,
    mut source: Source,
    first: Pooled,
    window: Window,
    immediate: Option<u32>,
) -> Result<u64, Stopped> {
    let mut chunk = first;
    let mut offset = 0;
    loop {
        let filled = spawn_blocking(move || {
            let filled = source.fill(&mut chunk);
            (source, chunk, filled)
        });
        let Ok((returned, filled_chunk, filled)) = filled.await else {
            return Err(Stopped::Refused(Refusal::Read));
        };
        (source, chunk) = (returned, filled_chunk);
        let filled = filled.map_err(|error| {
            tracing::error!(%error, "an object could not be read");
            Stopped::Refused(Refusal::Read)
        })?;
        if transfer.stop.is_cancelled() {
            return Err(Stopped::Gone);
        }
        let to = Remote {
            address: window.address + offset,
            rkey: window.rkey,
        };
        offset += filled.end as u64;
        let last = source.left == 0;
        transfer.write(chunk, filled.end, to, immediate.filter(|_| last));
        if last {
            break;
        }
        chunk = transfer.chunk().await?.into_memory();
    }
    // The reply may leave only after the last completion succeeded.
    while transfer.next().await?.is_some() {}
    Ok(source.digest.finalize())
}

struct Source {
    reader: Box<dyn Read + Send>,
    digest: Digest,
    left: u64,
}

impl Source {
    /// Fills a chunk, as far as there are bytes; returns which part of it. Blocks.
    fn fill(&mut self, chunk: &mut [u8]) -> io::Result<Range<usize>> {
        let length = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        let piece = &mut chunk[..length];
        self.reader.read_exact(piece)?;
        self.digest.update(piece);
        self.left -= length as u64;
        // The end itself may be an error: a checksum that is compared only there.
        if self.left == 0 && self.reader.read(&mut [0])? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an object is longer than its range",
            ));
        }
        Ok(0..length)
    }
}
