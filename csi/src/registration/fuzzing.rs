//! What fuzzers call: what an HTTP/2 client sends before anybody knows who it is.

use super::{headers::Rewriter, hpack};
use bytes::BytesMut;
use std::io;

fn rewrite(data: &[u8], step: usize) -> io::Result<Vec<u8>> {
    let mut rewriter = Rewriter::default();
    let (mut waiting, mut output) = (BytesMut::new(), BytesMut::new());
    for piece in data.chunks(step) {
        waiting.extend_from_slice(piece);
        rewriter.rewrite(&mut waiting, &mut output)?;
    }
    Ok(output.to_vec())
}

/// What comes out does not depend on how the bytes arrive.
pub fn connections(data: &[u8]) {
    let (whole, pieces) = (rewrite(data, data.len().max(1)), rewrite(data, 3));
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (whole, pieces) => assert_eq!(whole.is_err(), pieces.is_err()),
    }
}

/// A header block gets no longer, and is the same when it is rewritten again.
pub fn header_blocks(data: &[u8]) {
    if let Some(once) = hpack::with_valid_authority(data) {
        assert!(once.len() <= data.len());
        assert_eq!(hpack::with_valid_authority(&once).as_ref(), Some(&once));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn connections_keep_their_promises() {
        crate::fuzz_replay::run("connections", super::connections);
    }

    #[test]
    fn header_blocks_keep_their_promises() {
        crate::fuzz_replay::run("header-blocks", super::header_blocks);
    }
}
