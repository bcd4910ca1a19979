//! Several storage nodes before one store: bytes go over all, and over the others when one is lost.

use crate::{
    matrix::{get, put},
    setup::{BUCKET, Node, client_of, eventually, impatient, in_time, pattern, within},
};
use penstock_rdma::{
    Client, Policy, Via,
    fabric::{
        Device, Rails,
        loopback::{Effect, LoopbackDevice, Network},
    },
};
use std::{sync::Arc, time::Duration};

const SIZE: usize = (96 << 20) + 12_345;

/// Three storage nodes, and a client's device.
struct Three {
    nodes: [Node; 3],
    servers: [Arc<LoopbackDevice>; 3],
    device: Arc<LoopbackDevice>,
}

impl Three {
    /// The second one has RDMA if `second` says so.
    async fn start(second: bool) -> Self {
        let network = Network::new();
        let servers = [0, 1, 2].map(|number| network.device(&format!("server-{number}")));
        let device = |number: usize| -> Option<Arc<dyn Device>> { Some(servers[number].clone()) };
        let first = Node::start(device(0), impatient()).await;
        let second = first.beside(device(1).filter(|_| second), impatient()).await;
        let third = first.beside(device(2), impatient()).await;
        Self {
            nodes: [first, second, third],
            device: network.device("client"),
            servers,
        }
    }

    fn client(&self, policy: Policy) -> Client {
        client_of(&self.nodes[0].endpoint, None, |options| {
            let others = self.nodes[1..].iter();
            options.nodes = others.map(|node| node.endpoint.parse().unwrap()).collect();
            options.rails = Some(Rails::of([self.device.clone() as Arc<dyn Device>]));
            options.policy = policy;
        })
    }

    fn moved(&self) -> [(u64, u64); 3] {
        [0, 1, 2].map(|number| self.nodes[number].moved_by_rdma())
    }

    fn moved_by_http(&self) -> u64 {
        let both = self.nodes.iter().map(Node::moved_by_http);
        both.map(|(sent, received)| sent + received).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_striped_over_all_nodes() {
    let three = Three::start(true).await;
    let client = three.client(Policy::Require);
    let content = pattern(1, SIZE);
    put(&client, "k", &content).await;
    let (via, read) = in_time(get(&client, "k", None)).await;
    assert!(via == Via::Rdma && read == content);
    let moved = three.moved();
    for (sent, received) in moved {
        assert!(sent > 0 && received > 0, "{moved:?}");
    }
    assert_eq!(moved.iter().map(|moved| moved.0).sum::<u64>(), SIZE as u64);
    assert_eq!(moved.iter().map(|moved| moved.1).sum::<u64>(), SIZE as u64);
    assert_eq!(three.moved_by_http(), 0);
    // The same blocks are asked of the same nodes, by another client too.
    let other = three.client(Policy::Require);
    in_time(get(&other, "k", None)).await;
    let again = three.moved();
    for number in 0..3 {
        assert_eq!(again[number].0, 2 * moved[number].0, "{moved:?} {again:?}");
    }
    // Everything ends at all of them.
    client.disconnect().await;
    other.disconnect().await;
    for (node, server) in three.nodes.iter().zip(&three.servers) {
        let server: Arc<dyn Device> = server.clone();
        node.forgets(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_the_middle_costs_no_byte_and_no_fallback() {
    for lost in [0, 2] {
        let three = Three::start(true).await;
        let client = three.client(Policy::Require);
        let content = pattern(2, SIZE);
        put(&client, "k", &content).await;
        // Slow enough that it ends in the middle.
        for server in &three.servers {
            for operation in 0..60 {
                server.inject(operation, Effect::Delay(Duration::from_millis(10)));
            }
        }
        let before = three.servers[lost].operations();
        let end = async {
            within(Duration::from_secs(20), "bytes move", || {
                three.servers[lost].operations() > before + 1
            })
            .await;
            three.nodes[lost].end().await;
        };
        let ((via, read), _, ()) = tokio::join!(
            in_time(get(&client, "k", None)),
            in_time(put(&client, "new", &content)),
            end
        );
        assert!(via == Via::Rdma && read == content, "without node {lost}");
        for server in &three.servers {
            server.heal();
        }
        // Commands find their way as well, whichever it was.
        assert_eq!(client.head(BUCKET, "new").await.unwrap().size, SIZE as u64);
        let (via, read) = in_time(get(&client, "new", None)).await;
        assert!(via == Via::Rdma && read == content, "without node {lost}");
        assert_eq!(three.moved_by_http(), 0);
        client.disconnect().await;
        eventually("nothing is left of it", || three.device.usage().queue_pairs == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_rdma_leaves_the_bytes_to_the_others() {
    let three = Three::start(false).await;
    let client = three.client(Policy::Require);
    let content = pattern(3, SIZE);
    put(&client, "k", &content).await;
    let (via, read) = in_time(get(&client, "k", None)).await;
    assert!(via == Via::Rdma && read == content);
    assert_eq!(three.moved()[1], (0, 0));
    assert_eq!(three.moved_by_http(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_goes_to_the_next_node_when_one_ends() {
    let three = Three::start(true).await;
    let client = three.client(Policy::Off);
    let content = pattern(4, 11 << 20);
    put(&client, "k", &content).await;
    for lost in [0, 1] {
        three.nodes[lost].end().await;
        let (via, read) = in_time(get(&client, "k", None)).await;
        assert!(via == Via::Http && read == content);
        put(&client, "new", &content).await;
    }
    three.nodes[2].end().await;
    let error = client.head(BUCKET, "k").await.unwrap_err();
    assert!(
        matches!(error, penstock_rdma::Error::Unreachable { .. }),
        "{error}"
    );
}
