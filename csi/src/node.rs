//! The role `node`: the CSI Node service (CSI 1.12). The one privileged process: it opens `/dev/fuse`, mounts, hands the
//! descriptor to `agent` and proves that the mount answers. Volumes are mounted once per node (stage) and bound into pods
//! (publish).
//!
//! Nothing is remembered here: what is mounted says the mount table, what is served says the agent. A restart forgets nothing.

mod mount_table;
pub mod mounts;
mod request;

use crate::{
    events::Events,
    grpc,
    guard::InFlight,
    handover::{self, Agent, Call, CallError, Mount, Reply},
    identity::{DRIVER, Identity},
    passthrough,
    proto::csi::{
        self, NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest,
        NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
        NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
        identity_server::IdentityServer,
        node_server::NodeServer,
        node_service_capability::{Rpc, Type, rpc},
    },
    registration,
};
use mounts::MountError;
use penstock_service::{CancellationToken, chain};
use std::{
    io,
    path::{Path, PathBuf},
};
use tonic::{Request, Response, Status};

/// How long an event may take.
const EVENT: std::time::Duration = std::time::Duration::from_secs(5);
/// User and group that storage nodes run as.
const STORAGE_NODE: u32 = 65532;

/// Options of the role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Socket on which the kubelet calls, below its `plugins` folder.
    #[arg(
        long,
        default_value = "unix:///var/lib/kubelet/plugins/csi.penstock.io/csi.sock",
        value_name = "URL"
    )]
    pub csi_endpoint: String,
    /// The kubelet's folder, at the same path as on the node.
    #[arg(long, default_value = "/var/lib/kubelet", value_name = "DIR")]
    pub kubelet_dir: PathBuf,
    /// Name of this Kubernetes node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// Socket of the agent.
    #[arg(long, default_value_os = handover::default_socket().as_os_str(), value_name = "PATH")]
    pub agent_socket: PathBuf,
    /// User that the agent runs as; nobody else is given keys.
    #[arg(long, default_value_t = 65532, value_name = "UID")]
    pub agent_uid: u32,
    /// The agent's state folder, which is made and given to it.
    #[arg(long, default_value = "/var/lib/penstock", value_name = "DIR")]
    pub agent_state_dir: PathBuf,
    /// Folder of this host for sockets of storage nodes, which is made and given to the agent's user; storage nodes run as
    /// the same one.
    #[arg(long, value_name = "DIR")]
    pub local_sockets: Option<PathBuf>,
    /// Socket on which the agent may ask for kernel passthrough of files that storage nodes on this host lent.
    #[arg(long, value_name = "PATH")]
    pub passthrough_socket: Option<PathBuf>,
    /// Do not register with a kubelet (for tests of the CSI service by itself).
    #[arg(long)]
    pub no_registration: bool,
}

/// Why the role could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The CSI or the registration socket.
    #[error(transparent)]
    Serve(#[from] grpc::ServeError),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
    /// The socket for passthrough.
    #[error("cannot listen on {}; its folder must exist and be writable", .path.display())]
    Passthrough {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent's folder.
    #[error("cannot give {} to the agent (user {uid})", .path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// The user.
        uid: u32,
        /// Why.
        source: io::Error,
    },
}

/// Serves the kubelet until the token fires.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    give(&args.agent_state_dir, args.agent_uid).map_err(|source| NodeError::State {
        path: args.agent_state_dir.clone(),
        uid: args.agent_uid,
        source,
    })?;
    if let Some(folder) = &args.local_sockets {
        share(folder).map_err(|source| NodeError::State {
            path: folder.clone(),
            uid: args.agent_uid,
            source,
        })?;
    }
    if let Some(path) = &args.passthrough_socket {
        let serving = passthrough::serve(path, args.agent_uid).map_err(|source| NodeError::Passthrough {
            path: path.clone(),
            source,
        })?;
        tokio::spawn(serving);
    }
    let agent = Agent {
        socket: args.agent_socket,
        uid: args.agent_uid,
    };
    let mut admin = penstock_service::Admin::default();
    let calls = grpc::Calls::register(&mut admin.metrics);
    let asked = agent.clone();
    admin.readiness.probe("agent", move || {
        let agent = asked.clone();
        async move {
            let answer = agent.call(Call::Ping, None).await;
            answer.map(drop).map_err(|error| chain(&error))
        }
    });
    let registered = admin.readiness.flag("registration");
    let health = admin.readiness.clone();
    admin.serve(service, shutdown.clone()).await?;

    let socket = grpc::socket_path(&args.csi_endpoint)?;
    let node = Node {
        events: Events::in_cluster(&args.node_name),
        name: args.node_name,
        agent,
        in_flight: InFlight::default(),
    };
    let router = tonic::service::Routes::new(IdentityServer::new(Identity::new(health)))
        .add_service(NodeServer::new(node));
    let csi = grpc::serve(&socket, router, calls.clone(), shutdown.clone());
    if args.no_registration {
        registered.pass();
        csi.await?;
        return Ok(());
    }
    let registry = args
        .kubelet_dir
        .join("plugins_registry")
        .join(format!("{DRIVER}-reg.sock"));
    let plugin = registration::Plugin::csi(DRIVER, socket.clone());
    let registration = registration::serve(registry, plugin, registered, calls, shutdown.clone());
    tokio::try_join!(csi, registration)?;
    Ok(())
}

