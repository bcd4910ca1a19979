//! Objects into and out of GPU memory. The storage node, the client and the fabric are those of the other tests.
//!
//! The GPU is a fake, which the loopback fabric reaches; with `PENSTOCK_TEST_GPU=cuda` what is staged goes through a real one.

use crate::{
    matrix::{get, put},
    setup::{BUCKET, Fabric, Node, client_of, eventually, impatient, in_time, pattern},
};
use penstock_rdma::{
    Client, Condition, Error, Landed, ObjectHeaders, Policy, Range, Sent, Via,
    fabric::{
        Device, Look, Rails, Source,
        loopback::{Effect, LoopbackDevice, Network},
    },
    gpu::{
        Gpu, GpuMemory, Pinning, cuda,
        fake::{Counts, FakeGpu},
    },
};
use penstock_store::rdma::Limits;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const MIB: usize = 1 << 20;
const SIZES: [usize; 7] = [0, 1, 4097, MIB - 1, 5 * MIB, 5 * MIB + 1, 21 * MIB + 12_345];
/// Where the bytes are in the GPU's memory.
const START: usize = 4097;

/// A storage node and a client whose NIC reaches the GPU's memory, if it has a way.
struct Pair {
    node: Node,
    server: Arc<LoopbackDevice>,
    nic: Arc<LoopbackDevice>,
}

impl Pair {
    async fn start() -> Self {
        let network = Network::new();
        let (server, nic) = (network.device("server"), network.device("client"));
        Self {
            node: Node::start(Some(server.clone()), impatient()).await,
            server,
            nic,
        }
    }

    fn client(&self, policy: Policy) -> Client {
        self.node.client(Some(self.nic.clone()), policy)
    }
}

/// The GPU that this run is for, and what was asked of it where that is counted.
fn gpu_of_this_run() -> (Gpu, Option<Arc<Counts>>) {
    match std::env::var("PENSTOCK_TEST_GPU").as_deref() {
        Err(_) | Ok("fake") => {
            let (gpu, counts) = FakeGpu::create(true);
            (gpu, Some(counts))
        }
        Ok("cuda") => (cuda::open(0).expect("a GPU"), None),
        Ok(other) => panic!("PENSTOCK_TEST_GPU={other} is no GPU; use fake or cuda"),
    }
}

fn filled(gpu: &Gpu, length: usize, with: &[u8]) -> GpuMemory {
    let memory = gpu.allocate(length).unwrap();
    memory.allocation().write(0, &vec![0xee; length]).unwrap();
    memory.allocation().write(START, with).unwrap();
    memory
}

fn held(memory: &GpuMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.allocation().read(0, &mut bytes).unwrap();
    bytes
}

async fn fetch(
    client: &Client,
    key: &str,
    range: Option<Range>,
    memory: GpuMemory,
    length: usize,
) -> (GpuMemory, Result<Landed, Error>) {
    let always = Condition::default();
    in_time(client.get_into_gpu(BUCKET, key, range, &always, memory, START..START + length)).await
}

async fn store(
    client: &Client,
    key: &str,
    memory: GpuMemory,
    length: usize,
) -> (GpuMemory, Result<Sent, Error>) {
    let (headers, always) = (ObjectHeaders::default(), Condition::default());
    in_time(client.put_from_gpu(BUCKET, key, &headers, &always, memory, START..START + length)).await
}

