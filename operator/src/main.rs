//! `penstock-operator`: makes StorageClusters and VectorIndexes true.
//!
//! ```text
//!   StorageCluster ──watch──▶ controller ──▶ reconcile: credentials, tls, resources, gateway (applied), nodes (observed)
//!                                               └──▶ status: what was found, told once
//!   VectorIndex ──watch──▶ vectors ──▶ reconcile: storage (key), etcd, Milvus, workers (applied), build (asked of Milvus)
//!                                               └──▶ status
//! ```
//! Two replicas run; the one that holds the Lease reconciles.
#![forbid(unsafe_code)]

mod apply;
mod check;
mod context;
mod controller;
mod credentials;
mod error;
mod finalize;
mod gateway;
mod lease;
mod metrics;
mod needs;
mod nodes;
mod pods;
mod rdma;
mod reconciliation;
mod resources;
mod secrets;
mod status;
mod tls;
mod vectors;

use crate::error::Error;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Reconciles Penstock's custom resources.
#[derive(Parser)]
#[command(name = "penstock-operator", version)]
struct Cli {
    #[command(flatten)]
    service: penstock_service::Args,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile until SIGTERM. Several may run: one leads, the others wait.
    Run(context::Config),
    /// Say whether an installation is complete: CRDs, CSI driver, controller and node agents.
    Check(check::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.service.init_logging();
    // Fails only when a provider is installed already, which then serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    penstock_service::exit(match cli.command {
        Command::Run(config) => run(&cli.service, config).await,
        Command::Check(wanted) => check::run(&wanted).await,
    })
}

async fn run(service: &penstock_service::Args, config: context::Config) -> Result<(), Error> {
    let shutdown = penstock_service::shutdown::on_signal().map_err(Error::Signals)?;
    let client = kube::Client::try_default().await.map_err(Error::Connect)?;
    let mut admin = penstock_service::Admin::default();
    let metrics = metrics::Metrics::register(&mut admin.metrics);
    let api = client.clone();
    admin.readiness.probe("api-server", move || {
        let api = api.clone();
        async move {
            api.apiserver_version()
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
    });
    admin.serve(service, shutdown.clone()).await?;

    let election = lease::Election::new(client.clone(), &config);
    let context = context::Context::new(client, config, metrics);
    lease::lead(election, context.metrics.clone(), shutdown, |leading| {
        let vectors = vectors::run(context.clone(), leading.clone());
        async {
            tokio::join!(controller::run(context, leading), vectors);
        }
    })
    .await
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
