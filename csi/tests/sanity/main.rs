//! The driver as it runs on a cluster, without a cluster: storage node, controller, node and agent as processes, volumes
//! mounted by the kernel, and csi-sanity (kubernetes-csi/csi-test) as their caller. Needs root and `e2e/cluster/tools`.

// Everything here is test code; clippy.toml allows these only inside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod driver;
mod sanity;
mod volume;
