//! Objects into and out of GPU memory: straight by a NIC where the drivers of both can, else through pinned memory of this host.

use super::{
    Client,
    object::{Download, crc64nvme_of, modified_of},
    rdma::Straight,
    request::Request,
};
use crate::{
    Condition, Error, Moved, ObjectHead, ObjectHeaders, Range, Result, Via, Written,
    fabric::Pooled,
    gpu::{Allocation, CHUNK, Gpu, GpuMemory},
    local::Lent,
};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use futures::{
    StreamExt,
    stream::{self, BoxStream, FuturesOrdered},
};
use http::Method;
use std::{
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};
use tokio::task::{JoinHandle, spawn_blocking};

/// Pieces of a staged transfer that are read, summed or copied at the same time.
const DEPTH: usize = 8;
/// Bytes of a piece of a lent file: to lock its pages costs little against copying them.
const PIECE: usize = 16 << 20;
/// Fewer bytes are copied sooner than mapped and locked.
const WORTH_MAPPING: usize = 256 << 10;

/// An object that is in GPU memory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// What is known of the object.
    pub head: ObjectHead,
    /// What moved. Bytes that went straight into the GPU were not read here, so their checksum is the one that the storage node
    /// computed of what it sent; that they are the same is left to the fabric (the ICRC of each packet).
    pub moved: Moved,
    /// Why the bytes went through memory of this host; `None` when they did not.
    pub staged: Option<String>,
}

/// An object that was written from GPU memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The answer to the write.
    pub written: Written,
    /// Why the bytes went through memory of this host; `None` when they did not.
    pub staged: Option<String>,
}

impl Client {
    /// Reads an object, or a range of it, into `memory[bytes]`, from its beginning. The memory comes back in any case; after an error,
    /// what it holds is undefined. When this returns, everything that the GPU does from now on sees the bytes.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::Length`] when there are more bytes than fit, [`Error::Gpu`], and [`Error::NoFastPath`] when the
    /// policy forbids what would be left.
    pub async fn get_into_gpu(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
        memory: GpuMemory,
        bytes: std::ops::Range<usize>,
    ) -> (GpuMemory, Result<Landed>) {
        let begun = Instant::now();
        let prepared = check(&memory, &bytes).and_then(|()| {
            Request::new(Method::GET, bucket, Some(key))
                .range(range)?
                .condition(condition)
        });
        let request = match prepared {
            Ok(request) => request,
            Err(error) => return (memory, Err(error)),
        };
        let (memory, outcome) = self.get_straight(&request, memory, bytes.clone()).await;
        let (download, why) = match outcome {
            Err(error) => return (memory, Err(error)),
            Ok(Straight::Moved((head, length, crc))) => {
                let allocation = Arc::clone(memory.allocation());
                let flushed = blocking(move || Ok(allocation.flush()?)).await;
                let landed = flushed.map(|()| Landed {
                    head,
                    moved: Moved {
                        via: Via::Rdma,
                        bytes: length,
                        elapsed: begun.elapsed(),
                        checksum: crc,
                    },
                    staged: None,
                });
                return (memory, landed);
            }
            Ok(Straight::Body(response, why)) => {
                let allowed = self.by_http(Some(self.no_fast_path(&*why)));
                (allowed.and_then(|()| self.download_of(response)), why)
            }
            Ok(Straight::Not(why)) => (self.get(bucket, key, range, condition).await, why),
        };
        let landed = match download {
            Ok(download) => self.land(download, &memory, bytes, begun, why).await,
            Err(error) => Err(error),
        };
        (memory, landed)
    }

