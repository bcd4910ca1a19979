//! The CSI driver: buckets as volumes of pods.
//!
//! ```text
//!  csi-provisioner ──CreateVolume──▶ controller ──S3──▶ storage node        (a Deployment)
//!
//!  kubelet ──NodeStage/Publish──▶ node ──descriptor──▶ agent ──S3──▶ storage node   (a DaemonSet of two containers)
//!                                privileged,           unprivileged,
//!                                mounts and proves     serves FUSE
//!
//!  kubelet ──ListAndWatch, Allocate──▶ devices ──▶ sysfs, NVML            (a DaemonSet of its own, if RDMA NICs or GPUs are to be scheduled)
//! ```
//! One binary with a role each (and `mount`, one bucket on one machine without Kubernetes): they share protos, socket handling and the hand-over, and no process.
#![deny(unsafe_code)]

pub mod access;
pub mod agent;
pub mod attributes;
pub mod controller;
pub mod devices;
pub mod events;
pub mod fs;
pub mod fuse;
pub mod gateway;
pub mod grpc;
pub mod guard;
pub mod handover;
pub mod identity;
pub mod metrics;
pub mod mount;
pub mod node;
pub mod passthrough;
pub mod proto;
pub mod registration;
pub mod transport;

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod fuzz_replay;
