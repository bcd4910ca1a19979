//! GPUs as NVIDIA's driver shows them (NVML, loaded when it is first asked).

pub mod recorded;

use super::{
    gpu::{Gpu, Health, Instance, Mig, Recovery, is_of_gpu},
    source::{GpuSource, Gpus, SourceError},
    sysfs::Sysfs,
};
use nvml_wrapper::{
    Device, Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{EccCounter, MemoryError},
    enums::{device::SampleValue, event::XidError},
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::{
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_REMAPPED_FAILURE, NVML_FI_DEV_REMAPPED_PENDING,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// The library, whose other name is for compilers only.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";
/// Device nodes that users of any GPU open.
const SHARED_NODES: [&str; 4] = ["nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools"];
/// Links that a GPU may have (`NVML_NVLINK_MAX_LINKS`).
const MOST_LINKS: u32 = 18;
/// How long one wait for an error takes, in milliseconds.
const WAIT_MS: u32 = 60_000;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(10);

/// NVIDIA's driver.
pub struct NvidiaDriver {
    nvml: Arc<Nvml>,
    sysfs: Sysfs,
    /// The host's folder of device nodes, by a path that this process sees.
    dev: PathBuf,
    errors: Arc<Mutex<HashMap<String, u64>>>,
    /// What was there at the last look, by place in the list: a GPU that is lost says nothing of itself.
    known: Mutex<BTreeMap<u32, Gpu>>,
}

/// GPUs of a machine whose driver may not be there yet.
pub struct Nvidia {
    sysfs: Sysfs,
    dev: PathBuf,
    libraries: Vec<PathBuf>,
    driver: Mutex<Option<Arc<NvidiaDriver>>>,
}

impl Nvidia {
    /// Of the machine whose sysfs and device nodes these are. `libraries` is where NVML may be; without any, the linker has to find it.
    pub fn new(sysfs: Sysfs, dev: PathBuf, libraries: Vec<PathBuf>) -> Self {
        Self {
            sysfs,
            dev,
            libraries,
            driver: Mutex::default(),
        }
    }

    /// Where it is now: the driver may be installed while this program runs.
    fn library(&self) -> &OsStr {
        let there = self.libraries.iter().find(|path| path.exists());
        let path = there.or(self.libraries.first());
        path.map_or(OsStr::new(LIBRARY), |path| path.as_os_str())
    }
}

impl GpuSource for Nvidia {
    fn gpus(&self) -> Result<Gpus, SourceError> {
        let driver = {
            let mut loaded = lock(&self.driver);
            match &*loaded {
                Some(driver) => Arc::clone(driver),
                None => match NvidiaDriver::load(&self.sysfs, &self.dev, self.library()) {
                    Ok(driver) => Arc::clone(loaded.insert(Arc::new(driver))),
                    Err(why) => return Ok(Gpus::None(why)),
                },
            }
        };
        driver
            .look()
            .map(Gpus::Found)
            .map_err(|source| SourceError::Nvml { source })
    }
}

impl NvidiaDriver {
    /// The inner error says why there is none.
    fn load(sysfs: &Sysfs, dev: &Path, library: &OsStr) -> Result<Self, String> {
        let loaded = Nvml::builder().lib_path(library).init();
        let nvml = Arc::new(loaded.map_err(|error| match error {
            NvmlError::LibloadingError(error) => format!("NVIDIA's driver is not installed here: {error}"),
            NvmlError::DriverNotLoaded => "NVIDIA's kernel driver is not loaded".to_owned(),
            error => format!("NVIDIA's driver does not start: {error}"),
        })?);
        let errors = Arc::default();
        let (watched, kept) = (Arc::clone(&nvml), Arc::clone(&errors));
        let watching = thread::Builder::new()
            .name("gpu-errors".to_owned())
            .spawn(move || watch_errors(&watched, &kept));
        if let Err(error) = watching {
            tracing::warn!(%error, "critical errors of GPUs are not watched");
        }
        Ok(Self {
            nvml,
            sysfs: sysfs.clone(),
            dev: dev.to_owned(),
            errors,
            known: Mutex::default(),
        })
    }

    fn look(&self) -> Result<Vec<Gpu>, NvmlError> {
        let version = self.nvml.sys_driver_version()?;
        let mut known = lock(&self.known);
        let mut found = BTreeMap::new();
        for index in 0..self.nvml.device_count()? {
            let device = self.nvml.device_by_index(index);
            let gpu = device.and_then(|device| self.gpu(index, &device, &version));
            match (gpu, known.get(&index)) {
                (Ok(gpu), _) => drop(found.insert(index, gpu)),
                (Err(error), Some(before)) => {
                    tracing::debug!(%error, index, "a GPU does not answer");
                    let mut gpu = before.clone();
                    gpu.health.lost = true;
                    found.insert(index, gpu);
                }
                // Without its name it cannot be offered, nor taken away from anybody.
                (Err(error), None) => tracing::warn!(%error, index, "a GPU does not answer"),
            }
        }
        known.clone_from(&found);
        Ok(found.into_values().collect())
    }

    fn gpu(&self, index: u32, device: &Device<'_>, driver: &str) -> Result<Gpu, NvmlError> {
        let uuid = device.uuid()?;
        let address = pci_address(&device.pci_info()?.bus_id);
        let place = self.sysfs.pci_function(&address);
        let node = device.minor_number().ok().map(|minor| format!("nvidia{minor}"));
        let nodes = node.into_iter().chain(SHARED_NODES.map(str::to_owned));
        let capability = device.cuda_compute_capability().ok();
        Ok(Gpu {
            index,
            product: device.name()?,
            architecture: device
                .architecture()
                .ok()
                .map(|architecture| format!("{architecture:?}")),
            compute_capability: capability.and_then(|version| {
                Some((
                    u32::try_from(version.major).ok()?,
                    u32::try_from(version.minor).ok()?,
                ))
            }),
            memory_bytes: device.memory_info()?.total,
            driver: driver.to_owned(),
            numa_node: place.as_ref().and_then(|(_, numa)| *numa),
            pci: place.map(|(pci, _)| pci),
            mig: mig(device),
            nvlinks: nvlinks(device),
            health: health(device, lock(&self.errors).get(&uuid).copied()),
            nodes: nodes
                .map(PathBuf::from)
                .filter(|node| self.dev.join(node).exists())
                .collect(),
            uuid,
        })
    }
}

/// NVML's spelling of a PCI address in that of the kernel: `00000000:1A:00.0` is `0000:1a:00.0`.
fn pci_address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => {
            let (zeros, domain) = domain.split_at(domain.len() - 4);
            if zeros.bytes().all(|digit| digit == b'0') {
                return format!("{domain}:{rest}");
            }
            lower
        }
        _ => lower,
    }
}

