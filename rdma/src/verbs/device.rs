//! Which RDMA devices there are, and which of them to use: all of it as sysfs tells it.

use crate::fabric::{Gid, Unavailable};
use std::{
    cmp::Reverse,
    fs, io,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
};

/// The wishes for a device. All are wishes about which of the usable ones is best, except `devices` and `port`.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// These devices and no others, by their names in `/sys/class/infiniband`; any where it is empty.
    pub devices: Vec<String>,
    /// This port and no other.
    pub port: Option<u8>,
    /// The port that has this address: the one that the peer reaches this end by.
    pub address: Option<IpAddr>,
    /// A device on this NUMA node, where the memory is.
    pub numa_node: Option<u16>,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Name of its device.
    pub device: String,
    /// Its number, from 1.
    pub number: u8,
    /// `ACTIVE` when it can be used (InfiniBand Architecture 7.2.7).
    pub state: String,
    /// Whether it is an InfiniBand port; RoCE otherwise.
    pub infiniband: bool,
    /// Nominal rate in Gb/s.
    pub gbits: f64,
    /// NUMA node of its device.
    pub numa_node: Option<u16>,
    /// PCI address of its device.
    pub pci_address: Option<String>,
    /// Its GIDs.
    pub gids: Vec<GidEntry>,
}

/// An entry of a port's GID table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GidEntry {
    /// Its index.
    pub index: u8,
    /// The GID.
    pub gid: Gid,
    /// Whether it speaks RoCE v2; RoCE v1 or InfiniBand otherwise.
    pub roce_v2: bool,
    /// The network interface that it belongs to, with RoCE.
    pub netdev: Option<String>,
}

impl GidEntry {
    /// The address that it is, with RoCE v2.
    pub fn address(&self) -> IpAddr {
        let address = Ipv6Addr::from(self.gid.0);
        address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
    }

    fn is_link_local(&self) -> bool {
        self.gid.0[0] == 0xfe && self.gid.0[1] & 0xc0 == 0x80
    }
}

impl Port {
    /// Whether it is up.
    pub fn is_active(&self) -> bool {
        self.state == "ACTIVE"
    }

    /// The GID to use: the one that is `wanted`, else one whose address this network namespace has, IPv4 before IPv6. Every
    /// port has a link-local one, whatever network it is on: it serves only who asks for it. `mine` tells which addresses are this network namespace's own: a device that is shared
    /// between pods shows the GIDs of all of them.
    fn gid(&self, wanted: Option<IpAddr>, mine: &dyn Fn(IpAddr) -> bool) -> Option<&GidEntry> {
        if self.infiniband {
            return self.gids.first();
        }
        self.gids
            .iter()
            .filter(|entry| {
                let asked_for = wanted.is_some_and(|wanted| wanted == entry.address());
                entry.roce_v2 && (asked_for || !entry.is_link_local())
            })
            .min_by_key(|entry| {
                let address = entry.address();
                (
                    wanted.is_some_and(|wanted| wanted != address),
                    !mine(address),
                    address.is_ipv6(),
                    entry.index,
                )
            })
    }
}

/// Where the kernel shows devices. Another root than `/` is for tests.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Sysfs {
    /// The devices below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Every port of every device.
    ///
    /// # Errors
    /// [`Unavailable::KernelModuleMissing`] and [`Unavailable::NoDevice`].
    pub fn ports(&self) -> Result<Vec<Port>, Unavailable> {
        if !self.root.join("sys/class/infiniband_verbs").is_dir() {
            return Err(Unavailable::KernelModuleMissing);
        }
        let class = self.root.join("sys/class/infiniband");
        let mut ports = Vec::new();
        for device in names(&class) {
            let folder = class.join(&device);
            for number in names(&folder.join("ports")) {
                if let Ok(number) = number.parse() {
                    ports.push(port(&folder, &device, number));
                }
            }
        }
        if ports.is_empty() {
            return Err(Unavailable::NoDevice(
                String::new(),
                "load the driver of the NIC, or make a soft-RoCE device: `rdma link add rxe0 type rxe netdev eth0`"
                    .to_owned(),
            ));
        }
        Ok(ports)
    }

    /// The usable ports, best first, each with the GID to use.
    ///
    /// # Errors
    /// Why the best of the unusable ones cannot be used, if none can.
    pub fn choose(&self, choice: &Choice) -> Result<Vec<(Port, GidEntry)>, Unavailable> {
        let all = self.ports()?;
        let names = all
            .iter()
            .map(|port| port.device.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let wanted = all.into_iter().filter(|port| {
            (choice.devices.is_empty() || choice.devices.contains(&port.device))
                && choice.port.is_none_or(|number| number == port.number)
        });
        let (mut usable, mut why) = (Vec::new(), None);
        for port in wanted {
            let unusable = |port: Port, state| match state {
                true => Unavailable::NoRoceV2Gid {
                    device: port.device,
                    port: port.number,
                },
                false => Unavailable::PortDown {
                    device: port.device,
                    port: port.number,
                },
            };
            match port.gid(choice.address, &is_mine).cloned() {
                Some(gid) if port.is_active() => usable.push((port, gid)),
                // A port that lacks the GID alone is nearer to being usable than one that is down.
                _ => {
                    let reason = unusable(port.clone(), port.is_active());
                    if why.is_none() || port.is_active() {
                        why = Some(reason);
                    }
                }
            }
        }
        if usable.is_empty() {
            return Err(why.unwrap_or_else(|| {
                let mut which = choice.devices.join(" or ");
                if !which.is_empty() {
                    which.insert(0, ' ');
                }
                let which = choice
                    .port
                    .map_or(which.clone(), |port| format!("{which} with a port {port}"));
                Unavailable::NoDevice(which, format!("there are: {names}"))
            }));
        }
        usable.sort_by_key(|(port, gid)| {
            (
                choice
                    .address
                    .is_some_and(|address| port.infiniband || gid.address() != address),
                choice.numa_node.is_some_and(|node| port.numa_node != Some(node)),
                !port.infiniband && !is_mine(gid.address()),
                // In whole Mb/s, so that it can be compared.
                Reverse((port.gbits * 1000.0) as u64),
                port.device.clone(),
                port.number,
            )
        });
        Ok(usable)
    }
}

