//! `penstock-store restore`.

use super::words::{broken_shown, shown};
use penstock_service::CancellationToken;
use penstock_store::{
    access::{MasterKey, MasterKeyError},
    engine,
    local::{Local, OpenError, Progress, RestoreError, restore},
    metrics::Metrics,
    scrub::{Pace, Scrub},
};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

/// A data folder from a backup. No storage node has to run; the user has to be the one that will serve it.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// Folder of the backup: the one with backup.json in it.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,

    /// Data folder to be made. It is empty, or is not there; a master key or root credentials may be in it.
    #[arg(long, env = "PENSTOCK_DATA", value_name = "DIR")]
    data: PathBuf,

    /// File with the master key that the storage node had. Without it what it encrypted is compared as it lies on the disk.
    #[arg(long, env = "PENSTOCK_MASTER_KEY_FILE", value_name = "FILE")]
    master_key_file: Option<PathBuf>,
}

/// Why nothing was restored, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error("what was restored cannot be compared with its checksums")]
    Compare(#[from] engine::Error),
    #[error("{0} of the objects are broken; everything else is restored")]
    Broken(u64),
    #[error("the process cannot be set up")]
    Setup(#[from] std::io::Error),
}

impl Restore {
    pub async fn run(&self) -> Result<(), Error> {
        // First, so that a mistaken path is told before hours of work.
        let master = self.master_key()?;
        let progress = Arc::new(Progress::default());
        let (from, folder, counted) = (self.from.clone(), self.data.clone(), Arc::clone(&progress));
        let restored = tokio::task::spawn_blocking(move || restore(&from, &folder, &counted)).await;
        let manifest = restored.map_err(std::io::Error::other)??;
        println!(
            "restored the backup of {}: {} files, {} copied",
            super::words::time_shown(Some(manifest.created)),
            progress.done.load(Ordering::Relaxed),
            shown(progress.copied.load(Ordering::Relaxed)),
        );
        let local = Local::open(&self.data).await?;
        if let Some(master) = &master {
            local.encrypt_with(master);
        }
        let metrics = Metrics::register(&mut Default::default());
        let found = Scrub::new(Arc::new(local), metrics)
            .pass(Pace::Full, &CancellationToken::new())
            .await?;
        for object in &found.objects_broken {
            println!("{}", broken_shown(object));
        }
        println!(
            "{} objects, {}, {} broken",
            found.objects,
            shown(found.bytes),
            found.broken
        );
        match found.broken {
            0 => Ok(()),
            broken => Err(Error::Broken(broken)),
        }
    }

    /// The master key that was given, or lies in the data folder.
    fn master_key(&self) -> Result<Option<MasterKey>, MasterKeyError> {
        let is_there = self.master_key_file.is_some() || self.data.join("master-key").exists();
        is_there
            .then(|| MasterKey::load(self.master_key_file.as_deref(), &self.data))
            .transpose()
    }
}
