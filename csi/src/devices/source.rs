//! Where devices are looked for.

use super::{gpu::Gpu, nic::Nic};
use std::{io, path::PathBuf};

/// Somewhere that RDMA devices are known.
pub trait Source: Send + Sync {
    /// The RDMA devices of this machine, ordered by name. A device that goes while it is looked at is left out.
    ///
    /// # Errors
    /// When it cannot be known which there are.
    fn nics(&self) -> Result<Vec<Nic>, SourceError>;
}

/// Somewhere that GPUs are known.
pub trait GpuSource: Send + Sync {
    /// The GPUs of this machine, ordered as their driver orders them. One that was there and does not answer any more is lost, and
    /// stays in the list.
    ///
    /// # Errors
    /// When it cannot be known which there are.
    fn gpus(&self) -> Result<Gpus, SourceError>;
}

/// The GPUs of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// These.
    Found(Vec<Gpu>),
    /// None that anybody could use, for this reason.
    None(String),
}

/// Why it is not known which devices there are.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// sysfs.
    #[error("cannot read RDMA devices in {}; mount the host's /sys there", .root.display())]
    Sysfs {
        /// Where it should be.
        root: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// NVIDIA's driver.
    #[error("cannot read GPUs from NVIDIA's driver; nvidia-smi should say more")]
    Nvml {
        /// Why.
        source: nvml_wrapper::error::NvmlError,
    },
    /// The double of NVML.
    #[error("cannot read recorded GPUs in {}", .file.display())]
    Recorded {
        /// Where they should be.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}
