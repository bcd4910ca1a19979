//! Keeps the gateways of an agent as its configuration wants them. A changed folder is followed without a restart, because a
//! restart of the agent ends mounts.

use super::{Config, RDMA_MEMORY, TlsArgs, UpstreamConfig};
use crate::transport::Transport;
use penstock_rdma::relay::RelayMemory;
use penstock_service::{CancellationToken, Flag, chain};
use penstock_store::gateway::{GatewayMetrics, GatewayServer};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle};

/// How often the files are looked at. The kubelet needs up to a minute to bring a changed Secret to its pods.
const LOOK: Duration = Duration::from_secs(5);

/// Options of the agent.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "S3 for pods of this node")]
pub struct KeeperArgs {
    /// Folder with a JSON file for each storage node that is served to pods of this node.
    #[arg(long, value_name = "DIR")]
    pub gateway_config: Option<PathBuf>,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Connections of all gateways together that are served at the same time; more wait.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub gateway_max_connections: u32,
}

/// What a gateway was started with.
#[derive(PartialEq, Eq, Clone)]
struct Wanted {
    upstream: UpstreamConfig,
    /// Certificate and key, so that renewed ones are taken.
    tls: Option<[Vec<u8>; 2]>,
}

struct Running {
    wanted: Wanted,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The gateways of one agent.
pub struct Keeper {
    args: KeeperArgs,
    transport: Transport,
    memory: RelayMemory,
    metrics: GatewayMetrics,
    connections: Arc<Semaphore>,
    running: HashMap<String, Running>,
    ending: Vec<JoinHandle<()>>,
    /// So that what stays wrong is told once.
    told: Option<String>,
}

impl Keeper {
    /// Nothing runs yet.
    pub fn new(args: KeeperArgs, transport: Transport, metrics: GatewayMetrics) -> Self {
        let connections = usize::try_from(args.gateway_max_connections).unwrap_or(usize::MAX);
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            args,
            transport,
            memory: RelayMemory::new(RDMA_MEMORY),
            metrics,
            running: HashMap::new(),
            ending: Vec::new(),
            told: None,
        }
    }

    /// Follows the configuration until the token fires, then lets requests under way end. The flag passes when a gateway
    /// listens, or none is wanted.
    pub async fn run(mut self, ready: Flag, draining: CancellationToken) {
        let Some(folder) = self.args.gateway_config.clone() else {
            return;
        };
        loop {
            let followed = self.follow(&folder).await;
            // One upstream that cannot be served takes none of the others away from pods.
            if followed.is_ok() || !self.running.is_empty() {
                ready.pass();
            }
            match followed {
                Ok(()) => self.told = None,
                // What runs goes on running: a mistake in a file must not end what is right.
                Err(cause) => {
                    if self.told.as_ref() != Some(&cause) {
                        tracing::error!(cause, "the gateway cannot be as it is configured");
                        self.told = Some(cause);
                    }
                }
            }
            tokio::select! {
                () = draining.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        for (_, running) in self.running.drain() {
            running.stop.cancel();
            self.ending.push(running.task);
        }
        futures::future::join_all(self.ending).await;
    }

    async fn follow(&mut self, folder: &Path) -> Result<(), String> {
        let config = Config::read(folder).map_err(|error| chain(&error))?;
        let tls = self.tls_files().map_err(|error| chain(&error))?;
        let wanted: HashMap<String, Wanted> = config
            .upstreams
            .into_iter()
            .map(|upstream| {
                let tls = tls.clone();
                (upstream.name.clone(), Wanted { upstream, tls })
            })
            .collect();
        self.ending.retain(|task| !task.is_finished());
        // First those that go, since another one may want their address.
        let unwanted: Vec<String> = self
            .running
            .iter()
            .filter(|(name, running)| {
                running.task.is_finished() || wanted.get(*name) != Some(&running.wanted)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in unwanted {
            if let Some(running) = self.running.remove(&name) {
                tracing::info!(upstream = name, "the gateway of an upstream ends");
                running.stop.cancel();
                self.ending.push(running.task);
            }
        }
        let mut failed = Vec::new();
        for (name, wanted) in wanted {
            if self.running.contains_key(&name) {
                continue;
            }
            match self.start(wanted).await {
                Ok(running) => drop(self.running.insert(name, running)),
                Err(cause) => failed.push(format!("{name}: {cause}")),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        failed.sort();
        Err(failed.join("; "))
    }

    async fn start(&self, wanted: Wanted) -> Result<Running, String> {
        let upstream = wanted
            .upstream
            .upstream(&self.transport, &self.memory)
            .map_err(|error| chain(&error))?;
        let bind = || async {
            let tls = self.args.tls.load().map_err(|error| chain(&error))?;
            let (listen, connections) = (wanted.upstream.listen, Arc::clone(&self.connections));
            GatewayServer::bind(listen, tls, upstream.clone(), &self.metrics, connections)
                .await
                .map_err(|error| chain(&error))
        };
        let mut bound = bind().await;
        // The one before gives the address up a moment after it was told to.
        for _ in 0..20 {
            if bound.is_ok() || self.ending.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            bound = bind().await;
        }
        let server = bound?;
        tracing::info!(upstream = wanted.upstream.name, listen = %wanted.upstream.listen, endpoint = wanted.upstream.endpoint,
            fast_path = wanted.upstream.fast_path.name(), tls = wanted.tls.is_some(), "serving S3 to pods of this node");
        let stop = CancellationToken::new();
        Ok(Running {
            wanted,
            task: tokio::spawn(server.run(stop.clone())),
            stop,
        })
    }

    fn tls_files(&self) -> io::Result<Option<[Vec<u8>; 2]>> {
        match (&self.args.tls.certificate, &self.args.tls.key) {
            (Some(certificate), Some(key)) => Ok(Some([std::fs::read(certificate)?, std::fs::read(key)?])),
            _ => Ok(None),
        }
    }
}
