//! Where a storage node keeps backups of itself, and when it makes them.

use penstock_service::CancellationToken;
use penstock_store::{
    backups::{BackupError, Backups},
    local::Local,
    metrics::Metrics,
};
use std::{path::PathBuf, time::Duration};

/// Backups.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backups")]
pub struct BackupArgs {
    /// Folder for backups (`penstock-store backup`), made if it is not there. On the file system of the data folder they are made of links, which guards
    /// from mistakes but not from a lost disk.
    #[arg(long, env = "PENSTOCK_BACKUPS", value_name = "DIR")]
    backups: Option<PathBuf>,

    /// Seconds between two backups that are made by themselves; 0: none but those that are asked for.
    #[arg(
        long,
        env = "PENSTOCK_BACKUP_EVERY",
        value_name = "SECONDS",
        default_value_t = 0,
        requires = "backups"
    )]
    backup_every: u32,

    /// How many backups stay when one is made by itself, all others included.
    #[arg(long, env = "PENSTOCK_BACKUP_KEEP", value_name = "N", default_value_t = 7, requires = "backups",
          value_parser = clap::value_parser!(u32).range(1..))]
    backup_keep: u32,
}

impl BackupArgs {
    pub async fn open(
        &self,
        engine: &Local,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<Option<Backups>, BackupError> {
        let Some(folder) = self.backups.clone() else {
            return Ok(None);
        };
        let backups = Backups::open(folder, engine.clone(), metrics.clone(), stop.clone()).await?;
        if self.backup_every > 0 {
            let every = Duration::from_secs(self.backup_every.into());
            tokio::spawn(backups.clone().run(every, Some(self.backup_keep)));
        }
        Ok(Some(backups))
    }
}
