//! The role `devices`: the RDMA NICs or the GPUs of a node for the scheduler. It runs on every node, as root, because the kubelet's folders
//! belong to root; for NICs without a capability.
//!
//! ```text
//!  sysfs ──┐                 ┌▶ plugin   the kubelet's device plugin service: penstock.io/rdma, counted in units (NICs)
//!  NVML  ──┴─every 2 s─▶ watch ─▶ dra    ResourceSlices, and the kubelet's DRA plugin service: claims (NICs, GPUs)
//! ```
//! One of the two for the NICs of a node, because neither knows what the other gave away. One kind of device a process, because GPUs are not
//! read without a privileged container, and NICs are.

pub mod distance;
mod dra;
pub mod gpu;
pub mod inventory;
pub mod kind;
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
use dra::{
    gpu::{Driver, GpuHost},
    nic::NicHost,
    offered::Offered,
};
use gpu::Gpu;
use nvml::{Nvidia, recorded::RecordedNvml};
use penstock_service::{Admin, CancellationToken, admin};
use source::{GpuSource, Gpus, Source as _, SourceError};
use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sysfs::Sysfs;
use watch::{Devices, Looking};

/// Name of the driver of NICs towards the kubelet: its folder in `plugins`, its sockets in `plugins_registry`.
pub const DRIVER: &str = "rdma.penstock.io";

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Offer {
    /// RDMA NICs.
    Nics,
    /// GPUs, in mode dra only.
    Gpus,
}

/// How it is offered.
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
    /// What is offered.
    #[arg(long, value_enum, default_value_t = Offer::Nics)]
    pub offer: Offer,
    /// How it is offered.
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
    /// What GPUs need.
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// Options for GPUs.
#[derive(Debug, clap::Args)]
pub struct GpuArgs {
    /// The folder that NVIDIA's driver is installed below, by the path that the container runtime sees.
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub driver_root: PathBuf,
    /// The same folder by the path that this process sees, where that is another one.
    #[arg(long, value_name = "DIR")]
    pub driver_root_here: Option<PathBuf>,
    /// NVIDIA's management library, unless it is among the driver's.
    #[arg(long, value_name = "FILE")]
    pub nvml: Option<PathBuf>,
    /// Folders where NVIDIA's own CDI files may be.
    #[arg(long, value_delimiter = ',', default_values = ["/etc/cdi", "/var/run/cdi"], value_name = "DIR")]
    pub nvidia_cdi_dirs: Vec<PathBuf>,
    /// For tests: GPUs that a file tells of, in place of NVIDIA's driver.
    #[arg(long, hide = true, value_name = "FILE")]
    pub nvml_recorded: Option<PathBuf>,
}

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// What was asked for is not there.
    #[error("GPUs are offered by --mode=dra only")]
    NoGpuPlugin,
    /// The devices cannot be looked at.
    #[error(transparent)]
    Source(#[from] SourceError),
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
    let sysfs = Sysfs::new(args.sysfs.clone());
    match (args.offer, args.mode) {
        (Offer::Nics, Mode::DevicePlugin) => plug(service, args, sysfs, shutdown).await,
        (Offer::Nics, Mode::Dra) => {
            let host = NicHost {
                dev: args.dev.clone(),
            };
            let look = move || sysfs.nics();
            offer(service, args, (look, metrics::OF_NICS), host, shutdown).await
        }
        (Offer::Gpus, Mode::DevicePlugin) => Err(DevicesError::NoGpuPlugin),
        (Offer::Gpus, Mode::Dra) => {
            let host = GpuHost {
                dev: args.dev.clone(),
                driver: Driver {
                    here: args
                        .gpu
                        .driver_root_here
                        .clone()
                        .unwrap_or_else(|| args.gpu.driver_root.clone()),
                    host: args.gpu.driver_root.clone(),
                },
                specs: args.gpu.nvidia_cdi_dirs.clone(),
            };
            let look = gpus(&args, sysfs, &host.driver);
            offer(service, args, (look, metrics::OF_GPUS), host, shutdown).await
        }
    }
}

