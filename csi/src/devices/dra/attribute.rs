//! Attributes, capacities and names within the limits of `resource.k8s.io/v1`.

use crate::devices::nic::Pci;
use k8s_openapi::{
    api::resource::v1::{DeviceAttribute, DeviceCapacity},
    apimachinery::pkg::api::resource::Quantity,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The API's limit for text in an attribute (`DeviceAttributeMaxValueLength`).
const LONGEST_TEXT: usize = 64;
/// A DNS label's limit.
const LONGEST_NAME: usize = 63;

/// Attributes by name. Names without a domain belong to the driver's: `device.attributes["rdma.penstock.io"].megabits`.
#[derive(Debug, Default)]
pub(super) struct Attributes(BTreeMap<String, DeviceAttribute>);

impl Attributes {
    /// Those that every driver names alike (k8s.io/dynamic-resource-allocation/deviceattribute, KEP-6072), so that a NIC and a GPU can be
    /// asked for under one root complex.
    pub(super) fn of_place(pci: Option<&Pci>, numa_node: Option<u32>) -> Self {
        let mut found = Self::default();
        found.text(
            "resource.kubernetes.io/pcieRoot",
            pci.map(|pci| pci.root.as_str()),
        );
        found.text(
            "resource.kubernetes.io/pciBusID",
            pci.map(|pci| pci.address.as_str()),
        );
        found.int("resource.kubernetes.io/numaNode", numa_node.map(i64::from));
        found
    }

    pub(super) fn into_map(self) -> BTreeMap<String, DeviceAttribute> {
        self.0
    }

    fn add(&mut self, name: &str, set: impl FnOnce(&mut DeviceAttribute)) {
        set(self.0.entry(name.to_owned()).or_default());
    }

    /// Text that the API has no room for is left out.
    pub(super) fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty() && value.len() <= LONGEST_TEXT) {
            self.add(name, |attribute| attribute.string = Some(value.to_owned()));
        }
    }

    pub(super) fn int(&mut self, name: &str, value: Option<i64>) {
        if value.is_some() {
            self.add(name, |attribute| attribute.int = value);
        }
    }

    pub(super) fn bool(&mut self, name: &str, value: bool) {
        self.add(name, |attribute| attribute.bool = Some(value));
    }

    pub(super) fn version(&mut self, name: &str, value: Option<&str>) {
        if let Some(version) = value.and_then(semantic) {
            self.add(name, |attribute| attribute.version = Some(version));
        }
    }
}

/// A version of up to three numbers as one of semver 2.0.0, which knows no leading zeros: `580.95.05` is `580.95.5`, `9.0` is `9.0.0`.
fn semantic(version: &str) -> Option<String> {
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u64>())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|numbers| numbers.len() <= 3)?;
    numbers.resize(3, 0);
    let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
    Some(numbers.join("."))
}

/// Bytes in whole MiB, as the API server writes them, which would otherwise be different from what was written.
pub(super) fn bytes(bytes: u64) -> DeviceCapacity {
    let (mut number, mut units) = (bytes >> 20, ["Mi", "Gi", "Ti", "Pi"].iter());
    let mut unit = units.next();
    while number != 0 && number.is_multiple_of(1024) && units.len() > 0 {
        (number, unit) = (number / 1024, units.next());
    }
    let unit = unit.filter(|_| number != 0).copied().unwrap_or_default();
    DeviceCapacity {
        value: Quantity(format!("{number}{unit}")),
        ..DeviceCapacity::default()
    }
}

/// A kernel's name as a DNS label: `mlx5_0` is `mlx5-0`. Two names never share one.
pub(super) fn label(name: &str) -> String {
    let plain = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let label = name
        .to_ascii_lowercase()
        .replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    if plain && name.len() <= LONGEST_NAME && !name.starts_with('_') && !name.ends_with('_') {
        return label;
    }
    // Other names would collide once their letters are replaced.
    let digest = hex::encode(Sha256::digest(name.as_bytes()));
    let label: String = label.trim_matches('-').chars().take(LONGEST_NAME - 9).collect();
    format!("{}-{}", label.trim_end_matches('-'), &digest[..8])
        .trim_start_matches('-')
        .to_owned()
}

/// A container's variable for a device. One for each: a container may have several claims, and the last of two with the same name would
/// win.
pub(super) fn variable(prefix: &str, device: &str, value: &str) -> String {
    let device = device.to_ascii_uppercase().replace('-', "_");
    format!("{prefix}_{device}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic_ones() {
        for (theirs, ours) in [
            ("580.159.04", Some("580.159.4")),
            ("9.0", Some("9.0.0")),
            ("10", Some("10.0.0")),
            ("580.159.04.1", None),
            ("570.x", None),
            ("", None),
        ] {
            assert_eq!(semantic(theirs).as_deref(), ours, "{theirs}");
        }
    }

    #[test]
    fn bytes_are_written_as_the_api_server_writes_them() {
        for (number, text) in [
            (150_754_820_096, "143771Mi"),
            (80 << 30, "80Gi"),
            (1 << 40, "1Ti"),
            ((1 << 20) + 1, "1Mi"),
            (5, "0"),
        ] {
            assert_eq!(bytes(number).value, Quantity(text.to_owned()));
        }
    }

    #[test]
    fn what_is_too_long_for_the_api_is_left_out() {
        let mut attributes = Attributes::default();
        attributes.text("long", Some(&"9".repeat(65)));
        attributes.text("empty", Some(""));
        attributes.text("none", None);
        assert!(attributes.into_map().is_empty());
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
        let labels: std::collections::BTreeSet<_> = names.iter().map(|name| label(name)).collect();
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
