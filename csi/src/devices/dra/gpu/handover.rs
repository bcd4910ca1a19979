//! NVIDIA's own CDI specifications (`nvidia-ctk cdi generate`, and its service `nvidia-cdi-refresh`): where a node has one that describes a
//! GPU as it is now, containers get the GPU by it.

use crate::devices::{dra::file, gpu::Gpu};
use serde::Deserialize;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The kind of NVIDIA's devices.
const KIND: &str = "nvidia.com/gpu";

/// What matters of a specification.
#[derive(Deserialize)]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edits {
    #[serde(default)]
    device_nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    path: PathBuf,
}

/// The name by which NVIDIA's specifications describe a GPU whose device node is `own`, if they do.
pub(super) fn described(folders: &[PathBuf], gpu: &Gpu, own: &Path) -> Option<String> {
    let files = folders
        .iter()
        .flat_map(|folder| file::list(folder).unwrap_or_default());
    let named = files.filter(|path| is_spec(path)).find_map(|path| {
        let name = name_in(&path, gpu, own)?;
        Some(format!("{KIND}={name}"))
    })?;
    Some(named)
}

fn is_spec(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    matches!(extension, Some("json" | "yaml"))
}

/// By its UUID, or else by its number.
fn name_in(path: &Path, gpu: &Gpu, own: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    if !text.contains(KIND) {
        return None;
    }
    // JSON is YAML.
    let spec = serde_norway::from_str::<Spec>(&text);
    let spec = spec.inspect_err(|error| tracing::warn!("{} is not understood: {error}", path.display()));
    let spec = spec.ok().filter(|spec| spec.kind == KIND)?;
    // One that was made for another version of the driver names libraries that are not there any more, and one that was made before a
    // reboot may have other numbers.
    if !text.contains(&gpu.driver) {
        tracing::warn!(
            "{} does not name the driver's version {} and is not used; make it anew with nvidia-ctk cdi generate",
            path.display(),
            gpu.driver
        );
        return None;
    }
    let node = Path::new("/dev").join(own);
    let number = gpu.index.to_string();
    [gpu.uuid.as_str(), number.as_str()].into_iter().find_map(|name| {
        let device = spec.devices.iter().find(|device| device.name == name)?;
        let nodes = &device.container_edits.device_nodes;
        let same = nodes.iter().any(|found| found.path == node);
        same.then(|| name.to_owned())
    })
}