fn mig(device: &Device<'_>) -> Option<Mig> {
    let mode = device.mig_mode().ok()?;
    let enabled = mode.current == 1;
    // Places that are not taken are errors.
    let places = if enabled {
        device.mig_device_count().unwrap_or(0)
    } else {
        0
    };
    let instances = (0..places).filter_map(|place| instance(&device.mig_device_by_index(place).ok()?).ok());
    Some(Mig {
        enabled,
        instances: instances.collect(),
    })
}

fn instance(device: &Device<'_>) -> Result<Instance, NvmlError> {
    let name = device.name()?;
    // "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    let profile = name
        .rsplit_once("MIG ")
        .map_or(name.as_str(), |(_, profile)| profile);
    Ok(Instance {
        uuid: device.uuid()?,
        profile: profile.to_owned(),
        memory_bytes: device.memory_info()?.total,
    })
}

fn nvlinks(device: &Device<'_>) -> BTreeMap<String, u32> {
    let mut links = BTreeMap::new();
    for number in 0..MOST_LINKS {
        let link = device.link_wrapper_for(number);
        if link.is_active().unwrap_or(false)
            && let Ok(peer) = link.remote_pci_info()
        {
            *links.entry(pci_address(&peer.bus_id)).or_default() += 1;
        }
    }
    links
}

