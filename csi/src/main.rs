//! `penstock-csi`: the roles of the CSI driver.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use penstock_csi::{agent, controller, devices, gateway, mount, node};
use std::{process::ExitCode, time::Duration};

/// Penstock's CSI driver: buckets as volumes of pods.
#[derive(Debug, Parser)]
#[command(name = "penstock-csi", version)]
struct Cli {
    #[command(flatten)]
    service: penstock_service::Args,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Make and delete volumes (CSI Controller service); runs once, beside csi-provisioner.
    Controller(controller::Args),
    /// Mount volumes (CSI Node service); runs privileged on every node.
    Node(node::Args),
    /// Serve the files of mounted volumes; runs unprivileged on every node.
    Agent(agent::Args),
    /// Offer this node's RDMA NICs or GPUs to pods; runs on every node.
    Devices(devices::Args),
    /// Print this machine's RDMA NICs and GPUs, how they are, and how far apart.
    Inventory(devices::inventory::Args),
    /// Mount one bucket here, without Kubernetes, until it is unmounted or SIGTERM.
    Mount(mount::Args),
    /// Serve S3 to clients on this machine, by the fastest way to a storage node, without Kubernetes.
    Gateway(gateway::Args),
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Controller(#[from] controller::ControllerError),
    #[error(transparent)]
    Node(#[from] node::NodeError),
    #[error(transparent)]
    Agent(#[from] agent::AgentError),
    #[error(transparent)]
    Devices(#[from] devices::DevicesError),
    #[error(transparent)]
    Inventory(#[from] devices::inventory::InventoryError),
    #[error(transparent)]
    Mount(#[from] mount::Error),
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    #[error("the process cannot be set up")]
    Setup(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.service.init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return penstock_service::exit(Err(Error::Setup(error))),
    };
    let outcome = runtime.block_on(run(cli));
    // A thread that is stuck in a mount must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    penstock_service::exit(outcome)
}

async fn run(cli: Cli) -> Result<(), Error> {
    let shutdown = penstock_service::shutdown::on_signal()?;
    match cli.role {
        Role::Controller(args) => controller::run(&cli.service, args, shutdown).await?,
        Role::Node(args) => node::run(&cli.service, args, shutdown).await?,
        Role::Agent(args) => agent::run(&cli.service, args, shutdown).await?,
        Role::Devices(args) => devices::run(&cli.service, args, shutdown).await?,
        Role::Inventory(args) => devices::inventory::run(args)?,
        Role::Mount(args) => mount::run(&cli.service, args, shutdown).await?,
        Role::Gateway(args) => gateway::run(&cli.service, args, shutdown).await?,
    }
    Ok(())
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
