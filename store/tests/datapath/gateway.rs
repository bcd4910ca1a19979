//! A gateway between clients that know nothing of RDMA and a storage node on another host: the bytes go by RDMA, and neither
//! the client's signature nor the gateway's does the other's work.

mod requests;
mod rights;
mod trouble;

use crate::{
    raw::Raw,
    setup::{BUCKET, Fabric, GATE, GATE_SECRET, Node, client_of},
};
use penstock_rdma::{
    Credentials, Policy,
    fabric::{Device, Rails},
    relay::{RelayMemory, RelayOptions, RelayRdma},
};
use penstock_service::CancellationToken;
use penstock_store::{
    gateway::{GatewayMetrics, GatewayServer, Upstream},
    rdma::Limits,
};
use prometheus_client::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

const WINDOW: usize = 4 << 20;

struct Gateway {
    endpoint: String,
    registry: Registry,
    stop: CancellationToken,
}

impl Gateway {
    async fn start(node: &Node, device: Arc<dyn Device>) -> Self {
        Self::start_with(
            &node.endpoint,
            Policy::Prefer,
            by_rdma(Rails::of([device]), identity()),
        )
        .await
    }

    async fn start_with(endpoint: &str, policy: Policy, rdma: RelayRdma) -> Self {
        let mut registry = Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        let upstream = Upstream {
            name: "test".into(),
            endpoint: endpoint.parse().unwrap(),
            options: RelayOptions {
                policy,
                connect_timeout: Duration::from_secs(2),
                rdma: Some(rdma),
                ..RelayOptions::default()
            },
        };
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let server = GatewayServer::bind(anywhere, None, upstream, &metrics, Arc::new(Semaphore::new(256)))
            .await
            .unwrap();
        let endpoint = format!("http://{}", server.address().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        Self {
            endpoint,
            registry,
            stop,
        }
    }

    fn moved(&self, direction: &str, via: &str) -> u64 {
        self.metric(&format!(
            r#"penstock_gateway_bytes_total{{upstream="test",direction="{direction}",via="{via}"}}"#
        ))
    }

    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// A client that knows of no fast path.
    fn client(&self) -> penstock_rdma::Client {
        client_of(&self.endpoint, None, |options| {
            options.policy = Policy::Off;
            // In one piece: the documents of an upload in parts are bodies too.
            options.part_size = 32 << 20;
        })
    }

    fn request(&self, method: &'static str, key: &str) -> Raw {
        Raw::new(&self.endpoint, method, format!("/{BUCKET}/{key}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn by_rdma(rails: Rails, identity: Credentials) -> RelayRdma {
    RelayRdma::new(rails, identity, RelayMemory::new(256 << 20))
}

fn identity() -> Credentials {
    Credentials::new(GATE, GATE_SECRET)
}

async fn start() -> (Fabric, Node, Gateway) {
    start_on(Fabric::of_this_run()).await
}

async fn start_on(fabric: Fabric) -> (Fabric, Node, Gateway) {
    let node = Node::start(Some(fabric.device("server")), Limits::default()).await;
    let gateway = Gateway::start(&node, fabric.device("gateway")).await;
    (fabric, node, gateway)
}
