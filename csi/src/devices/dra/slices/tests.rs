//! What is written for what is found.

use super::*;
use crate::devices::nic::{
    Nic, PortState,
    tests::{nic, nic_at},
};

fn plan(node: &str, found: &[ResourceSlice], devices: Vec<Device>) -> Option<Plan> {
    super::plan(Nic::DRIVER, node, found, devices)
}

fn slice_name(node: &str, index: usize) -> String {
    super::slice_name(Nic::DRIVER, node, index)
}

fn devices(nics: &[Nic]) -> Vec<Device> {
    device::devices(nics, Unhealthy::Tainted)
}

fn many(count: usize) -> Vec<Nic> {
    (0..count)
        .map(|number| nic_at(&format!("mlx5_{number}"), "pci0000:00", 0))
        .collect()
}

/// What an API server makes of what is written.
fn stored(plan: Plan, found: Vec<ResourceSlice>) -> Vec<ResourceSlice> {
    let mut now = found;
    now.retain(|slice| !plan.delete.contains(slice.metadata.name.as_ref().unwrap()));
    for mut slice in plan.write {
        now.retain(|old| old.metadata.name != slice.metadata.name);
        slice.metadata.resource_version = Some("1".to_owned());
        now.push(slice);
    }
    now
}

#[test]
fn a_node_without_nics_has_no_slices_and_one_that_lost_them_an_empty_one() {
    assert!(plan("node1", &[], vec![]).is_none());
    let found = stored(plan("node1", &[], devices(&[nic("mlx5_0")])).unwrap(), vec![]);
    let empty = plan("node1", &found, vec![]).unwrap();
    assert_eq!(empty.write.len(), 1);
    assert_eq!(empty.write[0].spec.devices.as_deref(), Some(&[][..]));
    assert!(plan("node1", &stored(empty, found), vec![]).is_none());
}

#[test]
fn what_is_as_it_should_be_is_not_written_again_and_a_change_is_a_new_generation() {
    let mut nics = many(2);
    let first = plan("node1", &[], devices(&nics)).unwrap();
    assert_eq!(first.generation, 1);
    let mut found = stored(first, vec![]);
    assert!(plan("node1", &found, devices(&nics)).is_none());

    nics[1].ports[0].state = PortState::Down;
    let tainted = plan("node1", &found, devices(&nics)).unwrap();
    assert_eq!((tainted.generation, tainted.write.len()), (2, 1));
    assert!(
        tainted.write[0].metadata.resource_version.is_some(),
        "it is replaced, not made anew"
    );
    found = stored(tainted, found);
    // The time that the API server adds is no difference.
    let taints = found[0].spec.devices.as_mut().unwrap()[1]
        .taints
        .as_mut()
        .unwrap();
    taints[0].time_added = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        Default::default(),
    ));
    assert!(plan("node1", &found, devices(&nics)).is_none());

    nics[1].ports[0].state = PortState::Active;
    assert_eq!(plan("node1", &found, devices(&nics)).unwrap().generation, 3);
}

/// KEP-4381: a pool is whole when all slices of its latest generation are there.
#[test]
fn a_thousand_devices_are_slices_of_one_generation_and_fewer_devices_fewer_slices() {
    let all = plan("node1", &[], devices(&many(1000))).unwrap();
    assert_eq!(all.write.len(), 16);
    assert!(
        all.write
            .iter()
            .all(|slice| slice.spec.devices.as_ref().unwrap().len() <= CHUNK)
    );
    assert!(
        all.write
            .iter()
            .all(|slice| slice.spec.pool.resource_slice_count == 16 && slice.spec.pool.generation == 1)
    );
    let found = stored(all, vec![]);
    let fewer = plan("node1", &found, devices(&many(65))).unwrap();
    assert_eq!(
        (fewer.write.len(), fewer.delete.len(), fewer.generation),
        (2, 14, 2)
    );
    assert!(plan("node1", &stored(fewer, found), devices(&many(65))).is_none());
}

#[test]
fn slices_that_were_deleted_are_written_with_the_others() {
    let mut found = stored(plan("node1", &[], devices(&many(100))).unwrap(), vec![]);
    found.remove(0);
    let repaired = plan("node1", &found, devices(&many(100))).unwrap();
    assert_eq!((repaired.write.len(), repaired.generation), (2, 2));
}

#[test]
fn a_crash_between_two_writes_is_mended() {
    let found = stored(plan("node1", &[], devices(&many(100))).unwrap(), vec![]);
    let mut half = plan("node1", &found, devices(&many(90))).unwrap();
    half.write.truncate(1);
    let found = stored(half, found);
    let whole = plan("node1", &found, devices(&many(90))).unwrap();
    assert_eq!((whole.write.len(), whole.generation), (2, 3));
}

#[test]
fn names_of_slices_fit_whatever_the_node_is_called() {
    for node in ["node1", &"n".repeat(253)] {
        assert!(slice_name(node, 15).len() <= 253);
    }
    assert_ne!(slice_name(&"n".repeat(253), 0), slice_name(&"n".repeat(252), 0));
}
