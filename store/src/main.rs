//! `penstock-store`: the storage node.
#![forbid(unsafe_code)]

mod commands;

use clap::{Parser, Subcommand};
use commands::{BucketCommand, CheckCommand, KeyCommand, StatsCommand};
use penstock_rdma::{
    fabric::{Purpose, Rails, Unavailable},
    verbs::{self, Machine, PAUSE},
};
use penstock_service::{Admin, CancellationToken};
use penstock_store::{
    access::{self, KeyRing, MasterKey},
    access_log::AccessLog,
    admin, keys,
    lifecycle::Lifecycle,
    local::{Local, OpenError, ViewError},
    local_path::{self, Ledger, LocalServer, SocketOptions},
    metrics::Metrics,
    rdma::{self, Rdma},
    s3::{Parts, Service},
    scrub::{Pace, Scrub},
    server::{self, Server},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// The Penstock storage node: an S3 server that keeps objects on this machine's disk.
///
/// First steps:
///   penstock-store serve --data /var/lib/penstock-store
///   . /var/lib/penstock-store/root-credentials
/// and give any S3 client the printed endpoint with the key pair from that file (path-style addressing).
#[derive(Debug, Parser)]
#[command(name = "penstock-store", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    service: penstock_service::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 until SIGTERM; then requests under way have 10 s to end.
    Serve(Box<Serve>),
    /// Say whether this machine and this user can move bytes by RDMA: one line per finding, the remedy where something is
    /// missing. Ends with status 1 when RDMA cannot be used.
    Preflight(Preflight),
    /// Make, list and revoke keys that are limited to buckets and prefixes.
    #[command(subcommand)]
    Key(KeyCommand),
    /// List, make and delete buckets, and limit how much is in them.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Tell how much a storage node holds.
    Stats(StatsCommand),
    /// Have a storage node compare everything that it holds with its checksums, and tell what is broken. Ends with status 1 if
    /// anything is.
    Check(CheckCommand),
}

#[derive(Debug, clap::Args)]
struct Preflight {
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
struct DeviceArgs {
    /// These RDMA devices only, by their names in /sys/class/infiniband; else all that are as fast as the fastest.
    #[arg(
        long,
        env = "PENSTOCK_RDMA_DEVICE",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    rdma_device: Vec<String>,

    /// The local address that clients reach; the RDMA port that has it is used.
    #[arg(long, env = "PENSTOCK_RDMA_ADDRESS", value_name = "IP")]
    rdma_address: Option<IpAddr>,
}

impl DeviceArgs {
    fn options(&self) -> verbs::Options {
        verbs::Options {
            choice: verbs::Choice {
                devices: self.rdma_device.clone(),
                address: self.rdma_address,
                ..verbs::Choice::default()
            },
            ..verbs::Options::default()
        }
    }
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Folder that holds everything: objects, index, and the root key pair if none is given. Made if it is not there.
    #[arg(long, env = "PENSTOCK_DATA", value_name = "DIR")]
    data: PathBuf,

