//! From a body to a data file.

use super::{
    data::{Data, NewFile},
    internal,
    rows::Extent,
    storage_error,
};
use crate::engine::{Body, Error, ObjectRef, Result};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::StreamExt;
use md5::{Digest, Md5};
use std::{io::Write, sync::Arc};
use tokio::{sync::mpsc, task::spawn_blocking};

/// Bytes that are gathered before they are handed to the disk. A body no longer than this is written in one go.
const BATCH: usize = 512 << 10;
/// Batches that may wait for the disk; with those being gathered and written this bounds the memory of one write.
const WAITING: usize = 2;

/// A body on disk, not yet referred to.
pub(super) struct Stored {
    /// `None` when the body is empty.
    pub file: Option<NewFile>,
    pub size: u64,
    pub md5: [u8; 16],
    pub crc64: u64,
}

impl Stored {
    pub fn extents(&self) -> Vec<Extent> {
        let extent = self.file.as_ref().map(|file| Extent {
            file: file.id(),
            offset: 0,
            length: self.size,
            crc64: self.crc64,
        });
        extent.into_iter().collect()
    }
}

/// Writes a body to a new file. If the caller goes away, the file does too.
pub(super) async fn store(
    data: &Arc<Data>,
    object: &ObjectRef,
    size: Option<u64>,
    mut body: Body,
) -> Result<Stored> {
    check_space(data, object, size.unwrap_or(0))?;
    let mut gathered = Gathered {
        body: &mut body,
        size,
        got: 0,
    };
    let (first, ended) = gathered.batch().await?;
    let name = object.to_string();
    let data = Arc::clone(data);
    if ended {
        let written = spawn_blocking(move || {
            let mut writer = Writer::new(data);
            writer.write(&first)?;
            writer.finish()
        });
        return disk(written.await, &name);
    }
    let (batches, mut waiting) = mpsc::channel::<Option<Vec<Bytes>>>(WAITING);
    let mut written = spawn_blocking(move || {
        let mut writer = Writer::new(data);
        writer.write(&first)?;
        while let Some(batch) = waiting.blocking_recv() {
            match batch {
                Some(batch) => writer.write(&batch)?,
                None => return writer.finish(),
            }
        }
        // The sender went away without the end mark: the write was cut.
        Err(std::io::ErrorKind::Interrupted.into())
    });
    loop {
        let (batch, ended) = gathered.batch().await?;
        // A closed channel means that the disk failed; the writer says why.
        if batches.send(Some(batch)).await.is_err() {
            break;
        }
        if ended {
            let _writer_failed = batches.send(None).await;
            break;
        }
    }
    disk((&mut written).await, &name)
}

fn check_space(data: &Data, object: &ObjectRef, size: u64) -> Result<()> {
    let (free, _) = data.space().map_err(internal("asked for free space"))?;
    if free == 0 || free < size {
        return Err(Error::NoSpace(object.to_string()));
    }
    Ok(())
}

fn disk(
    written: std::result::Result<std::io::Result<Stored>, tokio::task::JoinError>,
    object: &str,
) -> Result<Stored> {
    match written {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(error)) => Err(storage_error(error, object, "wrote a data file")),
        Err(error) => Err(internal("wrote a data file")(error)),
    }
}

struct Gathered<'b> {
    body: &'b mut Body,
    size: Option<u64>,
    got: u64,
}

impl Gathered<'_> {
    /// The next bytes, at least [`BATCH`] unless the body ended, and whether it did.
    async fn batch(&mut self) -> Result<(Vec<Bytes>, bool)> {
        let mut batch = Vec::new();
        let mut length = 0;
        while length < BATCH {
            let Some(piece) = self.body.next().await else {
                return match self.size {
                    Some(expected) if expected != self.got => Err(self.wrong_length(expected)),
                    _ => Ok((batch, true)),
                };
            };
            let piece = piece.map_err(body_error)?;
            length += piece.len();
            self.got += piece.len() as u64;
            if let Some(expected) = self.size
                && self.got > expected
            {
                return Err(self.wrong_length(expected));
            }
            batch.push(piece);
        }
        Ok((batch, false))
    }

    fn wrong_length(&self, expected: u64) -> Error {
        Error::IncompleteBody {
            expected,
            got: self.got,
        }
    }
}

/// Whoever gives a body may end it with an engine error of its own, as [`Error::BadDigest`].
fn body_error(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Body(error),
    }
}

struct Writer {
    data: Arc<Data>,
    file: Option<NewFile>,
    size: u64,
    md5: Md5,
    crc: Crc,
}

impl Writer {
    fn new(data: Arc<Data>) -> Self {
        Self {
            data,
            file: None,
            size: 0,
            md5: Md5::new(),
            crc: Crc::new(CrcAlgorithm::Crc64Nvme),
        }
    }

    fn write(&mut self, batch: &[Bytes]) -> std::io::Result<()> {
        for piece in batch.iter().filter(|piece| !piece.is_empty()) {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(self.data.create()?),
            };
            file.file.write_all(piece)?;
            self.md5.update(piece);
            self.crc.update(piece);
            self.size += piece.len() as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<Stored> {
        if let Some(file) = &mut self.file {
            file.finish()?;
        }
        Ok(Stored {
            file: self.file,
            size: self.size,
            md5: self.md5.finalize().into(),
            crc64: self.crc.finalize(),
        })
    }
}
