//! Where the root key pair is, for those that serve with it and those that sign with it.

use penstock_store::keys::{KeyError, Sources};
use std::path::PathBuf;

/// The root key pair, by files or by the environment.
#[derive(Debug, clap::Args)]
pub struct RootKeyArgs {
    /// File with the root access key; else PENSTOCK_ROOT_ACCESS_KEY, else the pair in DIR/root-credentials, which `serve` makes where there is none.
    #[arg(long, env = "PENSTOCK_ROOT_ACCESS_KEY_FILE", value_name = "FILE")]
    root_access_key_file: Option<PathBuf>,

    /// File with the root secret key; else PENSTOCK_ROOT_SECRET_KEY.
    #[arg(long, env = "PENSTOCK_ROOT_SECRET_KEY_FILE", value_name = "FILE")]
    root_secret_key_file: Option<PathBuf>,
}

impl RootKeyArgs {
    /// Calls `read` with all that was said.
    pub fn read<T>(&self, read: impl FnOnce(&Sources<'_>) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let said = |name: &str| std::env::var(name).ok();
        let (access, secret) = (said("PENSTOCK_ROOT_ACCESS_KEY"), said("PENSTOCK_ROOT_SECRET_KEY"));
        read(&Sources {
            access_file: self.root_access_key_file.as_deref(),
            secret_file: self.root_secret_key_file.as_deref(),
            access: access.as_deref(),
            secret: secret.as_deref(),
        })
    }
}
