//! The ports of this machine, as rails.

use super::{
    context::{Options, open_port},
    device::{GidEntry, Port, Sysfs},
    preflight::try_memory,
    sys::Verbs,
};
use crate::fabric::{DeviceInfo, Error, Look, Purpose, Source, Unavailable};
use std::time::Duration;

/// How long to wait before ports are looked for again. It costs some reads of sysfs.
pub const PAUSE: Duration = Duration::from_secs(10);
/// Ports of one process at most.
const MOST: usize = 16;

/// The ports of this machine that its [`Options`] choose: all as fast as the fastest one, or those of the named devices.
#[derive(Debug, Clone)]
pub struct Machine {
    options: Options,
    purpose: Purpose,
}

impl Machine {
    /// Ports for memory of this `purpose`, which is tried with each.
    pub fn new(options: Options, purpose: Purpose) -> Self {
        Self { options, purpose }
    }

    fn chosen(&self) -> Result<Vec<(Port, GidEntry)>, Unavailable> {
        let choice = &self.options.choice;
        let mut usable = Sysfs::default().choose(choice)?;
        let (best, rate) = match usable.first() {
            Some((port, _)) => (port.infiniband, port.gbits),
            None => return Ok(usable),
        };
        match choice.address {
            // An address is one port's.
            Some(_) => usable.truncate(1),
            None if choice.devices.is_empty() => {
                usable.retain(|(port, _)| port.infiniband == best && port.gbits >= rate);
            }
            None => {}
        }
        usable.truncate(MOST);
        Ok(usable)
    }
}

impl Source for Machine {
    /// # Panics
    /// Outside a Tokio runtime with I/O.
    fn look(&self, known: &[DeviceInfo]) -> Look {
        let mut look = Look::default();
        let found = Verbs::load().and_then(|verbs| Ok((verbs, self.chosen()?)));
        let (verbs, chosen) = match found {
            Ok(found) => found,
            Err(why) => {
                look.why = Some(why);
                return look;
            }
        };
        for (port, gid) in chosen {
            let is_known = |info: &DeviceInfo| {
                info.name == port.device && info.port == port.number && info.gid == gid.gid
            };
            if known.iter().any(is_known) {
                continue;
            }
            let opened = open_port(verbs, &self.options, port, gid)
                .and_then(|device| try_memory(&*device, self.purpose).map(|()| device));
            match opened {
                Ok(device) => look.opened.push(device),
                Err(error) => {
                    tracing::debug!(%error, "an RDMA device cannot be used");
                    look.why.get_or_insert(match error {
                        Error::Unavailable(why) => why,
                        other => Unavailable::Failed(other.to_string()),
                    });
                }
            }
        }
        look
    }
}
