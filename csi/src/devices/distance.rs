//! How far apart devices are, in the steps that a transfer between them takes.

use super::{
    gpu::Gpu,
    nic::{Nic, Pci},
};
use serde::Serialize;
use std::fmt;

/// How far it is from one device to another, nearest first. `nvidia-smi topo` has the same steps, by other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Distance {
    /// Below one PCIe switch (PIX, PXB): what they send each other passes no processor.
    Switch,
    /// Below one root complex (PHB).
    Root,
    /// At one NUMA node (NODE).
    Numa,
    /// In one machine (SYS): through the processors' interconnect.
    Machine,
    /// One of them does not say where it is, as what is made of software.
    Unknown,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switch => "switch",
            Self::Root => "root",
            Self::Numa => "numa",
            Self::Machine => "machine",
            Self::Unknown => "unknown",
        })
    }
}

type Place<'d> = (Option<&'d Pci>, Option<u32>);

fn between((one, one_numa): Place<'_>, (other, other_numa): Place<'_>) -> Distance {
    let (Some(one), Some(other)) = (one, other) else {
        return Distance::Unknown;
    };
    if one.root == other.root {
        // The bridge at the root's own bus is a root port: below it is a switch, or one device.
        let shared = one
            .bridges
            .first()
            .is_some_and(|port| other.bridges.first() == Some(port));
        return if shared { Distance::Switch } else { Distance::Root };
    }
    match one_numa.zip(other_numa) {
        Some((one, other)) if one == other => Distance::Numa,
        _ => Distance::Machine,
    }
}

/// From each NIC to each GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Between {
    /// The NIC's name.
    pub nic: String,
    /// The GPU's UUID.
    pub gpu: String,
    /// How far it is.
    pub distance: Distance,
}

/// All of them, the nearest first.
pub fn distances(nics: &[Nic], gpus: &[Gpu]) -> Vec<Between> {
    let pairs = nics.iter().flat_map(|nic| gpus.iter().map(move |gpu| (nic, gpu)));
    let mut all: Vec<_> = pairs
        .map(|(nic, gpu)| Between {
            nic: nic.name.clone(),
            gpu: gpu.uuid.clone(),
            distance: between(
                (nic.pci.as_ref(), nic.numa_node),
                (gpu.pci.as_ref(), gpu.numa_node),
            ),
        })
        .collect();
    all.sort_by_key(|pair| pair.distance);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{nic::tests::nic_at, recorded::gpu};

    #[test]
    fn what_shares_a_switch_is_nearer_than_what_shares_a_root_a_numa_node_or_the_machine() {
        let nic = |name: &str, root: &str, numa, bridges: &[&str]| {
            let mut nic = nic_at(name, root, numa);
            let pci = nic.pci.as_mut().unwrap();
            pci.bridges = bridges.iter().map(|bridge| (*bridge).to_owned()).collect();
            nic
        };
        let mut gpu = gpu();
        let pci = gpu.pci.as_mut().unwrap();
        pci.root = "pci0000:16".to_owned();
        pci.bridges = ["0000:16:01.0", "0000:17:00.0", "0000:18:00.0"]
            .map(str::to_owned)
            .to_vec();
        gpu.numa_node = Some(0);
        let mut software = nic_at("rxe0", "", 0);
        software.pci = None;
        let nics = [
            software,
            nic("far", "pci0000:98", 1, &["0000:98:01.0"]),
            nic("node", "pci0000:38", 0, &["0000:38:01.0"]),
            nic("root", "pci0000:16", 0, &["0000:16:03.0"]),
            nic(
                "near",
                "pci0000:16",
                0,
                &["0000:16:01.0", "0000:17:00.0", "0000:18:01.0"],
            ),
        ];
        let found = distances(&nics, &[gpu]);
        let found: Vec<_> = found
            .iter()
            .map(|pair| (pair.nic.as_str(), pair.distance))
            .collect();
        assert_eq!(
            found,
            [
                ("near", Distance::Switch),
                ("root", Distance::Root),
                ("node", Distance::Numa),
                ("far", Distance::Machine),
                ("rxe0", Distance::Unknown),
            ]
        );
    }
}
