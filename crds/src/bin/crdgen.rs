//! Writes the custom resource definitions as YAML: `crds/<name>.yaml`, and the same into the chart.

use clap::Parser;
use std::{fs, io, path::PathBuf, process::ExitCode};

/// Writes the generated CRD files, or checks that they are current.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Write nothing; fail when a file differs from what would be written.
    #[arg(long)]
    check: bool,
}

const HEADER: &str = "# Generated from crds/src by `make generate`. Do not edit.\n";
const FOLDERS: [&str; 2] = ["crds", "charts/penstock/files/crds"];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(drifted) if drifted.is_empty() => ExitCode::SUCCESS,
        Ok(drifted) => {
            eprintln!("error: not current: {}; run `make generate`", drifted.join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the files that are not current (and, without `--check`, writes them: then none is).
fn run(args: &Args) -> io::Result<Vec<String>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut drifted = Vec::new();
    for crd in penstock_crds::all() {
        let yaml = serde_norway::to_string(&crd).map_err(io::Error::other)?;
        let text = format!("{HEADER}{yaml}");
        let name = crd.metadata.name.unwrap_or_default();
        for folder in FOLDERS {
            let shown = format!("{folder}/{name}.yaml");
            let path = root.join(&shown);
            if fs::read_to_string(&path).is_ok_and(|found| found == text) {
                continue;
            }
            if args.check {
                drifted.push(shown);
            } else {
                fs::create_dir_all(root.join(folder))?;
                fs::write(path, &text)?;
            }
        }
    }
    Ok(drifted)
}
