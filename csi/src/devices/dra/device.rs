//! A NIC as a device of a ResourceSlice (`resource.k8s.io/v1`).

use crate::devices::nic::{Function, Nic};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceTaint};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Key of the taint of a NIC that must not be given away now.
pub(super) const UNHEALTHY: &str = "rdma.penstock.io/unhealthy";
/// The API's limit for text in an attribute (`DeviceAttributeMaxValueLength`).
const LONGEST_TEXT: usize = 64;
/// A DNS label's limit.
const LONGEST_NAME: usize = 63;

/// What an unhealthy NIC looks like in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unhealthy {
    /// Tainted `NoSchedule` (KEP-5055, on by default since Kubernetes 1.36): who has it keeps it.
    Tainted,
    /// Left out, for API servers that drop taints.
    LeftOut,
}

/// The devices that a node offers.
pub(super) fn devices(nics: &[Nic], unhealthy: Unhealthy) -> Vec<Device> {
    let mut devices: Vec<_> = nics
        .iter()
        .filter(|nic| unhealthy == Unhealthy::Tainted || nic.trouble().is_none())
        .map(device)
        .collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

fn device(nic: &Nic) -> Device {
    let taint = nic.trouble().map(|_| DeviceTaint {
        effect: "NoSchedule".to_owned(),
        key: UNHEALTHY.to_owned(),
        time_added: None,
        value: None,
    });
    Device {
        name: name(nic),
        attributes: Some(attributes(nic)),
        taints: taint.map(|taint| vec![taint]),
        ..Device::default()
    }
}

/// A NIC's name as a DNS label: `mlx5_0` is `mlx5-0`. Two NICs never share one.
pub(super) fn name(nic: &Nic) -> String {
    let kernel = &nic.name;
    let plain = kernel
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let label = kernel
        .to_ascii_lowercase()
        .replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    if plain && kernel.len() <= LONGEST_NAME && !kernel.starts_with('_') && !kernel.ends_with('_') {
        return label;
    }
    // Other names would collide once their letters are replaced.
    let digest = hex::encode(Sha256::digest(kernel.as_bytes()));
    let label: String = label.trim_matches('-').chars().take(LONGEST_NAME - 9).collect();
    format!("{}-{}", label.trim_end_matches('-'), &digest[..8])
        .trim_start_matches('-')
        .to_owned()
}

/// Attributes whose names have no domain belong to the driver's: `device.attributes["rdma.penstock.io"].gbits`.
fn attributes(nic: &Nic) -> BTreeMap<String, DeviceAttribute> {
    let mut found = BTreeMap::new();
    let mut add = |name: &str, value: Option<DeviceAttribute>| {
        found.extend(value.map(|value| (name.to_owned(), value)));
    };
    // Those that every driver names alike (k8s.io/dynamic-resource-allocation/deviceattribute, KEP-6072), so that a NIC and a GPU can be
    // asked for under one root complex.
    add(
        "resource.kubernetes.io/pcieRoot",
        nic.pci.as_ref().and_then(|pci| text(&pci.root)),
    );
    add(
        "resource.kubernetes.io/pciBusID",
        nic.pci.as_ref().and_then(|pci| text(&pci.address)),
    );
    add(
        "resource.kubernetes.io/numaNode",
        nic.numa_node.map(|node| int(node.into())),
    );
    add("rdmaDevice", text(&nic.name));
    add("software", Some(bool(nic.pci.is_none())));
    add("guid", nic.guid.as_deref().and_then(text));
    add("firmware", nic.firmware.as_deref().and_then(text));
    add("board", nic.board.as_deref().and_then(text));
    if let Some(pci) = &nic.pci {
        add("driver", pci.driver.as_deref().and_then(text));
        add(
            "virtualFunction",
            Some(bool(matches!(pci.function, Function::Virtual(_)))),
        );
    }
    if let Some(port) = nic.ports.first() {
        add("linkLayer", text(&port.link_layer.to_string()));
        add("netdev", port.netdev.as_deref().and_then(text));
    }
    // A device is given away with all of its ports.
    let best = nic.ports.iter().map(|port| port.hundred_mbits).max().unwrap_or(0);
    add("megabits", i64::try_from(best * 100).ok().map(int));
    found
}

fn text(value: &str) -> Option<DeviceAttribute> {
    let fits = !value.is_empty() && value.len() <= LONGEST_TEXT;
    fits.then(|| DeviceAttribute {
        string: Some(value.to_owned()),
        ..DeviceAttribute::default()
    })
}

fn int(value: i64) -> DeviceAttribute {
    DeviceAttribute {
        int: Some(value),
        ..DeviceAttribute::default()
    }
}

fn bool(value: bool) -> DeviceAttribute {
    DeviceAttribute {
        bool: Some(value),
        ..DeviceAttribute::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::{PortState, tests::nic_at};

    #[test]
    fn a_nic_says_where_it_is_in_the_words_of_all_drivers() {
        let found = attributes(&nic_at("mlx5_0", "pci0000:80", 1));
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
        let found = attributes(&nic);
        assert!(
            found
                .keys()
                .all(|name| !name.starts_with("resource.kubernetes.io/")),
            "{found:?}"
        );
        assert_eq!(found["software"].bool, Some(true));
    }

    #[test]
    fn what_is_too_long_for_the_api_is_left_out() {
        let mut nic = nic_at("mlx5_0", "pci0000:80", 1);
        nic.firmware = Some("9".repeat(65));
        assert!(!attributes(&nic).contains_key("firmware"));
    }

    #[test]
    fn an_unhealthy_nic_is_tainted_or_left_out() {
        let mut nics = [nic_at("b", "pci0000:80", 1), nic_at("a", "pci0000:80", 1)];
        nics[0].ports[0].state = PortState::Down;
        let tainted = devices(&nics, Unhealthy::Tainted);
        assert_eq!(
            tainted
                .iter()
                .map(|device| device.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(tainted[0].taints, None);
        let taint = &tainted[1].taints.as_ref().unwrap()[0];
        assert_eq!(
            (taint.key.as_str(), taint.effect.as_str()),
            (UNHEALTHY, "NoSchedule")
        );
        assert_eq!(devices(&nics, Unhealthy::LeftOut).len(), 1);
    }

    #[test]
    fn names_are_labels_and_differ() {
        let long = "n".repeat(63) + "_";
        let names = [
            "mlx5_0",
            "mlx5-0",
            "MLX5_0",
            "rocep4s0f0",
            "_x",
            "x_",
            "é",
            "é é",
            &long,
        ];
        let labels: std::collections::BTreeSet<_> =
            names.iter().map(|text| name(&nic_at(text, "", 0))).collect();
        assert_eq!(labels.len(), names.len(), "{labels:?}");
        assert!(labels.contains("mlx5-0") && labels.contains("rocep4s0f0"));
        for label in labels {
            let ends = label.starts_with('-') || label.ends_with('-');
            let letters = label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
            assert!(!ends && letters && (1..=63).contains(&label.len()), "{label}");
        }
    }
}
