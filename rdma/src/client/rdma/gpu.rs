//! Objects straight into and out of GPU memory.

use super::{exchange::Outcome, lanes::Lane, read::object_checksum};
use crate::{
    Error, ObjectHead, Result,
    client::{Client, request::Request},
    fabric::Direction,
    gpu::GpuMemory,
};
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use std::{ops::Range, sync::Arc};

/// What came of asking for bytes straight into GPU memory.
pub(in super::super) enum Straight<T> {
    Moved(T),
    /// They came as the body of this answer.
    Body(http::Response<Incoming>, String),
    /// They must be asked for again, in another way.
    Not(String),
}

impl Client {
    /// The rail that reaches `memory` by itself.
    fn reaching(&self, memory: &GpuMemory, request: &Request) -> std::result::Result<Arc<Lane>, String> {
        if self.is_local() {
            return Err("the storage node is on this host: its page cache is nearer than its NIC".to_owned());
        }
        match self.by_rdma() {
            Some(rdma) => rdma.lanes.reaching(memory, request),
            None => Err(self.no_device()),
        }
    }

    /// The second value is the number of bytes, and the third the checksum that the storage node says it sent.
    pub(in super::super) async fn get_straight(
        &self,
        request: &Request,
        memory: GpuMemory,
        bytes: Range<usize>,
    ) -> (GpuMemory, Result<Straight<(ObjectHead, u64, Option<u64>)>>) {
        let lane = match self.reaching(&memory, request) {
            Ok(lane) => lane,
            Err(why) => return (memory, Ok(Straight::Not(why))),
        };
        let Some(rdma) = self.by_rdma() else {
            return (memory, Ok(Straight::Not(self.no_device())));
        };
        let length = bytes.len() as u64;
        let (memory, outcome) = rdma
            .perform(&lane, request, memory, bytes, Direction::Written)
            .await;
        let outcome = outcome.and_then(|outcome| {
            Ok(match outcome {
                Outcome::Moved(answer) => {
                    let size = if answer.status == StatusCode::PARTIAL_CONTENT {
                        self.content_range(&answer.headers, answer.bytes)?.1
                    } else {
                        answer.bytes
                    };
                    let mut head = self.head_of(&answer.headers, size)?;
                    head.crc64nvme = object_checksum(&answer.headers);
                    Straight::Moved((head, answer.bytes, answer.checksum))
                }
                Outcome::TooSmall { needed } => {
                    return Err(Error::Length {
                        expected: length,
                        got: needed,
                    });
                }
                Outcome::Declined(Some(response)) => Straight::Body(
                    response,
                    "the storage node sends this object as an HTTP body only".to_owned(),
                ),
                Outcome::Declined(None) => Straight::Not("the storage node moves less at a time".to_owned()),
                Outcome::Unavailable(error) | Outcome::NoSession(error) => Straight::Not(error.to_string()),
            })
        });
        (memory, outcome)
    }

    /// Performs a request that writes `memory[bytes]`.
    pub(in super::super) async fn put_straight(
        &self,
        request: &Request,
        memory: GpuMemory,
        bytes: Range<usize>,
    ) -> (GpuMemory, Result<Straight<HeaderMap>>) {
        let lane = match self.reaching(&memory, request) {
            Ok(lane) => lane,
            Err(why) => return (memory, Ok(Straight::Not(why))),
        };
        let Some(rdma) = self.by_rdma() else {
            return (memory, Ok(Straight::Not(self.no_device())));
        };
        let (memory, outcome) = rdma.perform(&lane, request, memory, bytes, Direction::Read).await;
        let outcome = outcome.and_then(|outcome| {
            Ok(match outcome {
                Outcome::Moved(answer) => Straight::Moved(answer.headers),
                Outcome::TooSmall { .. } => {
                    return Err(self.malformed("it found a PUT too large for its own window"));
                }
                Outcome::Declined(_) => {
                    Straight::Not("the storage node takes these bytes as an HTTP body only".to_owned())
                }
                Outcome::Unavailable(error) | Outcome::NoSession(error) => Straight::Not(error.to_string()),
            })
        });
        (memory, outcome)
    }
}
