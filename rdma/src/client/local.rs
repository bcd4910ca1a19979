//! How requests use the path to a storage node on the same host ([`crate::local`]).

use super::{
    Client, Options,
    body::Outgoing,
    object::{Download, Fallback, crc64nvme_of, modified_of},
    request::Request,
    send::Failure,
};
use crate::{
    Condition, Error, Moved, ObjectHeaders, Policy, Result, Via, Written,
    local::{self, Answered, CANNOT_LEND, HANDED, Handed, LEND, LEND_ONLY, LEND_PREFERRED, Lent},
};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use rustix::fs::{MemfdFlags, SealFlags};
use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Smaller bodies are sent as they are: making a descriptor costs more than copying them.
const WORTH_HANDING: usize = 64 << 10;

/// The connections, if the options allow the path and say where a socket may be.
pub(super) fn of(options: &Options) -> Option<Arc<local::Local<Outgoing>>> {
    let possible = options.local_socket.is_some() || options.local_sockets.is_some();
    (options.policy != Policy::Off && possible).then(|| {
        Arc::new(local::Local::new(
            options.local_socket.clone(),
            options.local_sockets.clone(),
            options.connect_timeout,
            // Where there is another way, a socket that does not answer is let be for a while.
            options.policy != Policy::Require
                || options
                    .rails
                    .as_ref()
                    .is_some_and(|rails| !rails.all().is_empty()),
        ))
    })
}

/// What became of a request that was to be sent over the socket.
pub(super) enum Local {
    Answered(Response<Incoming>),
    /// There is no socket, or nobody answers there. It is not signed.
    NotSent(http::Request<Outgoing>),
}

impl Client {
    pub(super) fn learn(&self, headers: &HeaderMap) {
        if let Some(local) = &self.inner.local {
            local.learn(headers);
        }
    }

    /// Whether a socket of the storage node is known on this host.
    pub fn is_local(&self) -> bool {
        self.has_socket()
    }

    /// Why the socket that is known leads nowhere; `None` when somebody answers there.
    pub(super) async fn why_not_local(&self) -> Option<String> {
        let mut request = Request::service(Method::GET);
        request.local_only = true;
        match self.fetch(&request).await {
            Ok(_) | Err(Error::Refused { .. }) => None,
            Err(Error::NoFastPath { cause, .. }) => Some(cause),
            Err(error) => Some(error.to_string()),
        }
    }

    fn has_socket(&self) -> bool {
        self.inner.local.as_ref().is_some_and(|local| local.is_known())
    }

    pub(super) fn no_fast_path(&self, cause: impl Into<String>) -> Error {
        Error::NoFastPath {
            endpoint: self.inner.endpoint.to_string(),
            cause: cause.into(),
        }
    }

    pub(super) async fn send_locally(
        &self,
        request: &Request,
        message: http::Request<Outgoing>,
        identity: &local::Identity<'_>,
    ) -> std::result::Result<Local, Failure> {
        let Some(local) = self.inner.local.as_ref().filter(|local| local.is_known()) else {
            return self.not_sent(request, message, "no socket of it is known on this host");
        };
        match local
            .send_as(Some(identity), message, request.handed.as_ref())
            .await
        {
            Ok(response) => Ok(Local::Answered(response)),
            Err(local::Failure::NotSent(message, error)) => self.not_sent(
                request,
                *message,
                &format!("its socket on this host does not answer ({error})"),
            ),
            Err(local::Failure::Broken(error)) => match error.downcast::<Error>() {
                // It could not be signed.
                Ok(error) => Err((*error).into()),
                Err(error) => Err(Failure {
                    error: self.unreachable(error),
                    performed: true,
                    repeatable: true,
                    headers: Box::default(),
                }),
            },
        }
    }

    fn not_sent(
        &self,
        request: &Request,
        message: http::Request<Outgoing>,
        cause: &str,
    ) -> std::result::Result<Local, Failure> {
        if request.local_only {
            return Err(Failure {
                error: self.no_fast_path(cause),
                performed: false,
                // A storage node that is being restarted comes back; the socket of none does not.
                repeatable: self.inner.options.policy == Policy::Require
                    && self.by_rdma().is_none()
                    && self.has_socket(),
                headers: Box::default(),
            });
        }
        Ok(Local::NotSent(message))
    }

