//! GetObject, HeadObject, DeleteObject, CopyObject.

use super::{
    Client,
    request::{Request, copy_source},
};
use crate::{
    Condition, Error, Moved, ObjectHead, ObjectHeaders, Range, Result, Via, Written, local::Lent, xml,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{self, BoxStream, StreamExt};
use http::{
    HeaderMap, HeaderName, Method, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
        CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
    },
};
use hyper::body::Incoming;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

pub(super) const CRC64NVME: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const METADATA_DIRECTIVE: HeaderName = HeaderName::from_static("x-amz-metadata-directive");

/// Whether bytes that were to take a faster way came by HTTP. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Fallback(Arc<AtomicBool>);

impl Fallback {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Which way bytes come that were to come by `planned`.
    pub fn via(&self, planned: Via) -> Via {
        if self.0.load(Ordering::Relaxed) {
            Via::Http
        } else {
            planned
        }
    }
}

/// An opened object: its facts, which bytes follow, and the bytes.
pub struct Download {
    /// The whole object's facts.
    pub head: ObjectHead,
    /// The byte range that `body` holds.
    pub range: std::ops::Range<u64>,
    /// The transport that carries the bytes, as it was when they began to.
    pub via: Via,
    /// Whether it had to be left on the way.
    pub fallback: Fallback,
    /// The storage node's files, when it is on this host and lent them. `body` reads from them.
    pub lent: Option<Lent>,
    /// The bytes. An error ends the stream; what came until then is not the object. The end of a whole object is
    /// reached only after its checksum was compared.
    pub body: BoxStream<'static, Result<Bytes>>,
}