/// Makes a folder that belongs to the agent alone, with what is in it: the agent may have been another user before.
fn give(path: &Path, uid: u32) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt, lchown};
    std::fs::create_dir_all(path)?;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        lchown(&folder, Some(uid), Some(uid))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                lchown(entry.path(), Some(uid), Some(uid))?;
            }
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// Makes the folder in which storage nodes put their sockets. It belongs to their user, and the agent is let in by its group.
fn share(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    std::fs::create_dir_all(path)?;
    chown(path, Some(STORAGE_NODE), Some(STORAGE_NODE))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o770))
}

#[derive(Clone)]
struct Node {
    events: Events,
    name: String,
    agent: Agent,
    in_flight: InFlight,
}

impl Node {
    /// How files look in what is mounted and served at a path.
    async fn alive(&self, path: &Path) -> Result<Option<crate::fs::Look>, Status> {
        let mounted = mount_table::at(path)
            .map_err(|error| Status::internal(format!("the mount table cannot be read: {error}")))?;
        if mounted.is_none_or(|mounted| mounted.fs_type != mount_table::FS_TYPE) {
            return Ok(None);
        }
        match self
            .agent
            .call(
                Call::Look {
                    path: path.to_owned(),
                },
                None,
            )
            .await
        {
            Ok(Reply::Looks(look)) => Ok(look),
            Ok(_) => Ok(None),
            Err(error) => Err(call_status(&error)),
        }
    }

    /// Mounts a volume at its staging path, hands it over and proves it. Leaves nothing behind when it fails.
    async fn stage(&self, path: &Path, mount: Mount) -> Result<(), Status> {
        // A dead mount of an agent that is gone, or something half done.
        mounts::unmount(path)
            .await
            .map_err(|error| mount_status(&error))?;
        let source = format!("penstock:{}/{}", mount.bucket, mount.prefix);
        let device = mounts::mount_fuse(path, source.trim_end_matches('/'))
            .await
            .map_err(|error| mount_status(&error))?;
        let call = Call::Serve {
            path: path.to_owned(),
            mount: Box::new(mount),
        };
        let outcome = match self.agent.call(call, Some(device)).await {
            Err(error) => Err(call_status(&error)),
            Ok(_) => mounts::prove(path).await.map_err(|error| mount_status(&error)),
        };
        if outcome.is_err() {
            self.unstage(path).await?;
        } else {
            mounts::read_further_ahead(path).await;
        }
        outcome
    }

    /// Binds what is staged to where a pod looks for it.
    async fn publish(&self, wanted: &request::Publish) -> Result<(), Status> {
        match self.alive(&wanted.staging).await? {
            Some(look) => wanted.must_fit(look)?,
            // The agent was restarted since: what pods have mounted is dead, but a new pod gets a living mount.
            None => self.stage(&wanted.staging, wanted.remount()?).await?,
        }
        let table = |path: &Path| {
            mount_table::at(path)
                .map_err(|error| Status::internal(format!("the mount table cannot be read: {error}")))
        };
        let staged = table(&wanted.staging)?.map(|mounted| mounted.device);
        if let Some(there) = table(&wanted.target)? {
            if Some(&there.device) == staged.as_ref() {
                if there.read_only == wanted.read_only {
                    return Ok(());
                }
                let told = format!(
                    "{} is mounted already, with another readonly setting",
                    wanted.target.display()
                );
                return Err(Status::already_exists(told));
            }
            mounts::unmount(&wanted.target)
                .await
                .map_err(|error| mount_status(&error))?;
        }
        mounts::bind(&wanted.staging, &wanted.target, wanted.read_only)
            .await
            .map_err(|error| mount_status(&error))?;
        if let Err(error) = mounts::prove(&wanted.target).await {
            mounts::unmount(&wanted.target)
                .await
                .map_err(|error| mount_status(&error))?;
            return Err(mount_status(&error));
        }
        tracing::info!(volume = wanted.volume, target = %wanted.target.display(), read_only = wanted.read_only, "published");
        self.tell(wanted).await;
        Ok(())
    }

