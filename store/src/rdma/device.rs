//! How the RDMA devices of a storage node stand.

use penstock_rdma::fabric::{DeviceInfo, Unavailable};
use serde::Serialize;

/// How they stand: the document `/rdma` of its admin endpoint, which the operator makes a condition of.
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

    /// The devices that work, or why there is none.
    pub fn of(standing: Result<Vec<DeviceInfo>, Unavailable>) -> Self {
        match standing {
            Ok(devices) => {
                let each = |info: &DeviceInfo| {
                    format!(
                        "{} port {}, GID {}, path MTU {}, {} Gb/s",
                        info.name, info.port, info.gid, info.mtu, info.gbits
                    )
                };
                let devices: Vec<_> = devices.iter().map(each).collect();
                Self {
                    ready: true,
                    reason: "Ready",
                    message: format!("RDMA device {}", devices.join("; ")),
                }
            }
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
        let document = Standing::of(Err(why)).document();
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read["ready"], false);
        assert_eq!(read["reason"], "NoRoceV2Gid");
        assert!(read["message"].as_str().unwrap().contains("mlx5_0"));
    }
}
