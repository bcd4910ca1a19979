//! The device of a storage node.

use penstock_rdma::{
    fabric::{Device, DeviceInfo, Error, Purpose, Unavailable},
    verbs::{Options, preflight::open_tried},
};
use serde::Serialize;
use std::sync::Arc;

/// Opens the RDMA device that `options` choose, and registers memory with it once.
///
/// # Errors
/// Why there is none.
///
/// # Panics
/// Outside a Tokio runtime with I/O.
pub fn open_device(options: &Options) -> Result<Arc<dyn Device>, Unavailable> {
    open_tried(options, Purpose::Staging).map_err(|error| match error {
        Error::Unavailable(why) => why,
        other => Unavailable::Failed(other.to_string()),
    })
}

/// How the device of a storage node stands: the document `/rdma` of its admin endpoint, which the operator makes a condition of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    ready: bool,
    reason: &'static str,
    message: String,
}

impl Standing {
    /// None is wanted.
    pub fn off() -> Self {
        Self {
            ready: false,
            reason: "Disabled",
            message: "RDMA is switched off; bytes travel by HTTP".to_owned(),
        }
    }

    /// What opening it led to.
    pub fn of(opened: Result<&DeviceInfo, &Unavailable>) -> Self {
        match opened {
            Ok(info) => Self {
                ready: true,
                reason: "Ready",
                message: format!(
                    "RDMA device {} port {}, GID {}, path MTU {}, {} Gb/s",
                    info.name, info.port, info.gid, info.mtu, info.gbits
                ),
            },
            Err(why) => Self {
                ready: false,
                reason: why.reason(),
                message: why.to_string(),
            },
        }
    }

    /// As JSON.
    pub fn document(&self) -> String {
        // Three plain fields always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_the_reason_in_one_word() {
        let why = Unavailable::NoRoceV2Gid {
            device: "mlx5_0".to_owned(),
            port: 1,
        };
        let document = Standing::of(Err(&why)).document();
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read["ready"], false);
        assert_eq!(read["reason"], "NoRoceV2Gid");
        assert!(read["message"].as_str().unwrap().contains("mlx5_0"));
    }
}
