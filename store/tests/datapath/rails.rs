//! Several devices at both ends: bytes go over all, and over the others when one is lost.

use crate::{
    matrix::{get, put},
    setup::{BUCKET, Node, client_of, eventually, impatient, in_time, pattern, within},
};
use penstock_rdma::{
    Client, Condition, ObjectHeaders, Policy, Via,
    fabric::{
        Device, DeviceInfo, Look, Rails, Source, Unavailable,
        loopback::{Effect, LoopbackDevice, Network},
    },
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const SIZE: usize = (48 << 20) + 12_345;

/// A storage node and a client with two devices each.
struct Pair {
    node: Node,
    servers: [Arc<LoopbackDevice>; 2],
    clients: [Arc<LoopbackDevice>; 2],
    rails: Rails,
}

impl Pair {
    async fn start() -> Self {
        let network = Network::new();
        let two = |name: &str| [0, 1].map(|number| network.device(&format!("{name}-{number}")));
        let (servers, clients) = (two("server"), two("client"));
        Self {
            node: Node::start_over(Some(rails(&servers)), impatient()).await,
            rails: rails(&clients),
            servers,
            clients,
        }
    }

    fn client(&self) -> Client {
        self.client_of(|_| {})
    }

    fn client_of(&self, change: impl FnOnce(&mut penstock_rdma::Options)) -> Client {
        client_of(&self.node.endpoint, None, |options| {
            options.policy = Policy::Require;
            options.rails = Some(self.rails.clone());
            change(options);
        })
    }

    fn moved(&self) -> [(u64, u64); 2] {
        [0, 1].map(|number| self.servers[number].moved())
    }
}

fn rails(devices: &[Arc<LoopbackDevice>; 2]) -> Rails {
    Rails::of(devices.clone().map(|device| device as Arc<dyn Device>))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_striped_over_all_rails() {
    let pair = Pair::start().await;
    let client = pair.client();
    let content = pattern(1, SIZE);
    put(&client, "k", &content).await;
    let (via, read) = in_time(get(&client, "k", None)).await;
    assert!(via == Via::Rdma && read == content);
    let moved = pair.moved();
    for (written, read) in moved {
        // Neither rail idles while the other one carries it all.
        assert!(written > SIZE as u64 / 5, "{moved:?}");
        assert!(read > SIZE as u64 / 5, "{moved:?}");
    }
    assert_eq!(moved[0].0 + moved[1].0, SIZE as u64);
    assert_eq!(moved[0].1 + moved[1].1, SIZE as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_goes_down_in_the_middle_costs_no_byte_and_no_fallback() {
    let pair = Pair::start().await;
    let client = pair.client();
    let content = pattern(2, SIZE);
    put(&client, "k", &content).await;
    for (number, end) in [&pair.servers, &pair.clients].into_iter().enumerate() {
        // Slow enough that the port goes down in the middle.
        for server in &pair.servers {
            for operation in 0..60 {
                server.inject(operation, Effect::Delay(Duration::from_millis(5)));
            }
        }
        let port = Arc::clone(&end[0]);
        let servers = pair.servers.clone();
        let down = tokio::spawn(async move {
            let operations = || servers.iter().map(|server| server.operations()).sum::<u64>();
            let before = operations();
            within(Duration::from_secs(20), "bytes move", || {
                operations() > before + 6
            })
            .await;
            port.set_active(false);
        });
        let key = format!("new-{number}");
        let ((via, read), _) = tokio::join!(
            in_time(get(&client, "k", None)),
            in_time(put(&client, &key, &content))
        );
        assert!(via == Via::Rdma && read == content);
        down.await.unwrap();
        for server in &pair.servers {
            server.heal();
        }
        let (via, read) = in_time(get(&client, &key, None)).await;
        assert!(via == Via::Rdma && read == content);
        end[0].set_active(true);
    }
    assert_eq!(pair.node.moved_by_http(), (0, 0));
    // Ports that came back are used again, by clients that were there before.
    let before = pair.moved();
    let begun = Instant::now();
    loop {
        in_time(get(&client, "k", None)).await;
        let after = pair.moved();
        if after[0].0 > before[0].0 && after[1].0 > before[1].0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "one rail does nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_lost_device_is_served_by_another_and_a_copy() {
    let pair = Pair::start().await;
    let client = pair.client();
    let (content, always) = (pattern(3, 1 << 20), Condition::default());
    let mut memory = client.memory(1 << 20, None).await.unwrap();
    memory[..1 << 20].copy_from_slice(&content);
    let owner = pair.clients.iter().find(|device| device.owns(&memory)).unwrap();
    owner.fail();
    let headers = ObjectHeaders::default();
    let (mut memory, outcome) = client
        .put_from_memory(BUCKET, "k", &headers, &always, memory, 0..1 << 20)
        .await;
    assert_eq!(outcome.unwrap().moved.via, Via::Rdma);
    memory.fill(0);
    let (memory, outcome) = client
        .get_into_memory(BUCKET, "k", None, &always, memory, 0..1 << 20)
        .await;
    assert_eq!(outcome.unwrap().1.via, Via::Rdma);
    assert!(memory[..1 << 20] == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_process_share_registered_memory() {
    let pair = Pair::start().await;
    let limited = || pair.client_of(|options| options.rdma_memory = 40 << 20);
    let clients: Vec<_> = (0..6).map(|_| limited()).collect();
    let content = pattern(4, 12 << 20);
    put(&clients[0], "k", &content).await;
    let reads = clients.iter().map(|client| get(client, "k", None));
    for (via, read) in in_time(futures::future::join_all(reads)).await {
        assert!(via == Via::Rdma && read == content);
    }
    for device in &pair.clients {
        let registered = device.usage().registered_bytes;
        assert!(registered <= 40 << 20, "{registered} bytes are registered");
    }
}

/// A machine whose NIC comes when the test says so.
struct Later(Arc<Mutex<Option<Arc<LoopbackDevice>>>>);

impl Source for Later {
    fn look(&self, known: &[DeviceInfo]) -> Look {
        let device = self.0.lock().unwrap().clone();
        Look {
            opened: device
                .filter(|_| known.is_empty())
                .map(|device| device as Arc<dyn Device>)
                .into_iter()
                .collect(),
            why: Some(Unavailable::KernelModuleMissing),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_comes_later_is_used_without_a_restart_and_the_truth_is_told_before_and_after() {
    let network = Network::new();
    let later = Arc::new(Mutex::new(None));
    let rails = Rails::watch(Later(Arc::clone(&later)), Duration::from_millis(20));
    let node = Node::start_over(Some(rails), impatient()).await;
    let says = || node.rdma.standing().document();
    assert!(says().contains("KernelModuleMissing"), "{}", says());
    let client = || node.client(Some(network.device("client")), Policy::Prefer);
    let content = pattern(5, 1 << 20);
    put(&client(), "k", &content).await;
    assert_eq!(get(&client(), "k", None).await.0, Via::Http);

    let device = network.device("server");
    *later.lock().unwrap() = Some(Arc::clone(&device));
    eventually("the storage node finds it", || says().contains("\"ready\":true")).await;
    let (via, read) = in_time(get(&client(), "k", None)).await;
    assert!(via == Via::Rdma && read == content);

    device.set_active(false);
    assert!(says().contains("PortDown"), "{}", says());
    *later.lock().unwrap() = None;
    device.fail();
    eventually("what failed is let go of", || {
        says().contains("KernelModuleMissing")
    })
    .await;
    assert_eq!(get(&client(), "k", None).await.0, Via::Http);
}
