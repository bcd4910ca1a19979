//! GPUs as devices of claims: `gpu.penstock.io`.

mod driver;
mod handover;

pub(in crate::devices) use driver::Driver;

use super::{
    attribute::{self, Attributes, variable},
    cdi::{Edits, Node},
    offered::{Offered, Parameters},
};
use crate::devices::gpu::Gpu;
use k8s_openapi::api::resource::v1::{DeviceAttribute, DeviceCapacity};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// How a GPU is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::devices) struct GpuParameters {
    /// Whether the container gets the libraries of the node's driver. An image that has its own, of the same version, needs none.
    #[serde(default = "yes")]
    driver_libraries: bool,
}

fn yes() -> bool {
    true
}

impl Default for GpuParameters {
    fn default() -> Self {
        Self {
            driver_libraries: yes(),
        }
    }
}

impl Parameters for GpuParameters {
    const KIND: &'static str = "GpuParameters";
    const FIELDS: &'static str = "driverLibraries: true|false";
}

/// The host of GPUs.
pub(in crate::devices) struct GpuHost {
    /// Its folder of device nodes.
    pub(in crate::devices) dev: PathBuf,
    /// NVIDIA's driver on it.
    pub(in crate::devices) driver: Driver,
    /// Where NVIDIA's own CDI specifications may be.
    pub(in crate::devices) specs: Vec<PathBuf>,
}

impl Offered for Gpu {
    const DRIVER: &'static str = "gpu.penstock.io";
    const UNHEALTHY: &'static str = "gpu.penstock.io/unhealthy";
    type Parameters = GpuParameters;
    type Host = GpuHost;

    /// By its UUID: the driver's numbers may be other GPUs' after a reboot, or when one falls off its bus.
    fn name(&self) -> String {
        attribute::label(&self.uuid.to_ascii_lowercase().replace('-', "_"))
    }

    fn left_out(&self) -> Option<String> {
        let divided = self.mig.as_ref().is_some_and(|mig| mig.enabled);
        divided.then(|| {
            "it is divided (MIG), and what has the whole of it can use none of its parts; switch MIG off to have it offered"
                .to_owned()
        })
    }

    /// Names are those of NVIDIA's driver `gpu.nvidia.com`, so that conditions need no more than the other domain.
    fn attributes(&self) -> BTreeMap<String, DeviceAttribute> {
        let mut found = Attributes::of_place(self.pci.as_ref(), self.numa_node);
        let capability = self.compute_capability;
        let capability = capability.map(|(major, minor)| format!("{major}.{minor}"));
        found.text("type", Some("gpu"));
        found.text("uuid", Some(&self.uuid));
        found.text("productName", Some(&self.product));
        found.text("architecture", self.architecture.as_deref());
        found.version("cudaComputeCapability", capability.as_deref());
        found.version("driverVersion", Some(&self.driver));
        found.into_map()
    }

    fn capacity(&self) -> Option<BTreeMap<String, DeviceCapacity>> {
        let memory = attribute::bytes(self.memory_bytes);
        Some(BTreeMap::from([("memory".to_owned(), memory)]))
    }

    fn edits(&self, parameters: &GpuParameters, host: &GpuHost) -> Result<Edits, String> {
        let own = own_node(self).ok_or(
            "its device node is not there; run nvidia-smi on the node, which makes it, or start nvidia-persistenced at each boot",
        )?;
        let mut env = vec![
            variable("PENSTOCK_GPU_DEVICE", &self.name(), &self.uuid),
            // Images that are made for NVIDIA's runtime ask it for all GPUs, which it gives where it is a node's default.
            "NVIDIA_VISIBLE_DEVICES=void".to_owned(),
        ];
        let nodes = || self.nodes.iter().map(|node| Node::new(&host.dev, node)).collect();
        if !parameters.driver_libraries {
            return Ok(Edits {
                env,
                device_nodes: nodes(),
                ..Edits::default()
            });
        }
        // Who made them knows more of the driver than we do.
        if let Some(theirs) = handover::described(&host.specs, self, own) {
            return Ok(Edits {
                env,
                of_others: vec![theirs],
                ..Edits::default()
            });
        }
        env.push(driver::for_triton());
        Ok(Edits {
            env,
            device_nodes: nodes(),
            mounts: host.driver.files(&self.driver)?,
            ..Edits::default()
        })
    }
}

/// Its own device node, relative to `/dev`; the others belong to all GPUs.
fn own_node(gpu: &Gpu) -> Option<&Path> {
    let number = |node: &Path| {
        node.to_str()
            .and_then(|node| node.strip_prefix("nvidia")?.parse::<u32>().ok())
    };
    let mut nodes = gpu.nodes.iter().map(PathBuf::as_path);
    nodes.find(|node| number(node).is_some())
}

#[cfg(test)]
mod tests;
