//! The devices of a kind in a ResourceSlice (`resource.k8s.io/v1`).

use super::offered::Offered;
use k8s_openapi::api::resource::v1::{Device, DeviceTaint};

/// What an unhealthy device looks like in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unhealthy {
    /// Tainted `NoSchedule` (KEP-5055, on by default since Kubernetes 1.36): who has it keeps it.
    Tainted,
    /// Left out, for API servers that drop taints.
    LeftOut,
}

/// The devices that a node offers.
pub(super) fn devices<K: Offered>(found: &[K], unhealthy: Unhealthy) -> Vec<Device> {
    let mut devices: Vec<_> = found
        .iter()
        .filter(|device| device.left_out().is_none())
        .filter(|device| unhealthy == Unhealthy::Tainted || device.trouble().is_none())
        .map(device)
        .collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

fn device<K: Offered>(found: &K) -> Device {
    let taint = found.trouble().map(|_| DeviceTaint {
        effect: "NoSchedule".to_owned(),
        key: K::UNHEALTHY.to_owned(),
        time_added: None,
        value: None,
    });
    Device {
        name: found.name(),
        attributes: Some(found.attributes()),
        capacity: found.capacity(),
        taints: taint.map(|taint| vec![taint]),
        ..Device::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::{Nic, PortState, tests::nic_at};

    #[test]
    fn an_unhealthy_device_is_tainted_or_left_out() {
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
            (Nic::UNHEALTHY, "NoSchedule")
        );
        assert_eq!(devices(&nics, Unhealthy::LeftOut).len(), 1);
    }
}
