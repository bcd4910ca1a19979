//! How fast it is against perftest on the same device, with the same size, path MTU and queue depth. Nothing is demanded of an
//! emulated device but that the comparison can be made; the line `bench: {…}` has the numbers.

use crate::world::{World, in_time, options, place};
use futures::{StreamExt, stream::FuturesUnordered};
use penstock_rdma::fabric::{Direction, Memory, QueuePair, Window};
use std::{
    io::Write,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const SIZES: [usize; 2] = [1 << 20, 8 << 20];
const DEPTH: usize = 8;
/// Moved for one number.
const TOTAL: usize = 64 << 20;

/// MiB/s of perftest.
fn peer(program: &str, size: usize) -> f64 {
    let (size, count) = (size.to_string(), (TOTAL / size).to_string());
    let run = |to: Option<&str>| -> Child {
        Command::new(program)
            .args([
                "-d",
                "rxe0",
                "-F",
                "-s",
                &size,
                "-n",
                &count,
                "-t",
                &DEPTH.to_string(),
                "-m",
                "4096",
            ])
            .args(to)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let server = run(None);
    // It says nothing when it listens, to the one connection that it serves.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !listening(18515) {
        assert!(Instant::now() < deadline, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let client = run(Some("10.9.0.1")).wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&client.stdout).into_owned();
    server.wait_with_output().unwrap();
    // bytes, iterations, peak, average, message rate
    output
        .lines()
        .filter(|line| line.trim_start().starts_with(&size))
        .find_map(|line| line.split_whitespace().nth(3)?.parse().ok())
        .unwrap_or_else(|| {
            panic!(
                "{program} says: {output}{}",
                String::from_utf8_lossy(&client.stderr)
            )
        })
}

fn listening(port: u16) -> bool {
    let needle = format!(":{port:04X} ");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        // local address, remote address, state 0A: LISTEN
        std::fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .any(|line| line.contains(&needle) && line.split_whitespace().nth(3) == Some("0A"))
    })
}

async fn one(server: &Arc<dyn QueuePair>, direction: Direction, memory: Memory, window: Window) -> Memory {
    let (memory, outcome) = match direction {
        Direction::Written => {
            server
                .write(memory, 0..window.size as usize, place(window, 0), None)
                .await
        }
        Direction::Read => {
            server
                .read(memory, 0..window.size as usize, place(window, 0))
                .await
        }
    };
    outcome.unwrap();
    memory
}

/// MiB/s of ours.
async fn ours(world: &World, direction: Direction, size: usize) -> f64 {
    let count = TOTAL / size;
    let (client, server) = world.pair_of(DEPTH as u16, 4096);
    let exposed = client
        .clone()
        .expose(world.landing(size, 1), 0..size, direction)
        .await
        .unwrap();
    let window = exposed.window();
    let staging = (0..DEPTH as u64)
        .map(|seed| world.staging(size, seed))
        .collect::<Vec<_>>();
    let start = Instant::now();
    let mut under_way = staging
        .into_iter()
        .map(|memory| one(&server, direction, memory, window))
        .collect::<FuturesUnordered<_>>();
    let mut posted = DEPTH;
    while let Some(memory) = under_way.next().await {
        if posted < count {
            under_way.push(one(&server, direction, memory, window));
            posted += 1;
        }
    }
    let rate = (TOTAL >> 20) as f64 / start.elapsed().as_secs_f64();
    drop(under_way);
    exposed.take_back().await.1.unwrap();
    rate
}

async fn compare(world: &World, program: &'static str, direction: Direction, size: usize) {
    // By turns, so that what slows the machine slows both.
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        theirs.push(
            tokio::task::spawn_blocking(move || peer(program, size))
                .await
                .unwrap(),
        );
        mine.push(in_time("transfers", ours(world, direction, size)).await);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (theirs, mine) = (median(&mut theirs), median(&mut mine));
    assert!(theirs > 0.0 && mine > 0.0);
    let ratio = mine / theirs;
    let line = format!(
        "\"row\":\"{program}\",\"size\":{size},\"depth\":{DEPTH},\"unit\":\"MiB/s\",\"ours\":{mine:.1},\"peer\":{theirs:.1},\
         \"ratio\":{ratio:.3}"
    );
    // Not by `println!`, which shows nothing of a test that passes.
    let mut out = std::io::stdout().lock();
    writeln!(out, "bench: {{{line}}}").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_is_compared_with_perftest() {
    let world = World::alone(&options()).await;
    for size in SIZES {
        compare(&world, "ib_write_bw", Direction::Written, size).await;
        compare(&world, "ib_read_bw", Direction::Read, size).await;
    }
    world.end().await;
}
