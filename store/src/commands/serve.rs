//! `penstock-store serve`.

mod backups;
mod local;
mod rdma;

use super::root_key::RootKeyArgs;
use backups::BackupArgs;
use local::{LocalArgs, serve_locally};
use penstock_rdma::fabric::Unavailable;
use penstock_service::{Admin, CancellationToken};
use penstock_store::{
    access::{self, KeyRing, MasterKey},
    access_log::AccessLog,
    admin,
    backups::BackupError,
    keys,
    lifecycle::Lifecycle,
    local::{Local, OpenError, ViewError},
    local_path,
    metrics::Metrics,
    rdma::Rdma,
    s3::{Parts, Service},
    scrub::{Pace, Scrub},
    server::{self, Server},
};
use rdma::RdmaArgs;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// The storage node itself.
#[derive(Debug, clap::Args)]
pub struct Serve {
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

    #[command(flatten)]
    root: RootKeyArgs,

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

    /// Go on with another master key than the data folder was sealed with, as that is lost: what it encrypted stays unreadable, and the keys
    /// that it sealed are revoked.
    #[arg(long)]
    another_master_key: bool,

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
    backups: BackupArgs,

    #[command(flatten)]
    rdma: RdmaArgs,

    #[command(flatten)]
    local: LocalArgs,
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

/// Why it does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    Backups(#[from] BackupError),
    #[error(transparent)]
    Identity(#[from] local_path::IdentityError),
    #[error(transparent)]
    Socket(#[from] local_path::SocketError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the process cannot be set up")]
    Setup(#[from] std::io::Error),
}

impl Serve {
    /// Serves until it is told to stop.
    pub async fn run(&self, service: &penstock_service::Args) -> Result<(), Error> {
        let draining = penstock_service::shutdown::on_signal()?;
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(server::tls(certificate, key)?),
            _ => None,
        };
        let engine = Local::open(&self.data).await?;
        let change = match self.another_master_key {
            true => access::Change::Accepted,
            false => access::Change::Refused,
        };
        let master = MasterKey::of(&engine, self.master_key_file.as_deref(), &self.data, change).await?;
        engine.encrypt_with(&master);
        let (root, made_in) = self.root.read(|sources| keys::root(sources, &self.data))?;
        if let Some(path) = made_in {
            println!("root credentials: {}", path.display());
        }

        let mut admin = Admin::default();
        let metrics = Metrics::register(&mut admin.metrics);
        let mut rdma = self.rdma.open(&metrics)?;
        if let (Some(access), Some(secret)) = (&self.gateway_access_key_file, &self.gateway_secret_key_file) {
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
            Duration::from_secs(self.lifecycle_day.into()),
        );
        let every = Duration::from_secs(self.lifecycle_every.into());
        tokio::spawn(lifecycle.run(every, draining.clone()));
        let id = local_path::identity(&self.data)?;
        let scrub = Scrub::new(Arc::new(engine.clone()), metrics.clone());
        let pace = Pace::Limited(u64::from(self.scrub_rate) << 20);
        let every = match self.scrub_every {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds.into()),
        };
        tokio::spawn(scrub.clone().run(every, pace, draining.clone()));
        let ring = Arc::new(KeyRing::open_with(&master, Arc::new(engine.clone()), change).await?);
        let access_log = AccessLog::open(Arc::new(engine.clone()), metrics.clone())
            .await
            .map_err(Error::AccessLog)?;
        let every = Duration::from_secs(self.access_log_every.into());
        tokio::spawn(access_log.clone().run(every, draining.clone()));
        let administration = admin::Admin::new(ring, engine.clone()).scrubbing(scrub);
        let backups = self.backups.open(&engine, &metrics, &draining).await?;
        let door = Service::of(Parts {
            engine: Arc::new(engine.clone()),
            root,
            region: self.region.clone(),
            metrics: metrics.clone(),
            rdma: rdma.clone(),
            admin: Some(administration.backing_up(backups)),
            domains: self.domain.clone(),
            access_log: Some(access_log.clone()),
        })
        .named(&id);
        let local = serve_locally(self, &engine, door.clone(), &id, &metrics)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let connections = usize::try_from(self.max_connections).unwrap_or(usize::MAX);
        let server = Server::bind(self.listen, tls, door, metrics.clone(), connections).await?;
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
        tracing::info!(%address, tls = self.tls_cert.is_some(), data = %self.data.display(), "serving S3");
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
