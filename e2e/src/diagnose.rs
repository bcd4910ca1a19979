//! What happened in a namespace: printed when a test fails.

use crate::{Namespace, command::kubectl};

/// Prints events, our objects, pods with their logs, and what Penstock's own pods said last.
pub(crate) async fn print(ns: &Namespace) {
    let name = ns.name.as_str();
    let commands: &[&[&str]] = &[
        &["-n", name, "get", "pods,pvc,statefulsets,services", "-o", "wide"],
        &["-n", name, "get", "storageclusters", "-o", "yaml"],
        &["-n", name, "get", "events", "--sort-by=.lastTimestamp"],
        &["-n", "penstock-system", "get", "pods", "-o", "wide"],
        &[
            "-n",
            "penstock-system",
            "logs",
            "-l",
            "app.kubernetes.io/name=penstock",
            "--all-containers",
            "--prefix",
            "--tail=60",
        ],
    ];
    for args in commands {
        show(args).await;
    }
    for pod in ns.names("v1", "Pod").await.unwrap_or_default() {
        show(&["-n", name, "logs", &pod, "--all-containers", "--tail=60"]).await;
        show(&[
            "-n",
            name,
            "logs",
            &pod,
            "--all-containers",
            "--tail=30",
            "--previous",
        ])
        .await;
    }
    // The throwaway cluster keeps its nodes' own logs in files.
    if let Ok(run) = std::env::var("PENSTOCK_RUN") {
        for log in node_logs(&run) {
            let lines = std::fs::read_to_string(&log).unwrap_or_default();
            let told: Vec<_> = lines.lines().filter(|line| line.contains(name)).collect();
            eprintln!("--- {log} (lines that name {name})");
            for line in told.iter().skip(told.len().saturating_sub(20)) {
                eprintln!("{line}");
            }
        }
    }
}

fn node_logs(run: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("{run}/log")) else {
        return Vec::new();
    };
    let mut logs: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| path.contains("kubelet"))
        .collect();
    logs.sort();
    logs
}

async fn show(args: &[&str]) {
    eprintln!("--- kubectl {}", args.join(" "));
    match kubectl(args).await {
        Ok(text) => eprintln!("{text}"),
        Err(error) => eprintln!("({error:#})"),
    }
}