    /// Without a socket what must be local fails, so the storage node is asked who it is, which tells where its socket is.
    async fn look_for_socket(&self) {
        let unheard = self.inner.local.as_ref().is_some_and(|local| !local.was_heard());
        if self.inner.options.policy == Policy::Require && unheard && !self.has_socket() {
            // Whatever it answers, its name is in it; that it cannot be reached shows in what follows.
            let _learned_or_not = self.send(&Request::service(Method::GET)).await;
        }
    }

    /// [`Client::get`] over the same host's path; `None` where that does not lead to the bytes.
    pub(super) async fn get_locally(&self, request: Request) -> Result<Option<Download>> {
        self.look_for_socket().await;
        if self.inner.options.policy == Policy::Off || !self.has_socket() {
            return Ok(None);
        }
        // What cannot be lent may come by RDMA.
        if self.by_rdma().is_some() {
            return self.borrow_only(request).await;
        }
        if self.inner.options.policy == Policy::Require {
            let response = self.send(&lend_only(request)?).await?;
            return self.borrowed(&response);
        }
        // One question gets the bytes, lent or in a body.
        let response = self.send(&request.header(LEND, LEND_PREFERRED)?).await?;
        match self.borrowed(&response)? {
            Some(download) => Ok(Some(download)),
            None => self.download_of(response).map(Some),
        }
    }

