//! What differs between the kinds of devices that claims are given. Everything else of the driver is the same for all of them.

use super::cdi::Edits;
use crate::devices::kind::Kind;
use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceCapacity};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug};

/// A kind of device that claims are given. Each has a driver of its own towards the kubelet and the scheduler.
pub(in crate::devices) trait Offered: Kind {
    /// The driver's name: that of its folder and sockets, of its slices, and the vendor of its CDI devices.
    const DRIVER: &'static str;
    /// Key of the taint of a device that must not be given away now.
    const UNHEALTHY: &'static str;
    /// How one is wanted.
    type Parameters: Parameters;
    /// What must be known of the node to describe a device to the container runtime.
    type Host: Send + Sync + 'static;

    /// Its name in the pool, a DNS label. A name never comes to mean another device, not by a reboot either: claims name devices by it.
    fn name(&self) -> String;

    /// Why it is not offered at all, healthy or not.
    fn left_out(&self) -> Option<String> {
        None
    }

    /// What claims choose by.
    fn attributes(&self) -> BTreeMap<String, DeviceAttribute>;

    /// How much of what it has.
    fn capacity(&self) -> Option<BTreeMap<String, DeviceCapacity>> {
        None
    }

    /// What a container gets that has it.
    ///
    /// # Errors
    /// Says what is missing on the node.
    fn edits(&self, parameters: &Self::Parameters, host: &Self::Host) -> Result<Edits, String>;
}

/// How a device is wanted: the `opaque.parameters` of a claim or a DeviceClass, of the API version `<driver>/v1alpha1`. Unknown fields must be
/// refused: who writes one believes that it does something.
pub(in crate::devices) trait Parameters:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Their kind.
    const KIND: &'static str;
    /// Their fields and what may be in them, for people.
    const FIELDS: &'static str;
}

/// The API version of a kind's parameters.
pub(super) fn api_version<K: Offered>() -> String {
    format!("{}/v1alpha1", K::DRIVER)
}
