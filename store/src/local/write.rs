//! From a body to a data file.

use super::{
    cipher::Encrypting,
    data::{Data, NewFile},
    internal,
    rows::Extent,
    storage_error,
};
use crate::engine::{Body, CRC64NVME, DataKey, Error, ObjectRef, PartOptions, Result, TagOf, body_error};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as Crc};
use futures::StreamExt;
use md5::{Digest, Md5};
use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
    thread,
};
use tokio::{sync::mpsc, task::spawn_blocking};

/// Bytes that are gathered before they are handed to the disk. A body no longer than this is written in one go.
const BATCH: usize = 512 << 10;
/// Batches that may wait for the disk; with those being gathered and written this bounds the memory of one write.
const WAITING: usize = 2;

/// Bytes after which what was written so far begins to go to disk, so that at the end little is left to wait for.
const FLUSH: u64 = 32 << 20;

/// A body on disk, not yet referred to.
pub(super) struct Stored {
    /// `None` when the body is empty.
    pub file: Option<NewFile>,
    pub size: u64,
    /// What its entity tag is made of: its MD5, or its CRC64NVME and length.
    pub digest: [u8; 16],
    tag_of: TagOf,
    pub crc64: u64,
    /// Of the file, where that is encrypted.
    stored_crc64: Option<u64>,
}

/// How a body is encrypted.
#[derive(Clone)]
pub(super) struct Cipher {
    pub key: DataKey,
    /// Nothing in clear may tell what the bytes are then, so their entity tag is random.
    pub is_customers: bool,
}

impl Stored {
    /// Of an object of these bytes. What is no MD5 has a dash, so that no client takes it for one.
    pub fn etag(&self) -> String {
        let digest = hex::encode(self.digest);
        match self.tag_of {
            TagOf::Md5 => digest,
            TagOf::Crc64 => format!("{digest}-1"),
        }
    }

    pub fn extents(&self) -> Vec<Extent> {
        let extent = self.file.as_ref().map(|file| Extent {
            file: file.id(),
            offset: 0,
            length: self.size,
            crc64: self.stored_crc64.unwrap_or(self.crc64),
        });
        extent.into_iter().collect()
    }
}

/// Writes a body to a new file. If the caller goes away, the file does too.
pub(super) async fn store(
    data: &Arc<Data>,
    object: &ObjectRef,
    options: PartOptions,
    cipher: Option<Cipher>,
    body: Body,
) -> Result<Stored> {
    let expected = options.crc64nvme;
    let hides = cipher.as_ref().is_some_and(|cipher| cipher.is_customers);
    let mut stored = write(data, object, options, cipher, body).await?;
    if hides {
        (stored.tag_of, stored.digest) = (TagOf::Crc64, rand::random());
    }
    match expected {
        // The file goes with what is dropped here.
        Some(expected) if expected != stored.crc64 => Err(Error::BadDigest(CRC64NVME)),
        _ => Ok(stored),
    }
}

async fn write(
    data: &Arc<Data>,
    object: &ObjectRef,
    PartOptions { size, tag_of, .. }: PartOptions,
    cipher: Option<Cipher>,
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
            let (mut writer, mut sums) = (Writer::new(data, cipher), Sums::new(tag_of));
            writer.write(&first)?;
            sums.update(&first);
            Ok(sums.of(writer.finish()?))
        });
        return disk(written.await, &name);
    }
    // Checksums take about as long as the disk does, so the two are done beside each other.
    let (to_disk, mut for_disk) = mpsc::channel::<Option<Vec<Bytes>>>(WAITING);
    let (to_sums, mut for_sums) = mpsc::channel::<Vec<Bytes>>(WAITING);
    let summed = spawn_blocking(move || {
        let mut sums = Sums::new(tag_of);
        while let Some(batch) = for_sums.blocking_recv() {
            sums.update(&batch);
        }
        sums
    });
    let written = spawn_blocking(move || {
        let mut writer = Writer::new(data, cipher);
        while let Some(batch) = for_disk.blocking_recv() {
            match batch {
                Some(batch) => writer.write(&batch)?,
                None => return writer.finish(),
            }
        }
        // The sender went away without the end mark: the write was cut.
        Err(io::ErrorKind::Interrupted.into())
    });
    let (mut batch, mut ended) = (first, false);
    loop {
        let _panicked = to_sums.send(batch.clone()).await;
        // A closed channel means that the disk failed; the writer says why.
        if to_disk.send(Some(batch)).await.is_err() {
            break;
        }
        if ended {
            let _writer_failed = to_disk.send(None).await;
            break;
        }
        (batch, ended) = gathered.batch().await?;
    }
    drop(to_sums);
    let sums = summed.await.map_err(internal("computed checksums"))?;
    disk(written.await.map(|file| file.map(|file| sums.of(file))), &name)
}

