//! `penstock-store preflight`.

use penstock_rdma::verbs;
use std::{net::IpAddr, process::ExitCode};

/// Whether RDMA can be used here.
#[derive(Debug, clap::Args)]
pub struct Preflight {
    #[command(flatten)]
    device: DeviceArgs,
}

/// Which RDMA devices.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// These RDMA devices only, by their names in /sys/class/infiniband; else all that are as fast as the fastest.
    #[arg(
        long,
        env = "PENSTOCK_RDMA_DEVICE",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    rdma_device: Vec<String>,

    /// The local address that clients reach; the RDMA port that has it is used.
    #[arg(long, env = "PENSTOCK_RDMA_ADDRESS", value_name = "IP")]
    rdma_address: Option<IpAddr>,
}

impl DeviceArgs {
    pub fn options(&self) -> verbs::Options {
        verbs::Options {
            choice: verbs::Choice {
                devices: self.rdma_device.clone(),
                address: self.rdma_address,
                ..verbs::Choice::default()
            },
            ..verbs::Options::default()
        }
    }
}

impl Preflight {
    /// Looks, and tells.
    pub async fn run(&self) -> ExitCode {
        let options = self.device.options();
        let report = verbs::preflight::run(&options).await;
        for finding in &report.findings {
            let mark = if finding.good { "ok" } else { "--" };
            println!("{mark} {}: {}", finding.subject, finding.text);
        }
        match report.reason() {
            None => {
                println!("RDMA can be used");
                ExitCode::SUCCESS
            }
            Some(reason) => {
                println!("RDMA cannot be used: {reason}");
                ExitCode::FAILURE
            }
        }
    }
}