impl Client {
    /// Opens an object, or a range of it, for reading.
    ///
    /// # Errors
    /// `NoSuchKey`, `NoSuchBucket`, `InvalidRange`, `PreconditionFailed`, `NotModified` and transport failures.
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
    ) -> Result<Download> {
        if let Some(download) = self.get_locally(get(bucket, key, range, condition)?).await? {
            return Ok(download);
        }
        if let Some(download) = self.get_by_rdma(bucket, key, range, condition).await? {
            return Ok(download);
        }
        self.get_by_http(bucket, key, range, condition).await
    }

    pub(super) async fn get_by_http(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
    ) -> Result<Download> {
        let response = self.send(&get(bucket, key, range, condition)?).await?;
        self.download_of(response)
    }

    /// An answer to GET whose body has the bytes.
    pub(super) fn download_of(&self, response: Response<Incoming>) -> Result<Download> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let length = self.length_of(response.headers())?;
        let (range, size) = if partial {
            self.content_range(response.headers(), length)?
        } else {
            (0..length, length)
        };
        let head = self.head_of(response.headers(), size)?;
        let expected = head.crc64nvme.filter(|_| range == (0..size));
        let body = self.checked(response.into_body(), length, expected);
        Ok(Download {
            head,
            range,
            via: Via::Http,
            fallback: Fallback::default(),
            lent: None,
            body,
        })
    }

    /// Reads a range into `buffer`, which is filled from its beginning; returns the object's facts and what moved.
    /// A connection that breaks on the way is tried again as a whole.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::Length`] when the range holds more than `buffer` takes.
    pub async fn get_into(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
        buffer: &mut [u8],
    ) -> Result<(ObjectHead, Moved)> {
        let begun = Instant::now();
        let mut tried = 0;
        loop {
            let mut download = self.get(bucket, key, range, condition).await?;
            let length = download.range.end - download.range.start;
            if length > buffer.len() as u64 {
                return Err(Error::Length {
                    expected: buffer.len() as u64,
                    got: length,
                });
            }
            if let Some(lent) = &download.lent {
                let moved = self.copy_lent(&download, lent, buffer, begun).await?;
                return Ok((download.head, moved));
            }
            let mut filled = 0;
            let outcome = loop {
                match download.body.next().await {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(piece)) => {
                        // The body is checked to hold exactly `length` bytes, so this is always inside.
                        buffer[filled..filled + piece.len()].copy_from_slice(&piece);
                        filled += piece.len();
                    }
                }
            };
            match outcome {
                Ok(()) => {
                    let moved = Moved {
                        via: download.fallback.via(download.via),
                        bytes: length,
                        elapsed: begun.elapsed(),
                        checksum: None,
                    };
                    return Ok((download.head, moved));
                }
                Err(Error::Unreachable { .. }) if tried < self.inner.options.retries => tried += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// An object's facts.
    ///
    /// # Errors
    /// `NoSuchKey` and `NoSuchBucket` of a storage node of ours, `NotFound` of others (a bare HEAD cannot say which), and
    /// transport failures.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectHead> {
        let request = Request::new(Method::HEAD, bucket, Some(key)).header(CHECKSUM_MODE, "ENABLED")?;
        let (response, _) = self.fetch(&request).await?;
        let size = self.length_of(response.headers())?;
        self.head_of(response.headers(), size)
    }

    /// Removes an object; succeeds when there is none.
    ///
    /// # Errors
    /// `NoSuchBucket` and transport failures.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.fetch(&Request::new(Method::DELETE, bucket, Some(key)))
            .await?;
        Ok(())
    }

    /// Makes `to` the same bytes as `from` (bucket and key each) without moving them through this client. `headers: None`
    /// keeps those of `from`.
    ///
    /// # Errors
    /// `NoSuchKey`, `NoSuchBucket` and transport failures.
    pub async fn copy(
        &self,
        from: (&str, &str),
        to: (&str, &str),
        headers: Option<&ObjectHeaders>,
    ) -> Result<Written> {
        let begun = Instant::now();
        let mut request =
            Request::new(Method::PUT, to.0, Some(to.1)).header(COPY_SOURCE, &copy_source(from.0, from.1))?;
        if let Some(headers) = headers {
            request = request
                .header(METADATA_DIRECTIVE, "REPLACE")?
                .object_headers(headers)?;
        }
        let (_, document) = self.fetch(&request).await?;
        let copied = xml::copied(&document).map_err(|cause| self.malformed(cause))?;
        Ok(Written {
            etag: copied.0,
            crc64nvme: None,
            modified: copied.1,
            moved: Moved {
                via: Via::Http,
                bytes: 0,
                elapsed: begun.elapsed(),
                checksum: None,
            },
        })
    }

    /// Opens an object on this host, or a range of it, as files of the storage node; `None` where nothing can be lent.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn borrow(
        &self,
        bucket: &str,
        key: &str,
        range: Option<Range>,
        condition: &Condition,
    ) -> Result<Option<Download>> {
        self.borrow_only(get(bucket, key, range, condition)?).await
    }

    fn length_of(&self, headers: &HeaderMap) -> Result<u64> {
        text(headers, &CONTENT_LENGTH)
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| self.malformed("it has no Content-Length"))
    }

    pub(super) fn content_range(
        &self,
        headers: &HeaderMap,
        length: u64,
    ) -> Result<(std::ops::Range<u64>, u64)> {
        let parsed = text(headers, &CONTENT_RANGE).and_then(|value| {
            let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            let (first, last, size): (u64, u64, u64) =
                (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
            let end = last.checked_add(1)?;
            (end.checked_sub(first)? == length && end <= size).then_some((first..end, size))
        });
        parsed.ok_or_else(|| self.malformed("its Content-Range is missing or contradicts its length"))
    }

    pub(super) fn head_of(&self, headers: &HeaderMap, size: u64) -> Result<ObjectHead> {
        let owned = |name| text(headers, name).map(str::to_owned);
        let modified = modified_of(headers).ok_or_else(|| self.malformed("it has no Last-Modified"))?;
        let metadata = headers
            .iter()
            .filter_map(|(name, value)| {
                let name = name.as_str().strip_prefix("x-amz-meta-")?;
                Some((name.to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect();
        Ok(ObjectHead {
            size,
            etag: self.etag_of(headers)?,
            modified,
            crc64nvme: crc64nvme_of(headers),
            headers: ObjectHeaders {
                content_type: owned(&CONTENT_TYPE),
                content_encoding: owned(&CONTENT_ENCODING),
                content_disposition: owned(&CONTENT_DISPOSITION),
                content_language: owned(&CONTENT_LANGUAGE),
                cache_control: owned(&CACHE_CONTROL),
                metadata,
            },
        })
    }

    pub(super) fn etag_of(&self, headers: &HeaderMap) -> Result<String> {
        text(headers, &ETAG)
            .map(|tag| tag.trim_matches('"').to_owned())
            .ok_or_else(|| self.malformed("it has no ETag"))
    }

    /// The body as a stream that ends well only when it had `length` bytes and, if given, the checksum.
    fn checked(
        &self,
        body: Incoming,
        length: u64,
        expected: Option<u64>,
    ) -> BoxStream<'static, Result<Bytes>> {
        struct State {
            client: Client,
            body: Incoming,
            left: u64,
            digest: Option<(Digest, u64)>,
            ended: bool,
        }
        let state = State {
            client: self.clone(),
            body,
            left: length,
            digest: expected.map(|expected| (Digest::new(CrcAlgorithm::Crc64Nvme), expected)),
            ended: false,
        };
        stream::unfold(state, |mut state| async move {
            if state.ended {
                return None;
            }
            let item = match state.client.next_piece(&mut state.body).await {
                Err(error) => Err(error),
                Ok(Some(piece)) if piece.len() as u64 > state.left => {
                    Err(state.client.malformed("it is longer than its Content-Length"))
                }
                Ok(Some(piece)) => {
                    state.left -= piece.len() as u64;
                    if let Some((digest, _)) = &mut state.digest {
                        digest.update(&piece);
                    }
                    return Some((Ok(piece), state));
                }
                Ok(None) if state.left > 0 => Err(state
                    .client
                    .unreachable(format!("the connection closed {} bytes early", state.left))),
                Ok(None) => match &state.digest {
                    Some((digest, expected)) if digest.finalize() != *expected => Err(Error::Damaged),
                    _ => return None,
                },
            };
            state.ended = true;
            Some((item, state))
        })
        .boxed()
    }
}

fn get(bucket: &str, key: &str, range: Option<Range>, condition: &Condition) -> Result<Request> {
    Request::new(Method::GET, bucket, Some(key))
        .header(CHECKSUM_MODE, "ENABLED")?
        .range(range)?
        .condition(condition)
}

pub(super) fn crc64nvme_of(headers: &HeaderMap) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(text(headers, &CRC64NVME)?).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

pub(super) fn modified_of(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, &LAST_MODIFIED)?).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