/// Offers NICs by the device plugin.
async fn plug(
    service: &penstock_service::Args,
    args: Args,
    sysfs: Sysfs,
    shutdown: CancellationToken,
) -> Result<(), DevicesError> {
    let mut admin = Admin::default();
    let calls = Calls::register(&mut admin.metrics);
    let look = move || sysfs.nics();
    let (nics, _looking) = watched(&mut admin, &args, look, metrics::OF_NICS, &shutdown).await?;
    let plugged = admin.readiness.flag("device plugin");
    admin.serve(service, shutdown.clone()).await?;
    let registry = format!("plugins_registry/{DRIVER}-device-plugin-reg.sock");
    let folder = args.kubelet_dir.join("plugins").join(DRIVER);
    let options = plugin::Options {
        socket: folder.join("device-plugin.sock"),
        registry: args.kubelet_dir.join(registry),
        shares: args.shared_units,
        dev: args.dev,
    };
    Ok(plugin::serve(options, nics, plugged, calls, shutdown).await?)
}

/// Offers a kind of device by its DRA driver.
async fn offer<K: Offered + Debug>(
    service: &penstock_service::Args,
    args: Args,
    (look, gauges): (impl Look<K>, &'static [metrics::Gauge<K>]),
    host: K::Host,
    shutdown: CancellationToken,
) -> Result<(), DevicesError> {
    let mut admin = Admin::default();
    let calls = Calls::register(&mut admin.metrics);
    let devices = watched(&mut admin, &args, look, gauges, &shutdown).await?;
    let flags = dra::Flags {
        registered: admin.readiness.flag("registration"),
        published: admin.readiness.flag("slices"),
    };
    admin.serve(service, shutdown.clone()).await?;
    let options = dra::Options {
        node: args.node_name.unwrap_or_default(),
        kubelet: args.kubelet_dir,
        cdi: args.cdi_dir,
    };
    Ok(dra::serve(options, host, devices, flags, calls, shutdown).await?)
}

/// One look at the devices of a kind.
trait Look<K>: Fn() -> Result<Vec<K>, SourceError> + Send + Sync + 'static {}

impl<K, L: Fn() -> Result<Vec<K>, SourceError> + Send + Sync + 'static> Look<K> for L {}

/// Watches devices, and shows on the admin port what is known of them.
async fn watched<K: kind::Kind + Debug>(
    admin: &mut Admin,
    args: &Args,
    look: impl Look<K>,
    gauges: &'static [metrics::Gauge<K>],
    shutdown: &CancellationToken,
) -> Result<(Devices<K>, Looking), DevicesError> {
    let period = Duration::from_secs(args.period);
    let (devices, looking) = watch::start(look, period, shutdown.clone()).await?;
    metrics::register(&mut admin.metrics, devices.clone(), gauges);
    let looked = looking.clone();
    admin.readiness.probe("devices", move || {
        let looking = looked.clone();
        async move { looking.check() }
    });
    let shown = devices.clone();
    let document = move || kind::document(&shown.borrow());
    admin.documents.push(("/devices", Box::new(document)));
    Ok((devices, looking))
}

/// Looks at GPUs. A machine that has none says why in the log, once for each reason.
fn gpus(args: &Args, sysfs: Sysfs, driver: &Driver) -> impl Look<Gpu> + use<> {
    let source: Box<dyn GpuSource> = match args.gpu.nvml_recorded.clone() {
        Some(file) => {
            tracing::warn!("GPUs are those of {}, and not this machine's", file.display());
            Box::new(RecordedNvml::new(file))
        }
        None => {
            let given = args.gpu.nvml.clone().map(|file| vec![file]);
            let places = given.unwrap_or_else(|| driver.places(nvml::LIBRARY));
            Box::new(Nvidia::new(sysfs, args.dev.clone(), places))
        }
    };
    let told = Mutex::new(String::new());
    move || match source.gpus()? {
        Gpus::Found(gpus) => Ok(gpus),
        Gpus::None(why) => {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if *told != why {
                tracing::info!("no GPUs are offered: {why}");
                *told = why;
            }
            Ok(Vec::new())
        }
    }
}