    /// Address that serves S3.
    #[arg(
        long,
        env = "PENSTOCK_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:9000"
    )]
    listen: SocketAddr,

    /// File with the root access key; else PENSTOCK_ROOT_ACCESS_KEY. Without a pair one is made in DIR/root-credentials.
    #[arg(long, env = "PENSTOCK_ROOT_ACCESS_KEY_FILE", value_name = "FILE")]
    root_access_key_file: Option<PathBuf>,

    /// File with the root secret key; else PENSTOCK_ROOT_SECRET_KEY.
    #[arg(long, env = "PENSTOCK_ROOT_SECRET_KEY_FILE", value_name = "FILE")]
    root_secret_key_file: Option<PathBuf>,

    /// File with the access key of gateways, which carry the bytes of requests by RDMA that their clients signed, and have access
    /// to nothing by themselves (docs/gateway.md).
    #[arg(
        long,
        env = "PENSTOCK_GATEWAY_ACCESS_KEY_FILE",
        value_name = "FILE",
        requires = "gateway_secret_key_file"
    )]
    gateway_access_key_file: Option<PathBuf>,

    /// File with the secret key of gateways.
    #[arg(
        long,
        env = "PENSTOCK_GATEWAY_SECRET_KEY_FILE",
        value_name = "FILE",
        requires = "gateway_access_key_file"
    )]
    gateway_secret_key_file: Option<PathBuf>,

    /// File with the master key that secrets are sealed with, 32 random bytes as hexadecimal digits or base64. Without one it is
    /// made in DIR/master-key, beside what it seals.
    #[arg(long, env = "PENSTOCK_MASTER_KEY_FILE", value_name = "FILE")]
    master_key_file: Option<PathBuf>,

    /// Certificate chain (PEM); with --tls-key S3 is served over HTTPS only.
    #[arg(long, env = "PENSTOCK_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key (PEM) of --tls-cert.
    #[arg(long, env = "PENSTOCK_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Region that clients are told.
    #[arg(long, env = "PENSTOCK_REGION", default_value = "us-east-1")]
    region: String,

    /// Domain below which buckets are hosts, so that http://BUCKET.NAME/KEY is an object; can be repeated. DNS and certificates have to
    /// know those names.
    #[arg(long, env = "PENSTOCK_DOMAINS", value_name = "NAME", value_delimiter = ',', value_parser = domain)]
    domain: Vec<String>,

    /// Connections served at the same time; more wait until one ends.
    #[arg(long, env = "PENSTOCK_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_connections: u32,

    /// Seconds between two looks at what the lifecycle rules of buckets let go.
    #[arg(long, env = "PENSTOCK_LIFECYCLE_EVERY", value_name = "SECONDS", default_value_t = 3600,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    lifecycle_every: u32,

    /// Seconds that a day of a lifecycle rule has, for tests of them.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 86_400,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    lifecycle_day: u32,

    /// Seconds between two looks at everything that is stored, each version of each object compared with its checksum; 0: none but
    /// those that are asked for. A week by default.
    #[arg(
        long,
        env = "PENSTOCK_SCRUB_EVERY",
        value_name = "SECONDS",
        default_value_t = 604_800
    )]
    scrub_every: u32,

    /// MiB a second that those may read.
    #[arg(long, env = "PENSTOCK_SCRUB_RATE", value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    scrub_rate: u32,

    /// Seconds between two deliveries of the access logs that buckets keep.
    #[arg(long, env = "PENSTOCK_ACCESS_LOG_EVERY", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    access_log_every: u32,

    #[command(flatten)]
    rdma: RdmaArgs,

    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Debug, clap::Args)]
struct RdmaArgs {
    /// Whether bytes may go by RDMA: `prefer` uses a device if there is one, `require` does not start without, `off` uses none.
    #[arg(
        long = "rdma",
        env = "PENSTOCK_RDMA",
        value_name = "POLICY",
        default_value = "prefer"
    )]
    policy: RdmaPolicy,

    #[command(flatten)]
    device: DeviceArgs,

    /// Registered memory between disk and each RDMA device, in MiB; it is pinned as it is first needed.
    #[arg(long = "rdma-staging", env = "PENSTOCK_RDMA_STAGING", value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    staging: u32,

    /// RDMA sessions of one access key.
    #[arg(long = "rdma-sessions-per-key", env = "PENSTOCK_RDMA_SESSIONS_PER_KEY", value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    sessions_per_key: u32,

    /// An RDMA session without a request for this many seconds ends.
    #[arg(long = "rdma-idle", env = "PENSTOCK_RDMA_IDLE", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    idle: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RdmaPolicy {
    Require,
    Prefer,
    Off,
}

impl RdmaArgs {
    /// The RDMA side as asked for.
    fn open(&self, metrics: &Metrics) -> Result<Rdma, Unavailable> {
        if self.policy == RdmaPolicy::Off {
            tracing::info!("RDMA is switched off; bytes go as HTTP bodies");
            return Ok(Rdma::off(metrics.clone()));
        }
        let machine = Machine::new(self.device.options(), Purpose::Staging);
        let rails = Rails::watch(machine, PAUSE);
        if let Err(why) = rails.standing()
            && self.policy == RdmaPolicy::Require
        {
            return Err(why);
        }
        Ok(Rdma::new(rails, self.limits(), metrics.clone()))
    }

    fn limits(&self) -> rdma::Limits {
        rdma::Limits {
            staging_bytes: u64::from(self.staging) << 20,
            sessions_per_key: usize::try_from(self.sessions_per_key).unwrap_or(usize::MAX),
            idle: Duration::from_secs(self.idle.into()),
            ..rdma::Limits::default()
        }
    }
}

