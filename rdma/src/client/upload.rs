//! PutObject, as one request or as a multipart upload, whichever the length asks for.

use super::{
    Client,
    object::{CRC64NVME, crc64nvme_of, modified_of},
    request::Request,
};
use crate::{Condition, Error, Moved, ObjectHeaders, Part, PartId, Result, Via, Written};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{BoxStream, FuturesUnordered},
};
use http::Method;
use std::time::{Instant, SystemTime};

/// S3's limits on an upload.
const MAX_PARTS: u64 = 10_000;
/// Bodies of unknown length get larger parts from here on, so that 10 000 are enough for some terabytes.
const GROW_EVERY: u64 = 1_000;

impl Client {
    /// Writes an object: all of `body`, or nothing. `size` is its length in bytes, where the caller knows it. Bodies
    /// beyond [`crate::Options::part_size`] become a multipart upload, which is aborted when anything fails.
    ///
    /// # Errors
    /// `NoSuchBucket`, `PreconditionFailed`, [`Error::Body`] and [`Error::Length`] for a body that is not what was
    /// announced, and transport failures.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        size: Option<u64>,
        headers: &ObjectHeaders,
        condition: &Condition,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Written> {
        let begun = Instant::now();
        let mut pieces = Pieces {
            body: body.boxed(),
            left_over: Bytes::new(),
            taken: 0,
            size,
        };
        let part_size = part_size(self.inner.options.part_size, size);
        let first = pieces.take(part_size).await?;
        let whole = first.len() < part_size || pieces.at_end().await?;
        let mut written = if whole {
            self.put_whole(bucket, key, headers, condition, first).await?
        } else {
            self.put_parts(bucket, key, headers, condition, first, &mut pieces)
                .await?
        };
        written.moved.bytes = pieces.taken;
        written.moved.elapsed = begun.elapsed();
        Ok(written)
    }

    async fn put_whole(
        &self,
        bucket: &str,
        key: &str,
        headers: &ObjectHeaders,
        condition: &Condition,
        bytes: Bytes,
    ) -> Result<Written> {
        let begun = Instant::now();
        let length = bytes.len() as u64;
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        let request = Request::new(Method::PUT, bucket, Some(key))
            .object_headers(headers)?
            .condition(condition)?
            .header(CRC64NVME, &BASE64_STANDARD.encode(crc.to_be_bytes()))?
            .cheap_etag()?;
        let (response, via) = self.send_bytes(request, bytes).await?;
        Ok(Written {
            etag: self.etag_of(response.headers())?,
            crc64nvme: crc64nvme_of(response.headers()),
            modified: modified_of(response.headers()).unwrap_or_else(SystemTime::now),
            moved: Moved {
                via,
                bytes: length,
                elapsed: begun.elapsed(),
                checksum: Some(crc),
            },
        })
    }

    async fn put_parts(
        &self,
        bucket: &str,
        key: &str,
        headers: &ObjectHeaders,
        condition: &Condition,
        first: Bytes,
        pieces: &mut Pieces,
    ) -> Result<Written> {
        let upload = self.create_upload(bucket, key, headers).await?;
        let mut abort = AbortOnDrop {
            client: self.clone(),
            target: Some((bucket.to_owned(), key.to_owned(), upload.clone())),
        };
        let base = first.len();
        let mut next = Some(first);
        let mut number: u16 = 0;
        let mut under_way = FuturesUnordered::new();
        let mut parts = Vec::new();
        // What went over HTTP in part did not go by another way.
        let mut via = None;
        let mut note = |(part, by): (Part, Via)| {
            if via.is_none() || by == Via::Http {
                via = Some(by);
            }
            parts.push(part);
        };
        while let Some(bytes) = next.take() {
            number += 1;
            if u64::from(number) > MAX_PARTS {
                return Err(Error::Invalid(format!(
                    "the body needs more than {MAX_PARTS} parts; announce its size or use larger parts"
                )));
            }
            under_way.push(self.send_part(bucket, key, &upload, number, bytes));
            let size = match pieces.size {
                Some(_) => base,
                None => base * (1 + usize::from(number) / GROW_EVERY as usize),
            };
            // The parts under way go on while the caller gives the next one.
            let filling = pieces.take(size);
            tokio::pin!(filling);
            let filled = loop {
                tokio::select! {
                    filled = &mut filling => break filled?,
                    Some(part) = under_way.next(), if !under_way.is_empty() => note(part?),
                }
            };
            while under_way.len() >= self.inner.options.parallel_parts.max(1) {
                if let Some(part) = under_way.try_next().await? {
                    note(part);
                }
            }
            next = (!filled.is_empty()).then_some(filled);
        }
        while let Some(part) = under_way.try_next().await? {
            note(part);
        }
        parts.sort_by_key(|part| part.number);
        let parts: Vec<PartId> = parts
            .into_iter()
            .map(|part| PartId {
                number: part.number,
                etag: part.etag,
            })
            .collect();
        let mut completed = self
            .complete_upload(bucket, key, &upload, &parts, condition)
            .await?;
        completed.moved.via = via.unwrap_or(Via::Http);
        abort.target = None;
        Ok(completed)
    }
}