/// Whether this network namespace has the address: only then can a socket be bound to it.
fn is_mine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn port(folder: &Path, device: &str, number: u8) -> Port {
    let at = folder.join("ports").join(number.to_string());
    let hardware = folder.join("device");
    Port {
        device: device.to_owned(),
        number,
        // "4: ACTIVE"
        state: text(&at.join("state"))
            .and_then(|state| state.split(": ").nth(1).map(str::to_owned))
            .unwrap_or_else(|| "UNKNOWN".to_owned()),
        infiniband: text(&at.join("link_layer")).as_deref() == Some("InfiniBand"),
        // "100 Gb/sec (4X EDR)"
        gbits: text(&at.join("rate"))
            .and_then(|rate| rate.split(' ').next()?.parse().ok())
            .unwrap_or_default(),
        // -1 where the kernel does not know.
        numa_node: text(&hardware.join("numa_node")).and_then(|node| node.parse().ok()),
        pci_address: fs::canonicalize(&hardware)
            .ok()
            .filter(|path| path.join("vendor").exists())
            .and_then(|path| path.file_name()?.to_str().map(str::to_owned)),
        gids: names(&at.join("gids"))
            .iter()
            .filter_map(|index| entry(&at, index.parse().ok()?))
            .collect(),
    }
}