/// The path to clients on this host (docs/local-path.md).
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Clients on this host")]
struct LocalArgs {
    /// Unix socket that serves S3 too, and lends files to clients on this host.
    #[arg(
        long,
        env = "PENSTOCK_LOCAL_SOCKET",
        value_name = "PATH",
        conflicts_with = "local_sockets"
    )]
    local_socket: Option<PathBuf>,

    /// As --local-socket, at DIR/<identity of this node>.sock, where clients look that know only its address.
    #[arg(long, env = "PENSTOCK_LOCAL_SOCKETS", value_name = "DIR")]
    local_sockets: Option<PathBuf>,

    /// Permissions of the socket, in octal.
    #[arg(long, default_value = "0660", value_name = "MODE", value_parser = octal)]
    local_socket_mode: u32,

    /// User that may connect; can be repeated. Without it and --local-allow-gid: the user of this process alone.
    #[arg(long, value_name = "UID")]
    local_allow_uid: Vec<u32>,

    /// Group whose processes may connect; can be repeated.
    #[arg(long, value_name = "GID")]
    local_allow_gid: Vec<u32>,

    /// A read-only mount of the data folder. Files are lent through it, so that no borrower can open them for writing, not
    /// even one with the user id of this process, or root.
    #[arg(long, env = "PENSTOCK_LOCAL_VIEW", value_name = "DIR")]
    local_view: Option<PathBuf>,

    /// MiB of deleted objects that one user may keep from being freed by what it was lent; beyond it nothing is lent to it.
    #[arg(long, value_name = "MIB", default_value_t = 8192)]
    local_held_limit: u64,
}

impl LocalArgs {
    fn socket(&self, id: &str) -> Option<PathBuf> {
        let named = self
            .local_sockets
            .as_ref()
            .map(|folder| folder.join(format!("{id}.sock")));
        self.local_socket.clone().or(named)
    }
}

