//! RDMA NICs and GPUs for pods, with the real kubelet, scheduler and container runtime.

mod claims;
mod dra;
mod gpu;
mod machine;
mod plugin;
mod pods;
mod recorded;
