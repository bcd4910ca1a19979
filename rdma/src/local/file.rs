//! A part of a file as a body, for whoever must send its bytes.

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};

const PIECE: u64 = 1 << 20;

/// The bytes `range` of a file. It ends with an error where the file is shorter.
pub fn file_body(file: impl Into<Arc<File>>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
    let file = file.into();
    stream::try_unfold(range.start, move |at| {
        let (file, end) = (Arc::clone(&file), range.end);
        async move {
            if at >= end {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; usize::try_from(PIECE.min(end - at)).unwrap_or(0)];
                file.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = reading.await.map_err(io::Error::other)??;
            let next = at + piece.len() as u64;
            Ok(Some((piece, next)))
        }
    })
    .boxed()
}