fn health(device: &Device<'_>, xid: Option<u64>) -> Health {
    let asked = [
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
        NVML_FI_DEV_REMAPPED_FAILURE,
        NVML_FI_DEV_REMAPPED_PENDING,
    ];
    let values = device.field_values_for(&asked.map(FieldId)).unwrap_or_default();
    let value = |place: usize| match values.get(place)?.as_ref().ok()?.value.as_ref().ok()? {
        SampleValue::U32(value) => Some(u64::from(*value)),
        SampleValue::U64(value) => Some(*value),
        SampleValue::I64(value) => u64::try_from(*value).ok(),
        SampleValue::F64(_) => None,
    };
    Health {
        lost: false,
        recovery: value(0).map(|action| match action {
            0 => Recovery::None,
            1 => Recovery::Reset,
            2 => Recovery::Reboot,
            3 => Recovery::DrainPeers,
            4 => Recovery::DrainAndReset,
            _ => Recovery::Unknown,
        }),
        remapping_failed: value(1).map(|rows| rows > 0),
        remapping_pending: value(2).map(|rows| rows > 0),
        uncorrected_errors: device
            .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
            .ok(),
        xid,
    }
}

/// Remembers the last critical error of each GPU.
fn watch_errors(nvml: &Nvml, errors: &Mutex<HashMap<String, u64>>) {
    loop {
        if let Err(error) = note_errors(nvml, errors) {
            tracing::debug!(%error, "critical errors of GPUs are not watched for a moment");
        }
        thread::sleep(PAUSE);
    }
}

/// Until something fails, as when a GPU is lost.
fn note_errors(nvml: &Nvml, errors: &Mutex<HashMap<String, u64>>) -> Result<(), NvmlError> {
    let mut events = nvml.create_event_set()?;
    for index in 0..nvml.device_count()? {
        // One that is lost, or has no events as those of virtual machines may, must not keep others from being watched.
        let device = nvml.device_by_index(index);
        let kinds = device
            .as_ref()
            .ok()
            .and_then(|device| device.supported_event_types().ok());
        if let Ok(device) = device
            && kinds.is_some_and(|kinds| kinds.contains(EventTypes::CRITICAL_XID_ERROR))
        {
            events = device
                .register_events(EventTypes::CRITICAL_XID_ERROR, events)
                .map_err(|error| error.error)?;
        }
    }
    loop {
        let event = match events.wait(WAIT_MS) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => continue,
            Err(error) => return Err(error),
        };
        if let Some(XidError::Value(xid)) = event.event_data
            && is_of_gpu(xid)
        {
            let uuid = event.device.uuid()?;
            tracing::warn!(gpu = uuid, xid, "a GPU had a critical error");
            lock(errors).insert(uuid, xid);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spelled_as_the_kernel_does() {
        for (theirs, ours) in [
            ("00000000:1A:00.0", "0000:1a:00.0"),
            ("0000:1A:00.0", "0000:1a:00.0"),
            ("00010000:04:00.0", "00010000:04:00.0"),
        ] {
            assert_eq!(pci_address(theirs), ours);
        }
    }

    #[test]
    fn a_machine_without_the_driver_has_no_gpus_and_says_why() {
        let library = PathBuf::from("/nonexistent/libnvidia-ml.so.1");
        let nvidia = Nvidia::new(Sysfs::new("/sys".into()), "/dev".into(), vec![library]);
        let Gpus::None(why) = nvidia.gpus().unwrap() else {
            panic!("it found some");
        };
        assert!(
            why.contains("not installed") && why.contains("/nonexistent"),
            "{why}"
        );
    }
}
