//! What fuzzers call: messages on the agent's socket.

use super::{Call, Reply, receive_all};
use std::{io::Write, os::unix::net::UnixStream, time::Duration};

/// A message is understood or an error; nobody waits for bytes that do not come.
pub fn messages(data: &[u8]) {
    // What fits into the buffers of a socket.
    let data = &data[..data.len().min(16 << 10)];
    let received = |kind: fn(&mut UnixStream) -> bool| {
        let Ok((mut here, mut there)) = UnixStream::pair() else {
            return;
        };
        let patient = there.set_read_timeout(Some(Duration::from_secs(10)));
        if patient.is_ok() && here.write_all(data).is_ok() {
            drop(here);
            kind(&mut there);
        }
    };
    received(|stream| receive_all::<Call>(stream).is_ok());
    received(|stream| receive_all::<Reply>(stream).is_ok());
}

#[cfg(test)]
mod tests {
    #[test]
    fn handover_messages_keep_their_promises() {
        crate::fuzz_replay::run("handover-messages", super::messages);
    }
}
