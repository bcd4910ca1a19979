//! INIT: the one request that opens a connection, and what was agreed in it.

use super::abi::{InitIn, InitOut, MAJOR, MINOR, MINOR_OLDEST, capability};
use serde::{Deserialize, Serialize};

/// Largest READ or WRITE in bytes; 256 pages of 4 KiB, the most that kernels before 6.13 allow.
pub const MAX_WRITE: u32 = 1 << 20;

/// What the kernel and this server agreed on. Whoever takes the connection over needs it: INIT is sent once only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Protocol minor version (the major one is 7).
    pub minor: u32,
    /// Capability bits that both sides use; `flags2` in the upper half.
    pub capabilities: u64,
    /// Largest WRITE in bytes.
    pub max_write: u32,
    /// The kernel's read-ahead in bytes.
    pub max_readahead: u32,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The kernel is too old.
    #[error(
        "this kernel speaks FUSE {major}.{minor}; {MAJOR}.{MINOR_OLDEST} (Linux 5.4) is the oldest that works"
    )]
    TooOld {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// The first request was not INIT.
    #[error("the FUSE connection was opened before: its first request has opcode {0} and is not INIT")]
    AlreadyOpen(u32),
}

impl Negotiated {
    /// Decides what is used of what the kernel offers. `offered2` is `flags2` of kernels that sent it.
    pub(super) fn from_offer(offer: &InitIn, offered2: u32) -> Result<Self, InitError> {
        if offer.major != MAJOR || offer.minor < MINOR_OLDEST {
            return Err(InitError::TooOld {
                major: offer.major,
                minor: offer.minor,
            });
        }
        let wanted = capability::ASYNC_READ
            | capability::ATOMIC_O_TRUNC
            | capability::BIG_WRITES
            | capability::DO_READDIRPLUS
            | capability::READDIRPLUS_AUTO
            | capability::PARALLEL_DIROPS
            | capability::MAX_PAGES
            | capability::INIT_EXT
            | capability::PASSTHROUGH
            | capability::HAS_RESEND;
        let mut offered = u64::from(offer.flags);
        // `flags2` means something only beside INIT_EXT.
        if offered & capability::INIT_EXT != 0 {
            offered |= u64::from(offered2) << 32;
        }
        Ok(Self {
            minor: offer.minor.min(MINOR),
            capabilities: offered & wanted,
            max_write: MAX_WRITE,
            max_readahead: offer.max_readahead.max(MAX_WRITE),
        })
    }

    /// Whether the kernel can read registered files by itself.
    pub fn has_passthrough(&self) -> bool {
        self.capabilities & capability::PASSTHROUGH != 0
    }

    /// The reply to INIT.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn reply(&self) -> InitOut {
        InitOut {
            major: MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags: self.capabilities as u32,
            flags2: (self.capabilities >> 32) as u32,
            max_background: 64,
            congestion_threshold: 48,
            max_write: self.max_write,
            time_gran: 1,
            max_pages: (MAX_WRITE / 4096) as u16,
            // Files of ordinary file systems may be registered, those of stacked ones not.
            max_stack_depth: u32::from(self.has_passthrough()),
            ..InitOut::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(minor: u32, flags: u64) -> InitIn {
        InitIn {
            major: 7,
            minor,
            max_readahead: 128 << 10,
            flags: flags as u32,
        }
    }

    #[test]
    fn only_what_the_kernel_offers_is_used() {
        let old = Negotiated::from_offer(&offer(31, capability::BIG_WRITES), u32::MAX).unwrap();
        assert_eq!(old.capabilities, capability::BIG_WRITES);
        assert_eq!(old.minor, 31);
        let new = Negotiated::from_offer(&offer(99, capability::INIT_EXT), 1 << 7).unwrap();
        assert_eq!(new.capabilities, capability::INIT_EXT | capability::HAS_RESEND);
        assert_eq!(new.minor, MINOR);
        assert_eq!((new.reply().flags2, new.reply().max_stack_depth), (1 << 7, 0));
        let passing = Negotiated::from_offer(&offer(99, capability::INIT_EXT), 1 << 5).unwrap();
        assert!(passing.has_passthrough() && passing.reply().max_stack_depth == 1);
    }

    #[test]
    fn a_kernel_that_is_too_old_is_refused_with_its_version() {
        let error = Negotiated::from_offer(&offer(26, 0), 0).unwrap_err();
        assert!(error.to_string().contains("7.26"), "{error}");
    }

    #[test]
    fn what_was_agreed_survives_being_written_down() {
        let agreed = Negotiated::from_offer(&offer(45, u64::MAX), 0).unwrap();
        let text = serde_json::to_string(&agreed).unwrap();
        assert_eq!(serde_json::from_str::<Negotiated>(&text).unwrap(), agreed);
    }
}
