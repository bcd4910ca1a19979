//! The [fabric](crate::fabric) over real devices: RDMA verbs on InfiniBand, RoCE v2 and soft-RoCE.
//!
//! ```text
//!   sys          libibverbs, loaded at run time
//!   device       which devices there are, and which to use (sysfs)
//!   machine      all ports that are used, for as long as the process runs
//!   context      an open device: protection domain, limits, what lives on it
//!   memory       registrations
//!   queue_pair   RC queue pairs, and what they own until it is done
//!   windows      what a peer may reach, and for how long
//!   completion   the one task per device that completes operations and buries queue pairs
//!   preflight    why this machine can or cannot use RDMA
//! ```
//! No call blocks for the network. A device needs the Tokio runtime that it was opened in for as long as it is used.
#![allow(unsafe_code)]

mod completion;
mod context;
mod device;
mod machine;
mod memory;
pub mod preflight;
mod queue_pair;
mod sys;
mod windows;

pub use context::{Options, open};
pub use device::{Choice, GidEntry, Port, Sysfs};
pub use machine::{Machine, PAUSE};
