//! RDMA devices as sysfs shows them. No libibverbs, no open device: nothing but reading files.
//!
//! ```text
//!  /sys/class/infiniband/mlx5_0 ─▶ devices/pci0000:00/0000:00:03.0/0000:04:00.0/infiniband/mlx5_0
//!     device ─▶ the PCI function: numa_node, driver, physfn (a virtual function's physical one)
//!     ports/1/{state,rate,link_layer,gids/N,gid_attrs/{types,ndevs}/N}
//!  /sys/class/infiniband_verbs/uverbs0/{ibdev,uevent}     which device node is whose
//!  /sys/class/misc/rdma_cm/uevent                         the connection manager's
//! ```
//! The formats are those of `Documentation/ABI/stable/sysfs-class-infiniband` of Linux.

mod file;
mod port;

use super::{
    nic::{Function, Nic, Pci},
    source::{Source, SourceError},
};
use file::{Folder, missing};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The sysfs that is mounted at a folder.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The one at `root`, which is `/sys` on a host. A container's own shows the network interfaces of the container.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The PCI function with this address, and its NUMA node where the machine says it.
    pub(super) fn pci_function(&self, address: &str) -> Option<(Pci, Option<u32>)> {
        let device = Folder::new(self.root.join("bus/pci/devices").join(address));
        let place = pci(&self.root, &device).ok().flatten()?;
        Some((place, numa_node(&device).ok().flatten()))
    }

    fn class(&self, name: &str) -> Folder {
        Folder::new(self.root.join("class").join(name))
    }
}

impl Source for Sysfs {
    fn nics(&self) -> Result<Vec<Nic>, SourceError> {
        let failed = |source: io::Error| SourceError::Sysfs {
            root: self.root.clone(),
            source,
        };
        // Without its class folder this is no sysfs; without one for RDMA, the kernel has loaded nothing of it.
        Folder::new(self.root.join("class")).entries().map_err(failed)?;
        let class = self.class("infiniband");
        let names = missing(class.entries()).map_err(failed)?.unwrap_or_default();
        let nodes = self.device_nodes().map_err(failed)?;
        let mut nics = Vec::new();
        for name in names {
            // A device may go while it is looked at: then it is not there.
            if let Some(nic) = gone(self.nic(&class.folder(&name), &name, &nodes)).map_err(failed)? {
                nics.push(nic);
            }
        }
        Ok(nics)
    }
}

impl Sysfs {
    fn nic(&self, folder: &Folder, name: &str, nodes: &BTreeMap<String, PathBuf>) -> io::Result<Nic> {
        // Its name first: without it, the device is gone.
        folder.entries()?;
        let own = nodes.get(name).cloned();
        // Without a device node of its own nobody can use it, and the connection manager's is for those who do.
        let shared = own.as_ref().and_then(|_| self.connection_manager());
        let device = folder.folder("device");
        let mut ports = Vec::new();
        for number in missing(folder.folder("ports").entries())?.unwrap_or_default() {
            let Ok(number) = number.parse() else { continue };
            ports.push(port::read(folder, &device, number)?);
        }
        ports.sort_by_key(|port| port.number);
        let guid = folder.text("node_guid")?;
        Ok(Nic {
            name: name.to_owned(),
            guid: guid.filter(|guid| guid.contains(|digit| !matches!(digit, '0' | ':'))),
            firmware: folder.text("fw_ver")?,
            board: folder.text("board_id")?,
            pci: pci(&self.root, &device)?,
            numa_node: numa_node(&device)?,
            ports,
            nodes: [own, shared].into_iter().flatten().collect(),
        })
    }

    /// The device node of each RDMA device, by the device's name.
    fn device_nodes(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        let class = self.class("infiniband_verbs");
        let mut nodes = BTreeMap::new();
        for entry in missing(class.entries())?.unwrap_or_default() {
            let folder = class.folder(&entry);
            if let (Some(device), Some(node)) = (folder.text("ibdev")?, devname(&folder)?) {
                nodes.insert(device, node);
            }
        }
        Ok(nodes)
    }

    fn connection_manager(&self) -> Option<PathBuf> {
        devname(&self.class("misc").folder("rdma_cm")).ok().flatten()
    }
}

/// The device node that a `uevent` names, relative to `/dev`.
fn devname(folder: &Folder) -> io::Result<Option<PathBuf>> {
    let text = folder.text("uevent")?.unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    // What goes into a container's configuration must stay below /dev.
    Ok(name.map(PathBuf::from).filter(|path| {
        path.components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    }))
}

/// The PCI function behind the link `device`.
fn pci(root: &Path, device: &Folder) -> io::Result<Option<Pci>> {
    let Some(place) = missing(device.path().canonicalize())? else {
        return Ok(None);
    };
    let place = place
        .strip_prefix(root.canonicalize()?)
        .unwrap_or(&place)
        .to_owned();
    let parts: Vec<&str> = place.iter().filter_map(|part| part.to_str()).collect();
    // Below a subfunction (mlx5_core.sf.4) the PCI function is further up.
    let above: Vec<_> = parts.iter().filter(|part| is_address(part)).collect();
    let address = above.last();
    let complex = parts.iter().find(|part| is_root(part));
    let (Some(&&address), Some(&complex)) = (address, complex) else {
        return Ok(None);
    };
    let physical = device.link_target("physfn")?;
    Ok(Some(Pci {
        address: address.to_owned(),
        root: complex.to_owned(),
        bridges: above[..above.len() - 1]
            .iter()
            .map(|bridge| (**bridge).to_owned())
            .collect(),
        driver: device.link_target("driver")?,
        function: physical.map_or(Function::Physical, Function::Virtual),
    }))
}

/// -1 where there is one only.
fn numa_node(device: &Folder) -> io::Result<Option<u32>> {
    Ok(device.text("numa_node")?.and_then(|text| text.parse().ok()))
}

/// `0000:04:1f.0`.
fn is_address(text: &str) -> bool {
    let parts: Vec<_> = text.split([':', '.']).collect();
    let digits =
        |part: &str, length| part.len() == length && part.chars().all(|digit| digit.is_ascii_hexdigit());
    matches!(parts[..], [domain, bus, device, function]
        if digits(domain, domain.len().max(4)) && digits(bus, 2) && digits(device, 2) && digits(function, 1))
}

/// `pci0000:00`.
fn is_root(text: &str) -> bool {
    let Some((domain, bus)) = text.strip_prefix("pci").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let digits = |part: &str| part.chars().all(|digit| digit.is_ascii_hexdigit());
    domain.len() >= 4 && bus.len() == 2 && digits(domain) && digits(bus)
}

/// Of what disappears while it is read, nothing is known.
fn gone<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    // ENODEV: the files are there still, the device is not.
    match outcome {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
        other => missing(other),
    }
}

#[cfg(test)]
mod tests;
