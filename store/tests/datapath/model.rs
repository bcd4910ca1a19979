//! Random histories of sessions against what the protocol says must come of them.

use crate::{
    matrix::put,
    raw::Peer,
    setup::{BUCKET, Faulty, impatient, pattern},
};
use penstock_rdma::{
    Policy,
    fabric::{Device, Direction, loopback::Effect},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use std::sync::Arc;

const SIZE: usize = 2_500_000;

#[derive(Debug, Clone)]
enum Step {
    Connect,
    /// A request of a session; `back` sequence numbers before its highest, 0 a new one.
    Get {
        session: usize,
        back: u64,
        fault: Option<(u64, bool)>,
    },
    Put {
        session: usize,
        back: u64,
        fault: Option<(u64, bool)>,
    },
    Disconnect {
        session: usize,
    },
    PortDown,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = || prop::option::weighted(0.2, (0_u64..4, any::<bool>()));
    prop_oneof![
        2 => Just(Step::Connect),
        6 => (0_usize..4, prop_oneof![4 => Just(0), 1 => 1_u64..5], fault())
            .prop_map(|(session, back, fault)| Step::Get { session, back, fault }),
        4 => (0_usize..4, prop_oneof![4 => Just(0), 1 => 1_u64..5], fault())
            .prop_map(|(session, back, fault)| Step::Put { session, back, fault }),
        1 => (0_usize..4).prop_map(|session| Step::Disconnect { session }),
        1 => Just(Step::PortDown),
    ]
}

/// What is known of a session.
struct Known {
    peer: Peer,
    alive: bool,
    used: Vec<u64>,
}

/// What a request must come to: what it says, then the session's state, then the sequence number, then the fault.
fn expected(known: &Known, sequence: u64, fault: bool) -> (u16, &'static str) {
    if sequence == 0 {
        (400, "InvalidRdmaToken")
    } else if !known.alive {
        (404, "NoSuchRdmaSession")
    } else if known.used.contains(&sequence) {
        (409, "RdmaSequenceConflict")
    } else if fault {
        (500, "RdmaTransferFailed")
    } else {
        (200, "")
    }
}

async fn history(steps: Vec<Step>) {
    let faulty = Faulty::start(impatient()).await;
    put(&faulty.node.client(None, Policy::Off), "k", &pattern(1, SIZE)).await;
    let device: Arc<dyn Device> = faulty.device.clone();
    let mut sessions: Vec<Known> = Vec::new();
    let mut stored = false;
    for step in steps {
        let (session, back, fault, method) = match step {
            Step::Connect => {
                let peer = Peer::connect(&faulty.node.endpoint, &device).await;
                sessions.push(Known {
                    peer,
                    alive: true,
                    used: Vec::new(),
                });
                continue;
            }
            Step::PortDown => {
                faulty.server.kill_all();
                sessions.iter_mut().for_each(|known| known.alive = false);
                continue;
            }
            Step::Disconnect { session } => {
                let count = sessions.len().max(1);
                if let Some(known) = sessions.get_mut(session % count) {
                    let answer =
                        crate::raw::Raw::new(&faulty.node.endpoint, "POST", "/.s3rdma-rc/disconnect")
                            .header("x-amz-rdma-session", known.peer.session.encode())
                            .sign()
                            .send()
                            .await;
                    assert_eq!(answer.status, 204);
                    known.alive = false;
                }
                continue;
            }
            Step::Get { session, back, fault } => (session, back, fault, "GET"),
            Step::Put { session, back, fault } => (session, back, fault, "PUT"),
        };
        let count = sessions.len().max(1);
        let Some(known) = sessions.get_mut(session % count) else {
            continue;
        };
        let highest = known.used.iter().copied().max().unwrap_or(0);
        let sequence = if back == 0 {
            highest + 1
        } else {
            (highest + 1).saturating_sub(back)
        };
        if !known.peer.queue_pair.is_alive() {
            // This end died with a failed transfer, so the other one must be dead too.
            assert!(!known.alive);
            continue;
        }
        let must = expected(known, sequence, fault.is_some());
        if must.0 == 500
            && let Some((operation, hangs)) = fault
        {
            // Of three operations.
            let effect = if hangs { Effect::Never } else { Effect::Fail };
            faulty.server.inject(operation.min(2), effect);
        }
        let direction = if method == "GET" {
            Direction::Written
        } else {
            Direction::Read
        };
        let mut memory = known.peer.memory(SIZE);
        if method == "PUT" {
            memory[..SIZE].copy_from_slice(&pattern(2, SIZE));
        }
        let exposed = Arc::clone(&known.peer.queue_pair)
            .expose(memory, 0..SIZE, direction)
            .await
            .unwrap();
        let key = if method == "GET" { "k" } else { "new" };
        let token = known.peer.token(exposed.window());
        let answer = known
            .peer
            .request(method, &format!("/{BUCKET}/{key}"), &token, sequence)
            .sign()
            .send()
            .await;
        assert_eq!((answer.status, answer.code()), must, "{method} {sequence}");
        if known.alive && must.0 != 400 {
            known.used.push(sequence);
        }
        match must.0 {
            200 => {
                let (memory, _) = exposed.take_back().await;
                if method == "GET" {
                    assert!(memory[..SIZE] == pattern(1, SIZE));
                }
                stored |= method == "PUT";
            }
            500 => {
                known.alive = false;
                drop(exposed.kill().await);
            }
            _ => {
                let (memory, _) = exposed.take_back().await;
                let untouched = if method == "GET" { &[0][..] } else { &pattern(2, 1) };
                assert!(memory.starts_with(untouched), "a refused request moved bytes");
            }
        }
        faulty
            .node
            .keeps_files(1 + usize::from(stored), "after an answer")
            .await;
    }
    faulty.node.rdma.shut_down().await;
    drop(sessions);
    faulty.leaves_nothing().await;
}

#[test]
fn whatever_happens_sessions_are_what_the_protocol_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let soak = std::env::var("PENSTOCK_SOAK").is_ok_and(|value| value == "1");
    let mut runner = TestRunner::new(Config {
        cases: if soak { 200 } else { 12 },
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let outcome = runner.run(&prop::collection::vec(step(), 1..25), |steps| {
        let told = steps.clone();
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(history(steps)));
        std::panic::catch_unwind(run).map_err(|_| TestCaseError::fail(format!("{told:?}")))
    });
    outcome.unwrap();
}
