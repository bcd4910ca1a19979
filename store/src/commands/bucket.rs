//! `penstock-store bucket`.

use super::{
    Connection, Error, Output,
    words::{shown, size},
};
use penstock_rdma::admin::Quota;

/// Buckets, and how much may be in them.
#[derive(Debug, clap::Subcommand)]
pub enum BucketCommand {
    /// Tell of all buckets, and how much is in them.
    List(List),
    /// Make a bucket.
    Create(Named),
    /// Delete a bucket that is empty.
    Delete(Named),
    /// Set the most bytes that a bucket may hold, all versions together. What is there already stays.
    Quota(SetQuota),
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct Named {
    #[arg(value_name = "BUCKET")]
    bucket: String,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub struct SetQuota {
    #[arg(value_name = "BUCKET")]
    bucket: String,

    /// The limit: bytes, or a number with Ki, Mi, Gi, Ti.
    #[arg(value_name = "SIZE", value_parser = size, required_unless_present = "none")]
    limit: Option<u64>,

    /// Without a limit again.
    #[arg(long, conflicts_with = "limit")]
    none: bool,

    #[command(flatten)]
    connection: Connection,
}

impl BucketCommand {
    pub async fn run(&self) -> Result<(), Error> {
        match self {
            Self::List(list) => list.run().await,
            Self::Create(named) => {
                named.connection.open()?.create_bucket(&named.bucket).await?;
                println!("created {}", named.bucket);
                Ok(())
            }
            Self::Delete(named) => {
                named.connection.open()?.delete_bucket(&named.bucket).await?;
                println!("deleted {}", named.bucket);
                Ok(())
            }
            Self::Quota(set) => {
                let quota = Quota { bytes: set.limit };
                set.connection.open()?.set_quota(&set.bucket, quota).await?;
                match set.limit {
                    Some(limit) => println!("{} may hold {}", set.bucket, shown(limit)),
                    None => println!("{} has no limit", set.bucket),
                }
                Ok(())
            }
        }
    }
}

impl List {
    async fn run(&self) -> Result<(), Error> {
        let stats = self.connection.open()?.stats().await?;
        if self.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&stats.buckets)?);
            return Ok(());
        }
        let longest = stats
            .buckets
            .keys()
            .map(String::len)
            .max()
            .unwrap_or(0)
            .max("BUCKET".len());
        println!(
            "{:longest$}  {:>10}  {:>12}  {:>12}",
            "BUCKET", "OBJECTS", "SIZE", "QUOTA"
        );
        for (name, bucket) in &stats.buckets {
            let quota = bucket.quota.map_or_else(|| "-".to_owned(), shown);
            let size = shown(bucket.bytes);
            println!("{name:longest$}  {:>10}  {size:>12}  {quota:>12}", bucket.objects);
        }
        Ok(())
    }
}