    /// Copies what comes to the GPU. Nothing is under way when this returns.
    async fn land(
        &self,
        mut download: Download,
        memory: &GpuMemory,
        bytes: std::ops::Range<usize>,
        begun: Instant,
        why: String,
    ) -> Result<Landed> {
        let length = download.range.end - download.range.start;
        if length > bytes.len() as u64 {
            return Err(Error::Length {
                expected: bytes.len() as u64,
                got: length,
            });
        }
        let mut pieces = match download.lent.take() {
            Some(lent) => lent_pieces(lent, memory, bytes.start),
            None => {
                let body = std::mem::replace(&mut download.body, stream::empty().boxed());
                body_pieces(body, memory, bytes.start)
            }
        };
        let (mut crc, mut failure) = (checksum(CrcAlgorithm::Crc64Nvme, &[]), None);
        while let Some(copied) = pieces.next().await {
            match copied {
                Ok((piece, length)) => crc = checksum_combine(CrcAlgorithm::Crc64Nvme, crc, piece, length),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        let whole = download.range == (0..download.head.size);
        let expected = download.head.crc64nvme.filter(|_| whole && self.inner.options.verify);
        match failure {
            Some(error) => Err(error),
            None if expected.is_some_and(|expected| expected != crc) => Err(Error::Damaged),
            None => Ok(Landed {
                moved: Moved {
                    via: download.fallback.via(download.via),
                    bytes: length,
                    elapsed: begun.elapsed(),
                    checksum: Some(crc),
                },
                head: download.head,
                staged: Some(why),
            }),
        }
    }

    /// Writes an object of the bytes `memory[bytes]`, whole or not at all. The memory comes back in any case, unchanged. What the GPU
    /// writes to it must be done before.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::Gpu`].
    pub async fn put_from_gpu(
        &self,
        bucket: &str,
        key: &str,
        headers: &ObjectHeaders,
        condition: &Condition,
        memory: GpuMemory,
        bytes: std::ops::Range<usize>,
    ) -> (GpuMemory, Result<Sent>) {
        let begun = Instant::now();
        let prepared = check(&memory, &bytes).and_then(|()| {
            // Without a checksum: that of bytes in the GPU's memory would be the storage node's to compute anyway.
            Request::new(Method::PUT, bucket, Some(key))
                .object_headers(headers)?
                .condition(condition)?
                .cheap_etag()
        });
        let request = match prepared {
            Ok(request) => request,
            Err(error) => return (memory, Err(error)),
        };
        let length = bytes.len() as u64;
        let (memory, why) = if bytes.is_empty() {
            (memory, "there are no bytes".to_owned())
        } else {
            let (memory, outcome) = self.put_straight(&request, memory, bytes.clone()).await;
            match outcome {
                Err(error) => return (memory, Err(error)),
                Ok(Straight::Moved(headers)) => {
                    let written = self.etag_of(&headers).map(|etag| Written {
                        etag,
                        crc64nvme: crc64nvme_of(&headers),
                        modified: modified_of(&headers).unwrap_or_else(SystemTime::now),
                        moved: Moved {
                            via: Via::Rdma,
                            bytes: length,
                            elapsed: begun.elapsed(),
                            checksum: crc64nvme_of(&headers),
                        },
                    });
                    return (memory, written.map(|written| Sent { written, staged: None }));
                }
                Ok(Straight::Body(_, why) | Straight::Not(why)) => (memory, why),
            }
        };
        let body = host_pieces(&memory, bytes);
        let written = self.put(bucket, key, Some(length), headers, condition, body).await;
        let sent = written.map(|written| Sent {
            written,
            staged: Some(why),
        });
        (memory, sent)
    }
}

/// The checksum and the length of a piece that is where it belongs.
type Copied = Result<(u64, u64)>;

/// What was lent, several pieces at a time: straight from the page cache, or read into pinned memory and copied from there.
fn lent_pieces(lent: Lent, memory: &GpuMemory, start: usize) -> BoxStream<'static, Copied> {
    let (gpu, allocation) = (memory.gpu().clone(), Arc::clone(memory.allocation()));
    stream::iter(pieces_of(&lent))
        .map(move |(at, length)| {
            let (gpu, allocation, lent) = (gpu.clone(), Arc::clone(&allocation), lent.clone());
            let to = start + at as usize;
            async move {
                if length >= WORTH_MAPPING && gpu.reads_files() {
                    let (gpu, allocation, lent) = (gpu.clone(), Arc::clone(&allocation), lent.clone());
                    let copied = blocking(move || read_by_gpu(&gpu, &lent, at, length, &*allocation, to)).await?;
                    if let Some(copied) = copied {
                        return Ok(copied);
                    }
                }
                let mut chunk = gpu.staging().take().await?;
                blocking(move || read_and_copy(&mut chunk, &lent, at, length, &*allocation, to)).await
            }
        })
        .buffered(DEPTH)
        .boxed()
}

/// Where the pieces of what was lent begin in it, and how long they are; none lies in two files.
fn pieces_of(lent: &Lent) -> Vec<(u64, usize)> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    for extent in lent.extents() {
        let starts = (0..extent.length).step_by(PIECE);
        pieces.extend(starts.map(|at| {
            let left = usize::try_from(extent.length - at).unwrap_or(usize::MAX);
            (begin + at, left.min(PIECE))
        }));
        begin += extent.length;
    }
    pieces
}

