//! Objects straight into and out of memory that the caller had registered.

use super::{Rdma, exchange::Outcome, judge::Answer, lanes::Lane, read::object_checksum, sum::sum};
use crate::{
    Condition, Download, Error, Moved, ObjectHead, ObjectHeaders, Range, Result, Via, Written,
    client::{
        Client,
        object::{CRC64NVME, crc64nvme_of, modified_of},
        request::Request,
    },
    fabric::{Direction, Memory},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

impl Client {
    /// Registered memory of at least `length` bytes, for [`Client::get_into_memory`] and [`Client::put_from_memory`], with the
    /// device of `numa_node` where there is one. Registering pins pages and takes time: keep it and use it again.
    ///
    /// # Errors
    /// [`Error::NoFastPath`] without an RDMA device, [`Error::Fabric`] when the device cannot register so much.
    pub async fn memory(&self, length: usize, numa_node: Option<u16>) -> Result<Memory> {
        let lane = self.by_rdma().and_then(|rdma| rdma.lanes.near(numa_node));
        match lane {
            Some(lane) => lane.register(length).await,
            None => Err(self.no_fast_path(self.no_device())),
        }
    }

    /// Reads an object, or a range of it, into `memory[bytes]`, from its beginning: straight by the device that it is registered
    /// with, else by any way that is allowed, and a copy. The memory comes back in any case; after an error, what it holds
    /// is undefined.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::Length`] when there are more bytes than fit, [`Error::NoFastPath`] when the policy
    /// forbids what would be left.
    pub async fn get_into_memory(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
        memory: Memory,
        bytes: std::ops::Range<usize>,
    ) -> (Memory, Result<(ObjectHead, Moved)>) {
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
        let Some((rdma, lane)) = self.straight(&memory, &request) else {
            return self
                .get_staged(bucket, key, range, condition, memory, bytes, begun)
                .await;
        };
        let (memory, outcome) = rdma
            .perform(&lane, &request, memory, bytes.clone(), Direction::Written)
            .await;
        match outcome {
            Err(error) => (memory, Err(error)),
            Ok(Outcome::Moved(answer)) => {
                let (memory, crc) = rdma.verified_in(memory, bytes.start, &answer).await;
                let outcome = crc.and_then(|crc| self.arrived(&answer, crc, begun));
                (memory, outcome)
            }
            Ok(Outcome::TooSmall { needed }) => {
                let error = Error::Length {
                    expected: bytes.len() as u64,
                    got: needed,
                };
                (memory, Err(error))
            }
            Ok(Outcome::Declined(Some(response))) => {
                let allowed = self.by_http(Some(
                    self.no_fast_path("it sends this object as an HTTP body only"),
                ));
                match allowed.and_then(|()| self.download_of(response)) {
                    Ok(download) => self.stage(download, memory, bytes, begun).await,
                    Err(error) => (memory, Err(error)),
                }
            }
            Ok(Outcome::Declined(None) | Outcome::Unavailable(_) | Outcome::NoSession(_)) => {
                self.get_staged(bucket, key, range, condition, memory, bytes, begun)
                    .await
            }
        }
    }

    /// The rail that reaches `memory`, unless the storage node is on this host: its page cache is nearer than its NIC.
    fn straight(&self, memory: &Memory, request: &Request) -> Option<(&Arc<Rdma>, Arc<Lane>)> {
        let rdma = self.by_rdma().filter(|_| !self.is_local())?;
        Some((rdma, rdma.lanes.owning(memory, request)?))
    }

    fn arrived(&self, answer: &Answer, crc: u64, begun: Instant) -> Result<(ObjectHead, Moved)> {
        let size = if answer.status == StatusCode::PARTIAL_CONTENT {
            self.content_range(&answer.headers, answer.bytes)?.1
        } else {
            answer.bytes
        };
        let mut head = self.head_of(&answer.headers, size)?;
        head.crc64nvme = object_checksum(&answer.headers);
        let whole = answer.status == StatusCode::OK && self.inner.options.verify;
        if whole && head.crc64nvme.is_some_and(|stored| stored != crc) {
            return Err(Error::Damaged);
        }
        let moved = Moved {
            via: Via::Rdma,
            bytes: answer.bytes,
            elapsed: begun.elapsed(),
            checksum: Some(crc),
        };
        Ok((head, moved))
    }

    /// By any way, and by a copy.
    #[expect(clippy::too_many_arguments, reason = "what a read is, and where it goes")]
    async fn get_staged(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
        memory: Memory,
        bytes: std::ops::Range<usize>,
        begun: Instant,
    ) -> (Memory, Result<(ObjectHead, Moved)>) {
        match self.get(bucket, key, range, condition).await {
            Ok(download) => self.stage(download, memory, bytes, begun).await,
            Err(error) => (memory, Err(error)),
        }
    }

    async fn stage(
        &self,
        mut download: Download,
        mut memory: Memory,
        bytes: std::ops::Range<usize>,
        begun: Instant,
    ) -> (Memory, Result<(ObjectHead, Moved)>) {
        let length = download.range.end - download.range.start;
        if length > bytes.len() as u64 {
            let error = Error::Length {
                expected: bytes.len() as u64,
                got: length,
            };
            return (memory, Err(error));
        }
        let (mut at, mut digest) = (bytes.start, Digest::new(CrcAlgorithm::Crc64Nvme));
        while let Some(piece) = download.body.next().await {
            match piece {
                Ok(piece) => {
                    // The body is checked to hold exactly `length` bytes.
                    memory[at..at + piece.len()].copy_from_slice(&piece);
                    at += piece.len();
                    digest.update(&piece);
                }
                Err(error) => return (memory, Err(error)),
            }
        }
        let moved = Moved {
            via: download.fallback.via(download.via),
            bytes: length,
            elapsed: begun.elapsed(),
            checksum: Some(digest.finalize()),
        };
        (memory, Ok((download.head, moved)))
    }

    /// Writes an object of the bytes `memory[bytes]`, whole or not at all. The memory comes back in any case, unchanged.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, [`Error::NoFastPath`] when the policy forbids what would be left, and
    /// transport failures.
    pub async fn put_from_memory(
        &self,
        bucket: &str,
        key: &str,
        headers: &ObjectHeaders,
        condition: &Condition,
        memory: Memory,
        bytes: std::ops::Range<usize>,
    ) -> (Memory, Result<Written>) {
        let begun = Instant::now();
        if let Err(error) = check(&memory, &bytes) {
            return (memory, Err(error));
        }
        let (memory, crc) = sum(memory, bytes.clone()).await;
        let prepared = crc.and_then(|crc| {
            let request = Request::new(Method::PUT, bucket, Some(key))
                .object_headers(headers)?
                .condition(condition)?
                .header(CRC64NVME, &BASE64_STANDARD.encode(crc.to_be_bytes()))?
                .cheap_etag()?;
            Ok((request, crc))
        });
        let (request, crc) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return (memory, Err(error)),
        };
        let length = bytes.len() as u64;
        let written = |headers: &HeaderMap, via| {
            Ok(Written {
                etag: self.etag_of(headers)?,
                crc64nvme: crc64nvme_of(headers),
                modified: modified_of(headers).unwrap_or_else(SystemTime::now),
                moved: Moved {
                    via,
                    bytes: length,
                    elapsed: begun.elapsed(),
                    checksum: Some(crc),
                },
            })
        };
        let mut memory = memory;
        if !bytes.is_empty()
            && let Some((rdma, lane)) = self.straight(&memory, &request)
        {
            let (returned, outcome) = rdma
                .perform(&lane, &request, memory, bytes.clone(), Direction::Read)
                .await;
            memory = returned;
            match outcome {
                Err(error) => return (memory, Err(error)),
                Ok(Outcome::Moved(answer)) => return (memory, written(&answer.headers, Via::Rdma)),
                Ok(Outcome::TooSmall { .. }) => {
                    let error = self.malformed("it found a PUT too large for its own window");
                    return (memory, Err(error));
                }
                Ok(Outcome::Declined(_) | Outcome::Unavailable(_) | Outcome::NoSession(_)) => {}
            }
        }
        let copy = Bytes::copy_from_slice(&memory[bytes]);
        let outcome = match self.send_bytes(request, copy).await {
            Ok((response, via)) => written(response.headers(), via),
            Err(error) => Err(error),
        };
        (memory, outcome)
    }
}

fn check(memory: &Memory, bytes: &std::ops::Range<usize>) -> Result<()> {
    if bytes.start > bytes.end || bytes.end > memory.len() {
        return Err(Error::Invalid(format!(
            "bytes {} to {} lie outside of memory of {} bytes",
            bytes.start,
            bytes.end,
            memory.len()
        )));
    }
    Ok(())
}
