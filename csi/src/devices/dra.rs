//! The DRA driver `rdma.penstock.io` (KEP-4381, `resource.k8s.io/v1`).
//!
//! ```text
//!  watch ──▶ slices ──▶ ResourceSlices of this node ──▶ scheduler ──allocation──▶ ResourceClaim
//!                                                                                     │ read
//!  kubelet ──NodePrepareResources──▶ service ──▶ prepare ──▶ checkpoint, CDI file ◀───┘
//!  container runtime ──────────────────────────────────────────▶ device nodes in the container
//! ```

mod cdi;
mod checkpoint;
mod claim;
mod device;
mod file;
mod health;
mod prepare;
mod service;
mod slices;

use super::{
    DRIVER,
    watch::{Looking, Nics},
};
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
use penstock_service::{CancellationToken, Flag};
use prepare::Preparer;
use std::{path::PathBuf, sync::Arc};
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
    /// The host's folder of device nodes.
    pub(super) dev: PathBuf,
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

/// Serves the kubelet and publishes the node's NICs until `shutdown` fires.
///
/// # Errors
/// When it cannot start, or serving ends by itself.
pub(super) async fn serve(
    options: Options,
    nics: Nics,
    looking: Looking,
    flags: Flags,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), DraError> {
    let Flags {
        registered,
        published,
    } = flags;
    let client = Client::try_from(Config::incluster()?)?;
    let folder = options.kubelet.join("plugins").join(DRIVER);
    let unusable = |error: &dyn std::error::Error| DraError::State(penstock_service::chain(error));
    let checkpoint = Checkpoint::open(&folder.join("claims")).map_err(|error| unusable(&error))?;
    let specs = cdi::Specs::open(&options.cdi, &options.dev).map_err(|error| unusable(&error))?;
    let publisher = slices::Publisher::new(client.clone(), options.node.clone());
    let health = health::Health {
        nics: nics.clone(),
        looking,
        node: options.node.clone(),
        shutdown: shutdown.clone(),
    };
    let preparer = Arc::new(Preparer::new(
        client,
        options.node,
        nics.clone(),
        specs,
        checkpoint,
    ));
    // Before anybody can ask: after a reboot, the kubelet starts the containers of claims that it holds to be prepared.
    preparer.replay().await;

    let socket = folder.join("dra.sock");
    let v1beta1 = dra_v1beta1::dra_plugin_server::DraPluginServer::new(service::Service(preparer.clone()));
    let routes = Routes::new(DraPluginServer::new(service::Service(preparer)))
        .add_service(v1beta1)
        .add_service(DraResourceHealthServer::new(health));
    let plugin = Plugin {
        kind: "DRAPlugin",
        name: DRIVER.to_owned(),
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
        .join(format!("plugins_registry/{DRIVER}-reg.sock"));
    let served = grpc::serve(&socket, routes, calls.clone(), shutdown.clone());
    let registering = registration::serve(registry, plugin, registered, calls, shutdown.clone());
    let publishing = async {
        publisher.keep(nics, published, shutdown).await;
        Ok(())
    };
    tokio::try_join!(served, registering, publishing)?;
    Ok(())
}
