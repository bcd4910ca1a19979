//! Objects into and out of GPU memory: straight by a NIC where the drivers of both can, else through pinned memory of this host.

use super::{
    Client,
    object::{CRC64NVME, Download, crc64nvme_of, modified_of},
    rdma::Straight,
    request::Request,
};
use crate::{
    Condition, Error, Moved, ObjectHead, ObjectHeaders, Range, Result, Via, Written,
    fabric::Pooled,
    gpu::{Allocation, CHUNK, Gpu, GpuMemory},
    local::Lent,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
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

/// Bytes of a piece of a lent file that the GPU reads, and how many it reads at a time. Locking pages is what takes long, and more of it
/// at a time takes longer.
const MAPPED: usize = 64 << 20;
const MAPPED_DEPTH: usize = 2;
/// Fewer bytes are copied sooner than mapped and locked.
const WORTH_MAPPING: usize = 256 << 10;

/// An object that is in GPU memory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// What is known of the object.
    pub head: ObjectHead,
    /// What moved. The checksum is of the bytes in the GPU's memory, computed there; where the GPU does not
    /// ([`GpuInfo::sums`](crate::gpu::GpuInfo)), it is of what passed through this host, or, when nothing did, the storage node's word.
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
                let (allocation, verify) = (Arc::clone(memory.allocation()), self.inner.options.verify);
                let arrived = blocking(move || {
                    allocation.flush()?;
                    let sum = match verify {
                        true => allocation.checksum(bytes.start, length as usize)?,
                        false => None,
                    };
                    let whole = head.crc64nvme.filter(|_| head.size == length);
                    let expected = [crc, whole].into_iter().flatten();
                    match sum {
                        Some(sum) if expected.into_iter().any(|expected| expected != sum) => {
                            Err(Error::Damaged)
                        }
                        sum => Ok((head, sum.or(crc))),
                    }
                });
                let landed = arrived.await.map(|(head, checksum)| Landed {
                    head,
                    moved: Moved {
                        via: Via::Rdma,
                        bytes: length,
                        elapsed: begun.elapsed(),
                        checksum,
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
        let to = Target {
            gpu: memory.gpu().clone(),
            allocation: Arc::clone(memory.allocation()),
            start: bytes.start,
            summer: match (self.inner.options.verify, memory.gpu().info().sums) {
                (false, _) => Summer::Nobody,
                (true, false) => Summer::Processor,
                (true, true) => Summer::Gpu,
            },
        };
        let mut pieces = match download.lent.take() {
            Some(lent) => lent_pieces(lent, to.clone()),
            None => {
                let body = std::mem::replace(&mut download.body, stream::empty().boxed());
                body_pieces(body, to.clone())
            }
        };
        let (mut crc, mut failure) = (Some(checksum(CrcAlgorithm::Crc64Nvme, &[])), None);
        while let Some(copied) = pieces.next().await {
            match copied {
                Ok((sum, length)) => {
                    crc = crc
                        .zip(sum)
                        .map(|(crc, sum)| checksum_combine(CrcAlgorithm::Crc64Nvme, crc, sum, length));
                }
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if to.summer == Summer::Gpu {
            crc = blocking(move || Ok(to.allocation.checksum(to.start, length as usize)?)).await?;
        }
        let whole = download.range == (0..download.head.size);
        let expected = download.head.crc64nvme.filter(|_| whole);
        if crc.zip(expected).is_some_and(|(crc, expected)| crc != expected) {
            return Err(Error::Damaged);
        }
        Ok(Landed {
            moved: Moved {
                via: download.fallback.via(download.via),
                bytes: length,
                elapsed: begun.elapsed(),
                checksum: crc,
            },
            head: download.head,
            staged: Some(why),
        })
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
            let (allocation, part) = (Arc::clone(memory.allocation()), bytes.clone());
            let summed = blocking(move || Ok(allocation.checksum(part.start, part.len())?)).await;
            let request = match summed.and_then(|sum| with_checksum(request, sum)) {
                Ok(request) => request,
                Err(error) => return (memory, Err(error)),
            };
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
                    return (
                        memory,
                        written.map(|written| Sent {
                            written,
                            staged: None,
                        }),
                    );
                }
                Ok(Straight::Body(_, why) | Straight::Not(why)) => (memory, why),
            }
        };
        let body = host_pieces(&memory, bytes);
        let written = self
            .put(bucket, key, Some(length), headers, condition, body)
            .await;
        let sent = written.map(|written| Sent {
            written,
            staged: Some(why),
        });
        (memory, sent)
    }
}

/// The checksum, if a processor computed it, and the length of a piece that is where it belongs.
type Copied = Result<(Option<u64>, u64)>;

/// Who computes the checksum of what is staged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Summer {
    Nobody,
    Processor,
    /// Of what is in its memory, at the end.
    Gpu,
}

/// Where pieces go.
#[derive(Clone)]
struct Target {
    gpu: Gpu,
    allocation: Arc<dyn Allocation>,
    start: usize,
    summer: Summer,
}

