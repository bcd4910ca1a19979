//! The node's S3 gateway ([`penstock_store::gateway`]): as a part of the role `agent`, for the storage nodes that a folder names, and as
//! a role of its own, for one storage node without Kubernetes.

mod config;
mod keeper;

pub use config::{Config, ConfigError, Identity, UpstreamConfig};
pub use keeper::{Keeper, KeeperArgs};

use crate::transport::{Transport, TransportArgs};
use penstock_rdma::{Policy, relay::RelayMemory};
use penstock_service::CancellationToken;
use penstock_store::{
    gateway::{GatewayError, GatewayMetrics, GatewayServer},
    server::{self, ServeError},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// Bytes of memory for what goes by RDMA, for all clients together.
const RDMA_MEMORY: u64 = 256 << 20;

/// Options of the role `gateway`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The storage node.
    #[arg(long, env = "PENSTOCK_GATEWAY_ENDPOINT", value_name = "URL")]
    pub endpoint: String,
    /// Certificate (PEM) of the storage node's CA.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Address that serves S3.
    #[arg(long, default_value = "127.0.0.1:9100", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Whether bytes go by the socket of a storage node on this host, or to another host by RDMA: `require` refuses them otherwise,
    /// `prefer` sends them by HTTP then, `off` always does.
    #[arg(long, default_value = "prefer", value_name = "POLICY")]
    pub fast_path: Policy,
    /// File with the access key of the gateway's own identity (penstock-store serve --gateway-access-key-file), without which
    /// nothing goes by RDMA.
    #[arg(long, value_name = "FILE", requires = "secret_key_file")]
    pub access_key_file: Option<PathBuf>,
    /// File with its secret key.
    #[arg(long, value_name = "FILE", requires = "access_key_file")]
    pub secret_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub transport: TransportArgs,
    #[command(flatten)]
    pub host: crate::access::Host,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Connections served at the same time; more wait.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_connections: u32,
}

/// The certificate that clients are shown.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// Certificate chain (PEM) that clients are shown; HTTPS only, then.
    #[arg(
        id = "gateway_tls_cert",
        long = "gateway-tls-cert",
        value_name = "FILE",
        requires = "gateway_tls_key"
    )]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(
        id = "gateway_tls_key",
        long = "gateway-tls-key",
        value_name = "FILE",
        requires = "gateway_tls_cert"
    )]
    pub key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(crate) fn load(&self) -> Result<Option<rustls::ServerConfig>, ServeError> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => server::tls(certificate, key).map(Some),
            _ => Ok(None),
        }
    }
}

/// Why the role could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file.
    #[error("cannot read the CA certificate {}", .path.display())]
    Ca {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the gateway's identity.
    #[error("cannot read the gateway's key file {}", .path.display())]
    Key {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The upstream.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The certificate for clients.
    #[error(transparent)]
    Tls(#[from] ServeError),
    /// The address that was bound is not known.
    #[error("the gateway's address is not known")]
    Address(#[source] io::Error),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
}

/// Serves until the token fires, then lets requests under way end.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut admin = penstock_service::Admin::default();
    let metrics = GatewayMetrics::register(&mut admin.metrics);
    let listening = admin.readiness.flag("gateway");
    admin.serve(service, shutdown.clone()).await?;
    penstock_service::limits::raise_open_files();
    let ca = match &args.ca_file {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).map_err(|source| Error::Ca {
            path: path.clone(),
            source,
        })?),
    };
    let config = UpstreamConfig {
        name: "default".to_owned(),
        listen: args.listen,
        endpoint: args.endpoint,
        ca,
        fast_path: args.fast_path,
        identity: identity(args.access_key_file.as_deref(), args.secret_key_file.as_deref())?,
    };
    let tls = args.tls.load()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let connections = Arc::new(Semaphore::new(
        usize::try_from(args.max_connections).unwrap_or(usize::MAX),
    ));
    let upstream = config.upstream(
        &Transport::find(&args.transport, args.host),
        &RelayMemory::new(RDMA_MEMORY),
    )?;
    let server = GatewayServer::bind(config.listen, tls, upstream, &metrics, connections).await?;
    let address = server.address().map_err(Error::Address)?;
    listening.pass();
    println!("penstock-csi gateway serves S3 at {scheme}://{address}");
    tracing::info!(%address, endpoint = config.endpoint, "serving S3");
    server.run(shutdown).await;
    Ok(())
}

fn identity(access: Option<&Path>, secret: Option<&Path>) -> Result<Option<Identity>, Error> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| Error::Key {
            path: path.to_owned(),
            source,
        })
    };
    let (Some(access), Some(secret)) = (access, secret) else {
        return Ok(None);
    };
    Ok(Some(Identity {
        access_key_id: read(access)?,
        secret_access_key: read(secret)?,
    }))
}
