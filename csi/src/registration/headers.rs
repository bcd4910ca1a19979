//! The client's half of an HTTP/2 connection (RFC 9113), with the authority of its requests replaced.
//!
//! ```text
//!  preface │ frame │ frame │ HEADERS … CONTINUATION │ DATA …
//!   ──────── copied ──────── ▲ gathered, rewritten  ── copied ──
//! ```

use super::hpack;
use bytes::{Buf, BufMut, BytesMut};
use std::io;

/// `PRI * HTTP/2.0 …` (RFC 9113, 3.4).
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
/// The largest frame that a peer may send when it was told nothing else (RFC 9113, 4.2); we tell it nothing else.
const FRAME_MAX: usize = 16384;
/// The largest header block; kubelet's have some 200 bytes.
const BLOCK_MAX: usize = 64 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_FIELDS: usize = 5;

/// Rewrites what a client sends. Sees bytes only, so that it can be tested without a connection.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// Bytes to copy as they are before the next frame's header.
    copy: usize,
    /// Header block that waits for its CONTINUATION.
    block: Option<Block>,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    priority: [u8; PRIORITY_FIELDS],
    has_priority: bool,
    fragments: BytesMut,
}

/// The header of a frame (RFC 9113, 4.1).
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self {
            copy: PREFACE,
            block: None,
        }
    }
}

impl Rewriter {
    /// Moves from `input` to `output` all that can be moved; a frame of headers is moved once it is whole.
    ///
    /// # Errors
    /// When the client breaks the protocol where this code would have to guess. The connection cannot go on then.
    pub(super) fn rewrite(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> io::Result<()> {
        loop {
            let copied = self.copy.min(input.len());
            output.put(input.split_to(copied));
            self.copy -= copied;
            let Some(frame) = Frame::peek(input).filter(|_| self.copy == 0) else {
                return Ok(());
            };
            if frame.kind != HEADERS && frame.kind != CONTINUATION {
                if self.block.is_some() {
                    return Err(broken("a header block was interrupted"));
                }
                self.copy = FRAME_HEADER + frame.length;
                continue;
            }
            if frame.length > FRAME_MAX {
                return Err(broken("a frame is larger than agreed"));
            }
            if input.len() < FRAME_HEADER + frame.length {
                return Ok(());
            }
            let mut payload = input.split_to(FRAME_HEADER + frame.length);
            payload.advance(FRAME_HEADER);
            self.gather(frame, payload)?;
            if frame.flags & END_HEADERS != 0
                && let Some(block) = self.block.take()
            {
                block.write(output);
            }
        }
    }

    fn gather(&mut self, frame: Frame, mut payload: BytesMut) -> io::Result<()> {
        match (&mut self.block, frame.kind) {
            (None, HEADERS) => {
                let mut block = Block {
                    stream: frame.stream,
                    end_stream: frame.flags & END_STREAM != 0,
                    priority: [0; PRIORITY_FIELDS],
                    has_priority: frame.flags & PRIORITY != 0,
                    fragments: BytesMut::new(),
                };
                let cut = |_| broken("a HEADERS frame is too short for its flags");
                if frame.flags & PADDED != 0 {
                    let padding = usize::from(payload.try_get_u8().map_err(cut)?);
                    let kept = payload.len().checked_sub(padding);
                    payload
                        .truncate(kept.ok_or_else(|| broken("a HEADERS frame has more padding than bytes"))?);
                }
                if block.has_priority {
                    payload.try_copy_to_slice(&mut block.priority).map_err(cut)?;
                }
                block.fragments = payload;
                self.block = Some(block);
            }
            (Some(block), CONTINUATION) if block.stream == frame.stream => {
                if block.fragments.len() + payload.len() > BLOCK_MAX {
                    return Err(broken("a header block is too large"));
                }
                block.fragments.unsplit(payload);
            }
            _ => return Err(broken("a header block was interrupted")),
        }
        Ok(())
    }
}

impl Block {
    /// Writes the block with another authority, in as many frames as it needs, without padding.
    fn write(self, output: &mut BytesMut) {
        // What cannot be understood goes on as it is: the server says better than we what is wrong with it.
        let rewritten =
            hpack::with_valid_authority(&self.fragments).unwrap_or_else(|| self.fragments.to_vec());
        let priority = if self.has_priority {
            &self.priority[..]
        } else {
            &[]
        };
        let (first, rest) = rewritten.split_at(rewritten.len().min(FRAME_MAX - priority.len()));
        let more = rest.chunks(FRAME_MAX);
        let end = |last: bool| if last { END_HEADERS } else { 0 };
        let mut flags = end(rest.is_empty());
        if self.end_stream {
            flags |= END_STREAM;
        }
        if self.has_priority {
            flags |= PRIORITY;
        }
        Frame {
            length: priority.len() + first.len(),
            kind: HEADERS,
            flags,
            stream: self.stream,
        }
        .write(output);
        output.put(priority);
        output.put(first);
        let count = more.len();
        for (index, fragment) in more.enumerate() {
            Frame {
                length: fragment.len(),
                kind: CONTINUATION,
                flags: end(index + 1 == count),
                stream: self.stream,
            }
            .write(output);
            output.put(fragment);
        }
    }
}

impl Frame {
    fn peek(mut input: &[u8]) -> Option<Self> {
        if input.len() < FRAME_HEADER {
            return None;
        }
        Some(Self {
            length: input.get_uint(3) as usize,
            kind: input.get_u8(),
            flags: input.get_u8(),
            stream: input.get_u32(),
        })
    }

