//! The device of a storage node.

use penstock_rdma::fabric::{Device, Unavailable};
use std::sync::Arc;

/// Opens the RDMA device of that name, or the best one of this machine.
///
/// # Errors
/// Why there is none.
pub fn open_device(name: Option<&str>) -> Result<Arc<dyn Device>, Unavailable> {
    let named = name.map(|name| format!(" {name}")).unwrap_or_default();
    Err(Unavailable::NoDevice(
        named,
        "this build has no driver for any".to_owned(),
    ))
}
