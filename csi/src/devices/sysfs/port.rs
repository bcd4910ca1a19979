//! A port of an RDMA device in sysfs.

use super::file::{Folder, missing};
use crate::devices::nic::{Gid, LinkLayer, Port, PortState};
use std::io;

/// Reads port `number` of the RDMA device `nic`, whose PCI function (or whatever carries it) is `device`.
pub(super) fn read(nic: &Folder, device: &Folder, number: u32) -> io::Result<Port> {
    let folder = nic.folder("ports").folder(&number.to_string());
    let gids = gids(&folder)?;
    let mut netdev = None;
    for gid in &gids {
        netdev = folder
            .folder("gid_attrs")
            .folder("ndevs")
            .text(&gid.index.to_string())?;
        if netdev.is_some() {
            break;
        }
    }
    // A link that is down has no GIDs; then the interface is found by the function, or as a software device's parent.
    if netdev.is_none() {
        netdev = interface(device, number)?;
    }
    if netdev.is_none() {
        netdev = nic.text("parent")?;
    }
    Ok(Port {
        number,
        link_layer: link_layer(folder.text("link_layer")?.as_deref()),
        state: state(folder.text("state")?.as_deref()),
        hundred_mbits: folder.text("rate")?.map_or(0, |text| rate(&text)),
        netdev,
        gids,
    })
}

fn link_layer(text: Option<&str>) -> LinkLayer {
    match text {
        Some("Ethernet") => LinkLayer::Ethernet,
        Some("InfiniBand") => LinkLayer::InfiniBand,
        _ => LinkLayer::Unknown,
    }
}

/// `4: ACTIVE`.
fn state(text: Option<&str>) -> PortState {
    match text.and_then(|text| text.split(':').next()) {
        Some("1") => PortState::Down,
        Some("2" | "3") => PortState::Starting,
        Some("4" | "5") => PortState::Active,
        _ => PortState::Unknown,
    }
}

/// `100 Gb/sec (4X EDR)`, `2.5 Gb/sec (1X SDR)`: in units of 100 Mbit/s.
fn rate(text: &str) -> u64 {
    let number = text.split(' ').next().unwrap_or_default();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = part.chars().next().and_then(|digit| digit.to_digit(10));
    whole.parse().unwrap_or(0) * 10 + u64::from(tenths.unwrap_or(0))
}

/// The table holds many unused entries, which are zero.
fn gids(port: &Folder) -> io::Result<Vec<Gid>> {
    let (table, types) = (port.folder("gids"), port.folder("gid_attrs").folder("types"));
    let mut gids = Vec::new();
    for entry in missing(table.entries())?.unwrap_or_default() {
        let Ok(index) = entry.parse() else { continue };
        let address = table.text(&entry)?.and_then(|text| text.parse().ok());
        let Some(address) = address.filter(|address: &std::net::Ipv6Addr| !address.is_unspecified()) else {
            continue;
        };
        gids.push(Gid {
            index,
            address,
            roce_v2: types.text(&entry)?.as_deref() == Some("RoCE v2"),
        });
    }
    gids.sort_by_key(|gid| gid.index);
    Ok(gids)
}

/// The interface of a port among those of its function. Where a function has several ports, each interface says which is its own
/// (`dev_port`, from 0).
fn interface(device: &Folder, port: u32) -> io::Result<Option<String>> {
    let interfaces = device.folder("net");
    let names = missing(interfaces.entries())?.unwrap_or_default();
    for name in &names {
        let own = interfaces
            .folder(name)
            .text("dev_port")?
            .and_then(|text| text.parse().ok());
        if own.map_or(1, |own: u32| own + 1) == port {
            return Ok(Some(name.clone()));
        }
    }
    Ok(None)
}