fn entry(port: &Path, index: u8) -> Option<GidEntry> {
    let index_name = index.to_string();
    let gid: Ipv6Addr = text(&port.join("gids").join(&index_name))?.parse().ok()?;
    let attributes = port.join("gid_attrs");
    // Empty entries have no type, and the kernel refuses to read it.
    let kind = text(&attributes.join("types").join(&index_name))?;
    (!gid.is_unspecified()).then(|| GidEntry {
        index,
        gid: Gid(gid.octets()),
        roce_v2: kind == "RoCE v2",
        netdev: text(&attributes.join("ndevs").join(&index_name)),
    })
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The names in a folder; those that are numbers in their order.
fn names(folder: &Path) -> Vec<String> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let mut names = list().unwrap_or_default();
    names.sort_by_key(|name| (name.parse::<u32>().unwrap_or(u32::MAX), name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("penstock-sysfs-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("sys/class/infiniband")).unwrap();
            Self(root)
        }
        fn put(&self, path: &str, value: &str) {
            let path = self.0.join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        /// A device of one port, on PCI, with these (GID, type).
        fn device(&self, name: &str, state: &str, rate: &str, numa: &str, gids: &[(&str, &str)]) {
            self.put("class/infiniband_verbs/abi_version", "6");
            self.put(&format!("devices/pci0000:3a/0000:3a:00.{numa}/vendor"), "0x15b3");
            self.put(&format!("devices/pci0000:3a/0000:3a:00.{numa}/numa_node"), numa);
            let at = format!("class/infiniband/{name}");
            let port = format!("{at}/ports/1");
            self.put(&format!("{port}/state"), state);
            self.put(&format!("{port}/rate"), rate);
            self.put(&format!("{port}/link_layer"), "Ethernet");
            for (index, (gid, kind)) in gids.iter().enumerate() {
                self.put(&format!("{port}/gids/{index}"), gid);
                self.put(&format!("{port}/gid_attrs/types/{index}"), kind);
                self.put(&format!("{port}/gid_attrs/ndevs/{index}"), "eth7");
            }
            let hardware = self.0.join(format!("sys/devices/pci0000:3a/0000:3a:00.{numa}"));
            symlink(hardware, self.0.join("sys").join(&at).join("device")).unwrap();
        }
        fn choose(&self, choice: &Choice) -> Result<Vec<(Port, GidEntry)>, Unavailable> {
            Sysfs::at(&self.0).choose(choice)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    const V4: &str = "0000:0000:0000:0000:0000:ffff:0a09:0001";
    const V6: &str = "fd00:0000:0000:0000:0000:0000:0000:0001";
    const LOCAL: &str = "fe80:0000:0000:0000:7c9a:26ff:fe7c:3e6f";
    // Each entry of a RoCE port's table exists once per version.
    const TABLE: [(&str, &str); 5] = [
        (LOCAL, "IB/RoCE v1"),
        (LOCAL, "RoCE v2"),
        (V6, "RoCE v2"),
        (V4, "IB/RoCE v1"),
        (V4, "RoCE v2"),
    ];

    #[test]
    fn a_port_is_what_the_kernel_says() {
        let fake = Fake::new("says");
        fake.device("mlx5_0", "4: ACTIVE", "400 Gb/sec (4X NDR)", "1", &TABLE);
        let ports = Sysfs::at(&fake.0).ports().unwrap();
        assert_eq!(ports.len(), 1);
        let port = &ports[0];
        assert_eq!((port.device.as_str(), port.number), ("mlx5_0", 1));
        assert!(port.is_active() && !port.infiniband);
        assert_eq!(port.gbits, 400.0);
        assert_eq!(port.numa_node, Some(1));
        assert_eq!(port.pci_address.as_deref(), Some("0000:3a:00.1"));
        assert_eq!(port.gids.len(), 5);
        assert_eq!(port.gids[4].gid.to_string(), "10.9.0.1");
        assert_eq!(port.gids[4].netdev.as_deref(), Some("eth7"));
    }

    #[test]
    fn the_gid_is_of_roce_v2_and_of_the_address_that_is_asked_for() {
        let fake = Fake::new("gid");
        fake.device("mlx5_0", "4: ACTIVE", "100 Gb/sec (4X EDR)", "0", &TABLE);
        let index = |address: Option<&str>| {
            let choice = Choice {
                address: address.map(|text| text.parse().unwrap()),
                ..Choice::default()
            };
            fake.choose(&choice).unwrap()[0].1.index
        };
        assert_eq!(index(None), 4, "IPv4 first");
        assert_eq!(index(Some("10.9.0.1")), 4);
        assert_eq!(index(Some("fd00::1")), 2);
        assert_eq!(
            index(Some("10.1.1.1")),
            4,
            "an address that nothing has is no reason to refuse"
        );
    }

    #[test]
    fn an_own_address_comes_before_those_of_other_network_namespaces() {
        let fake = Fake::new("own");
        let own = "0000:0000:0000:0000:0000:ffff:7f00:0001";
        fake.device(
            "mlx5_0",
            "4: ACTIVE",
            "100 Gb/sec (4X EDR)",
            "0",
            &[(V4, "RoCE v2"), (own, "RoCE v2")],
        );
        assert_eq!(fake.choose(&Choice::default()).unwrap()[0].1.index, 1);
    }

    #[test]
    fn the_nearest_device_comes_first_then_the_fastest() {
        let fake = Fake::new("nearest");
        fake.device("a", "4: ACTIVE", "100 Gb/sec", "0", &TABLE);
        fake.device("b", "4: ACTIVE", "200 Gb/sec", "1", &TABLE);
        fake.device("c", "4: ACTIVE", "400 Gb/sec", "2", &TABLE);
        fake.device("d", "1: DOWN", "800 Gb/sec", "3", &TABLE);
        let order = |choice: Choice| {
            let ports = fake.choose(&choice).unwrap();
            ports.into_iter().map(|(port, _)| port.device).collect::<String>()
        };
        assert_eq!(order(Choice::default()), "cba");
        assert_eq!(
            order(Choice {
                numa_node: Some(0),
                ..Choice::default()
            }),
            "acb"
        );
        assert_eq!(
            order(Choice {
                devices: vec!["b".to_owned()],
                ..Choice::default()
            }),
            "b"
        );
    }

    #[test]
    fn the_reason_says_what_is_missing() {
        let fake = Fake::new("reason");
        let reason = |choice: &Choice| fake.choose(choice).unwrap_err();
        assert_eq!(reason(&Choice::default()), Unavailable::KernelModuleMissing);
        fake.put("class/infiniband_verbs/abi_version", "6");
        assert_eq!(reason(&Choice::default()).reason(), "NoDevice");
        fake.device("a", "1: DOWN", "100 Gb/sec", "0", &TABLE);
        assert_eq!(
            reason(&Choice::default()),
            Unavailable::PortDown {
                device: "a".to_owned(),
                port: 1
            }
        );
        fake.device("b", "4: ACTIVE", "100 Gb/sec", "1", &TABLE[..2]);
        assert_eq!(
            reason(&Choice::default()),
            Unavailable::NoRoceV2Gid {
                device: "b".to_owned(),
                port: 1
            }
        );
        let named = reason(&Choice {
            devices: vec!["x".to_owned()],
            port: Some(2),
            ..Choice::default()
        });
        assert_eq!(
            named.to_string(),
            "there is no RDMA device x with a port 2; there are: a, b"
        );
    }
}
