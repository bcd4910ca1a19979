//! The storage node's parts together: engines, client, and the real process.

// Everything here is test code; clippy.toml allows these only inside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backup;
mod bound;
mod client;
mod conformance;
mod crash;
mod encryption;
mod gateway;
mod gpu;
mod lifecycle;
mod local;
mod local_path;
mod model;
mod node;
mod scrub;
mod steps;
mod versions;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use penstock_store::engine::{Body, Object};

/// A body of these pieces.
fn body(pieces: impl IntoIterator<Item = Bytes>) -> Body {
    let pieces: Vec<_> = pieces.into_iter().map(Ok).collect();
    stream::iter(pieces).boxed()
}

/// All bytes of an opened object.
async fn bytes(object: Object) -> std::io::Result<Vec<u8>> {
    let pieces: Vec<Bytes> = object.body.try_collect().await?;
    Ok(pieces.concat())
}

/// `length` bytes that differ from seed to seed and from place to place.
fn pattern(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// Long forms of random tests are asked for by `PENSTOCK_SOAK=1`.
fn rounds(short: u32, long: u32) -> u32 {
    if std::env::var("PENSTOCK_SOAK").is_ok_and(|value| value == "1") {
        long
    } else {
        short
    }
}
