//! What is known of an RDMA NIC.

use super::kind::Kind;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::Ipv6Addr, path::PathBuf};

/// An RDMA device of this machine: a NIC's PCI function, or a device in software (soft-RoCE, soft-iWARP).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Its name in the kernel, as `mlx5_0` or `rxe0`.
    pub name: String,
    /// Its node GUID, as `b859:9f03:00d4:1c6a`, unless it has none.
    pub guid: Option<String>,
    /// Firmware version, as the device writes it.
    pub firmware: Option<String>,
    /// The vendor's name for the board's kind (PSID of ConnectX), as `MT_0000000223`.
    pub board: Option<String>,
    /// Where it is, unless it is made of software.
    pub pci: Option<Pci>,
    /// NUMA node that it is attached to, unless the machine has one only or does not say.
    pub numa_node: Option<u32>,
    /// Its ports, by number.
    pub ports: Vec<Port>,
    /// Device nodes that a user of it opens, relative to `/dev`: `infiniband/uverbs0`, and `infiniband/rdma_cm` where there is one.
    pub nodes: BTreeSet<PathBuf>,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pci {
    /// Its address, as `0000:04:00.0`.
    pub address: String,
    /// The root complex above it, as `pci0000:00`.
    pub root: String,
    /// The bridges above it, by their addresses, from the root port down.
    pub bridges: Vec<String>,
    /// Kernel driver, as `mlx5_core`.
    pub driver: Option<String>,
    /// Which kind of function it is.
    pub function: Function,
}

/// Physical and virtual functions (SR-IOV).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Function {
    /// A physical one.
    Physical,
    /// A virtual one of the physical one with this PCI address.
    Virtual(String),
}

/// A port of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// From 1.
    pub number: u32,
    /// What it is linked by.
    pub link_layer: LinkLayer,
    /// How its link is.
    pub state: PortState,
    /// Rate in units of 100 Mbit/s, which is how finely the kernel says it.
    pub hundred_mbits: u64,
    /// The network interface that it belongs to.
    pub netdev: Option<String>,
    /// Its addresses.
    pub gids: Vec<Gid>,
}

/// What a port is linked by (`link_layer` in sysfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LinkLayer {
    /// RoCE or iWARP.
    Ethernet,
    /// InfiniBand.
    InfiniBand,
    /// Not said.
    Unknown,
}

/// State of a port (`enum ib_port_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PortState {
    /// No link.
    Down,
    /// The link is being brought up (INIT, ARMED).
    Starting,
    /// It carries data (ACTIVE, ACTIVE_DEFER).
    Active,
    /// Something that this program does not know.
    Unknown,
}

/// An address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gid {
    /// Its place in the port's table, which programs name it by.
    pub index: u32,
    /// The address.
    pub address: Ipv6Addr,
    /// Whether it is one of RoCE v2, which can be routed.
    pub roce_v2: bool,
}

impl Kind for Nic {
    const NAME: &'static str = "RDMA device";
    const KEY: &'static str = "nic";

    fn id(&self) -> &str {
        &self.name
    }

    /// None of its ports carries data.
    fn trouble(&self) -> Option<String> {
        if self.ports.iter().any(|port| port.state == PortState::Active) {
            return None;
        }
        let states: Vec<_> = self
            .ports
            .iter()
            .map(|port| format!("port {} is {}", port.number, port.state))
            .collect();
        Some(if states.is_empty() {
            "it has no ports".to_owned()
        } else {
            states.join(", ")
        })
    }
}

impl Nic {
    /// The port that speaks for the device: the first that carries data, or else the first.
    pub fn port(&self) -> Option<&Port> {
        let active = self.ports.iter().find(|port| port.state == PortState::Active);
        active.or(self.ports.first())
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Unknown => "in an unknown state",
        })
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "Ethernet",
            Self::InfiniBand => "InfiniBand",
            Self::Unknown => "Unknown",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A healthy NIC of a name.
    pub(crate) fn nic(name: &str) -> Nic {
        nic_at(name, "pci0000:00", 0)
    }

    /// A healthy NIC below a root complex at a NUMA node.
    pub(crate) fn nic_at(name: &str, root: &str, numa: u32) -> Nic {
        Nic {
            name: name.to_owned(),
            guid: Some("b859:9f03:00d4:1c6a".to_owned()),
            firmware: Some("16.35.2000".to_owned()),
            board: Some("MT_0000000223".to_owned()),
            pci: Some(Pci {
                address: "0000:04:00.0".to_owned(),
                root: root.to_owned(),
                bridges: vec!["0000:00:03.0".to_owned()],
                driver: Some("mlx5_core".to_owned()),
                function: Function::Physical,
            }),
            numa_node: Some(numa),
            ports: vec![Port {
                number: 1,
                link_layer: LinkLayer::Ethernet,
                state: PortState::Active,
                hundred_mbits: 1000,
                netdev: Some("enp4s0f0np0".to_owned()),
                gids: Vec::new(),
            }],
            nodes: [
                format!("infiniband/uverbs-{name}").into(),
                "infiniband/rdma_cm".into(),
            ]
            .into(),
        }
    }

    #[test]
    fn a_nic_is_healthy_while_one_of_its_ports_carries_data() {
        let mut nic = nic("mlx4_0");
        nic.ports.push(Port {
            number: 2,
            state: PortState::Down,
            ..nic.ports[0].clone()
        });
        assert_eq!(nic.trouble(), None);
        nic.ports.swap(0, 1);
        assert_eq!(nic.port().map(|port| port.number), Some(1));
        nic.ports[1].state = PortState::Starting;
        assert_eq!(
            nic.trouble().as_deref(),
            Some("port 2 is down, port 1 is starting")
        );
        nic.ports.clear();
        assert_eq!(nic.trouble().as_deref(), Some("it has no ports"));
    }
}
