//! Whether this machine and process can use RDMA, and if not, why.

use super::{
    context::{Options, open},
    device::Sysfs,
    memory::{locked_memory_limit, may_lock_any},
    sys::Verbs,
};
use crate::fabric::{Device, DeviceInfo, Error, Pages, Purpose, Unavailable};
use std::{fs, path::Path, sync::Arc};

/// What is registered to find out whether it may be.
const TRIAL: usize = 64 << 20;

/// What was looked at, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What it is about, as "library".
    pub subject: &'static str,
    /// Whether RDMA can be used as far as this goes.
    pub good: bool,
    /// What there is, or what is missing and the remedy.
    pub text: String,
}

/// The outcome of a preflight.
#[derive(Debug, Clone)]
pub struct Report {
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
    /// The device that would be used, or why there is none.
    pub outcome: Result<DeviceInfo, Error>,
}

impl Report {
    /// The reason in one word for a condition, when RDMA cannot be used.
    pub fn reason(&self) -> Option<&'static str> {
        match &self.outcome {
            Ok(_) => None,
            Err(Error::Unavailable(why)) => Some(why.reason()),
            Err(_) => Some("DeviceFailed"),
        }
    }
}

/// Looks at library, kernel and devices, opens the device that `options` choose, registers 64 MiB with it for real, and
/// closes it.
///
/// # Panics
/// Outside a Tokio runtime with I/O.
pub async fn run(options: &Options) -> Report {
    let mut findings = Vec::new();
    let mut note = |subject, good, text: String| findings.push(Finding { subject, good, text });
    match Verbs::load() {
        Ok(_) => note("library", true, "libibverbs is installed".to_owned()),
        Err(why) => note("library", false, why.to_string()),
    }
    match Sysfs::default().ports() {
        Ok(ports) => {
            note("kernel", true, "the module ib_uverbs is loaded".to_owned());
            for port in ports {
                let gids = port.gids.iter().filter(|gid| gid.roce_v2);
                let gids = gids.map(|gid| gid.gid.to_string()).collect::<Vec<_>>().join(" ");
                let text = format!(
                    "{} port {}: {}, {}, {} Gb/s, NUMA node {}, PCI {}, RoCE v2 GIDs: {}",
                    port.device,
                    port.number,
                    port.state,
                    if port.infiniband { "InfiniBand" } else { "RoCE" },
                    port.gbits,
                    port.numa_node.map_or("-".to_owned(), |node| node.to_string()),
                    port.pci_address.as_deref().unwrap_or("-"),
                    if gids.is_empty() { "-" } else { &gids },
                );
                note("port", port.is_active(), text);
            }
        }
        Err(why) => note("kernel", false, why.to_string()),
    }
    let files = device_files();
    note(
        "device files",
        !files.is_empty(),
        if files.is_empty() {
            "there is none in /dev/infiniband; in a container, give it those of the device".to_owned()
        } else {
            format!("/dev/infiniband has {}", files.join(" "))
        },
    );
    let limit = match locked_memory_limit() {
        _ if may_lock_any() => "no limit, by the capability IPC_LOCK".to_owned(),
        None => "no limit".to_owned(),
        Some(bytes) => format!("{} KiB (ulimit -l)", bytes >> 10),
    };
    let outcome = attempt(options).await;
    let enough = !matches!(outcome, Err(Error::Unavailable(Unavailable::MemlockTooLow)));
    note("locked memory", enough, limit);
    match &outcome {
        Ok(info) => note(
            "device",
            true,
            format!(
                "{} port {} works: GID {}, path MTU {}, {} MiB registered",
                info.name,
                info.port,
                info.gid,
                info.mtu,
                TRIAL >> 20
            ),
        ),
        Err(error) => note("device", false, error.to_string()),
    }
    Report { findings, outcome }
}

async fn attempt(options: &Options) -> Result<DeviceInfo, Error> {
    let options = options.clone();
    let tried = tokio::task::spawn_blocking(move || open_tried(&options, Purpose::Windows)).await;
    match tried {
        Ok(device) => Ok(device?.info().clone()),
        Err(error) => Err(Error::Device {
            doing: "register memory",
            cause: error.to_string(),
        }),
    }
}

/// Opens the best device that `options` allow, and [tries](try_memory) it. Blocks.
fn open_tried(options: &Options, purpose: Purpose) -> Result<Arc<dyn Device>, Error> {
    let device = open(options)?;
    try_memory(&*device, purpose)?;
    Ok(device)
}

/// Registers 64 MiB once: most of what stands in the way of RDMA in a container shows there. Blocks.
///
/// # Errors
/// [`Unavailable::MemlockTooLow`] when the process may not pin so much.
pub(super) fn try_memory(device: &dyn Device, purpose: Purpose) -> Result<(), Error> {
    let pages = Pages::new(TRIAL).map_err(|error| Error::Device {
        doing: "allocate memory",
        cause: error.to_string(),
    })?;
    match device.register(pages, purpose) {
        Ok(_) => Ok(()),
        Err(Error::Memlock { .. }) => Err(Unavailable::MemlockTooLow.into()),
        Err(error) => Err(error),
    }
}

fn device_files() -> Vec<String> {
    let list = fs::read_dir(Path::new("/dev/infiniband"));
    let mut names: Vec<String> = list
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("uverbs"))
        .collect();
    names.sort();
    names
}
