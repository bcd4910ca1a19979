//! What fuzzers call: bytes that come from the kernel's end of a FUSE descriptor.

use super::request::{Operation, Request};
use bytes::Bytes;

/// A request is understood or refused, and holds nothing that was not in its bytes.
pub fn requests(data: &[u8]) {
    let Ok(request) = Request::parse(&Bytes::copy_from_slice(data)) else {
        return;
    };
    match request.operation {
        Operation::Forget { nodes } => assert!(nodes.len() * 16 <= data.len() + 16),
        Operation::Write { data: written, .. } => assert!(written.len() <= data.len()),
        Operation::Lookup { name }
        | Operation::Mknod { name, .. }
        | Operation::Mkdir { name }
        | Operation::Create { name, .. }
        | Operation::Unlink { name }
        | Operation::Rmdir { name } => assert!(!name.contains('\0') && name.len() < data.len()),
        Operation::Rename { name, new_name, .. } => assert!(!name.contains('\0') && !new_name.contains('\0')),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fuse_requests_keep_their_promises() {
        crate::fuzz_replay::run("fuse-requests", super::requests);
    }
}
