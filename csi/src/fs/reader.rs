//! Reading an open file: a stream while it is read from front to back, a request per read otherwise.

use super::{
    failure::Failure,
    storage::{Storage, Version},
};
use bytes::Bytes;
use penstock_store::engine::Body;
use std::{collections::VecDeque, mem};
use tokio::sync::Mutex;

/// The kernel reads ahead with several requests at the same time, so what is read in order may arrive out of it by this many bytes.
const DISORDER: u64 = 2 << 20;
/// After so many reads in order a stream is opened; fewer are a look at a header.
const IN_ORDER: u32 = 2;

/// The reading side of one handle.
#[derive(Default)]
pub struct Reader {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the last read ended.
    last: u64,
    in_order: u32,
    stream: Option<Stream>,
}

/// One GET, read piece by piece. `pieces` are the bytes from `first` up to `end`, where the body goes on.
struct Stream {
    body: Body,
    pieces: VecDeque<Bytes>,
    first: u64,
    end: u64,
}

impl Reader {
    /// Up to `length` bytes of a version from `offset` on; fewer only at its end.
    pub async fn read(
        &self,
        storage: &Storage,
        path: &str,
        version: &Version,
        offset: u64,
        length: u64,
    ) -> Result<Vec<Bytes>, Failure> {
        let length = length.min(version.size.saturating_sub(offset));
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut state = self.state.lock().await;
        if offset.abs_diff(mem::replace(&mut state.last, offset + length)) <= DISORDER {
            state.in_order = state.in_order.saturating_add(1);
        } else {
            state.in_order = 0;
            state.stream = None;
        }
        if state.stream.is_none() && state.in_order > IN_ORDER && offset + length < version.size {
            let body = storage.open(path, version, offset, version.size - offset).await?;
            state.stream = Some(Stream {
                body,
                pieces: VecDeque::new(),
                first: offset,
                end: offset,
            });
        }
        if let Some(stream) = state.stream.as_mut().filter(|stream| stream.reaches(offset)) {
            // A stream that breaks (the storage node gives up readers that pause) is no failure: the bytes are asked for anew.
            match stream.take(storage, offset, length).await {
                Ok(pieces) => return Ok(pieces),
                Err(_) => state.stream = None,
            }
        }
        drop(state);
        storage.read(path, version, offset, length).await
    }
}

impl Stream {
    fn reaches(&self, offset: u64) -> bool {
        offset >= self.first && offset <= self.end + DISORDER
    }

    async fn take(&mut self, storage: &Storage, offset: u64, length: u64) -> Result<Vec<Bytes>, Failure> {
        let wanted = offset + length;
        while self.end < wanted {
            let Some(piece) = storage.next(&mut self.body).await? else {
                return Err(Failure::Cut {
                    expected: wanted,
                    got: self.end,
                });
            };
            self.end += piece.len() as u64;
            self.pieces.push_back(piece);
        }
        let found = slice(&self.pieces, self.first, offset, wanted);
        self.drop_before(offset.saturating_sub(DISORDER));
        Ok(found)
    }

    fn drop_before(&mut self, offset: u64) {
        while let Some(piece) = self.pieces.front() {
            let end = self.first + piece.len() as u64;
            if end > offset {
                return;
            }
            self.first = end;
            self.pieces.pop_front();
        }
    }
}

/// The bytes `from..to` of pieces that begin at `first`.
fn slice(pieces: &VecDeque<Bytes>, first: u64, from: u64, to: u64) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut at = first;
    for piece in pieces {
        let end = at + piece.len() as u64;
        if end > from && at < to {
            let clip = |offset: u64| usize::try_from(offset.clamp(at, end) - at).unwrap_or(piece.len());
            found.push(piece.slice(clip(from)..clip(to)));
        }
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use penstock_store::{
        engine::{Engine, ObjectRef, PutOptions},
        local::Local,
    };
    use std::{sync::Arc, time::Duration};

    async fn object(bytes: &Bytes) -> (tempfile::TempDir, Storage, Version) {
        let folder = tempfile::tempdir().unwrap();
        let engine = Local::open(folder.path()).await.unwrap();
        engine.create_bucket("bucket").await.unwrap();
        let body = futures::stream::iter([Ok(bytes.clone())]).boxed();
        let info = engine
            .put(&ObjectRef::new("bucket", "f"), PutOptions::default(), body)
            .await
            .unwrap();
        let storage = Storage::new(Arc::new(engine), "bucket", "", Duration::from_secs(10));
        (folder, storage, info.into())
    }

    fn pattern(length: usize) -> Bytes {
        (0..length)
            .map(|at| (at * 31 % 251) as u8)
            .collect::<Vec<_>>()
            .into()
    }

    async fn check(
        reader: &Reader,
        storage: &Storage,
        version: &Version,
        all: &Bytes,
        offset: u64,
        length: u64,
    ) {
        let pieces = reader.read(storage, "f", version, offset, length).await.unwrap();
        let got: Vec<u8> = pieces.concat();
        let end = (offset + length).min(all.len() as u64);
        assert!(
            got == all[offset as usize..end.max(offset) as usize],
            "at {offset}"
        );
    }

    #[tokio::test]
    async fn bytes_are_right_in_order_out_of_order_and_anywhere() {
        let all = pattern((9 << 20) + 77);
        let (_folder, storage, version) = object(&all).await;
        let reader = Reader::default();
        let step = 128 << 10;
        for block in 0..72 {
            // Every pair comes the wrong way round.
            check(&reader, &storage, &version, &all, (block ^ 1) * step, step).await;
        }
        assert!(
            reader.state.lock().await.stream.is_some(),
            "reading in order is one request"
        );
        check(&reader, &storage, &version, &all, 72 * step, step).await;
        check(&reader, &storage, &version, &all, 5, 10).await;
        check(&reader, &storage, &version, &all, 8 << 20, 100).await;
        check(&reader, &storage, &version, &all, 4 << 20, 1 << 20).await;
        assert!(reader.state.lock().await.stream.is_none(), "jumping about is not");
        assert!(
            reader
                .read(&storage, "f", &version, all.len() as u64, 10)
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_stream_keeps_little_in_memory() {
        let all = pattern(24 << 20);
        let (_folder, storage, version) = object(&all).await;
        let reader = Reader::default();
        for block in 0..20 {
            check(&reader, &storage, &version, &all, block << 20, 1 << 20).await;
            let state = reader.state.lock().await;
            let kept: usize = state
                .stream
                .iter()
                .flat_map(|stream| &stream.pieces)
                .map(Bytes::len)
                .sum();
            assert!(kept <= 6 << 20, "{kept} bytes are kept");
        }
    }
}
