//! DRA drivers (KEP-4381, `resource.k8s.io/v1`), one for each kind of device: `rdma.penstock.io`, `gpu.penstock.io`. What differs between
//! kinds is behind the trait [`Offered`]; each has its own sockets, prepared claims, slices and CDI files.
//!
//! ```text
//!  watch ──▶ slices ──▶ ResourceSlices of this node ──▶ scheduler ──allocation──▶ ResourceClaim
//!                                                                                     │ read
//!  kubelet ──NodePrepareResources──▶ service ──▶ prepare ──▶ checkpoint, CDI file ◀───┘
//!  container runtime ──────────────────────────────────────────▶ device nodes in the container
//! ```

mod attribute;
mod cdi;
mod checkpoint;
mod claim;
mod device;
mod file;
pub(super) mod gpu;
mod health;
pub(super) mod nic;
pub(super) mod offered;
mod prepare;
mod service;
mod slices;

use super::watch::{Devices, Looking};
use crate::{
    grpc::{self, Calls, ServeError},
    proto::{
        dra_health::dra_resource_health_server::DraResourceHealthServer,
        dra_v1::dra_plugin_server::DraPluginServer, dra_v1beta1,
    },
    registration::{self, Plugin},
};
use checkpoint::Checkpoint;
use kube::{Client, Config};
use offered::Offered;
use penstock_service::{CancellationToken, Flag};
use prepare::Preparer;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::Mutex;
use tonic::service::Routes;

/// Where and how the driver works.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The node, whose name is that of its pool.
    pub(super) node: String,
    /// The kubelet's folder.
    pub(super) kubelet: PathBuf,
    /// The container runtime's folder of CDI files.
    pub(super) cdi: PathBuf,
}

/// Checks of readiness.
pub(super) struct Flags {
    /// Whether kubelet has the driver.
    pub(super) registered: Flag,
    /// Whether the slices are as they should be.
    pub(super) published: Flag,
}

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum DraError {
    /// The API server's address or the pod's token.
    #[error("the API server cannot be reached from this pod; it needs the token of its service account")]
    Config(#[from] kube::config::InClusterError),
    /// The client.
    #[error("no client for the API server can be made")]
    Client(#[from] kube::Error),
    /// The state on disk.
    #[error("{0}")]
    State(String),
    /// A socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves the kubelet and publishes the node's devices of a kind until `shutdown` fires.
///
/// # Errors
/// When it cannot start, or serving ends by itself.
pub(super) async fn serve<K: Offered>(
    options: Options,
    host: K::Host,
    (devices, looking): (Devices<K>, Looking),
    flags: Flags,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), DraError> {
    let Flags {
        registered,
        published,
    } = flags;
    let client = Client::try_from(Config::incluster()?)?;
    let folder = options.kubelet.join("plugins").join(K::DRIVER);
    let unusable = |error: &dyn std::error::Error| DraError::State(penstock_service::chain(error));
    let checkpoint = Checkpoint::open(&folder.join("claims")).map_err(|error| unusable(&error))?;
    let specs = cdi::Specs::open(&options.cdi, K::DRIVER).map_err(|error| unusable(&error))?;
    let publisher = slices::Publisher::new(client.clone(), options.node.clone());
    let health = health::Health {
        devices: devices.clone(),
        looking,
        node: options.node.clone(),
        shutdown: shutdown.clone(),
    };
    let preparer = Arc::new(Preparer {
        claims: client,
        node: options.node,
        devices: devices.clone(),
        host,
        specs,
        checkpoint: Mutex::new(checkpoint),
    });
    // Before anybody can ask: after a reboot, the kubelet starts the containers of claims that it holds to be prepared.
    preparer.replay().await;

    let socket = folder.join("dra.sock");
    let v1beta1 = dra_v1beta1::dra_plugin_server::DraPluginServer::new(service::Service(preparer.clone()));
    let routes = Routes::new(DraPluginServer::new(service::Service(preparer)))
        .add_service(v1beta1)
        .add_service(DraResourceHealthServer::new(health));
    let plugin = Plugin {
        kind: "DRAPlugin",
        name: K::DRIVER.to_owned(),
        endpoint: socket.clone(),
        versions: service::SERVICES
            .iter()
            .copied()
            .chain([health::SERVICE])
            .map(str::to_owned)
            .collect(),
    };
    let registry = options
        .kubelet
        .join(format!("plugins_registry/{}-reg.sock", K::DRIVER));
    let served = grpc::serve(&socket, routes, calls.clone(), shutdown.clone());
    let registering = registration::serve(registry, plugin, registered, calls, shutdown.clone());
    let publishing = async {
        publisher.keep(devices, published, shutdown).await;
        Ok(())
    };
    tokio::try_join!(served, registering, publishing)?;
    Ok(())
}