impl Target {
    fn sum(&self, piece: &[u8]) -> Option<u64> {
        (self.summer == Summer::Processor).then(|| checksum(CrcAlgorithm::Crc64Nvme, piece))
    }
}

/// What was lent, several pieces at a time: straight from the page cache, or read into pinned memory and copied from there.
fn lent_pieces(lent: Lent, to: Target) -> BoxStream<'static, Copied> {
    let (piece, depth) = if to.gpu.reads_files() {
        (MAPPED, MAPPED_DEPTH)
    } else {
        (CHUNK, depth())
    };
    stream::iter(pieces_of(&lent, piece))
        .map(move |(at, length)| {
            let (to, lent) = (to.clone(), lent.clone());
            async move {
                if length >= WORTH_MAPPING && to.gpu.reads_files() {
                    let (to, lent) = (to.clone(), lent.clone());
                    if let Some(copied) = blocking(move || read_by_gpu(&lent, at, length, &to)).await? {
                        return Ok(copied);
                    }
                }
                let mut chunk = to.gpu.staging().take().await?;
                blocking(move || read_and_copy(&mut chunk, &lent, at, length, &to)).await
            }
        })
        .buffered(depth)
        .boxed()
}

/// Where the pieces of what was lent begin in it, and how long they are; none lies in two files.
fn pieces_of(lent: &Lent, piece: usize) -> Vec<(u64, usize)> {
    let (mut pieces, mut begin) = (Vec::new(), 0);
    for extent in lent.extents() {
        let starts = (0..extent.length).step_by(piece);
        pieces.extend(starts.map(|at| {
            let left = usize::try_from(extent.length - at).unwrap_or(usize::MAX);
            (begin + at, left.min(piece))
        }));
        begin += extent.length;
    }
    pieces
}

/// The GPU reads the page cache by DMA; `None` where its driver does not.
fn read_by_gpu(lent: &Lent, at: u64, length: usize, to: &Target) -> Result<Option<(Option<u64>, u64)>> {
    let Some((mapped, skip)) = lent.map(at, length).map_err(Error::Lent)? else {
        return Ok(None);
    };
    let Some(locked) = to.gpu.lock(mapped) else {
        return Ok(None);
    };
    let piece = &locked[skip..skip + length];
    to.allocation.write(to.start + at as usize, piece)?;
    Ok(Some((to.sum(piece), length as u64)))
}

fn read_and_copy(chunk: &mut Pooled, lent: &Lent, at: u64, length: usize, to: &Target) -> Copied {
    let mut crc = to.sum(&[]);
    for done in (0..length).step_by(CHUNK) {
        let piece = &mut chunk[..CHUNK.min(length - done)];
        let at = at + done as u64;
        let got = lent.read_at(piece, at).map_err(Error::Lent)?;
        if got < piece.len() {
            return Err(Error::Lent(io::ErrorKind::UnexpectedEof.into()));
        }
        // Before the copy: now the bytes are in the processor's cache.
        let sum = to.sum(piece);
        crc = crc
            .zip(sum)
            .map(|(crc, sum)| checksum_combine(CrcAlgorithm::Crc64Nvme, crc, sum, got as u64));
        to.allocation.write(to.start + at as usize, piece)?;
    }
    Ok((crc, length as u64))
}

/// What comes as a stream, copied from wherever it is.
fn body_pieces(body: BoxStream<'static, Result<Bytes>>, to: Target) -> BoxStream<'static, Copied> {
    struct State {
        body: Option<BoxStream<'static, Result<Bytes>>>,
        to: Target,
        at: usize,
        under_way: FuturesOrdered<JoinHandle<Copied>>,
    }
    let state = State {
        body: Some(body),
        at: to.start,
        to,
        under_way: FuturesOrdered::new(),
    };
    stream::unfold(state, |mut state| async move {
        loop {
            let next = match &mut state.body {
                Some(body) if state.under_way.len() < depth() => {
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
                    let (to, at) = (state.to.clone(), state.at);
                    state.at += piece.len();
                    state.under_way.push_back(spawn_blocking(move || {
                        to.allocation.write(at, &piece)?;
                        Ok((to.sum(&piece), piece.len() as u64))
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
    let (staging, allocation) = (
        Arc::clone(memory.gpu().staging()),
        Arc::clone(memory.allocation()),
    );
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

/// Pieces that processors read, sum up or copy at the same time. More than eight move no more on a GPU of 55 GB/s, and wait for each other.
fn depth() -> usize {
    std::thread::available_parallelism().map_or(4, |processors| processors.get().clamp(4, 8))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| {
        Err(Error::Invalid(format!(
            "a copy to or from the GPU broke off: {error}"
        )))
    })
}

fn with_checksum(request: Request, sum: Option<u64>) -> Result<Request> {
    match sum {
        Some(sum) => request.header(CRC64NVME, &BASE64_STANDARD.encode(sum.to_be_bytes())),
        None => Ok(request),
    }
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