    pub(super) async fn borrow_only(&self, request: Request) -> Result<Option<Download>> {
        if !self.has_socket() {
            return Ok(None);
        }
        match self.send(&lend_only(request)?).await {
            Ok(response) => self.borrowed(&response),
            Err(Error::NoFastPath { .. }) => Ok(None),
            Err(error) if error.code() == Some(CANNOT_LEND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The download of an answer that lends; `None` when it has a body.
    pub(super) fn borrowed(&self, response: &Response<Incoming>) -> Result<Option<Download>> {
        let answered = response.extensions().get::<Answered>();
        let lent = match answered.map(|answered| answered.lent(response.headers())) {
            None | Some(Ok(None)) => return Ok(None),
            Some(Ok(Some(lent))) => lent,
            Some(Err(cause)) => return Err(self.malformed(cause)),
        };
        let (header, lent) = lent;
        let range = if response.status() == StatusCode::PARTIAL_CONTENT {
            let (range, size) = self.content_range(response.headers(), lent.len())?;
            if size != header.size {
                return Err(self.malformed("it contradicts itself about the object's size"));
            }
            range
        } else if lent.len() == header.size {
            0..header.size
        } else {
            return Err(self.malformed("it lends less than the object"));
        };
        let head = self.head_of(response.headers(), header.size)?;
        let whole = range == (0..header.size);
        let expected = head.crc64nvme.filter(|_| whole && self.inner.options.verify_lent);
        Ok(Some(Download {
            head,
            range,
            via: Via::Shm,
            fallback: Fallback::default(),
            body: checked(&lent, expected),
            lent: Some(lent),
        }))
    }

    /// Copies what was lent into `buffer`, and compares it with the checksum if it is a whole object.
    pub(super) async fn copy_lent(
        &self,
        download: &Download,
        lent: &Lent,
        buffer: &mut [u8],
        begun: Instant,
    ) -> Result<Moved> {
        let length = usize::try_from(lent.len())
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let whole = download.range == (0..download.head.size);
        let expected = download
            .head
            .crc64nvme
            .filter(|_| whole && self.inner.options.verify_lent);
        let copied = lent.copy_into(&mut buffer[..length], expected.is_some()).await;
        if copied.map_err(read_failed)? != expected {
            return Err(Error::Damaged);
        }
        Ok(Moved {
            via: Via::Shm,
            bytes: lent.len(),
            elapsed: begun.elapsed(),
            checksum: expected,
        })
    }

    /// Writes an object from a part of a file, which must not change meanwhile (if it does, what is stored is whatever was
    /// read). On the same host the storage node reads the file by itself; else its bytes are sent as by [`Client::put`].
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put_file(
        &self,
        bucket: &str,
        key: &str,
        file: File,
        range: std::ops::Range<u64>,
        headers: &ObjectHeaders,
        condition: &Condition,
    ) -> Result<Written> {
        let begun = Instant::now();
        let length = range.end.saturating_sub(range.start);
        let file = Arc::new(file);
        self.look_for_socket().await;
        if self.has_socket() {
            let request = Request::new(Method::PUT, bucket, Some(key))
                .object_headers(headers)?
                .condition(condition)?
                .cheap_etag()?;
            let handed = Handed {
                offset: range.start,
                length,
            };
            match self.fetch(&handing(request, &file, handed)?).await {
                Ok((response, _)) => {
                    return Ok(Written {
                        etag: self.etag_of(response.headers())?,
                        crc64nvme: crc64nvme_of(response.headers()),
                        modified: modified_of(response.headers()).unwrap_or_else(SystemTime::now),
                        moved: Moved {
                            via: Via::Shm,
                            bytes: length,
                            elapsed: begun.elapsed(),
                            checksum: None,
                        },
                    });
                }
                // Another file system: its bytes may still go as memory files.
                Err(error) if error.code() == Some(CANNOT_LEND) || self.may_send_instead(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let body = local::file_body(file, range);
        self.put(bucket, key, Some(length), headers, condition, body)
            .await
    }

    /// Whether a request that handed a descriptor over was refused in a way that its bytes need not be.
    fn may_send_instead(&self, error: &Error) -> bool {
        let unusable = matches!(error, Error::NoFastPath { .. }) || error.code() == Some(CANNOT_LEND);
        unusable && (self.rdma.is_some() || self.inner.options.policy != Policy::Require)
    }

    /// Sends a PUT whose body is `bytes` in a sealed memory file; `None` where there is no socket, or they are too few to be
    /// worth it.
    pub(super) async fn hand_bytes(&self, request: &Request, bytes: &Bytes) -> Result<Option<Response<()>>> {
        // Nothing has no way to go.
        if bytes.is_empty() {
            return Ok(None);
        }
        self.look_for_socket().await;
        let required = self.inner.options.policy == Policy::Require;
        if !self.has_socket() || !(required || bytes.len() >= WORTH_HANDING) {
            return Ok(None);
        }
        let length = bytes.len() as u64;
        let content = bytes.clone();
        let sealed = tokio::task::spawn_blocking(move || sealed(&content)).await;
        let file = match sealed.map_err(io::Error::other).and_then(|file| file) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, "there is no memory file for bytes that could be handed over");
                return Ok(None);
            }
        };
        let request = handing(request.clone(), &Arc::new(file), Handed { offset: 0, length })?;
        match self.fetch(&request).await {
            Ok((response, _)) => Ok(Some(response)),
            Err(error) if self.may_send_instead(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn lend_only(request: Request) -> Result<Request> {
    let mut request = request.header(LEND, LEND_ONLY)?;
    request.local_only = true;
    Ok(request)
}

fn handing(request: Request, file: &Arc<File>, handed: Handed) -> Result<Request> {
    let mut request = request.header(HANDED, &handed.to_string())?;
    request.handed = Some(Arc::clone(file));
    request.local_only = true;
    // Nothing is seen of its progress.
    request.patience = Duration::from_secs(handed.length / local::SLOW_DISK);
    Ok(request)
}

/// A memory file that nobody can change any more.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("penstock-put", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

fn read_failed(error: io::Error) -> Error {
    Error::Lent(error)
}

/// What was lent as a stream, which ends well only when it had the checksum.
fn checked(lent: &Lent, expected: Option<u64>) -> stream::BoxStream<'static, Result<Bytes>> {
    let Some(expected) = expected else {
        return lent.stream().map(|piece| piece.map_err(read_failed)).boxed();
    };
    let state = Some((lent.stream(), Digest::new(CrcAlgorithm::Crc64Nvme)));
    stream::unfold(state, move |state| async move {
        let (mut pieces, mut digest) = state?;
        match pieces.next().await {
            Some(Ok(piece)) => {
                digest.update(&piece);
                Some((Ok(piece), Some((pieces, digest))))
            }
            Some(Err(error)) => Some((Err(read_failed(error)), None)),
            None if digest.finalize() != expected => Some((Err(Error::Damaged), None)),
            None => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_can_not_be_changed() {
        let file = sealed(b"bytes").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5);
        assert!((&file).write(b"x").is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(100).is_err());
        assert!(
            rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).is_err(),
            "nor unsealed or sealed anew"
        );
    }
}
