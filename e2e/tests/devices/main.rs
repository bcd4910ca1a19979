//! RDMA NICs for pods, with the real kubelet, scheduler and container runtime.

mod machine;
mod plugin;
