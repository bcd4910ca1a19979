//! RDMA NICs as devices of claims: `rdma.penstock.io`.

use super::{
    attribute::{Attributes, label, variable},
    cdi::{Edits, Node},
    offered::{Offered, Parameters},
};
use crate::devices::nic::{Function, Nic};
use k8s_openapi::api::resource::v1::DeviceAttribute;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// How a NIC is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::devices) struct NicParameters {
    /// Whether the container gets `/dev/infiniband/rdma_cm` too, if the node has it. Programs that find their peers by the RDMA
    /// connection manager need it; those that exchange queue pair numbers by themselves do not.
    #[serde(default = "yes")]
    connection_manager: bool,
}

fn yes() -> bool {
    true
}

impl Default for NicParameters {
    fn default() -> Self {
        Self {
            connection_manager: yes(),
        }
    }
}

impl Parameters for NicParameters {
    const KIND: &'static str = "NicParameters";
    const FIELDS: &'static str = "connectionManager: true|false";
}

/// The host of NICs.
pub(in crate::devices) struct NicHost {
    /// Its folder of device nodes.
    pub(in crate::devices) dev: PathBuf,
}

impl Offered for Nic {
    const DRIVER: &'static str = crate::devices::DRIVER;
    const UNHEALTHY: &'static str = "rdma.penstock.io/unhealthy";
    type Parameters = NicParameters;
    type Host = NicHost;

    fn name(&self) -> String {
        label(&self.name)
    }

    fn attributes(&self) -> BTreeMap<String, DeviceAttribute> {
        let mut found = Attributes::of_place(self.pci.as_ref(), self.numa_node);
        found.text("rdmaDevice", Some(&self.name));
        found.bool("software", self.pci.is_none());
        found.text("guid", self.guid.as_deref());
        found.text("firmware", self.firmware.as_deref());
        found.text("board", self.board.as_deref());
        if let Some(pci) = &self.pci {
            found.text("driver", pci.driver.as_deref());
            found.bool("virtualFunction", matches!(pci.function, Function::Virtual(_)));
        }
        if let Some(port) = self.ports.first() {
            found.text("linkLayer", Some(&port.link_layer.to_string()));
            found.text("netdev", port.netdev.as_deref());
        }
        // A device is given away with all of its ports.
        let best = self
            .ports
            .iter()
            .map(|port| port.hundred_mbits)
            .max()
            .unwrap_or(0);
        found.int("megabits", i64::try_from(best * 100).ok());
        found.into_map()
    }

    fn edits(&self, parameters: &NicParameters, host: &NicHost) -> Result<Edits, String> {
        let wanted = |node: &&PathBuf| parameters.connection_manager || !node.ends_with("rdma_cm");
        let node = |node: &PathBuf| Node::new(&host.dev, Path::new(node));
        Ok(Edits {
            env: vec![variable("PENSTOCK_RDMA_DEVICE", &self.name(), &self.name)],
            device_nodes: self.nodes.iter().filter(wanted).map(node).collect(),
            ..Edits::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::tests::nic_at;

    #[test]
    fn a_nic_says_where_it_is_in_the_words_of_all_drivers() {
        let found = nic_at("mlx5_0", "pci0000:80", 1).attributes();
        let string = |name: &str| found[name].string.clone().unwrap();
        assert_eq!(string("resource.kubernetes.io/pcieRoot"), "pci0000:80");
        assert_eq!(string("resource.kubernetes.io/pciBusID"), "0000:04:00.0");
        assert_eq!(found["resource.kubernetes.io/numaNode"].int, Some(1));
        assert_eq!(
            (string("rdmaDevice").as_str(), string("linkLayer").as_str()),
            ("mlx5_0", "Ethernet")
        );
        assert_eq!(
            (found["software"].bool, found["virtualFunction"].bool),
            (Some(false), Some(false))
        );
        assert_eq!(found["megabits"].int, Some(100_000));
    }

    #[test]
    fn a_software_device_has_no_place() {
        let mut nic = nic_at("rxe0", "", 0);
        (nic.pci, nic.numa_node) = (None, None);
        let found = nic.attributes();
        assert!(
            found
                .keys()
                .all(|name| !name.starts_with("resource.kubernetes.io/")),
            "{found:?}"
        );
        assert_eq!(found["software"].bool, Some(true));
    }
}
