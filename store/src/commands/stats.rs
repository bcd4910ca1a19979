//! `penstock-store stats`.

use super::{Connection, Error, Output, words::shown};

/// How much a storage node holds.
#[derive(Debug, clap::Args)]
pub struct StatsCommand {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

impl StatsCommand {
    pub async fn run(&self) -> Result<(), Error> {
        let stats = self.connection.open()?.stats().await?;
        if self.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&stats)?);
            return Ok(());
        }
        println!("version:   {}", stats.version);
        println!("buckets:   {}", stats.buckets.len());
        println!("objects:   {}", stats.objects);
        println!("size:      {}", shown(stats.bytes));
        if let (Some(free), Some(size)) = (stats.disk_free, stats.disk_size) {
            println!("disk free: {} of {}", shown(free), shown(size));
        }
        Ok(())
    }
}
