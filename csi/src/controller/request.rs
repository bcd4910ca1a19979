//! What CreateVolume asks for, checked.

use super::{error::Error, name, registry::Record};
use crate::{
    attributes::{Attributes, Parameters},
    proto::csi::{
        CapacityRange, CreateVolumeRequest, VolumeCapability,
        volume_capability::{AccessType, access_mode::Mode},
    },
};

/// The CSI specification's limit on a string, in bytes ("Size Limits").
const ID_MAX: usize = 128;

/// A checked CreateVolume request.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The volume's key.
    pub key: String,
    name: String,
    attributes: Attributes,
    /// In bytes; 0 where nothing is asked for.
    required: i64,
    limit: i64,
}

impl Wanted {
    pub(super) fn parse(request: &CreateVolumeRequest) -> Result<Self, Error> {
        must_be_given("name", &request.name)?;
        must_be_some(&request.volume_capabilities)?;
        capabilities(&request.volume_capabilities)?;
        if request.volume_content_source.is_some() {
            let told =
                "volumes cannot be made from snapshots or other volumes; remove the claim's dataSource";
            return Err(Error::Unsupported(told.to_owned()));
        }
        if !request.mutable_parameters.is_empty() {
            let told = "volumes have no mutable parameters; remove the claim's volumeAttributesClassName";
            return Err(Error::Unsupported(told.to_owned()));
        }
        let CapacityRange {
            required_bytes: required,
            limit_bytes: limit,
        } = request.capacity_range.unwrap_or_default();
        if required < 0 || limit < 0 || (limit > 0 && limit < required) {
            return Err(Error::Capacity { required, limit });
        }
        let key = name::of_volume(&request.name);
        let wanted = Self {
            attributes: Parameters::parse(&request.parameters)?.volume(&key),
            key,
            name: request.name.clone(),
            required,
            limit,
        };
        let id = wanted.record().id();
        if id.len() > ID_MAX {
            let told = format!(
                "the volume's id would be {id:?}, longer than {ID_MAX} bytes; choose a shorter prefix"
            );
            return Err(Error::Unsupported(told));
        }
        Ok(wanted)
    }

    /// What to remember of the volume.
    pub(super) fn record(&self) -> Record {
        Record {
            name: self.name.clone(),
            // A size is remembered and not enforced, so that the smallest one asked for does.
            capacity_bytes: if self.required > 0 {
                self.required
            } else {
                self.limit
            },
            attributes: self.attributes.clone(),
        }
    }

    /// Whether the volume that is there is the one asked for.
    pub(super) fn must_match(&self, found: &Record) -> Result<(), Error> {
        let differs = |what| {
            Err(Error::Incompatible {
                name: self.name.clone(),
                what,
            })
        };
        if found.name != self.name {
            return differs(format!("the name {:?}", found.name));
        }
        if found.attributes != self.attributes {
            return differs(format!("the parameters {:?}", sorted(&found.attributes)));
        }
        let size = found.capacity_bytes;
        let too_large = self.limit > 0 && size > self.limit;
        // A volume without a size has room for any.
        if size > 0 && (size < self.required || too_large) {
            return differs(format!("a size of {size} bytes"));
        }
        Ok(())
    }
}

fn sorted(attributes: &Attributes) -> std::collections::BTreeMap<String, String> {
    attributes.to_map().into_iter().collect()
}

pub(super) fn must_be_given(field: &'static str, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        Err(Error::Missing(field))
    } else {
        Ok(())
    }
}

pub(super) fn must_be_some(capabilities: &[VolumeCapability]) -> Result<(), Error> {
    if capabilities.is_empty() {
        Err(Error::Missing("volume_capabilities"))
    } else {
        Ok(())
    }
}

/// Whether volumes can be used in all these ways: as file systems, by any number of nodes.
pub(super) fn capabilities(capabilities: &[VolumeCapability]) -> Result<(), Error> {
    for capability in capabilities {
        match &capability.access_type {
            Some(AccessType::Mount(_)) => {}
            Some(AccessType::Block(_)) => {
                let told =
                    "volumes are file systems and no block devices; set the claim's volumeMode to Filesystem";
                return Err(Error::Unsupported(told.to_owned()));
            }
            None => return Err(Error::Missing("access_type of a volume capability")),
        }
        let mode = capability
            .access_mode
            .as_ref()
            .map(|mode| Mode::try_from(mode.mode));
        match mode {
            None | Some(Ok(Mode::Unknown)) => {
                return Err(Error::Missing("access_mode of a volume capability"));
            }
            Some(Ok(_)) => {}
            Some(Err(number)) => return Err(Error::Unsupported(format!("there is no access mode {number}"))),
        }
    }
    Ok(())
}
