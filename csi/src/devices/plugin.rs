//! The kubelet's device plugin service, v1beta1 (`k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1`): the resource `penstock.io/rdma`.
//!
//! ```text
//!  plugins_registry/…-reg.sock ◀──GetInfo── kubelet ──ListAndWatch──▶ units, healthy or not, with their NUMA nodes
//!                                                   ──Allocate──────▶ device nodes, one environment variable
//! ```
//! It is found by its registration socket, as CSI drivers are. The older way, a call to `device-plugins/kubelet.sock`, is not used: kubelet
//! empties that folder when it starts, so that each plugin must notice by itself and come again, while it looks through
//! `plugins_registry` at each start.

use super::{kind::Kind as _, nic::Nic, units::Units, watch::Nics};
use crate::{
    grpc::{self, Calls, ServeError},
    proto::deviceplugin::{
        AllocateRequest, AllocateResponse, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
        Device, DevicePluginOptions, DeviceSpec, Empty, ListAndWatchResponse, NumaNode,
        PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
        PreferredAllocationResponse, TopologyInfo,
        device_plugin_server::{self, DevicePluginServer},
    },
    registration::{self, Plugin},
};
use futures::StreamExt;
use penstock_service::{CancellationToken, Flag};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};

/// The resource's name in pods.
pub const RESOURCE: &str = "penstock.io/rdma";
/// Tells a container the names of the RDMA devices that it was given, separated by commas: sysfs shows it those of the whole node.
pub const DEVICES_VARIABLE: &str = "PENSTOCK_RDMA_DEVICES";
/// How long kubelet may have no stream open before it is asked to come again. It takes one up within a second after a
/// registration.
const SILENCE: Duration = Duration::from_secs(10);

/// Where and how the plugin is served.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The plugin's socket, by the path that kubelet sees.
    pub(super) socket: PathBuf,
    /// The registration's socket.
    pub(super) registry: PathBuf,
    /// How many pods may have a NIC at a time.
    pub(super) shares: u32,
    /// The host's folder of device nodes.
    pub(super) dev: PathBuf,
}

/// Serves the plugin from the time that the first device is there until `shutdown` fires. `flag` fails while kubelet does not
/// have the devices of a node that has some.
///
/// # Errors
/// When a socket cannot be bound or serving ends by itself.
pub(super) async fn serve(
    options: Options,
    mut nics: Nics,
    flag: Flag,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    // A node without RDMA devices does not show the resource at all.
    flag.pass();
    let first = async { nics.wait_for(|nics| !nics.is_empty()).await.is_ok() };
    if shutdown.run_until_cancelled(first).await != Some(true) {
        return Ok(());
    }
    flag.fail("kubelet has not registered it yet");
    let listeners = watch::Sender::new(0);
    let service = DevicePlugin {
        nics,
        shares: options.shares,
        dev: options.dev,
        listeners: listeners.clone(),
        shutdown: shutdown.clone(),
    };
    let routes = Routes::new(DevicePluginServer::new(service));
    let plugin = Plugin {
        kind: "DevicePlugin",
        name: RESOURCE.to_owned(),
        endpoint: options.socket.clone(),
        versions: vec!["v1beta1".to_owned()],
    };
    let served = grpc::serve(&options.socket, routes, calls.clone(), shutdown.clone());
    let registered = register(&options.registry, plugin, flag, calls, listeners, shutdown);
    tokio::try_join!(served, registered).map(drop)
}

