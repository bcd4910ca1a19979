//! Which ways bytes can take from this machine.

use crate::access::{Access, Host};
use penstock_rdma::{
    Policy,
    fabric::{Purpose, Rails, Unavailable},
    verbs,
};
use penstock_store::remote::Remote;

/// Options of the roles that move bytes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TransportArgs {
    /// RDMA devices to use. Default: all that are as fast as the fastest.
    #[arg(
        long,
        env = "PENSTOCK_RDMA_DEVICE",
        value_name = "NAME,…",
        value_delimiter = ','
    )]
    pub rdma_device: Vec<String>,
    /// Use no RDMA device, whatever volumes say.
    #[arg(long, env = "PENSTOCK_NO_RDMA")]
    pub no_rdma: bool,
}

/// What this machine has for moving bytes. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    /// `None` when no RDMA shall be used.
    rails: Option<Rails>,
    host: Host,
}

impl Transport {
    /// Looks for RDMA devices, now and for as long as this exists. Must be called inside a Tokio runtime.
    pub fn find(args: &TransportArgs, host: Host) -> Self {
        let options = verbs::Options {
            choice: verbs::Choice {
                devices: args.rdma_device.clone(),
                ..verbs::Choice::default()
            },
            ..verbs::Options::default()
        };
        let machine = verbs::Machine::new(options, Purpose::Windows);
        let rails = (!args.no_rdma).then(|| Rails::watch(machine, verbs::PAUSE));
        Self { rails, host }
    }

    /// The engine that asks a storage node, by the ways that `policy` allows.
    ///
    /// # Errors
    /// When its endpoint or the CA certificate cannot be used.
    pub fn engine(&self, access: &Access, policy: Policy) -> Result<Remote, penstock_rdma::Error> {
        access.engine_by(policy, self.rails.clone(), &self.host)
    }

    /// The devices, and those that come later.
    pub fn rails(&self) -> Option<&Rails> {
        self.rails.as_ref()
    }

    /// Where this host has sockets of storage nodes.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Why bytes travel by HTTP: what is missing here goes before what the storage node said.
    pub fn why_not(&self, said: Option<String>) -> String {
        let here = match &self.rails {
            Some(rails) => rails.standing().map(|_| ()),
            None => Err(Unavailable::NoDevice(
                " for this process".to_owned(),
                "it was started with --no-rdma".to_owned(),
            )),
        };
        match here {
            Err(why) => format!("{}: {why}", why.reason()),
            Ok(()) => said.unwrap_or_else(|| "the storage node does not say why".to_owned()),
        }
    }
}
