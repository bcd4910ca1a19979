//! Where devices are looked for.

use super::nic::Nic;
use std::{io, path::PathBuf};

/// Somewhere that RDMA devices are known.
pub trait Source: Send + Sync {
    /// The RDMA devices of this machine, ordered by name. A device that goes while it is looked at is left out.
    ///
    /// # Errors
    /// When it cannot be known which there are.
    fn nics(&self) -> Result<Vec<Nic>, SourceError>;
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
}
