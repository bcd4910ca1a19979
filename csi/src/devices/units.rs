//! Units of NICs: what the scheduler counts, and which of them are best given together.

use super::nic::Nic;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// kubelet's limit for the id of a device, with room for a unit's number.
const LONGEST_NAME: usize = 56;

/// The units of some NICs, by their ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Units<'a> {
    by_id: BTreeMap<String, (&'a Nic, u32)>,
}

impl<'a> Units<'a> {
    /// `shares` units of each.
    pub(super) fn of(nics: &'a [Nic], shares: u32) -> Self {
        let unit = |nic, number| (id(nic, number), (nic, number));
        let by_id = nics
            .iter()
            .flat_map(|nic| (0..shares).map(move |number| unit(nic, number)));
        Self {
            by_id: by_id.collect(),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a Nic)> {
        self.by_id.iter().map(|(id, (nic, _))| (id.as_str(), *nic))
    }

    /// The NIC of a unit.
    pub(super) fn nic(&self, id: &str) -> Option<&'a Nic> {
        self.by_id.get(id).map(|(nic, _)| *nic)
    }

    /// The best `size` of the `available` units, with those that `must` be among them: of different NICs, then near each other,
    /// then of NICs that few others use. Fewer when there are not enough.
    pub(super) fn preferred(&self, available: &[String], must: &[String], size: usize) -> Vec<String> {
        let mut free: BTreeMap<&str, Candidate<'a>> = available
            .iter()
            .filter(|id| !must.contains(id))
            .filter_map(|id| Some((id.as_str(), *self.by_id.get(id)?)))
            .map(|(id, (nic, number))| (id, Candidate { nic, number }))
            .collect();
        let mut chosen: Vec<String> = must.to_vec();
        let mut nics: Vec<&Nic> = must.iter().filter_map(|id| self.nic(id)).collect();
        while chosen.len() < size {
            let best = free
                .iter()
                .min_by_key(|(_, candidate)| candidate.cost(&nics, &free, size))
                .map(|(id, candidate)| (*id, *candidate));
            let Some((id, candidate)) = best else { break };
            free.remove(id);
            nics.push(candidate.nic);
            chosen.push(id.to_owned());
        }
        chosen
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    nic: &'a Nic,
    number: u32,
}

impl Candidate<'_> {
    /// What speaks against it, the weightiest first.
    fn cost(&self, chosen: &[&Nic], free: &BTreeMap<&str, Self>, size: usize) -> impl Ord + use<> {
        let again = chosen.iter().filter(|nic| nic.name == self.nic.name).count();
        let far = chosen.iter().map(|nic| distance(nic, self.nic)).max();
        // The first of several is taken where most of the others can be, too.
        let company: BTreeSet<_> = free
            .values()
            .filter(|other| distance(other.nic, self.nic) <= SAME_NUMA_NODE)
            .map(|other| &other.nic.name)
            .collect();
        let alone = size.saturating_sub(company.len());
        let used = usize::MAX
            - free
                .values()
                .filter(|other| other.nic.name == self.nic.name)
                .count();
        (again, far, alone, used, self.nic.name.clone(), self.number)
    }
}

const SAME_NUMA_NODE: u8 = 1;

/// How far two NICs are from each other: below the same root complex, at the same NUMA node, or further.
fn distance(one: &Nic, other: &Nic) -> u8 {
    let roots = (
        one.pci.as_ref().map(|pci| &pci.root),
        other.pci.as_ref().map(|pci| &pci.root),
    );
    match roots {
        (Some(root), Some(other)) if root == other => 0,
        _ if one.name == other.name => 0,
        _ if one.numa_node == other.numa_node => SAME_NUMA_NODE,
        _ => 2,
    }
}

/// The id of a NIC's unit: the name is part of it, so that it is the same after a restart.
fn id(nic: &Nic, number: u32) -> String {
    let name = &nic.name;
    if name.len() <= LONGEST_NAME && name.is_ascii() {
        return format!("{name}-{number}");
    }
    let digest = hex::encode(Sha256::digest(name.as_bytes()));
    format!("rdma-{}-{number}", &digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::nic::tests::nic_at;

    fn ids(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn four() -> Vec<Nic> {
        vec![
            nic_at("a", "pci0000:00", 0),
            nic_at("b", "pci0000:80", 1),
            nic_at("c", "pci0000:a0", 1),
            nic_at("d", "pci0000:a0", 1),
        ]
    }

    #[test]
    fn several_units_are_of_different_nics_near_each_other() {
        let nics = four();
        let units = Units::of(&nics, 2);
        let all: Vec<String> = units.iter().map(|(id, _)| id.to_owned()).collect();
        assert_eq!(all.len(), 8);
        for (must, size, expected) in [
            // NUMA node 1 has room for two and for three; a pair below one root is nearer still once one of it is taken.
            ("", 3, "b-0 c-0 d-0"),
            ("c-1", 2, "c-1 d-0"),
            ("a-0", 2, "a-0 b-0"),
            // With all NICs taken, the same ones again.
            ("", 5, "b-0 c-0 d-0 a-0 b-1"),
        ] {
            assert_eq!(
                units.preferred(&all, &ids(must), size),
                ids(expected),
                "{must} {size}"
            );
        }
    }

    #[test]
    fn one_unit_is_of_the_nic_that_fewest_use() {
        let nics = four();
        let units = Units::of(&nics, 3);
        let available = ids("b-0 b-1 c-2 d-0 d-1 d-2");
        assert_eq!(units.preferred(&available, &[], 1), ["d-0"]);
    }

    #[test]
    fn units_that_are_not_there_are_never_preferred() {
        let nics = four();
        let units = Units::of(&nics, 1);
        assert_eq!(units.preferred(&ids("x-0 a-0"), &[], 2), ["a-0"]);
        assert!(units.preferred(&[], &[], 2).is_empty());
    }

    #[test]
    fn ids_are_short_enough_and_differ() {
        let long = "n".repeat(63);
        let nics = [
            nic_at(&long, "pci0000:00", 0),
            nic_at(&format!("{}m", &long[1..]), "pci0000:00", 0),
        ];
        let units = Units::of(&nics, 1000);
        assert_eq!(units.iter().count(), 2000);
        assert!(units.iter().all(|(id, _)| id.len() <= 63));
    }
}
