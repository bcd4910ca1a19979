//! The commands: serving, and what an administrator asks of a running storage node over its S3 address.

mod backup;
mod bucket;
mod check;
mod key;
mod preflight;
mod restore;
mod root_key;
mod serve;
mod stats;
mod words;

pub use backup::BackupCommand;
pub use bucket::BucketCommand;
pub use check::CheckCommand;
pub use key::KeyCommand;
pub use preflight::Preflight;
pub use restore::Restore;
pub use serve::Serve;
pub use stats::StatsCommand;

use penstock_rdma::{Client, Credentials, Endpoint, Options, Policy};
use penstock_store::keys;
use root_key::RootKeyArgs;
use std::path::PathBuf;

/// Which storage node, and as whom.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// S3 address of the storage node.
    #[arg(
        long,
        env = "PENSTOCK_ENDPOINT",
        value_name = "URL",
        default_value = "http://127.0.0.1:9000"
    )]
    endpoint: Endpoint,

    /// CA certificate (PEM) of the storage node, beside those of the system.
    #[arg(long, env = "PENSTOCK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Folder of the storage node, to sign with the root key pair that it made there, unless there are PENSTOCK_ROOT_ACCESS_KEY and
    /// PENSTOCK_ROOT_SECRET_KEY. Without any of them AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are used.
    #[arg(long, env = "PENSTOCK_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    #[command(flatten)]
    root: RootKeyArgs,
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why nothing could be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Keys(#[from] keys::KeyError),
    #[error("the CA certificate {} cannot be read", path.display())]
    Ca { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Client(#[from] penstock_rdma::Error),
    #[error("{0} of the objects are broken")]
    Broken(u64),
    #[error("the storage node stopped before it had seen everything; check again")]
    BrokeOff,
    #[error("the backup {0} was not made: {1}")]
    NoBackup(String, String),
    #[error(
        "{0} data files were missing, so the backup lacks them too; `penstock-store check` names the objects"
    )]
    Missing(u64),
    #[error("the answer cannot be written")]
    Output(#[from] serde_json::Error),
}

impl Connection {
    /// A client of the storage node.
    fn open(&self) -> Result<Client, Error> {
        let said = |name: &str| std::env::var(name).ok();
        let known = |sources: &keys::Sources<'_>| keys::known(sources, self.data.as_deref());
        let credentials = match self.root.read(known) {
            Err(keys::KeyError::Missing) => {
                let pair = said("AWS_ACCESS_KEY_ID").zip(said("AWS_SECRET_ACCESS_KEY"));
                let pair = pair.ok_or(keys::KeyError::Missing)?;
                Credentials::new(pair.0, pair.1)
            }
            known => known?,
        };
        let ca_pem = match &self.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|source| Error::Ca {
                path: path.clone(),
                source,
            })?),
        };
        let options = Options {
            ca_pem,
            policy: Policy::Off,
            ..Options::default()
        };
        Ok(Client::new(self.endpoint.clone(), credentials, options)?)
    }
}
