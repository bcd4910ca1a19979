//! The role `agent`: serves the FUSE sessions that `node` hands over. It has no privileges and no access to the API server.

use crate::{
    access::Host,
    fs::{DRAIN, Failure, FolderError, Look, Staging, Storage, Volume},
    fuse::Session,
    gateway::{Keeper, KeeperArgs},
    handover::{self, Call, Mount, Refusal, Reply},
    metrics::Metrics,
    passthrough::Passthrough,
    transport::{Transport, TransportArgs},
};
use penstock_rdma::{Policy, Via};
use penstock_service::{CancellationToken, chain};
use penstock_store::{engine, gateway::GatewayMetrics, remote::Remote};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::net::{UnixListener, UnixStream};

/// How long one file operation may take without a sign of life of the storage node. Longer than a restart of it takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a mount may take to find its bucket: the kubelet asks again.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How long an unmounted session may take to end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// How long `node` may take to prepare the state folder.
const PREPARATION: Duration = Duration::from_secs(60);

/// Options of the role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unix socket on which `node` hands mounts over.
    #[arg(long, default_value_os = handover::default_socket().as_os_str(), value_name = "PATH")]
    pub socket: PathBuf,
    /// Folder for staged files, and for those that could not be uploaded.
    #[arg(long, default_value = "/var/lib/penstock", value_name = "DIR")]
    pub state_dir: PathBuf,
    #[command(flatten)]
    pub transport: TransportArgs,
    /// Folder of this host with the sockets of its storage nodes; volumes of those are read and written without a network.
    #[arg(long, env = "PENSTOCK_LOCAL_SOCKETS", value_name = "DIR")]
    pub local_sockets: Option<PathBuf>,
    /// Socket of `node`, which lets the kernel read files by itself that a storage node on this host lent.
    #[arg(long, value_name = "PATH")]
    pub passthrough_socket: Option<PathBuf>,
    #[command(flatten)]
    pub gateway: KeeperArgs,
}

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] FolderError),
    /// The socket.
    #[error("cannot listen on {}; its folder must exist and be writable", .path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
}

/// Runs until the token fires, then uploads what is open.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let mut admin = penstock_service::Admin::default();
    let metrics = Metrics::register(&mut admin.metrics);
    let gateway_metrics = GatewayMetrics::register(&mut admin.metrics);
    let listening = admin.readiness.flag("socket");
    let gateway_listening = admin.readiness.flag("gateway");
    if args.gateway.gateway_config.is_none() {
        gateway_listening.pass();
    }
    admin.serve(service, shutdown.clone()).await?;
    let host = Host {
        local_sockets: args.local_sockets,
        local_socket: None,
    };
    let transport = Transport::find(&args.transport, host);
    let keeper = Keeper::new(args.gateway, transport.clone(), gateway_metrics);
    let agent = Agent {
        staging: prepare(&args.state_dir, &metrics).await?,
        metrics,
        transport,
        served: Arc::default(),
        passthrough: args
            .passthrough_socket
            .map_or(Passthrough::Off, Passthrough::ByNode),
    };
    penstock_service::limits::raise_open_files();
    let listener = listen(&args.socket)?;
    // Besides: what goes wrong with it hinders no mount.
    let gateways = tokio::spawn(keeper.run(gateway_listening, shutdown.clone()));
    listening.pass();
    tracing::info!(socket = %args.socket.display(), "waiting for mounts");
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was lost");
                    continue;
                }
            },
        };
        let agent = agent.clone();
        tokio::spawn(async move {
            if let Err(error) = agent.attend(stream).await {
                tracing::warn!(%error, "a call was lost");
            }
        });
    }
    agent.drain().await;
    if let Err(error) = gateways.await {
        tracing::warn!(%error, "the gateways did not end well");
    }
    Ok(())
}