/// Writes objects of all sizes from GPU memory, and reads them back; demands how they travelled.
async fn round_trips(client: &Client, gpu: &Gpu, via: Via, staged: Option<&str>) {
    for (number, size) in SIZES.into_iter().enumerate() {
        let (key, content) = (format!("gpu-{size}"), pattern(number as u64, size));
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &content);
        let memory = filled(gpu, START + size + 100, &content);
        let (memory, sent) = store(client, &key, memory, size).await;
        let sent = sent.unwrap();
        assert_eq!(
            (sent.written.moved.bytes, sent.written.crc64nvme),
            (size as u64, Some(crc)),
            "{size}"
        );
        if size > 0 {
            assert_eq!(sent.written.moved.via, via, "{size}");
            expect_staged(&sent.staged, staged);
        }
        assert!(
            held(&memory)[START..START + size] == content,
            "a PUT changes nothing"
        );
        memory.allocation().write(0, &vec![0xdd; memory.len()]).unwrap();
        let (memory, landed) = fetch(client, &key, None, memory, size + 50).await;
        let landed = landed.unwrap();
        assert_eq!((landed.moved.bytes, landed.head.size), (size as u64, size as u64));
        assert_eq!(
            (landed.head.crc64nvme, landed.moved.checksum),
            (Some(crc), Some(crc)),
            "{size}"
        );
        assert_eq!(landed.head.etag, sent.written.etag);
        if size > 0 {
            assert_eq!(landed.moved.via, via, "{size}");
            expect_staged(&landed.staged, staged);
        }
        let now = held(&memory);
        assert!(now[START..START + size] == content, "{size}");
        assert!(
            now[..START]
                .iter()
                .chain(&now[START + size..])
                .all(|byte| *byte == 0xdd),
            "nothing beside was touched ({size})"
        );
        if size > 4097 {
            let range = Range::From {
                first: 1000,
                last: Some(size as u64 - 2),
            };
            let (memory, landed) = fetch(client, &key, Some(range), memory, size).await;
            assert_eq!(landed.unwrap().moved.bytes, size as u64 - 1001);
            assert!(held(&memory)[START..START + size - 1001] == content[1000..size - 1]);
        }
    }
}

