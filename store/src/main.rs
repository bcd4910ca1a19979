//! `penstock-store`: the storage node.
#![forbid(unsafe_code)]

mod commands;

use clap::{Parser, Subcommand};
use commands::{
    BackupCommand, BucketCommand, CheckCommand, KeyCommand, Preflight, Restore, Serve, StatsCommand,
};
use std::{process::ExitCode, time::Duration};

/// The Penstock storage node: an S3 server that keeps objects on this machine's disk.
///
/// First steps:
///   penstock-store serve --data /var/lib/penstock-store
///   . /var/lib/penstock-store/root-credentials
/// and give any S3 client the printed endpoint with the key pair from that file (path-style addressing).
#[derive(Debug, Parser)]
#[command(name = "penstock-store", version, verbatim_doc_comment)]
struct Cli {
    #[command(flatten)]
    service: penstock_service::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 until SIGTERM; then requests under way have 10 s to end.
    Serve(Box<Serve>),
    /// Say whether this machine and this user can move bytes by RDMA: one line per finding, the remedy where something is
    /// missing. Ends with status 1 when RDMA cannot be used.
    Preflight(Preflight),
    /// Make, list and revoke keys that are limited to buckets and prefixes.
    #[command(subcommand)]
    Key(KeyCommand),
    /// List, make and delete buckets, and limit how much is in them.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Tell how much a storage node holds.
    Stats(StatsCommand),
    /// Have a storage node compare everything that it holds with its checksums, and tell what is broken. Ends with status 1 if
    /// anything is.
    Check(CheckCommand),
    /// Have a storage node copy everything that it holds, while it serves; tell of the copies, and delete them.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Make a data folder of a backup, and compare everything in it with its checksums. Ends with status 1 if anything is broken.
    Restore(Restore),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.service.init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return penstock_service::exit(Err(error)),
    };
    let ended = runtime.block_on(async {
        use penstock_service::exit;
        match &cli.command {
            Command::Serve(serve) => exit(serve.run(&cli.service).await),
            Command::Preflight(preflight) => preflight.run().await,
            Command::Key(key) => exit(key.run().await),
            Command::Bucket(bucket) => exit(bucket.run().await),
            Command::Check(check) => exit(check.run().await),
            Command::Stats(stats) => exit(stats.run().await),
            Command::Backup(backup) => exit(backup.run().await),
            Command::Restore(restore) => exit(restore.run().await),
        }
    });
    // What is still blocked on the disk after the drain must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