/// The size of parts so that `size` bytes need at most [`MAX_PARTS`].
fn part_size(preferred: usize, size: Option<u64>) -> usize {
    let needed = size.map_or(0, |size| size.div_ceil(MAX_PARTS));
    preferred
        .max(usize::try_from(needed).unwrap_or(usize::MAX))
        .max(1)
}

/// A body taken in pieces of a wanted size, and compared with its announced length.
struct Pieces {
    body: BoxStream<'static, std::io::Result<Bytes>>,
    left_over: Bytes,
    taken: u64,
    size: Option<u64>,
}

impl Pieces {
    /// The next `wanted` bytes; fewer only at the end.
    async fn take(&mut self, wanted: usize) -> Result<Bytes> {
        // A body that comes as one buffer of the right size is passed on as it is.
        if self.left_over.is_empty() {
            self.refill().await?;
        }
        if self.left_over.len() >= wanted {
            return Ok(self.left_over.split_to(wanted));
        }
        let announced = self.size.map_or(0, |size| size.saturating_sub(self.taken));
        let capacity = self.left_over.len() + usize::try_from(announced).unwrap_or(wanted);
        let mut piece = BytesMut::with_capacity(capacity.min(wanted));
        while piece.len() < wanted && !self.left_over.is_empty() {
            let part = self.left_over.len().min(wanted - piece.len());
            piece.extend_from_slice(&self.left_over.split_to(part));
            if self.left_over.is_empty() {
                self.refill().await?;
            }
        }
        Ok(piece.freeze())
    }

    async fn at_end(&mut self) -> Result<bool> {
        if self.left_over.is_empty() {
            self.refill().await?;
        }
        Ok(self.left_over.is_empty())
    }

    async fn refill(&mut self) -> Result<()> {
        while self.left_over.is_empty() {
            match self.body.next().await {
                Some(bytes) => {
                    self.left_over = bytes.map_err(Error::Body)?;
                    self.taken += self.left_over.len() as u64;
                    match self.size {
                        Some(expected) if self.taken > expected => {
                            return Err(Error::Length {
                                expected,
                                got: self.taken,
                            });
                        }
                        _ => {}
                    }
                }
                None => {
                    return match self.size {
                        Some(expected) if self.taken != expected => Err(Error::Length {
                            expected,
                            got: self.taken,
                        }),
                        _ => Ok(()),
                    };
                }
            }
        }
        Ok(())
    }
}

/// An upload that was not completed, because of an error or because its caller went away, must not stay.
struct AbortOnDrop {
    client: Client,
    target: Option<(String, String, String)>,
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        let Some((bucket, key, upload)) = self.target.take() else {
            return;
        };
        let client = self.client.clone();
        // Outside a runtime there is nothing to send with; the storage node lists such an upload as unfinished.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = client.abort_upload(&bucket, &key, &upload).await {
                    tracing::debug!(%error, bucket, key, "an unfinished upload could not be aborted");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn pieces(chunks: &[&'static str], size: Option<u64>) -> Pieces {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|c| Ok(Bytes::from_static(c.as_bytes())))
            .collect();
        Pieces {
            body: stream::iter(chunks).boxed(),
            left_over: Bytes::new(),
            taken: 0,
            size,
        }
    }

    #[tokio::test]
    async fn a_body_is_cut_into_pieces_of_the_wanted_size() {
        let mut body = pieces(&["abc", "", "defgh", "i"], Some(9));
        assert_eq!(body.take(4).await.unwrap(), "abcd");
        assert_eq!(body.take(4).await.unwrap(), "efgh");
        assert!(!body.at_end().await.unwrap());
        assert_eq!(body.take(4).await.unwrap(), "i");
        assert!(body.at_end().await.unwrap());
        assert_eq!(body.take(4).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_an_error() {
        for (size, got) in [(5, 3), (2, 3)] {
            let error = pieces(&["abc"], Some(size)).take(10).await.unwrap_err();
            assert!(matches!(error, Error::Length { expected, got: g } if expected == size && g == got));
        }
    }

    #[test]
    fn parts_grow_with_the_announced_size() {
        assert_eq!(part_size(16 << 20, Some(1 << 30)), 16 << 20);
        assert_eq!(part_size(16 << 20, Some(1 << 40)), 109_951_163);
        assert_eq!(part_size(16 << 20, None), 16 << 20);
    }
}