    /// Tells the pod when its bytes travel by HTTP although they were to travel by RDMA.
    async fn tell(&self, published: &request::Publish) {
        let call = Call::Complaint {
            path: published.staging.clone(),
        };
        let Ok(Reply::Complains(Some(why))) = self.agent.call(call, None).await else {
            return;
        };
        if let Some(pod) = &published.pod {
            let note = format!(
                "volume {} prefers RDMA, and its bytes travel by HTTP on this node: {why}",
                published.volume
            );
            // An API server that does not answer must not hold up the pod.
            let telling = self.events.warn(pod, "RdmaUnavailable", &note);
            if tokio::time::timeout(EVENT, telling).await.is_err() {
                tracing::warn!(volume = published.volume, "an event was not published in time");
            }
        }
    }

    async fn unstage(&self, path: &Path) -> Result<(), Status> {
        mounts::unmount(path)
            .await
            .map_err(|error| mount_status(&error))?;
        match self
            .agent
            .call(
                Call::Drop {
                    path: path.to_owned(),
                },
                None,
            )
            .await
        {
            // Without an agent nothing is served, which is what was wanted.
            Ok(_) | Err(CallError::Gone { .. }) => Ok(()),
            Err(error) => Err(call_status(&error)),
        }
    }
}

/// Does what was begun to its end even if the caller goes away (kubelet restarts): half a mount is worse than a late one, and
/// the volume stays guarded until then.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map(Response::new),
        Err(error) => Err(Status::internal(format!("the call broke off: {error}"))),
    }
}

#[tonic::async_trait]
impl csi::node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let (volume, path, mount) = request::stage(&request.into_inner())?;
        let guard = self.in_flight.begin(&volume)?;
        let node = self.clone();
        to_the_end(async move {
            let _guard = guard;
            match node.alive(&path).await? {
                Some(look) if look != mount.look => Err(Status::already_exists(format!(
                    "volume {volume} is mounted on this node with another owner or other permissions already"
                ))),
                Some(_) => Ok(NodeStageVolumeResponse {}),
                None => node
                    .stage(&path, mount)
                    .await
                    .map(|()| NodeStageVolumeResponse {}),
            }
        })
        .await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request::volume_id(&request.volume_id)?;
        let path = request::path("staging_target_path", &request.staging_target_path)?;
        let guard = self.in_flight.begin(&volume)?;
        let node = self.clone();
        to_the_end(async move {
            let _guard = guard;
            node.unstage(&path).await.map(|()| NodeUnstageVolumeResponse {})
        })
        .await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let wanted = request::publish(&request.into_inner())?;
        let guard = self.in_flight.begin(&wanted.volume)?;
        let node = self.clone();
        to_the_end(async move {
            let _guard = guard;
            node.publish(&wanted).await.map(|()| NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let volume = request::volume_id(&request.volume_id)?;
        let path = request::path("target_path", &request.target_path)?;
        let guard = self.in_flight.begin(&volume)?;
        to_the_end(async move {
            let _guard = guard;
            let outcome = mounts::unmount(&path).await;
            outcome.map_err(|error| mount_status(&error))?;
            Ok(NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("volumes have no statistics"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented(
            "volumes have no size that could be expanded",
        ))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            rpc::Type::StageUnstageVolume,
            rpc::Type::VolumeMountGroup,
            rpc::Type::SingleNodeMultiWriter,
        ];
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities
                .into_iter()
                .map(|kind| NodeServiceCapability {
                    r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
                })
                .collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.name.clone(),
            ..NodeGetInfoResponse::default()
        }))
    }
}

fn mount_status(error: &MountError) -> Status {
    let text = chain(error);
    match error {
        MountError::NoFuse(_) => Status::failed_precondition(text),
        MountError::Failed { .. } => Status::internal(text),
        MountError::Unproven { .. } => Status::unavailable(text),
    }
}

fn call_status(error: &CallError) -> Status {
    use handover::Refusal;
    let text = chain(error);
    match error {
        CallError::Gone { .. } => Status::unavailable(text),
        CallError::Stranger { .. } => Status::failed_precondition(text),
        CallError::Refused(refusal) => match refusal {
            Refusal::NotFound(_) => Status::not_found(text),
            Refusal::Denied(_) => Status::permission_denied(text),
            Refusal::Unreachable(_) => Status::unavailable(text),
            Refusal::NoFastPath(_) => Status::failed_precondition(text),
            Refusal::Invalid(_) => Status::invalid_argument(text),
            Refusal::Failed(_) => Status::internal(text),
        },
    }
}
