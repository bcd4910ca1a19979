//! The role `mount`: one bucket on one machine, without Kubernetes. Needs root, or rights on `/dev/fuse` and mount(2).

use crate::{
    access::{Access, AccessError, Host},
    fs::{DRAIN, Failure, FolderError, Look, Staging, Storage, Volume},
    fuse::{Session, SessionError},
    metrics::Metrics,
    node::mounts::{self, MountError},
    passthrough::Passthrough,
    transport::{Transport, TransportArgs},
};
use penstock_rdma::Policy;
use penstock_service::CancellationToken;
use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

/// Options of the role. The key pair comes from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bucket, or a prefix in it: BUCKET[/PREFIX].
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub bucket: String,
    /// Where to mount it; made if it is not there.
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
    /// The storage node.
    #[arg(
        long,
        env = "AWS_ENDPOINT_URL_S3",
        default_value = "http://127.0.0.1:9000",
        value_name = "URL"
    )]
    pub endpoint: String,
    /// Region that is signed for.
    #[arg(long, env = "AWS_DEFAULT_REGION", default_value = "us-east-1")]
    pub region: String,
    /// Certificate (PEM) of the storage node's CA.
    #[arg(long, env = "AWS_CA_BUNDLE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Folder for staged files, and for those that could not be uploaded.
    #[arg(long, default_value = "/var/lib/penstock", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Owner of all files.
    #[arg(long, default_value_t = 0)]
    pub uid: u32,
    /// Group of all files.
    #[arg(long, default_value_t = 0)]
    pub gid: u32,
    /// Permissions of files, in octal.
    #[arg(long, default_value = "0644", value_parser = octal)]
    pub file_mode: u32,
    /// Permissions of folders, in octal.
    #[arg(long, default_value = "0755", value_parser = octal)]
    pub dir_mode: u32,
    /// Whether bytes travel by RDMA: `require`, `prefer` or `off`.
    #[arg(long, default_value = "prefer", value_name = "POLICY")]
    pub rdma: Policy,
    #[command(flatten)]
    pub transport: TransportArgs,
    /// A storage node on this host is read and written without a network.
    #[command(flatten)]
    pub host: Host,
    /// Answer every read of files that the storage node lent, in place of letting the kernel read them by itself.
    #[arg(long)]
    pub no_passthrough: bool,
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permissions are octal digits, as 0644".into()),
    }
}

/// Why a bucket could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Half a key pair.
    #[error("no key pair: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    Keys(#[source] AccessError),
    /// The CA file.
    #[error("cannot read the CA certificate {}", .path.display())]
    Ca {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The endpoint.
    #[error("the storage node cannot be used")]
    Client(#[from] penstock_rdma::Error),
    /// The bucket.
    #[error("cannot look into {bucket}")]
    Bucket {
        /// Which.
        bucket: String,
        /// Why.
        source: Failure,
    },
    /// The state folder.
    #[error(transparent)]
    State(#[from] FolderError),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The session.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
}

/// Mounts, and serves until it is unmounted or the token fires.
///
/// # Errors
/// When it cannot be mounted; nothing is mounted then.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut admin = penstock_service::Admin::default();
    let metrics = Metrics::register(&mut admin.metrics);
    let mounted = admin.readiness.flag("mount");
    admin.serve(service, shutdown.clone()).await?;
    let transport = Transport::find(&args.transport, args.host.clone());
    let engine = transport.engine(&access(&args)?, args.rdma)?;
    let engine = Arc::new(engine.told_to(metrics.traffic(&args.bucket)));
    let (bucket, prefix) = args.bucket.split_once('/').unwrap_or((&args.bucket, ""));
    let storage = Storage::new(engine, bucket, prefix, Duration::from_secs(60));
    storage.any_under("").await.map_err(|source| Error::Bucket {
        bucket: args.bucket.clone(),
        source,
    })?;
    let staging = Staging::prepare(&args.state_dir, metrics.clone())?;
    let look = Look {
        uid: args.uid,
        gid: args.gid,
        file_mode: args.file_mode,
        dir_mode: args.dir_mode,
    };
    let passthrough = match args.no_passthrough {
        true => Passthrough::Off,
        false => Passthrough::Here,
    };
    penstock_service::limits::raise_open_files();
    let volume = Arc::new(Volume::new(storage, staging, look, metrics.clone()).passing(passthrough));
    let path = mounts::folder(&args.path).await?;
    let device = mounts::mount_fuse(&path, &format!("penstock:{}", args.bucket)).await?;
    let session = match Session::start(device, volume.clone()).await {
        Ok(session) => session,
        Err(error) => {
            mounts::unmount(&path).await?;
            return Err(error.into());
        }
    };
    mounts::read_further_ahead(&path).await;
    metrics.mounted(1);
    mounted.pass();
    println!("{} is mounted at {}", args.bucket, path.display());
    tokio::select! {
        // Its last requests, those that release files among them, need not have come.
        () = session.ended() => volume.drain(DRAIN).await,
        () = shutdown.cancelled() => {
            volume.drain(DRAIN).await;
            mounts::unmount(&path).await?;
            session.stop();
        }
    }
    Ok(())
}

fn access(args: &Args) -> Result<Access, Error> {
    let mut secrets = HashMap::from([
        ("endpoint".to_owned(), args.endpoint.clone()),
        ("region".to_owned(), args.region.clone()),
    ]);
    for (key, variable) in [
        ("accessKeyId", "AWS_ACCESS_KEY_ID"),
        ("secretAccessKey", "AWS_SECRET_ACCESS_KEY"),
    ] {
        if let Ok(value) = std::env::var(variable) {
            secrets.insert(key.to_owned(), value);
        }
    }
    if let Some(path) = &args.ca_file {
        let pem = std::fs::read_to_string(path).map_err(|source| Error::Ca {
            path: path.clone(),
            source,
        })?;
        secrets.insert("ca.crt".to_owned(), pem);
    }
    Access::parse(&secrets).map_err(Error::Keys)
}
