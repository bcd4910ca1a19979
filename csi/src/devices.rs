//! The role `devices`: the RDMA NICs of a node for the scheduler. It runs on every node, as root without a capability, because
//! the kubelet's folders belong to root.
//!
//! ```text
//!  sysfs ──every 2 s──▶ watch ──▶ plugin   the kubelet's device plugin service: penstock.io/rdma, counted in units
//!                            or ▶ dra      ResourceSlices, and the kubelet's DRA plugin service: claims
//! ```
//! One of the two on a node, because neither knows what the other gave away.

pub mod distance;
mod dra;
pub mod gpu;
pub mod inventory;
mod metrics;
pub mod nic;
mod nvml;
mod plugin;
#[cfg(test)]
mod recorded;
pub mod source;
pub mod sysfs;
mod units;
pub mod watch;

pub use plugin::{DEVICES_VARIABLE, RESOURCE};

use crate::grpc::{Calls, ServeError};
use penstock_service::{CancellationToken, admin};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Name of the driver towards the kubelet: its folder in `plugins`, its sockets in `plugins_registry`.
pub const DRIVER: &str = "rdma.penstock.io";

/// How NICs are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// As the resource `penstock.io/rdma`.
    DevicePlugin,
    /// As devices that ResourceClaims are given (Kubernetes 1.34).
    Dra,
}

/// Options of the role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How NICs are offered.
    #[arg(long, value_enum, default_value_t = Mode::DevicePlugin)]
    pub mode: Mode,
    /// Name of this node, which DRA needs.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", required_if_eq("mode", "dra"))]
    pub node_name: Option<String>,
    /// The container runtime's folder of CDI files, which DRA writes.
    #[arg(long, default_value = "/var/run/cdi", value_name = "DIR")]
    pub cdi_dir: PathBuf,
    /// The host's sysfs.
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    pub sysfs: PathBuf,
    /// The host's folder of device nodes, by the path that the container runtime sees.
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    pub dev: PathBuf,
    /// The kubelet's folder, by the path that the kubelet sees.
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,
    /// Seconds between two looks at the devices.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    pub period: u64,
    /// How many containers may have a NIC at a time through the device plugin.
    #[arg(long, default_value_t = 32, value_name = "UNITS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub shared_units: u32,
}

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The devices cannot be looked at.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// A socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The DRA driver.
    #[error(transparent)]
    Dra(#[from] dra::DraError),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
}

/// Serves the kubelet until the token fires.
///
/// # Errors
/// When it cannot start, or serving ends by itself.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), DevicesError> {
    let mut admin = penstock_service::Admin::default();
    let calls = Calls::register(&mut admin.metrics);
    let period = Duration::from_secs(args.period);
    let sysfs = Arc::new(sysfs::Sysfs::new(args.sysfs));
    let (nics, looking) = watch::start(sysfs, period, shutdown.clone()).await?;
    metrics::register(&mut admin.metrics, nics.clone());
    let looked = looking.clone();
    admin.readiness.probe("devices", move || {
        let looking = looked.clone();
        async move { looking.check() }
    });
    let shown = nics.clone();
    admin
        .documents
        .push(("/devices", Box::new(move || nic::document(&shown.borrow()))));
    match args.mode {
        Mode::DevicePlugin => {
            let plugged = admin.readiness.flag("device plugin");
            admin.serve(service, shutdown.clone()).await?;
            let registry = format!("plugins_registry/{DRIVER}-device-plugin-reg.sock");
            let options = plugin::Options {
                socket: args
                    .kubelet_dir
                    .join("plugins")
                    .join(DRIVER)
                    .join("device-plugin.sock"),
                registry: args.kubelet_dir.join(registry),
                shares: args.shared_units,
                dev: args.dev,
            };
            plugin::serve(options, nics, plugged, calls, shutdown).await?;
        }
        Mode::Dra => {
            let flags = dra::Flags {
                registered: admin.readiness.flag("registration"),
                published: admin.readiness.flag("slices"),
            };
            admin.serve(service, shutdown.clone()).await?;
            let options = dra::Options {
                node: args.node_name.unwrap_or_default(),
                kubelet: args.kubelet_dir,
                cdi: args.cdi_dir,
                dev: args.dev,
            };
            dra::serve(options, nics, looking, flags, calls, shutdown).await?;
        }
    }
    Ok(())
}
