//! Which NIC is near to what.

use std::{fs, path::Path};

/// How near two devices of this machine are, by PCI address and NUMA node; more is nearer. What is behind the same PCIe switch moves
/// bytes without the processor's interconnect, what is on the same NUMA node without the one between processors.
pub(crate) fn nearness(one: (Option<&str>, Option<u16>), other: (Option<&str>, Option<u16>)) -> usize {
    let bridges = match (one.0.and_then(path), other.0.and_then(path)) {
        (Some(one), Some(other)) => common(&one, &other),
        _ => 0,
    };
    let same_node = one.1.is_some() && one.1 == other.1;
    2 * bridges + usize::from(same_node)
}

/// The bridges above a PCI device, from the host's on: `pci0000:00/0000:00:01.0/0000:01:00.0`.
fn path(address: &str) -> Option<String> {
    let path = fs::canonicalize(Path::new("/sys/bus/pci/devices").join(address)).ok()?;
    Some(path.strip_prefix("/sys/devices").ok()?.to_str()?.to_owned())
}

/// How many bridges two paths share.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.split('/').zip(other.split('/'));
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_switch_is_nearer() {
        let gpu = "pci0000:40/0000:40:01.0/0000:41:00.0/0000:42:00.0/0000:43:00.0";
        let same_switch = "pci0000:40/0000:40:01.0/0000:41:00.0/0000:42:01.0/0000:44:00.0";
        let same_root = "pci0000:40/0000:40:02.0/0000:50:00.0";
        let elsewhere = "pci0000:c0/0000:c0:01.0/0000:c1:00.0";
        assert!(common(gpu, same_switch) > common(gpu, same_root));
        assert!(common(gpu, same_root) > common(gpu, elsewhere));
        assert_eq!(common(gpu, elsewhere), 0);
    }

    #[test]
    fn the_numa_node_decides_where_paths_are_not_known() {
        assert!(nearness((None, Some(1)), (None, Some(1))) > nearness((None, Some(0)), (None, Some(1))));
        assert_eq!(nearness((None, None), (None, None)), 0, "unknown is not the same");
    }
}