    fn write(self, output: &mut BytesMut) {
        output.put_uint(self.length as u64, 3);
        output.put_u8(self.kind);
        output.put_u8(self.flags);
        output.put_u32(self.stream);
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: [u8; 10] = [0x41, 0x08, b'%', b'2', b'F', b'a', b'.', b's', b'o', b'c'];
    const SHORT: [u8; 3] = [0x41, 0x01, b'k'];

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        Frame {
            length: payload.len(),
            kind,
            flags,
            stream: 1,
        }
        .write(&mut bytes);
        bytes.put(payload);
        bytes.to_vec()
    }

    /// What comes out when `input` arrives in pieces of `step` bytes.
    fn rewrite(input: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut rewriter = Rewriter {
            copy: 0,
            ..Rewriter::default()
        };
        let (mut waiting, mut output) = (BytesMut::new(), BytesMut::new());
        for piece in input.chunks(step) {
            waiting.extend_from_slice(piece);
            rewriter.rewrite(&mut waiting, &mut output)?;
        }
        assert!(waiting.is_empty(), "{waiting:?} waits");
        Ok(output.to_vec())
    }

    #[test]
    fn other_frames_are_copied_however_the_bytes_arrive() {
        let input = [
            frame(4, 0, &[]),
            frame(HEADERS, END_HEADERS, &LONG),
            frame(0, END_STREAM, &LONG),
            frame(0xfa, 0xff, &[7; 300]),
        ]
        .concat();
        let expected = [
            frame(4, 0, &[]),
            frame(HEADERS, END_HEADERS, &SHORT),
            frame(0, END_STREAM, &LONG),
            frame(0xfa, 0xff, &[7; 300]),
        ]
        .concat();
        for step in [1, 2, 7, 10_000] {
            assert_eq!(rewrite(&input, step).unwrap(), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn the_preface_is_copied() {
        let mut rewriter = Rewriter::default();
        let mut input = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
        input.extend(frame(HEADERS, END_HEADERS, &LONG));
        let mut output = BytesMut::new();
        rewriter.rewrite(&mut input, &mut output).unwrap();
        assert_eq!(output[PREFACE..], frame(HEADERS, END_HEADERS, &SHORT));
    }

    #[test]
    fn padding_goes_and_priority_stays() {
        let priority = [0x80, 0, 0, 0, 15];
        let payload = [&[3][..], &priority, &LONG, &[0, 0, 0]].concat();
        let flags = END_HEADERS | END_STREAM | PADDED | PRIORITY;
        let expected = [&priority[..], &SHORT].concat();
        assert_eq!(
            rewrite(&frame(HEADERS, flags, &payload), 1000).unwrap(),
            frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY, &expected)
        );
    }

    #[test]
    fn a_value_may_straddle_frames() {
        let input = [
            frame(HEADERS, END_STREAM, &LONG[..4]),
            frame(CONTINUATION, 0, &LONG[4..6]),
            frame(CONTINUATION, END_HEADERS, &LONG[6..]),
        ]
        .concat();
        assert_eq!(
            rewrite(&input, 3).unwrap(),
            frame(HEADERS, END_HEADERS | END_STREAM, &SHORT)
        );
    }

    #[test]
    fn a_block_larger_than_a_frame_leaves_in_several() {
        let mut block = LONG.to_vec();
        for _ in 0..3 {
            block.extend([0x0f, 0x2b, 0x7f, 0x81, 0x4e]);
            block.extend([b'v'; 127 + 1 + 78 * 128]);
        }
        let pieces: Vec<_> = block.chunks(10_000).collect();
        let mut input = frame(HEADERS, 0, pieces[0]);
        for (index, piece) in pieces[1..].iter().enumerate() {
            let last = index + 2 == pieces.len();
            input.extend(frame(CONTINUATION, if last { END_HEADERS } else { 0 }, piece));
        }
        block.splice(..LONG.len(), SHORT);
        let expected = [
            frame(HEADERS, 0, &block[..FRAME_MAX]),
            frame(CONTINUATION, END_HEADERS, &block[FRAME_MAX..]),
        ]
        .concat();
        assert_eq!(rewrite(&input, 4096).unwrap(), expected);
    }

    #[test]
    fn a_malformed_block_goes_on_unchanged_for_the_server_to_refuse() {
        let input = frame(HEADERS, END_HEADERS, &LONG[..5]);
        assert_eq!(rewrite(&input, 5).unwrap(), input);
    }

    #[test]
    fn what_breaks_the_protocol_ends_the_connection() {
        let endless = (0..6)
            .map(|_| frame(CONTINUATION, 0, &[0x83; FRAME_MAX]))
            .collect::<Vec<_>>()
            .concat();
        let mut huge = frame(HEADERS, END_HEADERS, &[]);
        huge[0] = 1;
        for input in [
            frame(CONTINUATION, END_HEADERS, &LONG),
            [frame(HEADERS, 0, &LONG), frame(0, 0, b"data")].concat(),
            [frame(HEADERS, 0, &LONG), frame(HEADERS, 0, &LONG)].concat(),
            [frame(HEADERS, 0, &LONG), endless].concat(),
            frame(HEADERS, END_HEADERS | PADDED, &[200, 1]),
            frame(HEADERS, END_HEADERS | PADDED, &[]),
            frame(HEADERS, END_HEADERS | PRIORITY, &[1, 2]),
            huge,
        ] {
            let error = rewrite(&input, 100_000).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
