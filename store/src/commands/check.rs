//! `penstock-store check`.

use super::{
    Connection, Error, Output,
    words::{broken_shown, shown},
};
use std::time::Duration;

/// How often it is asked how far the storage node is.
const PAUSE: Duration = Duration::from_millis(300);

/// Everything that a storage node holds, compared with its checksums.
#[derive(Debug, clap::Args)]
pub struct CheckCommand {
    /// Tell of the check that is under way, or the last one, and begin none.
    #[arg(long)]
    last: bool,

    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

impl CheckCommand {
    pub async fn run(&self) -> Result<(), Error> {
        let client = self.connection.open()?;
        if !self.last {
            match client.start_scrub().await {
                // It is waited for.
                Err(penstock_rdma::Error::Refused { code, .. }) if code == "ScrubInProgress" => {}
                started => started?,
            }
        }
        let mut status = client.scrub_status().await?;
        while status.running && !self.last {
            tokio::time::sleep(PAUSE).await;
            status = client.scrub_status().await?;
        }
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
            Output::Text => {
                for object in &status.objects_broken {
                    println!("{}", broken_shown(object));
                }
                let size = shown(status.bytes);
                println!("{} objects, {size}, {} broken", status.objects, status.broken);
            }
        }
        match status.broken {
            0 if status.started.is_some() && status.finished.is_none() && !status.running => {
                Err(Error::BrokeOff)
            }
            0 => Ok(()),
            broken => Err(Error::Broken(broken)),
        }
    }
}
