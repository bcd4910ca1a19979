//! What an administrator asks of a running storage node, over its S3 address.

mod bucket;
mod check;
mod key;
mod stats;
mod words;

pub use bucket::BucketCommand;
pub use check::CheckCommand;
pub use key::KeyCommand;
pub use stats::StatsCommand;

use penstock_rdma::{Client, Credentials, Endpoint, Options, Policy};
use penstock_store::keys;
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

    /// File with the root access key.
    #[arg(long, env = "PENSTOCK_ROOT_ACCESS_KEY_FILE", value_name = "FILE")]
    root_access_key_file: Option<PathBuf>,

    /// File with the root secret key.
    #[arg(long, env = "PENSTOCK_ROOT_SECRET_KEY_FILE", value_name = "FILE")]
    root_secret_key_file: Option<PathBuf>,
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
    #[error("the answer cannot be written")]
    Output(#[from] serde_json::Error),
}

impl Connection {
    /// A client of the storage node.
    fn open(&self) -> Result<Client, Error> {
        let said = |name: &str| std::env::var(name).ok();
        let (access, secret) = (said("PENSTOCK_ROOT_ACCESS_KEY"), said("PENSTOCK_ROOT_SECRET_KEY"));
        let sources = keys::Sources {
            access_file: self.root_access_key_file.as_deref(),
            secret_file: self.root_secret_key_file.as_deref(),
            access: access.as_deref(),
            secret: secret.as_deref(),
        };
        let credentials = match keys::known(&sources, self.data.as_deref()) {
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
