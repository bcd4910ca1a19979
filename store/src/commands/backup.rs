//! `penstock-store backup`.

use super::{
    Connection, Error, Output,
    words::{shown, time_shown},
};
use penstock_rdma::admin::{BackupInfo, BackupRequest};
use std::time::Duration;

/// How often it is asked how far the storage node is.
const PAUSE: Duration = Duration::from_millis(300);

/// Copies of everything that a storage node holds, in the folder that it was given for them (--backups), made while it serves.
#[derive(Debug, clap::Subcommand)]
pub enum BackupCommand {
    /// Make one, and wait until it is durable.
    Create(Create),
    /// Tell of all.
    List(List),
    /// Delete one.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// What it is called; the time, without.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// When it is made, delete all but so many of the newest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    connection: Connection,
}

impl BackupCommand {
    pub async fn run(&self) -> Result<(), Error> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Delete(delete) => {
                delete.connection.open()?.delete_backup(&delete.name).await?;
                println!("deleted {}", delete.name);
                Ok(())
            }
        }
    }
}

impl Create {
    async fn run(&self) -> Result<(), Error> {
        let client = self.connection.open()?;
        let request = BackupRequest {
            name: self.name.clone(),
            keep: self.keep,
        };
        let name = client.start_backup(&request).await?.name;
        let (last, made) = loop {
            let list = client.backups().await?;
            let Some(last) = list.last.filter(|last| last.name == name) else {
                return Err(Error::NoBackup(
                    name,
                    "the storage node was started anew".to_owned(),
                ));
            };
            if !last.running {
                break (last, list.backups.into_iter().find(|made| made.name == name));
            }
            tokio::time::sleep(PAUSE).await;
        };
        if let Some(cause) = last.error {
            return Err(Error::NoBackup(name, cause));
        }
        let Some(made) = made else {
            return Err(Error::NoBackup(name, "it was deleted".to_owned()));
        };
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&made)?),
            Output::Text => {
                tell(&made);
                println!("{} files, {} copied", last.files, shown(last.copied));
            }
        }
        match made.missing {
            0 => Ok(()),
            missing => Err(Error::Missing(missing)),
        }
    }
}

impl List {
    async fn run(&self) -> Result<(), Error> {
        let list = self.connection.open()?.backups().await?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&list)?),
            Output::Text => {
                if list.backups.is_empty() {
                    println!("there is no backup");
                }
                list.backups.iter().for_each(tell);
                if let Some(last) = list.last.filter(|last| last.running) {
                    println!("{}: being made, {} of {} files", last.name, last.done, last.files);
                }
            }
        }
        Ok(())
    }
}

fn tell(backup: &BackupInfo) {
    let missing = match backup.missing {
        0 => String::new(),
        missing => format!(", {missing} data files missing"),
    };
    let (size, created) = (shown(backup.bytes), time_shown(Some(backup.created)));
    println!(
        "{}: {} objects, {size}, of {created}{missing}",
        backup.name, backup.objects
    );
}
