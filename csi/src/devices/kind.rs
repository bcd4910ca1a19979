//! What all kinds of devices have in common.

use serde::Serialize;

/// A kind of device: RDMA NICs, GPUs.
pub trait Kind: Clone + PartialEq + Serialize + Send + Sync + 'static {
    /// What one is called in messages.
    const NAME: &'static str;
    /// What one is called where a program reads it: in documents, and as a label of metrics.
    const KEY: &'static str;

    /// What names it among those of the machine.
    fn id(&self) -> &str;

    /// Why nobody should be given it now.
    fn trouble(&self) -> Option<String>;
}

/// Devices as a JSON document.
pub(super) fn document<K: Kind>(devices: &[K]) -> String {
    let shown = |device: &K| serde_json::json!({(K::KEY): device, "trouble": device.trouble()});
    serde_json::Value::Array(devices.iter().map(shown).collect()).to_string()
}