/// The folder belongs to root until `node`, which starts at the same time, has given it to this user.
async fn prepare(state: &Path, metrics: &Metrics) -> Result<Staging, FolderError> {
    let deadline = tokio::time::Instant::now() + PREPARATION;
    loop {
        match Staging::prepare(state, metrics.clone()) {
            Err(error) if tokio::time::Instant::now() < deadline => {
                tracing::info!(cause = chain(&error), "waiting for the state folder");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome,
        }
    }
}

fn listen(path: &Path) -> Result<UnixListener, AgentError> {
    let failed = |source| AgentError::Socket {
        path: path.to_owned(),
        source,
    };
    // Of a process that died; a living agent in the same pod there is not.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(failed)
}

#[derive(Clone)]
struct Agent {
    staging: Staging,
    metrics: Metrics,
    transport: Transport,
    served: Arc<Mutex<HashMap<PathBuf, Served>>>,
    passthrough: Passthrough,
}

struct Served {
    volume: Arc<Volume>,
    session: Session,
    look: Look,
    complaint: Option<String>,
}

impl Agent {
    fn served(&self) -> MutexGuard<'_, HashMap<PathBuf, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attend(&self, stream: UnixStream) -> io::Result<()> {
        let caller = stream.peer_cred()?.uid();
        if caller != 0 && caller != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "user {caller} may not hand over mounts"
            )));
        }
        let mut stream = stream.into_std()?;
        handover::be_patient(&stream)?;
        let (mut stream, call, descriptor) = blocking(move || {
            let (call, descriptor) = handover::receive::<Call>(&mut stream)?;
            Ok((stream, call, descriptor))
        })
        .await?;
        let reply = match call {
            Call::Ping => Reply::Done,
            Call::Look { path } => Reply::Looks(self.look(&path)),
            Call::Complaint { path } => {
                let served = self.served();
                Reply::Complains(served.get(&path).and_then(|served| served.complaint.clone()))
            }
            Call::Drop { path } => {
                self.drop_mount(&path).await;
                Reply::Done
            }
            Call::Serve { path, mount } => match self.serve(path, *mount, descriptor).await {
                Ok(()) => Reply::Done,
                Err(refusal) => Reply::Refused(refusal),
            },
        };
        blocking(move || handover::send(&mut stream, &reply, None)).await
    }

    fn look(&self, path: &Path) -> Option<Look> {
        let served = self.served();
        served
            .get(path)
            .filter(|served| !served.session.has_ended())
            .map(|served| served.look)
    }

    async fn serve(&self, path: PathBuf, mount: Mount, descriptor: Option<OwnedFd>) -> Result<(), Refusal> {
        let device =
            descriptor.ok_or_else(|| Refusal::Invalid("no descriptor came with the mount".into()))?;
        let engine = self
            .transport
            .engine(&mount.access, mount.rdma.unwrap_or_default())
            .map_err(|error| Refusal::Invalid(chain(&error)))?
            .told_to(self.metrics.traffic(&mount.volume));
        let engine = Arc::new(engine);
        let first = Storage::new(engine.clone(), &mount.bucket, &mount.prefix, FIRST_LOOK);
        first.any_under("").await.map_err(|failure| refusal(&failure))?;
        let complaint = self.complaint(&engine, mount.rdma).await?;
        let storage = Storage::new(engine, &mount.bucket, &mount.prefix, DEADLINE);
        let volume = Volume::new(storage, self.staging.clone(), mount.look, self.metrics.clone());
        let volume = volume.passing(self.passthrough.clone());
        let volume = Arc::new(volume);
        let session = Session::start(device, volume.clone())
            .await
            .map_err(|error| Refusal::Failed(chain(&error)))?;
        tracing::info!(volume = mount.volume, bucket = mount.bucket, prefix = mount.prefix, path = %path.display(), "serving");
        let served = Served {
            volume,
            session,
            look: mount.look,
            complaint,
        };
        let replaced = self.served().insert(path, served);
        if let Some(replaced) = replaced {
            replaced.volume.drain(DRAIN).await;
            replaced.session.stop();
        }
        self.count();
        Ok(())
    }

    /// What there is to complain of when a volume's bytes travel by HTTP.
    async fn complaint(&self, engine: &Remote, policy: Option<Policy>) -> Result<Option<String>, Refusal> {
        let Some(policy @ (Policy::Require | Policy::Prefer)) = policy else {
            return Ok(None);
        };
        let way = tokio::time::timeout(FIRST_LOOK, engine.client().way()).await;
        let way = way
            .map_err(|_| {
                Refusal::Unreachable(
                    "the storage node does not say in time whether it speaks RDMA".to_owned(),
                )
            })?
            .map_err(|error| Refusal::Unreachable(chain(&error)))?;
        if way.via != Via::Http {
            return Ok(None);
        }
        let why = self.transport.why_not(way.why);
        if policy == Policy::Require {
            return Err(Refusal::NoFastPath(format!(
                "the volume says rdma: require, and its bytes cannot travel by RDMA from this node: {why}; mend that, run the pod \
                 on a node that has RDMA, or set rdma: prefer in the StorageClass"
            )));
        }
        Ok(Some(why))
    }

    fn count(&self) {
        let mut served = self.served();
        served.retain(|_, served| !served.session.has_ended());
        self.metrics.mounted(served.len());
    }

    async fn drop_mount(&self, path: &Path) {
        let Some(served) = self.served().remove(path) else {
            return;
        };
        if tokio::time::timeout(LAST_REQUESTS, served.session.ended())
            .await
            .is_err()
        {
            tracing::warn!(path = %path.display(), "the kernel still holds the unmounted volume; its descriptor is closed");
        }
        // Of a volume that ended too: its last requests, those that release files among them, need not have come.
        served.volume.drain(DRAIN).await;
        served.session.stop();
        self.count();
        tracing::info!(path = %path.display(), "ended");
    }

    async fn drain(&self) {
        let volumes: Vec<_> = self
            .served()
            .values()
            .map(|served| Arc::clone(&served.volume))
            .collect();
        futures::future::join_all(volumes.iter().map(|volume| volume.drain(DRAIN))).await;
    }
}

fn refusal(failure: &Failure) -> Refusal {
    let text = chain(failure);
    match failure {
        Failure::Engine(engine::Error::NoSuchBucket(_)) => Refusal::NotFound(text),
        Failure::Engine(engine::Error::AccessDenied(_)) => Refusal::Denied(text),
        Failure::Engine(engine::Error::Unreachable { .. }) | Failure::Deadline(_) => {
            Refusal::Unreachable(text)
        }
        _ => Refusal::Failed(text),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
