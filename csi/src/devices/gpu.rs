//! What is known of a GPU.

use super::{kind::Kind, nic::Pci};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// A GPU of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its place in the driver's list, which may be another one after a reboot.
    pub index: u32,
    /// Its name for ever, as `GPU-8f3a…`.
    pub uuid: String,
    /// As `NVIDIA H200`.
    pub product: String,
    /// As `Hopper`, where the driver knows it.
    pub architecture: Option<String>,
    /// CUDA compute capability, as (9, 0).
    pub compute_capability: Option<(u32, u32)>,
    /// Bytes of memory, those that the driver keeps for itself included.
    pub memory_bytes: u64,
    /// The driver's version, as `580.95.05`.
    pub driver: String,
    /// Where it is.
    pub pci: Option<Pci>,
    /// NUMA node that it is attached to, unless the machine has one only or does not say.
    pub numa_node: Option<u32>,
    /// How it is divided (MIG); `None` where it cannot be.
    pub mig: Option<Mig>,
    /// Active NVLinks, by the PCI address of what is at their other end: another GPU, or a switch.
    pub nvlinks: BTreeMap<String, u32>,
    /// What the driver says of its health.
    pub health: Health,
    /// Device nodes that a user of it opens, relative to `/dev`, of those that are there.
    pub nodes: Vec<PathBuf>,
}

/// A GPU that can be divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mig {
    /// Whether it is divided now. Then it can be used by its instances only.
    pub enabled: bool,
    /// What it is divided into.
    pub instances: Vec<Instance>,
}

/// A part of a divided GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// As `MIG-5c89…`.
    pub uuid: String,
    /// As `1g.10gb`.
    pub profile: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
}

/// What a driver says of a GPU's health. What it does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// It answers no more.
    pub lost: bool,
    /// What has to be done to it (driver 560 and later).
    pub recovery: Option<Recovery>,
    /// A row of its memory could not be replaced by a spare one.
    pub remapping_failed: Option<bool>,
    /// Rows of its memory are replaced at the next reset.
    pub remapping_pending: Option<bool>,
    /// Errors of its memory since the last reset that could not be corrected.
    pub uncorrected_errors: Option<u64>,
    /// The last critical error (Xid) that this process was told, unless it was a program's fault.
    pub xid: Option<u64>,
}

/// What has to be done to a GPU (`nvmlDeviceGpuRecoveryAction_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recovery {
    /// Nothing.
    None,
    /// It must be reset.
    Reset,
    /// The node must be rebooted.
    Reboot,
    /// Its transfers to and from other GPUs must end.
    DrainPeers,
    /// All use of it must end, and it must be reset.
    DrainAndReset,
    /// Something that this program does not know.
    Unknown,
}

/// Xids that programs cause (NVIDIA, *XID Errors*): illegal accesses, their own end, and what preempts them. They say nothing of the GPU.
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// Whether an Xid says something of the GPU.
pub(super) fn is_of_gpu(xid: u64) -> bool {
    !OF_PROGRAMS.contains(&xid)
}

impl Kind for Gpu {
    const NAME: &'static str = "GPU";
    const KEY: &'static str = "gpu";

    fn id(&self) -> &str {
        &self.uuid
    }

    fn trouble(&self) -> Option<String> {
        let health = &self.health;
        if health.lost {
            return Some("it does not answer; reset it, or reboot the node".to_owned());
        }
        match health.recovery {
            None | Some(Recovery::None) => {}
            Some(action) => return Some(format!("its driver says: {action}")),
        }
        if health.remapping_failed == Some(true) {
            return Some("a row of its memory is broken and cannot be replaced; replace the GPU".to_owned());
        }
        // Where the driver says what is to be done and that is nothing, the error is over.
        match health.xid {
            Some(xid) if health.recovery.is_none() => Some(format!(
                "it had a critical error (Xid {xid}); reset it and restart this program"
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing is to be done",
            Self::Reset => "it must be reset",
            Self::Reboot => "the node must be rebooted",
            Self::DrainPeers => "its transfers to and from other GPUs must end",
            Self::DrainAndReset => "all use of it must end, and it must be reset",
            Self::Unknown => "something is to be done that is newer than this program",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_unhealthy_for_what_is_its_own_fault_and_until_that_is_mended() {
        let healthy = crate::devices::recorded::gpu();
        assert_eq!(healthy.trouble(), None);
        let with = |change: fn(&mut Health)| {
            let mut gpu = healthy.clone();
            change(&mut gpu.health);
            gpu.trouble()
        };
        for (change, why) in [
            (
                (|health| health.lost = true) as fn(&mut Health),
                "does not answer",
            ),
            (|health| health.recovery = Some(Recovery::Reset), "must be reset"),
            (|health| health.recovery = Some(Recovery::Unknown), "newer"),
            (|health| health.remapping_failed = Some(true), "replace the GPU"),
            (
                |health| (health.xid, health.recovery) = (Some(79), None),
                "Xid 79",
            ),
        ] {
            let trouble = with(change).unwrap();
            assert!(trouble.contains(why), "{trouble}");
        }
        for change in [
            (|health| (health.xid, health.recovery) = (Some(48), Some(Recovery::None))) as fn(&mut Health),
            |health| health.uncorrected_errors = Some(3),
            |health| health.remapping_pending = Some(true),
        ] {
            assert_eq!(with(change), None);
        }
        assert!(is_of_gpu(79) && !is_of_gpu(31));
    }
}
