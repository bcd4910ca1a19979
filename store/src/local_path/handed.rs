//! Bodies that come as a descriptor: a memory file or an ordinary one, which is read while it is stored.
//!
//! Nothing is believed of the file. It is read like any body, into a file of ours, and the checksums are of what was read;
//! so whoever changes it meanwhile changes what he stores himself, and a file that ends early stores nothing. It is never
//! mapped into memory, where a file that becomes shorter would end this process (SIGBUS).

use super::Peer;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Extensions, HeaderMap};
use penstock_rdma::local::{CANNOT_LEND, HANDED, Handed};
use rustix::{
    buffer::spare_capacity,
    fs::{FileType, OFlags},
    io::Errno,
};
use s3s::{S3Error, S3ErrorCode, S3Result, dto::StreamingBlob, s3_error};
use std::{fs::File, io, sync::Arc};
use sync_wrapper::SyncStream;
use tokio::task::spawn_blocking;

/// Bytes read at once.
const PIECE: u64 = 512 << 10;

/// File systems on which a read ends in the time that a disk takes: ext4, XFS, Btrfs, F2FS, ZFS, tmpfs (memory files too).
/// On others (FUSE, network, an overlay over either) the sender could make the thread that reads wait for ever.
const DISKS: [u64; 6] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0x0102_1994,
];

/// The body of a request that hands a descriptor over, and its length; `None` for requests that do not.
pub(crate) fn handed(headers: &HeaderMap, extensions: &Extensions) -> S3Result<Option<(StreamingBlob, u64)>> {
    let Some(value) = headers.get(HANDED) else {
        return Ok(None);
    };
    let handed = value.to_str().ok().and_then(Handed::parse);
    let Some(handed) = handed else {
        return Err(s3_error!(
            InvalidArgument,
            "x-penstock-handed is not an offset and a length."
        ));
    };
    let descriptor = extensions.get::<Arc<Peer>>().and_then(|peer| peer.arrived());
    let Some(descriptor) = descriptor else {
        return Err(s3_error!(
            InvalidRequest,
            "x-penstock-handed asks for exactly one descriptor with the request, over the storage node's local socket."
        ));
    };
    let file = File::from(descriptor);
    check(&file, handed)?;
    Ok(Some((
        StreamingBlob::wrap(SyncStream::new(body(file, handed))),
        handed.length,
    )))
}

/// Refuses what cannot be read like a file on a disk.
fn check(file: &File, handed: Handed) -> S3Result<()> {
    let unknown = |errno: Errno| s3_error!(errno, InvalidArgument, "The descriptor cannot be looked at.");
    let flags = rustix::fs::fcntl_getfl(file).map_err(unknown)?;
    if flags.contains(OFlags::PATH) || flags.contains(OFlags::WRONLY) {
        return Err(s3_error!(
            InvalidArgument,
            "The descriptor is not open for reading."
        ));
    }
    let facts = rustix::fs::fstat(file).map_err(unknown)?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
        return Err(s3_error!(
            InvalidArgument,
            "The descriptor is not of a regular file."
        ));
    }
    let kind = rustix::fs::fstatfs(file).map_err(unknown)?.f_type;
    if !u64::try_from(kind).is_ok_and(|kind| DISKS.contains(&kind)) {
        let mut answer = S3Error::with_message(
            S3ErrorCode::Custom(CANNOT_LEND.into()),
            "Files of this file system are not read by the storage node; hand a memory file over, or send the bytes.",
        );
        answer.set_status_code(http::StatusCode::UNPROCESSABLE_ENTITY);
        return Err(answer);
    }
    if u64::try_from(facts.st_size).unwrap_or(0) < handed.offset + handed.length {
        return Err(s3_error!(
            IncompleteBody,
            "The file is shorter than x-penstock-handed says; nothing was stored."
        ));
    }
    Ok(())
}

fn body(file: File, handed: Handed) -> stream::BoxStream<'static, io::Result<Bytes>> {
    let (file, end) = (Arc::new(file), handed.offset + handed.length);
    let step = move |at: u64| {
        let file = Arc::clone(&file);
        (at < end).then(|| (spawn_blocking(move || piece(&file, at, end)), at))
    };
    stream::unfold(step(handed.offset), move |reading| {
        let step = step.clone();
        async move {
            let (reading, at) = reading?;
            match reading.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(bytes) => {
                    // Reading ahead begins while this piece is stored.
                    let next = step(at + bytes.len() as u64);
                    Some((Ok(bytes), next))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

fn piece(file: &File, at: u64, end: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(PIECE.min(end - at)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let at = at + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => {
                let cause = "the file that was handed over became shorter while it was read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cause));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // A vector may have more room than was asked for.
    bytes.truncate(wanted);
    Ok(bytes.into())
}
