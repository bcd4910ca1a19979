//! GET: from the disk through staging into the client's window, two chunks at a time: while one is on its way, the other one is
//! filled.

use super::{
    Rdma, Refusal,
    request::Tokened,
    transfer::{CHUNK, Stopped, Transfer, free},
};
use crate::engine::{Opened, Summed};
use crc_fast::{CrcAlgorithm, Digest};
use http::{HeaderMap, HeaderValue};
use penstock_rdma::{
    Via,
    fabric::{Pooled, Remote, Window},
    protocol::{Checksum, header},
};
use std::io;
use tokio::task::{JoinHandle, spawn_blocking};

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
    source: Source,
    first: Pooled,
    window: Window,
    immediate: Option<u32>,
) -> Result<u64, Stopped> {
    let (mut offset, mut unasked) = (0, source.left.saturating_sub(CHUNK as u64));
    let mut disk = Disk::Filling(fill(source, first));
    // Waits for the disk.
    let mut spare: Option<Pooled> = None;
    loop {
        let held = usize::from(disk.is_filling()) + usize::from(spare.is_some());
        tokio::select! {
            filled = disk.filled() => {
                let (source, chunk, length) = filled?;
                if transfer.stop.is_cancelled() {
                    return Err(Stopped::Gone);
                }
                let sum = (source.left == 0).then(|| source.reader.crc64nvme());
                // The disk goes on before this chunk does.
                disk = Disk::of(source, spare.take());
                let to = Remote {
                    address: window.address + offset,
                    rkey: window.rkey,
                };
                offset += length as u64;
                transfer.write(chunk, length, to, immediate.filter(|_| sum.is_some()));
                if let Some(sum) = sum {
                    // The reply may leave only after the last completion succeeded.
                    while transfer.next().await?.is_some() {}
                    return Ok(sum);
                }
            }
            // With nothing under way the next chunk can wait until this one is.
            chunk = transfer.chunk(held), if spare.is_none() && unasked > 0 && transfer.depth() > 0 => {
                unasked = unasked.saturating_sub(CHUNK as u64);
                let chunk = chunk?.into_memory();
                match disk {
                    Disk::Resting(source) => disk = Disk::Filling(fill(source, chunk)),
                    filling => {
                        disk = filling;
                        spare = Some(chunk);
                    }
                }
            }
        }
    }
}

type Filled = (Source, Pooled, io::Result<usize>);

fn fill(mut source: Source, mut chunk: Pooled) -> JoinHandle<Filled> {
    spawn_blocking(move || {
        let filled = source.fill(&mut chunk);
        (source, chunk, filled)
    })
}

/// What is read from: at work, or in want of a chunk.
enum Disk {
    Filling(JoinHandle<Filled>),
    Resting(Source),
}

impl Disk {
    fn of(source: Source, chunk: Option<Pooled>) -> Self {
        match chunk {
            Some(chunk) => Self::Filling(fill(source, chunk)),
            None => Self::Resting(source),
        }
    }

    fn is_filling(&self) -> bool {
        matches!(self, Self::Filling(_))
    }

    /// The chunk that is being filled, when it is, and how many bytes are in it; waits for ever while none is.
    async fn filled(&mut self) -> Result<(Source, Pooled, usize), Stopped> {
        let Self::Filling(filling) = self else {
            return std::future::pending().await;
        };
        let Ok((source, chunk, filled)) = filling.await else {
            return Err(Stopped::Refused(Refusal::Read));
        };
        match filled {
            Ok(length) => Ok((source, chunk, length)),
            Err(error) => {
                tracing::error!(%error, "an object could not be read");
                Err(Stopped::Refused(Refusal::Read))
            }
        }
    }
}

struct Source {
    reader: Box<dyn Summed>,
    left: u64,
}

impl Source {
    /// Fills a chunk, as far as there are bytes; returns how many there were. Blocks.
    fn fill(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        self.reader.read_exact(&mut chunk[..length])?;
        self.left -= length as u64;
        // The end itself may be an error: a checksum that is compared only there.
        if self.left == 0 && self.reader.read(&mut [0])? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an object is longer than its range",
            ));
        }
        Ok(length)
    }
}
