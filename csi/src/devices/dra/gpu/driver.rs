//! The files of NVIDIA's driver that a container needs, as they are on the host.
//!
//! Its libraries must be of the kernel driver's version, so an image cannot bring them. They are mounted under all names that they have on the
//! host (programs load `libcuda.so.1`, which is a link there), into the folders that dynamic linkers search last and without being told
//! (`ld.so --help`: *system search path*). NVIDIA's container toolkit mounts them under one name each and has a hook that makes the links and
//! runs `ldconfig` in the container; without one, only this works for images of any distribution: a variable `LD_LIBRARY_PATH` would take the
//! place of the image's own.

use crate::devices::dra::cdi::Mount;
use std::{
    collections::BTreeSet,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

/// What computes, is asked for, and encodes (`compute`, `utility` and `video` of NVIDIA's driver capabilities); what draws is left out.
const LIBRARIES: [&str; 17] = [
    "libcuda",
    "libcudadebugger",
    "libnvcuvid",
    "libnvidia-allocator",
    "libnvidia-cfg",
    "libnvidia-encode",
    "libnvidia-gpucomp",
    "libnvidia-ml",
    "libnvidia-nvvm",
    "libnvidia-nvvm70",
    "libnvidia-opencl",
    "libnvidia-opticalflow",
    "libnvidia-pkcs11",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler",
    "libnvidia-sandboxutils",
    "libnvidia-tileiras",
];

/// NVIDIA's driver, installed below a folder: `/`, or that of a container that installs it (`/run/nvidia/driver`).
#[derive(Debug, Clone)]
pub(in crate::devices) struct Driver {
    /// By the path that the container runtime sees.
    pub(in crate::devices) host: PathBuf,
    /// By the path that this process sees.
    pub(in crate::devices) here: PathBuf,
}

impl Driver {
    /// Where a library may be, by paths that this process sees.
    pub(in crate::devices) fn places(&self, library: &str) -> Vec<PathBuf> {
        let folders = folders().into_iter();
        folders
            .map(|folder| self.here.join(folder).join(library))
            .collect()
    }

    /// What containers get of the driver of this version.
    pub(super) fn files(&self, version: &str) -> Result<Vec<Mount>, String> {
        let cuda = format!("libcuda.so.{version}");
        let folder = folders()
            .into_iter()
            .find(|folder| self.here.join(folder).join(&cuda).is_file());
        let folder = folder.ok_or_else(|| {
            format!(
                "the libraries of NVIDIA's driver {version} are not on the node ({cuda} is in none of {} below {}); \
                 install them, tell the chart's devices.gpu.driverRoot where they are, or set driverLibraries to false for an image that has them",
                folders().join(", "),
                self.host.display(),
            )
        })?;
        let names = names(&self.here.join(&folder), version)
            .map_err(|error| format!("{} cannot be read: {error}", self.host.join(&folder).display()))?;
        let mut mounts = Vec::new();
        for inside in searched() {
            for (name, file) in &names {
                mounts.push(Mount::new(
                    self.host.join(&folder).join(file),
                    Path::new(&inside).join(name),
                ));
            }
        }
        let tool = Path::new("usr/bin/nvidia-smi");
        // A link may point anywhere.
        if fs::symlink_metadata(self.here.join(tool)).is_ok_and(|found| found.is_file()) {
            mounts.push(Mount::new(self.host.join(tool), Path::new("/").join(tool)));
        }
        Ok(mounts)
    }
}

/// Folders that distributions install the driver's libraries into.
fn folders() -> Vec<String> {
    vec![
        format!("usr/lib/{ARCH}-linux-gnu"),
        format!("usr/lib/{ARCH}-linux-gnu/nvidia/current"),
        "usr/lib64".to_owned(),
        "usr/lib".to_owned(),
    ]
}

/// Folders of a container that its dynamic linker searches: Debian's and its descendants', and all others'.
fn searched() -> [String; 2] {
    [format!("/usr/lib/{ARCH}-linux-gnu"), "/usr/lib64".to_owned()]
}

/// Triton (PyTorch's compiler) looks for libcuda in the cache of the image's linker, which does not have it.
pub(super) fn for_triton() -> String {
    let [_, folder] = searched();
    format!("TRITON_LIBCUDA_PATH={folder}")
}

/// The names of the libraries in a folder, each with the file that it leads to.
fn names(folder: &Path, version: &str) -> std::io::Result<BTreeSet<(String, String)>> {
    let files = LIBRARIES.map(|library| format!("{library}.so.{version}"));
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let file = file_behind(folder, &name);
        if files.contains(&file) {
            found.insert((name, file));
        }
    }
    Ok(found)
}

/// Follows links within a folder: `libcuda.so` to `libcuda.so.1` to `libcuda.so.580.95.05`.
fn file_behind(folder: &Path, name: &str) -> String {
    let mut name = name.to_owned();
    for _ in 0..4 {
        let target = fs::read_link(folder.join(&name)).ok();
        match target.as_deref().and_then(Path::to_str) {
            Some(next) if !next.contains('/') => name = next.to_owned(),
            _ => break,
        }
    }
    name
}