/// Keeps the plugin registered: kubelet forgets a plugin when it loses the stream of devices, and takes it up only when the
/// registration's socket is made anew.
async fn register(
    registry: &Path,
    plugin: Plugin,
    flag: Flag,
    calls: Calls,
    listeners: watch::Sender<usize>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    loop {
        let attempt = shutdown.child_token();
        let registration = registration::serve(
            registry.to_owned(),
            plugin.clone(),
            flag.clone(),
            calls.clone(),
            attempt.clone(),
        );
        let watched = async {
            if attempt
                .run_until_cancelled(deserted(listeners.subscribe()))
                .await
                .is_some()
            {
                tracing::warn!(
                    "kubelet does not listen for devices any more; asking it to register the plugin again"
                );
                flag.fail("kubelet does not listen for devices");
                attempt.cancel();
            }
            Ok(())
        };
        tokio::try_join!(registration, watched)?;
        if shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

/// Returns when somebody has listened, and nobody does since a while.
async fn deserted(mut listeners: watch::Receiver<usize>) {
    // The sender lives as long as the service, which outlives this. What `wait_for` returns holds a lock, so it goes at once.
    let mut reached = async |wanted: fn(&usize) -> bool| listeners.wait_for(wanted).await.is_ok();
    reached(|count| *count > 0).await;
    loop {
        reached(|count| *count == 0).await;
        if tokio::time::timeout(SILENCE, reached(|count| *count > 0))
            .await
            .is_err()
        {
            return;
        }
    }
}

struct DevicePlugin {
    nics: Nics,
    shares: u32,
    dev: PathBuf,
    /// How many streams of devices are open.
    listeners: watch::Sender<usize>,
    shutdown: CancellationToken,
}

/// An open stream.
struct Listener(watch::Sender<usize>);

impl Listener {
    fn new(listeners: &watch::Sender<usize>) -> Self {
        listeners.send_modify(|count| *count += 1);
        Self(listeners.clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// The list as kubelet is told it.
fn devices(nics: &[Nic], shares: u32) -> ListAndWatchResponse {
    let device = |(id, nic): (&str, &Nic)| Device {
        id: id.to_owned(),
        health: if nic.trouble().is_none() {
            "Healthy"
        } else {
            "Unhealthy"
        }
        .to_owned(),
        topology: nic.numa_node.map(|node| TopologyInfo {
            nodes: vec![NumaNode { id: node.into() }],
        }),
    };
    ListAndWatchResponse {
        devices: Units::of(nics, shares).iter().map(device).collect(),
    }
}

/// What a container gets for its units.
fn given(nics: &[Nic], shares: u32, dev: &Path, ids: &[String]) -> Result<ContainerAllocateResponse, Status> {
    let units = Units::of(nics, shares);
    let (mut names, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    for id in ids {
        let nic = units.nic(id).ok_or_else(|| {
            Status::not_found(format!(
                "the RDMA device of unit {id} is gone from this node; delete the pod, to have it placed anew"
            ))
        })?;
        if let Some(why) = nic.trouble() {
            return Err(Status::failed_precondition(format!(
                "RDMA device {} is unhealthy: {why}; check its link and cable",
                nic.name
            )));
        }
        names.insert(nic.name.as_str());
        nodes.extend(&nic.nodes);
    }
    let spec = |node: &PathBuf| DeviceSpec {
        container_path: Path::new("/dev").join(node).to_string_lossy().into_owned(),
        host_path: dev.join(node).to_string_lossy().into_owned(),
        permissions: "rw".to_owned(),
    };
    let names: Vec<_> = names.into_iter().collect();
    Ok(ContainerAllocateResponse {
        envs: [(DEVICES_VARIABLE.to_owned(), names.join(","))].into(),
        devices: nodes.into_iter().map(spec).collect(),
        ..ContainerAllocateResponse::default()
    })
}

#[tonic::async_trait]
impl device_plugin_server::DevicePlugin for DevicePlugin {
    async fn get_device_plugin_options(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<BoxStream<ListAndWatchResponse>>, Status> {
        let (shares, listener) = (self.shares, Listener::new(&self.listeners));
        let mut told = None;
        let lists = WatchStream::new(self.nics.clone()).filter_map(move |nics| {
            let _open = &listener;
            let list = devices(&nics, shares);
            // Addresses of a port come and go without a change for kubelet.
            let news = (told.as_ref() != Some(&list)).then(|| Ok(list.clone()));
            told = Some(list);
            std::future::ready(news)
        });
        Ok(Response::new(Box::pin(
            lists.take_until(self.shutdown.clone().cancelled_owned()),
        )))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let nics = Arc::clone(&self.nics.borrow());
        let units = Units::of(&nics, self.shares);
        let answers = request.into_inner().container_requests.into_iter().map(|asked| {
            let size = usize::try_from(asked.allocation_size).unwrap_or(0);
            ContainerPreferredAllocationResponse {
                device_i_ds: units.preferred(
                    &asked.available_device_i_ds,
                    &asked.must_include_device_i_ds,
                    size,
                ),
            }
        });
        Ok(Response::new(PreferredAllocationResponse {
            container_responses: answers.collect(),
        }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let nics = Arc::clone(&self.nics.borrow());
        let answers = request.into_inner().container_requests.into_iter();
        let answers: Result<Vec<_>, _> = answers
            .map(|asked| given(&nics, self.shares, &self.dev, &asked.devices_ids))
            .collect();
        Ok(Response::new(AllocateResponse {
            container_responses: answers?,
        }))
    }

    async fn pre_start_container(
        &self,
        _request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

#[cfg(test)]
mod tests;
