//! How a storage node uses RDMA devices.

use crate::commands::preflight::DeviceArgs;
use penstock_rdma::{
    fabric::{Purpose, Rails, Unavailable},
    verbs::{Machine, PAUSE},
};
use penstock_store::{
    metrics::Metrics,
    rdma::{self, Rdma},
};
use std::time::Duration;

/// RDMA devices and what is spent on them.
#[derive(Debug, clap::Args)]
pub struct RdmaArgs {
    /// Whether bytes may go by RDMA: `prefer` uses a device if there is one, `require` does not start without, `off` uses none.
    #[arg(
        long = "rdma",
        env = "PENSTOCK_RDMA",
        value_name = "POLICY",
        default_value = "prefer"
    )]
    policy: RdmaPolicy,

    #[command(flatten)]
    device: DeviceArgs,

    /// Registered memory between disk and each RDMA device, in MiB; it is pinned as it is first needed.
    #[arg(long = "rdma-staging", env = "PENSTOCK_RDMA_STAGING", value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    staging: u32,

    /// RDMA sessions of one access key.
    #[arg(long = "rdma-sessions-per-key", env = "PENSTOCK_RDMA_SESSIONS_PER_KEY", value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    sessions_per_key: u32,

    /// An RDMA session without a request for this many seconds ends.
    #[arg(long = "rdma-idle", env = "PENSTOCK_RDMA_IDLE", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    idle: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RdmaPolicy {
    Require,
    Prefer,
    Off,
}

impl RdmaArgs {
    /// The RDMA side as asked for.
    pub fn open(&self, metrics: &Metrics) -> Result<Rdma, Unavailable> {
        if self.policy == RdmaPolicy::Off {
            tracing::info!("RDMA is switched off; bytes go as HTTP bodies");
            return Ok(Rdma::off(metrics.clone()));
        }
        let machine = Machine::new(self.device.options(), Purpose::Staging);
        let rails = Rails::watch(machine, PAUSE);
        if let Err(why) = rails.standing()
            && self.policy == RdmaPolicy::Require
        {
            return Err(why);
        }
        Ok(Rdma::new(rails, self.limits(), metrics.clone()))
    }

    fn limits(&self) -> rdma::Limits {
        rdma::Limits {
            staging_bytes: u64::from(self.staging) << 20,
            sessions_per_key: usize::try_from(self.sessions_per_key).unwrap_or(usize::MAX),
            idle: Duration::from_secs(self.idle.into()),
            ..rdma::Limits::default()
        }
    }
}
