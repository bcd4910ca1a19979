//! Devices, their ports, and how they fail.

use crate::world::{Stream, World, assert_same, in_time, open, options, pattern, place};
use penstock_rdma::{
    fabric::{Direction, Error, Unavailable},
    verbs::{self, Choice, Options, Sysfs, preflight},
};
use std::{process::Command, time::Duration};
use tokio::time::{sleep, timeout};

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_is_what_it_is() {
    let world = World::new().await;
    let info = world.client.info();
    assert_eq!((info.name.as_str(), info.port), ("rxe0", 1));
    assert_eq!(info.gid.to_string(), "10.9.0.1");
    assert_eq!(info.mtu, 4096);
    assert_eq!(info.netdev.as_deref(), Some("dummy0"));
    assert!(info.read_depth >= 16);
    assert!(info.gbits > 0.0);
    assert!(world.client.is_active());
    let queue_pair = world.client.queue_pair(1).unwrap();
    let address = queue_pair.address();
    assert_eq!((address.gid, address.port), (info.gid, 1));
    assert!(address.qpn > 0 && address.qpn < 1 << 24);
    assert!(
        format!("{:?}", world.client).contains("memory_windows: true"),
        "soft-RoCE has them"
    );
    drop(queue_pair);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_there_is_named() {
    let choice = Choice {
        devices: vec!["mlx5_7".to_owned()],
        ..Choice::default()
    };
    let error = verbs::open(&Options { choice, ..options() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no RDMA device mlx5_7; there are: rxe0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_finds_everything_in_order() {
    let report = preflight::run(&options()).await;
    assert_eq!(report.reason(), None);
    assert!(report.findings.iter().all(|finding| finding.good), "{report:?}");
    assert_eq!(report.outcome.unwrap().name, "rxe0");
}

/// Waits until the port is known to be up or down.
async fn until_active(world: &World, active: bool) {
    for device in [&world.client, &world.server] {
        let learnt = async {
            while device.is_active() != active {
                sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("the port's state", learnt).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_goes_down_and_comes_up_again() {
    let world = World::alone(&options()).await;
    let (client, server) = world.pair();
    let landing = world.landing(Stream::SIZE, 1);
    let exposed = client
        .clone()
        .expose(landing, 0..Stream::SIZE, Direction::Written)
        .await
        .unwrap();
    let stream = Stream::start(
        &server,
        world.staging(Stream::SIZE, 2),
        exposed.window(),
        Direction::Written,
    );
    stream.flows().await;
    ip("link set dummy0 down");
    until_active(&world, false).await;
    let refused = world.client.queue_pair(1).unwrap_err();
    assert!(
        matches!(refused, Error::Unavailable(Unavailable::PortDown { .. })),
        "{refused}"
    );
    let error = verbs::open(&options()).unwrap_err();
    assert!(
        matches!(error, Error::Unavailable(Unavailable::PortDown { .. })),
        "{error}"
    );
    let report = preflight::run(&options()).await;
    assert_eq!(report.reason(), Some("PortDown"));
    // What is under way is given up, in a second.
    let (staging, error) = stream.ended().await;
    assert!(matches!(error, Error::Completion(_)), "{error}");

    ip("link set dummy0 up");
    // Goes with the link.
    ip("-6 address replace fd09::1/64 dev dummy0 nodad");
    until_active(&world, true).await;
    let has_gids = || {
        let ports = Sysfs::default().choose(&Choice::default());
        ports.is_ok_and(|ports| ports[0].0.gids.iter().any(|gid| gid.gid.to_string() == "fd09::1"))
    };
    let learnt = async {
        while !has_gids() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("the addresses", learnt).await;
    let landing = in_time("kill", exposed.kill()).await;
    // The same devices serve again.
    let (again, server_again) = world.pair();
    let exposed = again
        .clone()
        .expose(landing, 0..4096, Direction::Written)
        .await
        .unwrap();
    let (staging, outcome) = in_time(
        "write",
        server_again.write(staging, 0..4096, place(exposed.window(), 0), None),
    )
    .await;
    outcome.unwrap();
    let landing = exposed.take_back().await.0;
    assert_same(&landing[..4096], &pattern(4096, 2));
    drop((landing, staging, client, server, again, server_again));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_roce_v2_gid_is_named() {
    let world = World::alone(&options()).await;
    ip("address flush dev dummy0");
    let no_gid = async {
        loop {
            match verbs::open(&options()) {
                Err(Error::Unavailable(why @ Unavailable::NoRoceV2Gid { .. })) => return why,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let why = timeout(Duration::from_secs(20), no_gid).await;
    for address in ["10.9.0.1/24 dev dummy0", "fd09::1/64 dev dummy0 nodad"] {
        ip(&format!("address replace {address}"));
    }
    let found = async {
        while verbs::open(&options()).is_ok_and(|device| device.info().gid.to_string() != "10.9.0.1") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("the address", found).await;
    assert_eq!(why.unwrap().reason(), "NoRoceV2Gid");
    drop(open(&options()));
    world.end().await;
}