fn domain(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("a domain is a name as s3.example.com, without a port".into())
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("permissions are octal digits, as 0660".into()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Keys(#[from] keys::KeyError),
    #[error(transparent)]
    MasterKey(#[from] access::MasterKeyError),
    #[error(transparent)]
    ScopedKeys(#[from] access::KeyError),
    #[error(transparent)]
    Serve(#[from] server::ServeError),
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
    #[error("RDMA is required (--rdma require) and cannot be had")]
    Rdma(#[from] Unavailable),
    #[error("what access logs buckets keep cannot be read; the disk or the index is damaged")]
    AccessLog(#[source] penstock_store::engine::Error),
    #[error(transparent)]
    Identity(#[from] local_path::IdentityError),
    #[error(transparent)]
    Socket(#[from] local_path::SocketError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the process cannot be set up")]
    Setup(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.service.init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return penstock_service::exit(Err(Error::Setup(error))),
    };
    let serve = match cli.command {
        Command::Serve(serve) => serve,
        Command::Preflight(preflight) => return runtime.block_on(look(preflight)),
        Command::Key(key) => return penstock_service::exit(runtime.block_on(key.run())),
        Command::Bucket(bucket) => return penstock_service::exit(runtime.block_on(bucket.run())),
        Command::Check(check) => return penstock_service::exit(runtime.block_on(check.run())),
        Command::Stats(stats) => return penstock_service::exit(runtime.block_on(stats.run())),
    };
    let outcome = runtime.block_on(run(&cli.service, &serve));
    // What is still blocked on the disk after the drain must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    penstock_service::exit(outcome)
}

async fn run(service: &penstock_service::Args, serve: &Serve) -> Result<(), Error> {
    let draining = penstock_service::shutdown::on_signal()?;
    let tls = match (&serve.tls_cert, &serve.tls_key) {
        (Some(certificate), Some(key)) => Some(server::tls(certificate, key)?),
        _ => None,
    };
    let engine = Local::open(&serve.data).await?;
    let master = MasterKey::load(serve.master_key_file.as_deref(), &serve.data)?;
    engine.encrypt_with(&master);
    let access = std::env::var("PENSTOCK_ROOT_ACCESS_KEY").ok();
    let secret = std::env::var("PENSTOCK_ROOT_SECRET_KEY").ok();
    let sources = keys::Sources {
        access_file: serve.root_access_key_file.as_deref(),
        secret_file: serve.root_secret_key_file.as_deref(),
        access: access.as_deref(),
        secret: secret.as_deref(),
    };
    let (root, made_in) = keys::root(&sources, &serve.data)?;
    if let Some(path) = made_in {
        println!("root credentials: {}", path.display());
    }

    let mut admin = Admin::default();
    let metrics = Metrics::register(&mut admin.metrics);
    let mut rdma = serve.rdma.open(&metrics)?;
    if let (Some(access), Some(secret)) = (&serve.gateway_access_key_file, &serve.gateway_secret_key_file) {
        rdma = rdma.with_gateway(keys::gateway(access, secret, &root)?);
        // Objects that gateways are in the middle of are open.
        penstock_service::limits::raise_open_files();
    }
    let asked = rdma.clone();
    admin
        .documents
        .push(("/rdma", Box::new(move || asked.standing().document())));
    let lifecycle = Lifecycle::new(
        Arc::new(engine.clone()),
        Duration::from_secs(serve.lifecycle_day.into()),
    );
    let every = Duration::from_secs(serve.lifecycle_every.into());
    tokio::spawn(lifecycle.run(every, draining.clone()));
    let id = local_path::identity(&serve.data)?;
    let scrub = Scrub::new(Arc::new(engine.clone()), metrics.clone());
    let pace = Pace::Limited(u64::from(serve.scrub_rate) << 20);
    let every = match serve.scrub_every {
        0 => Duration::MAX,
        seconds => Duration::from_secs(seconds.into()),
    };
    tokio::spawn(scrub.clone().run(every, pace, draining.clone()));
    let ring = Arc::new(KeyRing::open(&master, Arc::new(engine.clone())).await?);
    let access_log = AccessLog::open(Arc::new(engine.clone()), metrics.clone())
        .await
        .map_err(Error::AccessLog)?;
    let every = Duration::from_secs(serve.access_log_every.into());
    tokio::spawn(access_log.clone().run(every, draining.clone()));
    let door = Service::of(Parts {
        engine: Arc::new(engine.clone()),
        root,
        region: serve.region.clone(),
        metrics: metrics.clone(),
        rdma: rdma.clone(),
        admin: Some(admin::Admin::new(ring, engine.clone()).scrubbing(scrub)),
        domains: serve.domain.clone(),
        access_log: Some(access_log.clone()),
    })
    .named(&id);
    let local = serve_locally(serve, &engine, door.clone(), &id, &metrics)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let connections = usize::try_from(serve.max_connections).unwrap_or(usize::MAX);
    let server = Server::bind(serve.listen, tls, door, metrics.clone(), connections).await?;
    let address = server.address()?;

    let (asked, judged) = (engine.clone(), engine.clone());
    admin.readiness.probe("storage", move || {
        let engine = asked.clone();
        async move {
            engine
                .probe()
                .await
                .map_err(|error| penstock_service::chain(&error))
        }
    });
    admin
        .liveness
        .probe("storage", move || std::future::ready(judged.alive()));
    admin.serve(service, draining.clone()).await?;
    tokio::spawn(show_usage(engine, rdma.clone(), metrics, draining.clone()));

    println!("penstock-store serves S3 at {scheme}://{address}");
    tracing::info!(%address, tls = serve.tls_cert.is_some(), data = %serve.data.display(), "serving S3");
    let served_locally = async {
        if let Some(local) = local {
            local.run(draining.clone()).await;
        }
    };
    tokio::join!(server.run(draining.clone()), served_locally);
    rdma.shut_down().await;
    access_log.deliver().await;
    tracing::info!("stopped");
    Ok(())
}

async fn look(asked: Preflight) -> ExitCode {
    let options = asked.device.options();
    let report = verbs::preflight::run(&options).await;
    for finding in &report.findings {
        let mark = if finding.good { "ok" } else { "--" };
        println!("{mark} {}: {}", finding.subject, finding.text);
    }
    match report.reason() {
        None => {
            println!("RDMA can be used");
            ExitCode::SUCCESS
        }
        Some(reason) => {
            println!("RDMA cannot be used: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the socket for clients on this host, if there is to be one.
fn serve_locally(
    serve: &Serve,
    engine: &Local,
    door: Service,
    id: &str,
    metrics: &Metrics,
) -> Result<Option<LocalServer>, Error> {
    let args = &serve.local;
    let Some(path) = args.socket(id) else {
        return Ok(None);
    };
    match &args.local_view {
        Some(view) => engine.lend_through(view)?,
        None => tracing::info!(
            "lent files are not opened through a read-only mount (--local-view), so a client with this process' user id, or \
             root, could open them for writing"
        ),
    }
    penstock_service::limits::raise_open_files();
    let limits = local_path::Limits {
        held: args.local_held_limit.saturating_mul(1 << 20),
        ..local_path::Limits::default()
    };
    let options = SocketOptions {
        path: path.clone(),
        mode: args.local_socket_mode,
        uids: args.local_allow_uid.clone(),
        gids: args.local_allow_gid.clone(),
        max_connections: usize::try_from(serve.max_connections).unwrap_or(usize::MAX),
    };
    let server = LocalServer::bind(
        options,
        door,
        Ledger::new(limits, metrics.clone()),
        metrics.clone(),
    )?;
    println!("penstock-store serves clients on this host at {}", path.display());
    tracing::info!(socket = %path.display(), "serving clients on this host");
    Ok(Some(server))
}

async fn show_usage(engine: Local, rdma: Rdma, metrics: Metrics, draining: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            _ = tick.tick() => {}
        }
        rdma.show_usage();
        match engine.usage() {
            Ok(usage) => {
                metrics.show_usage(&usage);
                metrics.show_held(engine.held());
            }
            Err(error) => tracing::warn!(%error, "the disk's free space is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
