//! GetObject by lending: the same answer, with descriptors in place of a body ([`penstock_rdma::local`]).

use super::{Front, body, error};
use crate::{
    engine::{self, Body, Borrower, ByteRange, Lending, Loan, ObjectInfo, ObjectRef, Precondition},
    local_path::{LentFiles, Peer},
    rdma::Refusal,
};
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use penstock_rdma::{
    Via,
    local::{CANNOT_LEND, LEND, LEND_ONLY, LEND_PREFERRED, LENT, LENT_CRC64NVME, LentHeader},
};
use s3s::{
    S3Error, S3ErrorCode, S3Response, S3Result,
    dto::{GetObjectOutput, StreamingBlob},
    s3_error,
};
use std::{ops::Range, os::fd::OwnedFd, sync::Arc};

/// Who asks for descriptors, and whether a body will do too.
pub(super) struct Asked {
    peer: Arc<Peer>,
    pub only: bool,
}

/// Whether a request asks for descriptors. Over the network it asks in vain.
pub(super) fn asked(headers: &HeaderMap, extensions: &Extensions) -> S3Result<Option<Asked>> {
    let only = match headers.get(LEND).map(HeaderValue::to_str) {
        None => return Ok(None),
        Some(Ok(LEND_PREFERRED)) => false,
        Some(Ok(LEND_ONLY)) => true,
        Some(_) => {
            return Err(s3_error!(
                InvalidArgument,
                "x-penstock-lend is neither \"prefer\" nor \"only\"."
            ));
        }
    };
    match extensions.get::<Arc<Peer>>() {
        Some(peer) => Ok(Some(Asked {
            peer: Arc::clone(peer),
            only,
        })),
        None if only => Err(cannot(
            "descriptors travel over the storage node's local socket alone",
        )),
        None => Ok(None),
    }
}

pub(super) fn cannot(cause: &str) -> S3Error {
    let message = format!("The object's bytes cannot be lent: {cause}.");
    error::coded(CANNOT_LEND, StatusCode::UNPROCESSABLE_ENTITY, message)
}

pub(super) enum Error {
    Engine(engine::Error),
    Refused(S3Error),
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.answer())
    }
}

impl From<S3Error> for Error {
    fn from(answer: S3Error) -> Self {
        Self::Refused(answer)
    }
}

/// An opened object.
pub(super) struct Opened {
    pub info: ObjectInfo,
    pub range: Range<u64>,
    pub bytes: Bytes,
}

/// How its bytes go out.
pub(super) enum Bytes {
    Body(Option<Body>),
    Loan(Asked, Box<Loan>),
}

/// The loan, or why there is none, as a metric label.
pub(super) async fn lent(
    front: &Front,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
    asked: &Asked,
) -> engine::Result<Result<Box<Loan>, &'static str>> {
    let peer = &asked.peer;
    if !peer.may_borrow() {
        return Ok(Err("leases"));
    }
    let borrower = Borrower {
        uid: peer.uid,
        held_limit: peer.ledger.limits.held,
    };
    Ok(
        match front.engine.lend(object, range, precondition, borrower).await? {
            Lending::Lent(loan) => Ok(loan),
            Lending::Refused(reason) => Err(reason),
        },
    )
}

pub(super) async fn open(
    front: &Front,
    object: &ObjectRef,
    range: Option<ByteRange>,
    precondition: &Precondition,
    asked: Option<Asked>,
) -> Result<Opened, Error> {
    if let Some(asked) = asked {
        match lent(front, object, range, precondition, &asked).await? {
            Ok(mut loan) => {
                return Ok(Opened {
                    info: loan.info.clone(),
                    range: std::mem::take(&mut loan.range),
                    bytes: Bytes::Loan(asked, loan),
                });
            }
            Err(reason) => {
                front.metrics.not_lent(reason);
                if asked.only {
                    return Err(Error::Refused(cannot(reason)));
                }
            }
        }
    }
    let opened = front.engine.get(object, range, precondition).await?;
    Ok(Opened {
        info: opened.info,
        range: opened.range,
        bytes: Bytes::Body(Some(opened.body)),
    })
}

impl Bytes {
    /// The answer's body, and its length.
    pub fn of_answer(&mut self, front: &Front, range: &Range<u64>) -> (Option<StreamingBlob>, u64) {
        match self {
            Self::Body(engine_body) => {
                let blob = engine_body
                    .take()
                    .map(|bytes| body::outgoing(bytes, &front.metrics));
                let length = blob.as_ref().map_or(0, |_| range.end - range.start);
                (blob, length)
            }
            Self::Loan(..) => (None, 0),
        }
    }

    /// Puts what is lent beside the answer, and begins the lease.
    pub fn lend(self, front: &Front, answer: &mut S3Response<GetObjectOutput>) -> S3Result<()> {
        match self {
            Self::Body(_) => Ok(()),
            Self::Loan(asked, loan) => asked.take(front, *loan, &mut answer.headers, &mut answer.extensions),
        }
    }
}

impl Asked {
    /// Puts what is lent into the headers and extensions of the answer, and begins the lease.
    pub fn take(
        self,
        front: &Front,
        loan: Loan,
        headers: &mut HeaderMap,
        extensions: &mut Extensions,
    ) -> S3Result<()> {
        let (size, crc) = (loan.info.size, loan.info.crc64nvme);
        let mut header = LentHeader {
            lease: 0,
            files: loan.files.len(),
            size,
            extents: loan.extents,
        };
        front.metrics.sent(Via::Shm, header.length());
        header.lease = self.peer.lease(loan.hold, header.files);
        let value = HeaderValue::try_from(header.to_string())
            .map_err(|error| S3Error::with_source(S3ErrorCode::InternalError, Box::new(error)))?;
        headers.insert(LENT, value);
        let whole = crc.filter(|_| header.length() == size);
        if let Some(crc) = whole.and_then(|crc| HeaderValue::try_from(format!("{crc:016x}")).ok()) {
            headers.insert(LENT_CRC64NVME, crc);
        }
        let files: Vec<OwnedFd> = loan.files.into_iter().map(OwnedFd::from).collect();
        extensions.insert(LentFiles::new(files));
        Ok(())
    }
}
