//! RDMA NICs for pods, with the real kubelet, scheduler and container runtime.

mod dra;
mod machine;
mod plugin;
