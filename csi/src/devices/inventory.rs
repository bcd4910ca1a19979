//! The command `inventory`: this machine's RDMA NICs and GPUs, how they are, and how far apart.

use super::{
    distance::{Between, Distance, distances},
    gpu::Gpu,
    kind::Kind,
    nic::Nic,
    nvml::Nvidia,
    source::{GpuSource as _, Gpus, Source as _, SourceError},
    sysfs::Sysfs,
};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine's sysfs.
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    pub sysfs: PathBuf,
    /// The machine's folder of device nodes.
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    pub dev: PathBuf,
    /// NVIDIA's management library, unless the linker finds libnvidia-ml.so.1.
    #[arg(long, value_name = "FILE")]
    pub nvml: Option<PathBuf>,
    /// How it is told.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why it is not known what there is.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The devices cannot be looked at.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Standard output.
    #[error("the inventory cannot be written")]
    Output(#[from] std::io::Error),
    /// JSON.
    #[error("the inventory cannot be written")]
    Json(#[from] serde_json::Error),
}

/// What there is.
#[derive(Debug, Serialize)]
struct Inventory {
    nics: Vec<Seen<Nic>>,
    gpus: Vec<Seen<Gpu>>,
    /// Why there are no GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpus: Option<String>,
    distances: Vec<Between>,
}

/// A device, and why nobody should be given it.
#[derive(Debug, Serialize)]
struct Seen<D> {
    #[serde(flatten)]
    device: D,
    trouble: Option<String>,
}

impl<D: Kind> Seen<D> {
    fn of(device: D) -> Self {
        Self {
            trouble: device.trouble(),
            device,
        }
    }
}

/// Writes the inventory to standard output.
///
/// # Errors
/// See [`InventoryError`].
pub fn run(args: Args) -> Result<(), InventoryError> {
    let sysfs = Sysfs::new(args.sysfs);
    let nics = sysfs.nics()?;
    let gpus = Nvidia::new(sysfs, args.dev, args.nvml.into_iter().collect()).gpus()?;
    let inventory = Inventory::of(nics, gpus);
    let text = match args.output {
        Output::Text => inventory.to_string(),
        Output::Json => serde_json::to_string_pretty(&inventory)? + "\n",
    };
    Ok(std::io::Write::write_all(
        &mut std::io::stdout(),
        text.as_bytes(),
    )?)
}

impl Inventory {
    fn of(nics: Vec<Nic>, gpus: Gpus) -> Self {
        let (gpus, no_gpus) = match gpus {
            Gpus::Found(gpus) => (gpus, None),
            Gpus::None(why) => (Vec::new(), Some(why)),
        };
        Self {
            distances: distances(&nics, &gpus),
            nics: nics.into_iter().map(Seen::of).collect(),
            gpus: gpus.into_iter().map(Seen::of).collect(),
            no_gpus,
        }
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = |trouble: &Option<String>| trouble.clone().unwrap_or_else(|| "healthy".to_owned());
        let numa = |node: Option<u32>| node.map_or_else(|| "-".to_owned(), |node| node.to_string());
        let mut rows = vec![["NIC", "LINK", "GBIT/S", "PCI", "NUMA", "HEALTH"].map(str::to_owned)];
        for Seen { device: nic, trouble } in &self.nics {
            let port = nic.port();
            rows.push([
                nic.name.clone(),
                port.map_or_else(|| "-".to_owned(), |port| port.link_layer.to_string()),
                port.map_or_else(
                    || "-".to_owned(),
                    |port| (port.hundred_mbits as f64 / 10.0).to_string(),
                ),
                nic.pci
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |pci| pci.address.clone()),
                numa(nic.numa_node),
                health(trouble),
            ]);
        }
        match self.nics.is_empty() {
            true => f.write_str("No RDMA NICs: the kernel shows none in /sys/class/infiniband.\n")?,
            false => table(f, &rows)?,
        }
        f.write_str("\n")?;
        let mut rows = vec![["GPU", "PRODUCT", "GIB", "PCI", "NUMA", "HEALTH"].map(str::to_owned)];
        for Seen { device: gpu, trouble } in &self.gpus {
            rows.push([
                gpu.uuid.clone(),
                gpu.product.clone(),
                format!("{:.0}", gpu.memory_bytes as f64 / f64::from(1 << 30)),
                gpu.pci
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |pci| pci.address.clone()),
                numa(gpu.numa_node),
                health(trouble),
            ]);
            for instance in gpu.mig.iter().flat_map(|mig| &mig.instances) {
                rows.push([
                    format!("  {}", instance.uuid),
                    instance.profile.clone(),
                    format!("{:.0}", instance.memory_bytes as f64 / f64::from(1 << 30)),
                    String::new(),
                    String::new(),
                    String::new(),
                ]);
            }
        }
        match &self.no_gpus {
            Some(why) => writeln!(f, "No GPUs: {why}.")?,
            None => table(f, &rows)?,
        }
        let known: Vec<_> = self
            .distances
            .iter()
            .filter(|pair| pair.distance != Distance::Unknown)
            .collect();
        if !known.is_empty() {
            let mut rows = vec![["FROM", "TO", "SHARE A"].map(str::to_owned)];
            rows.extend(
                known
                    .iter()
                    .map(|pair| [pair.nic.clone(), pair.gpu.clone(), pair.distance.to_string()]),
            );
            f.write_str("\n")?;
            table(f, &rows)?;
        }
        Ok(())
    }
}

/// Columns as wide as their widest entry; the last one is not filled.
fn table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    for row in rows {
        let mut line = String::new();
        for (column, entry) in row.iter().enumerate() {
            write!(line, "{entry:<width$}  ", width = width(column))?;
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{nic::tests::nic_at, recorded::gpu};

    #[test]
    fn people_see_what_there_is_and_how_far_apart() {
        let gpu = gpu();
        let root = gpu.pci.as_ref().unwrap().root.clone();
        let text =
            Inventory::of(vec![nic_at("mlx5_0", &root, 0)], Gpus::Found(vec![gpu.clone()])).to_string();
        for expected in [
            "mlx5_0",
            "Ethernet",
            "100",
            gpu.uuid.as_str(),
            gpu.product.as_str(),
            "healthy",
            "root",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
        assert!(text.lines().all(|line| line == line.trim_end()));
        let none = Inventory::of(Vec::new(), Gpus::None("no driver".to_owned())).to_string();
        assert!(
            none.contains("No RDMA NICs") && none.contains("No GPUs: no driver"),
            "{none}"
        );
    }

    #[test]
    fn programs_get_all_that_is_known() {
        let inventory = Inventory::of(vec![nic_at("mlx5_0", "pci0000:00", 0)], Gpus::Found(vec![gpu()]));
        let json: serde_json::Value = serde_json::to_value(&inventory).unwrap();
        assert_eq!(json["nics"][0]["name"], "mlx5_0");
        assert_eq!(json["gpus"][0]["uuid"], gpu().uuid);
        assert_eq!(json["gpus"][0]["trouble"], serde_json::Value::Null);
        assert_eq!(json["distances"][0]["nic"], "mlx5_0");
    }
}