/// The GPU reads the page cache by DMA, and a processor looks at the bytes only to sum them up; `None` where its driver does not.
fn read_by_gpu(
    gpu: &Gpu,
    lent: &Lent,
    at: u64,
    length: usize,
    allocation: &dyn Allocation,
    to: usize,
) -> Result<Option<(u64, u64)>> {
    let Some((mapped, skip)) = lent.map(at, length).map_err(Error::Lent)? else {
        return Ok(None);
    };
    let Some(locked) = gpu.lock(mapped) else {
        return Ok(None);
    };
    let piece = &locked[skip..skip + length];
    allocation.write(to, piece)?;
    Ok(Some((checksum(CrcAlgorithm::Crc64Nvme, piece), length as u64)))
}

fn read_and_copy(
    chunk: &mut Pooled,
    lent: &Lent,
    at: u64,
    length: usize,
    allocation: &dyn Allocation,
    to: usize,
) -> Result<(u64, u64)> {
    let mut crc = checksum(CrcAlgorithm::Crc64Nvme, &[]);
    for done in (0..length).step_by(CHUNK) {
        let piece = &mut chunk[..CHUNK.min(length - done)];
        let got = lent.read_at(piece, at + done as u64).map_err(Error::Lent)?;
        if got < piece.len() {
            return Err(Error::Lent(io::ErrorKind::UnexpectedEof.into()));
        }
        // Before the copy: now the bytes are in the processor's cache.
        let sum = checksum(CrcAlgorithm::Crc64Nvme, piece);
        crc = checksum_combine(CrcAlgorithm::Crc64Nvme, crc, sum, got as u64);
        allocation.write(to + done, piece)?;
    }
    Ok((crc, length as u64))
}

/// What comes as a stream, copied from wherever it is.
fn body_pieces(
    body: BoxStream<'static, Result<Bytes>>,
    memory: &GpuMemory,
    start: usize,
) -> BoxStream<'static, Copied> {
    struct State {
        body: Option<BoxStream<'static, Result<Bytes>>>,
        allocation: Arc<dyn Allocation>,
        at: usize,
        under_way: FuturesOrdered<JoinHandle<Copied>>,
    }
    let state = State {
        body: Some(body),
        allocation: Arc::clone(memory.allocation()),
        at: start,
        under_way: FuturesOrdered::new(),
    };
    stream::unfold(state, |mut state| async move {
        loop {
            let next = match &mut state.body {
                Some(body) if state.under_way.len() < DEPTH => {
                    tokio::select! {
                        biased;
                        Some(copied) = state.under_way.next(), if !state.under_way.is_empty() => {
                            return Some((joined(copied), state));
                        }
                        next = body.next() => next,
                    }
                }
                _ => {
                    let copied = state.under_way.next().await?;
                    return Some((joined(copied), state));
                }
            };
            match next {
                Some(Ok(piece)) => {
                    let (allocation, at) = (Arc::clone(&state.allocation), state.at);
                    state.at += piece.len();
                    state.under_way.push_back(spawn_blocking(move || {
                        allocation.write(at, &piece)?;
                        Ok((checksum(CrcAlgorithm::Crc64Nvme, &piece), piece.len() as u64))
                    }));
                }
                Some(Err(error)) => {
                    state.body = None;
                    return Some((Err(error), state));
                }
                None => state.body = None,
            }
        }
    })
    .boxed()
}

/// GPU memory as a body, copied to pinned memory of this host ahead of whoever sends it.
fn host_pieces(memory: &GpuMemory, bytes: std::ops::Range<usize>) -> BoxStream<'static, io::Result<Bytes>> {
    let (staging, allocation) = (Arc::clone(memory.gpu().staging()), Arc::clone(memory.allocation()));
    let end = bytes.end;
    stream::iter(bytes.step_by(CHUNK))
        .map(move |at| {
            let (staging, allocation) = (Arc::clone(&staging), Arc::clone(&allocation));
            async move {
                let mut chunk = staging.take().await?;
                blocking(move || {
                    let length = CHUNK.min(end - at);
                    allocation.read(at, &mut chunk[..length])?;
                    Ok(Bytes::from_owner(Filled { chunk, length }))
                })
                .await
            }
        })
        .buffered(2)
        .map(|piece: Result<Bytes>| piece.map_err(io::Error::other))
        .boxed()
}

/// Bytes in a chunk, which goes back with the last of them.
struct Filled {
    chunk: Pooled,
    length: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.chunk[..self.length]
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| Err(Error::Invalid(format!("a copy to or from the GPU broke off: {error}"))))
}

fn check(memory: &GpuMemory, bytes: &std::ops::Range<usize>) -> Result<()> {
    if bytes.start > bytes.end || bytes.end > memory.len() {
        return Err(Error::Invalid(format!(
            "bytes {} to {} lie outside of GPU memory of {} bytes",
            bytes.start,
            bytes.end,
            memory.len()
        )));
    }
    Ok(())
}