fn expect_staged(staged: &Option<String>, why: Option<&str>) {
    match (staged, why) {
        (None, None) => {}
        (Some(told), Some(why)) => assert!(told.contains(why), "{told}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nic_that_reaches_the_gpu_moves_bytes_without_a_copy() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, counts) = FakeGpu::create(true);
    round_trips(&client, &gpu, Via::Rdma, None).await;
    assert!(counts.flushes.load(Ordering::SeqCst) >= SIZES.len() - 1);
    assert_eq!(counts.pins.load(Ordering::SeqCst), 0, "nothing was staged");
    assert_eq!(pair.node.moved_by_http(), (0, 0));
    client.disconnect().await;
    let server: Arc<dyn Device> = pair.server.clone();
    pair.node.forgets(&server).await;
    eventually("every registration ends", || pair.nic.usage().regions == 0).await;
    assert_eq!(counts.allocations.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_the_wire_is_found_in_the_gpu() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, counts) = FakeGpu::create(true);
    let content = pattern(1, 3 * MIB);
    put(&client, "k", &content).await;
    let summed = || counts.summed.load(Ordering::SeqCst);
    for after in [0, 2] {
        let before = summed();
        pair.server.inject(after, Effect::Corrupt);
        let (memory, landed) = fetch(&client, "k", None, memory_of(&gpu, &[]), content.len()).await;
        assert!(matches!(landed, Err(Error::Damaged)), "{landed:?}");
        assert_eq!(summed() - before, content.len() as u64);
        let (memory, landed) = fetch(&client, "k", None, memory, content.len()).await;
        assert_eq!(landed.unwrap().staged, None);
        assert!(held(&memory)[START..START + content.len()] == content);
        pair.server.inject(after, Effect::Corrupt);
        let (_, sent) = store(&client, "new", memory, content.len()).await;
        assert_eq!(sent.unwrap_err().code(), Some("BadDigest"));
    }
    pair.node.keeps_files(1, "nothing damaged was stored").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_end_each_with_its_own_immediate() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, _) = FakeGpu::create(true);
    let contents: Vec<_> = (0..8)
        .map(|number| pattern(number, 2 * MIB + number as usize))
        .collect();
    for (number, content) in contents.iter().enumerate() {
        put(&client, &number.to_string(), content).await;
    }
    for _ in 0..5 {
        let reads = contents.iter().enumerate().map(|(number, content)| {
            let memory = filled(&gpu, START + content.len(), &[]);
            let (client, key) = (&client, number.to_string());
            async move {
                let (memory, landed) = fetch(client, &key, None, memory, content.len()).await;
                assert_eq!(landed.unwrap().staged, None);
                assert!(held(&memory)[START..] == *content);
            }
        });
        futures::future::join_all(reads).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_nic_does_not_reach_is_staged_and_said_so() {
    let fabric = Fabric::of_this_run();
    let nic = match &fabric {
        // As soft-RoCE does not, on which this runs too.
        Fabric::Loopback(network) => {
            let nic = network.device("client");
            nic.set_takes_dma_buf(false);
            nic
        }
        Fabric::Verbs => fabric.device("client"),
    };
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let client = node.client(Some(nic), Policy::Require);
    let (gpu, counts) = gpu_of_this_run();
    let why = if gpu.info().exports {
        "takes no dma-buf"
    } else {
        "exports no memory"
    };
    round_trips(&client, &gpu, Via::Rdma, Some(why)).await;
    if let Some(counts) = counts {
        let all: u64 = SIZES.iter().map(|size| *size as u64).sum();
        let copied_out = counts.copied_out.load(Ordering::SeqCst);
        let copied_in = counts.copied_in.load(Ordering::SeqCst);
        assert!(copied_in >= all && copied_out >= all, "{copied_in} {copied_out}");
        assert!(counts.pins.load(Ordering::SeqCst) > 0, "through pinned memory");
    }
    assert_eq!(node.moved_by_http(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_exports_nothing_is_staged_for() {
    let pair = Pair::start().await;
    let (gpu, _) = FakeGpu::create(false);
    round_trips(
        &pair.client(Policy::Require),
        &gpu,
        Via::Rdma,
        Some("exports no memory"),
    )
    .await;
    assert_eq!(pair.node.moved_by_http(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rdma_bytes_come_by_http_where_that_is_allowed() {
    let node = Node::start(None, Limits::default()).await;
    let (gpu, _) = gpu_of_this_run();
    round_trips(
        &node.client(None, Policy::Prefer),
        &gpu,
        Via::Http,
        Some("no RDMA device"),
    )
    .await;
    let client = node.client(None, Policy::Require);
    let memory = gpu.allocate(MIB).unwrap();
    let (memory, landed) = fetch(&client, "gpu-1", None, memory, 100).await;
    assert!(matches!(landed, Err(Error::NoFastPath { .. })), "{landed:?}");
    let (_, sent) = store(&client, "new", memory, 100).await;
    assert!(matches!(sent, Err(Error::NoFastPath { .. })), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_rdma_uses_is_pinned_for_the_gpu_as_long_as_it_is_kept() {
    struct One(Arc<LoopbackDevice>);
    impl Source for One {
        fn look(&self, known: &[penstock_rdma::fabric::DeviceInfo]) -> Look {
            let new = known.is_empty().then(|| self.0.clone() as Arc<dyn Device>);
            Look {
                opened: new.into_iter().collect(),
                why: None,
            }
        }
    }
    let pair = Pair::start().await;
    pair.nic.set_takes_dma_buf(false);
    let (gpu, counts) = FakeGpu::create(true);
    let rails = Rails::watch(
        Pinning::new(One(pair.nic.clone()), gpu.clone()),
        Duration::from_secs(60),
    );
    let client = client_of(&pair.node.endpoint, None, |options| {
        options.policy = Policy::Require;
        options.rails = Some(rails.clone());
    });
    let content = pattern(1, 6 * MIB);
    put(&client, "k", &content).await;
    let (memory, landed) = fetch(&client, "k", None, filled(&gpu, 7 * MIB, &[]), 6 * MIB).await;
    assert_eq!(landed.unwrap().moved.via, Via::Rdma);
    assert!(held(&memory)[START..START + 6 * MIB] == content);
    assert_eq!(
        counts.pins.load(Ordering::SeqCst),
        pair.nic.usage().regions,
        "every chunk, and nothing else: no second copy in pinned memory"
    );
    // Memory of callers is too, and is memory of the same device to all else.
    let own = client.memory(MIB, None).await.unwrap();
    let (own, read) = client
        .get_into_memory(
            BUCKET,
            "k",
            Some(Range::Suffix { length: 100 }),
            &Condition::default(),
            own,
            0..100,
        )
        .await;
    assert_eq!(read.unwrap().1.via, Via::Rdma);
    assert_eq!(own[..100], content[6 * MIB - 100..]);
    drop((own, client, rails));
    eventually("pins end with the memory", || {
        counts.pins.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_and_the_memory_comes_back() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, _) = FakeGpu::create(true);
    put(&client, "k", &pattern(1, 5000)).await;
    let always = Condition::default();
    for staged in [false, true] {
        pair.nic.set_takes_dma_buf(!staged);
        let memory = filled(&gpu, MIB, &[]);
        let (memory, landed) = fetch(&client, "k", None, memory, 4999).await;
        assert!(
            matches!(
                landed,
                Err(Error::Length {
                    expected: 4999,
                    got: 5000
                })
            ),
            "{landed:?}"
        );
        let (memory, landed) = fetch(&client, "nothing", None, memory, 10).await;
        assert_eq!(landed.unwrap_err().code(), Some("NoSuchKey"));
        let outside = MIB - 10..MIB + 1;
        let (memory, landed) = client
            .get_into_gpu(BUCKET, "k", None, &always, memory, outside)
            .await;
        assert!(
            landed
                .unwrap_err()
                .to_string()
                .contains("lie outside of GPU memory of 1048576 bytes")
        );
        let (memory, landed) = fetch(&client, "k", None, memory, 5000).await;
        assert_eq!(landed.unwrap().staged.is_some(), staged);
        assert!(held(&memory)[START..START + 5000] == pattern(1, 5000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_made_again_and_no_half_object_stays() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, _) = FakeGpu::create(true);
    let content = pattern(1, 5 * MIB);
    let memory = filled(&gpu, 6 * MIB, &content);
    for after in [0, 2, 4] {
        pair.server.inject(after, Effect::Fail);
        let (returned, sent) = store(&client, "k", memory_of(&gpu, &content), content.len()).await;
        assert_eq!(
            sent.unwrap().staged,
            None,
            "a write that was not performed is repeated"
        );
        drop(returned);
        pair.server.inject(after, Effect::KillPeer);
        let (returned, landed) = fetch(&client, "k", None, memory_of(&gpu, &[]), content.len()).await;
        assert_eq!(landed.unwrap().staged, None);
        assert!(held(&returned)[START..START + content.len()] == content);
    }
    drop(memory);
    pair.node.keeps_files(1, "one object").await;
}

fn memory_of(gpu: &Gpu, content: &[u8]) -> GpuMemory {
    filled(gpu, 6 * MIB, content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let pair = Pair::start().await;
    let client = pair.client(Policy::Require);
    let (gpu, counts) = FakeGpu::create(true);
    put(&client, "k", &pattern(1, 5 * MIB)).await;
    pair.server.inject(2, Effect::Never);
    {
        let read = fetch(&client, "k", None, filled(&gpu, 6 * MIB, &[]), 5 * MIB);
        let waited = tokio::time::timeout(Duration::from_millis(300), read).await;
        assert!(waited.is_err(), "it hangs");
    }
    eventually("the memory is free", || {
        counts.allocations.load(Ordering::SeqCst) == 0
    })
    .await;
    pair.node.rests().await;
    let (via, read) = get(&client, "k", None).await;
    assert!(via == Via::Rdma && read == pattern(1, 5 * MIB));
}
