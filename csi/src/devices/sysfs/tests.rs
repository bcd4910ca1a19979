//! What is read from recorded trees.

use super::*;
use crate::devices::{
    kind::Kind as _,
    nic::{LinkLayer, PortState},
    recorded::Recorded,
};

fn nics(recorded: &Recorded) -> Vec<Nic> {
    Sysfs::new(recorded.root()).nics().unwrap()
}

#[test]
fn a_connectx_is_described_with_its_pci_place_port_and_addresses() {
    let recorded = Recorded::empty()
        .with_connection_manager()
        .with_connectx("mlx5_0", 0, "0000:81:00.0");
    let [nic] = &nics(&recorded)[..] else { panic!() };
    assert_eq!(nic.name, "mlx5_0");
    assert_eq!(nic.guid.as_deref(), Some("b859:9f03:00d4:1c6a"));
    assert_eq!(nic.firmware.as_deref(), Some("16.35.2000"));
    assert_eq!(nic.board.as_deref(), Some("MT_0000000080"));
    assert_eq!(nic.numa_node, Some(1));
    let pci = nic.pci.as_ref().unwrap();
    assert_eq!(
        (pci.address.as_str(), pci.root.as_str()),
        ("0000:81:00.0", "pci0000:80")
    );
    assert_eq!(pci.bridges, ["0000:80:02.0"]);
    assert_eq!(pci.driver.as_deref(), Some("mlx5_core"));
    assert_eq!(pci.function, Function::Physical);
    let [port] = &nic.ports[..] else { panic!() };
    assert_eq!(
        (port.number, port.link_layer, port.state),
        (1, LinkLayer::Ethernet, PortState::Active)
    );
    assert_eq!(port.hundred_mbits, 1000);
    assert_eq!(port.netdev.as_deref(), Some("net0"));
    let v2: Vec<_> = port
        .gids
        .iter()
        .filter(|gid| gid.roce_v2)
        .map(|gid| (gid.index, gid.address.to_string()))
        .collect();
    assert_eq!(
        v2,
        [
            (1, "fe80::ba59:9fff:fed4:1c6a".to_owned()),
            (3, "::ffff:192.168.100.10".to_owned())
        ]
    );
    assert_eq!(port.gids.len(), 4, "unused entries of the table are no addresses");
    let nodes: Vec<_> = nic.nodes.iter().map(|node| node.to_str().unwrap()).collect();
    assert_eq!(nodes, ["infiniband/rdma_cm", "infiniband/uverbs0"]);
}

#[test]
fn soft_roce_has_no_pci_place_and_its_interface_is_its_parent() {
    let recorded = Recorded::empty().with_soft_roce("rxe0", 0);
    let [nic] = &nics(&recorded)[..] else { panic!() };
    assert_eq!((&nic.pci, nic.numa_node, &nic.firmware), (&None, None, &None));
    let port = nic.port().unwrap();
    assert_eq!((port.hundred_mbits, port.netdev.as_deref()), (25, Some("dummy0")));
    assert_eq!(nic.nodes, ["infiniband/uverbs0".into()].into());
    for file in ["gids", "gid_attrs"] {
        recorded.remove(&format!("devices/virtual/infiniband/rxe0/ports/1/{file}"));
    }
    let [nic] = &nics(&recorded)[..] else { panic!() };
    assert_eq!(nic.port().unwrap().netdev.as_deref(), Some("dummy0"));
}

#[test]
fn each_device_has_its_own_node_whatever_the_order() {
    let recorded = Recorded::empty()
        .with_connectx("mlx5_1", 0, "0000:81:00.1")
        .with_connectx("mlx5_0", 1, "0000:81:00.0")
        .with_soft_roce("rxe0", 2);
    let found: Vec<_> = nics(&recorded)
        .into_iter()
        .map(|nic| (nic.name, nic.nodes.into_iter().next().unwrap()))
        .collect();
    let expected = [("mlx5_0", 1), ("mlx5_1", 0), ("rxe0", 2)];
    let expected = expected.map(|(name, number)| {
        (
            name.to_owned(),
            PathBuf::from(format!("infiniband/uverbs{number}")),
        )
    });
    assert_eq!(found, expected);
}

#[test]
fn a_virtual_function_names_its_physical_one() {
    let recorded = Recorded::empty()
        .with_connectx("mlx5_0", 0, "0000:81:00.0")
        .with_connectx("mlx5_2", 1, "0000:81:00.2")
        .with_physical("0000:81:00.2", "0000:81:00.0");
    let functions: Vec<_> = nics(&recorded)
        .into_iter()
        .map(|nic| nic.pci.unwrap().function)
        .collect();
    assert_eq!(
        functions,
        [Function::Physical, Function::Virtual("0000:81:00.0".into())]
    );
}

#[test]
fn states_are_told_apart_and_unknown_ones_are_not_healthy() {
    let recorded = Recorded::empty().with_soft_roce("rxe0", 0);
    for (text, state) in [
        ("1: DOWN", PortState::Down),
        ("2: INIT", PortState::Starting),
        ("3: ARMED", PortState::Starting),
        ("4: ACTIVE", PortState::Active),
        ("5: ACTIVE_DEFER", PortState::Active),
        ("0: NOP", PortState::Unknown),
        ("nonsense", PortState::Unknown),
    ] {
        recorded.set_state("rxe0", 1, text);
        let nic = nics(&recorded).remove(0);
        assert_eq!(nic.ports[0].state, state, "{text}");
        assert_eq!(nic.trouble().is_none(), state == PortState::Active, "{text}");
    }
}

#[test]
fn a_machine_without_rdma_has_no_devices_and_a_folder_that_is_no_sysfs_is_an_error() {
    assert!(nics(&Recorded::empty()).is_empty());
    let error = Sysfs::new("/no/such/sys".into()).nics().unwrap_err();
    assert!(error.to_string().contains("/no/such/sys"), "{error}");
}

#[test]
fn a_device_node_outside_dev_is_not_handed_out() {
    let recorded = Recorded::empty().with_soft_roce("rxe0", 0);
    for name in ["../etc/shadow", "/etc/shadow", "infiniband/../../etc/shadow"] {
        recorded.write(
            "devices/virtual/infiniband_verbs/uverbs0/uevent",
            &format!("MAJOR=1\nDEVNAME={name}"),
        );
        assert!(nics(&recorded)[0].nodes.is_empty(), "{name}");
    }
}

#[test]
fn pci_names_are_recognised() {
    for (text, address, root) in [
        ("0000:04:1f.0", true, false),
        ("10000:04:00.1", true, false),
        ("pci0000:00", false, true),
        ("pci10000:e1", false, true),
        ("mlx5_core.sf.4", false, false),
        ("0000:04:1f", false, false),
        ("pci0000", false, false),
        ("virtual", false, false),
    ] {
        assert_eq!((is_address(text), is_root(text)), (address, root), "{text}");
    }
}