fn check_space(data: &Data, object: &ObjectRef, size: u64) -> Result<()> {
    let (free, _) = data.space().map_err(internal("asked for free space"))?;
    if free == 0 || free < size {
        return Err(Error::NoSpace(object.to_string()));
    }
    Ok(())
}

fn disk(
    written: std::result::Result<io::Result<Stored>, tokio::task::JoinError>,
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

/// What is known of a body once all of it was seen.
struct Sums {
    size: u64,
    md5: Option<Md5>,
    crc: Crc,
}

impl Sums {
    fn new(tag_of: TagOf) -> Self {
        Self {
            size: 0,
            md5: (tag_of == TagOf::Md5).then(Md5::new),
            crc: Crc::new(CrcAlgorithm::Crc64Nvme),
        }
    }

    fn update(&mut self, batch: &[Bytes]) {
        for piece in batch {
            if let Some(md5) = &mut self.md5 {
                md5.update(piece);
            }
            self.crc.update(piece);
            self.size += piece.len() as u64;
        }
    }

    fn of(self, (file, stored_crc64): Written) -> Stored {
        let crc64 = self.crc.finalize();
        let (tag_of, digest) = match self.md5 {
            Some(md5) => (TagOf::Md5, md5.finalize().into()),
            None => {
                let mut digest = [0; 16];
                digest[..8].copy_from_slice(&crc64.to_be_bytes());
                digest[8..].copy_from_slice(&self.size.to_be_bytes());
                (TagOf::Crc64, digest)
            }
        };
        Stored {
            file,
            size: self.size,
            digest,
            tag_of,
            crc64,
            stored_crc64,
        }
    }
}

/// The file, if there were bytes, and the checksum of what is in it where that is encrypted.
type Written = (Option<NewFile>, Option<u64>);

struct Writer {
    data: Arc<Data>,
    file: Option<NewFile>,
    cipher: Option<Cipher>,
    encrypting: Option<Encrypting>,
    unflushed: u64,
    flushing: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Writer {
    fn new(data: Arc<Data>, cipher: Option<Cipher>) -> Self {
        Self {
            data,
            file: None,
            cipher,
            encrypting: None,
            unflushed: 0,
            flushing: None,
        }
    }

    fn write(&mut self, batch: &[Bytes]) -> io::Result<()> {
        if self.cipher.is_some() {
            self.write_encrypted(batch)?;
        } else {
            for piece in batch.iter().filter(|piece| !piece.is_empty()) {
                self.file()?.file.write_all(piece)?;
                self.unflushed += piece.len() as u64;
            }
        }
        if self.unflushed >= FLUSH && self.flushing.as_ref().is_none_or(thread::JoinHandle::is_finished) {
            self.flushed()?;
            self.unflushed = 0;
            if let Some(file) = &self.file {
                self.flushing = Some(flush_beside(file.file.try_clone()?)?);
            }
        }
        Ok(())
    }

    fn file(&mut self) -> io::Result<&mut NewFile> {
        if self.file.is_none() {
            self.file = Some(self.data.create()?);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_encrypted(&mut self, batch: &[Bytes]) -> io::Result<()> {
        let is_empty = batch.iter().all(Bytes::is_empty);
        let Some(cipher) = self.cipher.clone().filter(|_| !is_empty) else {
            return Ok(());
        };
        let id = self.file()?.id();
        let encrypting = match &mut self.encrypting {
            Some(encrypting) => encrypting,
            None => self.encrypting.insert(Encrypting::new(&cipher.key, id)?),
        };
        let stored = encrypting.update(batch)?;
        self.file()?.file.write_all(&stored)?;
        self.unflushed += stored.len() as u64;
        Ok(())
    }

    /// Waits for the flush under way. The kernel reports a failed write-back once per file, so its outcome must not get lost.
    fn flushed(&mut self) -> io::Result<()> {
        match self.flushing.take().map(thread::JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(io::Error::other("the thread that flushes panicked")),
        }
    }

    /// The file with all its bytes on disk; `None` when there were none.
    fn finish(mut self) -> io::Result<Written> {
        let mut crc64 = None;
        if let Some(encrypting) = self.encrypting.take() {
            let (end, crc) = encrypting.finish()?;
            self.file()?.file.write_all(&end)?;
            crc64 = Some(crc);
        }
        self.flushed()?;
        if let Some(file) = &mut self.file {
            file.finish()?;
        }
        Ok((self.file, crc64))
    }
}

fn flush_beside(file: File) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    thread::Builder::new()
        .name("flush".to_owned())
        .spawn(move || file.sync_data())
}
