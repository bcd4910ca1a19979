//! Which ways bytes can take from this machine.

use crate::access::{Access, Host};
use penstock_rdma::{
    Policy,
    fabric::{Device, Unavailable},
    verbs,
};
use penstock_store::{rdma::open_device, remote::Remote};
use std::sync::Arc;

/// Options of the roles that move bytes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TransportArgs {
    /// RDMA device to use. Default: the best one that works.
    #[arg(long, env = "PENSTOCK_RDMA_DEVICE", value_name = "NAME")]
    pub rdma_device: Option<String>,
    /// Use no RDMA device, whatever volumes say.
    #[arg(long, env = "PENSTOCK_NO_RDMA")]
    pub no_rdma: bool,
}

/// What this machine has for moving bytes. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    device: Result<Arc<dyn Device>, Unavailable>,
    host: Host,
}

impl Transport {
    /// Looks for an RDMA device, and says in one log line what it found. Must be called inside a Tokio runtime.
    pub fn find(args: &TransportArgs, host: Host) -> Self {
        let options = verbs::Options {
            choice: verbs::Choice {
                device: args.rdma_device.clone(),
                ..verbs::Choice::default()
            },
            ..verbs::Options::default()
        };
        let device = if args.no_rdma {
            Err(Unavailable::NoDevice(
                " for this process".to_owned(),
                "it was started with --no-rdma".to_owned(),
            ))
        } else {
            open_device(&options)
        };
        match &device {
            Ok(device) => {
                let info = device.info();
                tracing::info!(device = info.name, gid = %info.gid, gbits = info.gbits, "bytes can travel by RDMA");
            }
            Err(why) => tracing::info!(reason = why.reason(), "bytes travel by HTTP: {why}"),
        }
        Self { device, host }
    }

    /// The engine that asks a storage node, by the ways that `policy` allows.
    ///
    /// # Errors
    /// When its endpoint or the CA certificate cannot be used.
    pub fn engine(&self, access: &Access, policy: Policy) -> Result<Remote, penstock_rdma::Error> {
        access.engine_by(policy, self.device.as_ref().ok().cloned(), &self.host)
    }

    /// Why bytes travel by HTTP: what is missing here goes before what the storage node said.
    pub fn why_not(&self, said: Option<String>) -> String {
        match &self.device {
            Err(why) => format!("{}: {why}", why.reason()),
            Ok(_) => said.unwrap_or_else(|| "the storage node does not say why".to_owned()),
        }
    }
}
