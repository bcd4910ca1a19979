//! Discovery against a real kernel: runs in the guest of e2e/guest, which has the soft-RoCE device `rxe0` on the interface `dummy0`.

// Everything here is test code; clippy.toml allows these only inside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use penstock_csi::devices::{
    kind::Kind as _,
    nic::{LinkLayer, Nic, PortState},
    source::Source as _,
    sysfs::Sysfs,
};
use std::{
    os::unix::fs::FileTypeExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

fn nics() -> Vec<Nic> {
    Sysfs::new("/sys".into()).nics().unwrap()
}

/// Runs a program of iproute2 and returns what it prints.
fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn eventually(what: &str, wanted: impl Fn(&[Nic]) -> bool) {
    let start = Instant::now();
    while !wanted(&nics()) {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: {:?}", nics());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_device_is_what_rdma_link_says() {
    let [nic] = &nics()[..] else {
        panic!("{:?}", nics())
    };
    let [port] = &nic.ports[..] else { panic!("{nic:?}") };
    let link = run("rdma link");
    let said = format!(
        "link {}/{} state ACTIVE physical_state LINK_UP netdev {}",
        nic.name,
        port.number,
        port.netdev.as_deref().unwrap()
    );
    assert_eq!(link.trim(), said);
    assert_eq!(
        (port.state, port.link_layer),
        (PortState::Active, LinkLayer::Ethernet)
    );
    assert!(nic.pci.is_none() && nic.trouble().is_none(), "{nic:?}");
    let address = |text: &str| {
        port.gids
            .iter()
            .any(|gid| gid.roce_v2 && gid.address == text.parse::<std::net::Ipv6Addr>().unwrap())
    };
    assert!(address("::ffff:10.9.0.1") && address("fd09::1"), "{port:?}");
    assert!(!nic.nodes.is_empty());
    for node in &nic.nodes {
        let kind = Path::new("/dev").join(node).metadata().unwrap().file_type();
        assert!(kind.is_char_device(), "{node:?}");
    }
}

#[test]
fn a_link_that_goes_down_and_a_device_that_is_deleted_are_seen_and_so_is_their_return() {
    run("ip link set dummy0 down");
    eventually("the link is down", |nics| {
        nics.len() == 1 && nics[0].trouble().as_deref() == Some("port 1 is down")
    });
    assert_eq!(nics()[0].ports[0].netdev.as_deref(), Some("dummy0"));
    run("ip link set dummy0 up");
    eventually("the link is up", |nics| {
        nics.len() == 1 && nics[0].trouble().is_none()
    });
    run("rdma link delete rxe0");
    eventually("the device is gone", <[Nic]>::is_empty);
    run("rdma link add rxe0 type rxe netdev dummy0");
    eventually("the device is back", |nics| {
        nics.len() == 1 && nics[0].trouble().is_none() && !nics[0].nodes.is_empty()
    });
    run("rdma dev set rxe0 name renamed0");
    eventually("the device has its new name", |nics| {
        nics.len() == 1 && nics[0].name == "renamed0" && !nics[0].nodes.is_empty()
    });
    run("rdma dev set renamed0 name rxe0");
}
