//! The demo: what a user does with Penstock, step by step with times, on the cluster of `KUBECONFIG`. With `vectors` as its argument, only the half with
//! vectors.
//!
//! It can be run again: what is there already is used, and the pods run anew.

mod vectors;

use penstock_e2e::{Context, Namespace, Result, chart, client, command, ensure, nodes, s3::S3, storage};
use std::{process::ExitCode, time::Instant};

const NAMESPACE: &str = "penstock-demo";
const CLAIM: &str = "data";
const FILE: &str = "models/weights.bin";

struct Clock {
    start: Instant,
    step: Instant,
}

impl Clock {
    fn done(&mut self, what: &str) {
        println!(
            "[{:>5.1} s] {what} ({:.1} s)",
            self.start.elapsed().as_secs_f32(),
            self.step.elapsed().as_secs_f32()
        );
        self.step = Instant::now();
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the demo failed: {error:#}");
            eprintln!("look around with: make shell CMD='kubectl get pods,events -A'");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    let mut clock = Clock {
        start: Instant::now(),
        step: Instant::now(),
    };
    let client = client().await?;
    let nodes = nodes(&client).await?;
    let (first, second) = match nodes.as_slice() {
        [] => penstock_e2e::bail!("the cluster has no node"),
        [only] => (only, only),
        [first, second, ..] => (first, second),
    };
    clock.done(&format!("a Kubernetes with the nodes {}", nodes.join(", ")));

    chart::install(&[]).await?;
    clock.done("helm install penstock: operator, CSI controller and node agents run");

    let ns = Namespace::existing(client, NAMESPACE).await?;
    let cluster = storage::cluster(&ns, "demo").await?.created().await?;
    clock.done(&format!("StorageCluster demo is Ready: {}", cluster.endpoint));

    if std::env::args().nth(1).as_deref() != Some("vectors") {
        volumes(&mut clock, &ns, &cluster, first, second).await?;
    }
    vectors::demo(&mut clock, &ns, &cluster).await?;

    println!("\nEverything is still running. Go on with:");
    println!("  make shell                                       kubectl, helm and KUBECONFIG are set");
    println!("  make shell CMD='kubectl -n {NAMESPACE} describe storagecluster demo'");
    println!("  make shell CMD='kubectl -n {NAMESPACE} describe vectorindex products'");
    println!("  make down                                        stops the throwaway cluster");
    Ok(())
}

async fn volumes(
    clock: &mut Clock,
    ns: &Namespace,
    cluster: &storage::Ready,
    first: &str,
    second: &str,
) -> Result<()> {
    let claim = ns.claim(CLAIM, &cluster.storage_class).await?;
    let bucket = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .context("a bound claim without a volume")?;
    clock.done(&format!(
        "PersistentVolumeClaim {CLAIM} is Bound: bucket {bucket}"
    ));

    for pod in ["pod-a", "pod-b"] {
        ns.pod(pod).deleted().await?;
    }
    let script = format!(
        "mkdir -p /{CLAIM}/models; head -c 16777216 /dev/urandom > /{CLAIM}/{FILE}; sha256sum < /{CLAIM}/{FILE}"
    );
    let written = first_word(
        &ns.pod("pod-a")
            .on(first)
            .mounting(CLAIM)
            .runs(&script)
            .succeeds()
            .await?,
    );
    clock.done(&format!(
        "pod A on {first} wrote /{CLAIM}/{FILE}: 16 MiB, sha256 {}…",
        short(&written)
    ));

    let script = format!("sha256sum < /{CLAIM}/{FILE}");
    let read = first_word(
        &ns.pod("pod-b")
            .on(second)
            .mounting(CLAIM)
            .runs(&script)
            .succeeds()
            .await?,
    );
    ensure!(
        written == read,
        "pod B read other bytes: {read} instead of {written}"
    );
    clock.done(&format!("pod B on {second} read the same bytes"));

    let seen = with_boto3(ns, cluster, &bucket).await?;
    ensure!(
        written == seen,
        "boto3 read other bytes: {seen} instead of {written}"
    );
    clock.done(&format!("boto3 read s3://{bucket}/{FILE}: the same bytes"));

    println!("\n$ kubectl get storageclusters -A");
    print!("{}", command::kubectl(&["get", "storageclusters", "-A"]).await?);
    println!("\n$ kubectl -n {NAMESPACE} get pvc,pods -o wide");
    print!(
        "{}",
        command::kubectl(&["-n", NAMESPACE, "get", "pvc,pods", "-o", "wide"]).await?
    );
    Ok(())
}

async fn with_boto3(ns: &Namespace, cluster: &storage::Ready, bucket: &str) -> Result<String> {
    let s3 = S3::of(ns, cluster).await?;
    let python =
        std::env::var("PENSTOCK_PYTHON").context("PENSTOCK_PYTHON is not set; run this by `make demo`")?;
    let mut program = tokio::process::Command::new(python);
    program
        .args(["e2e/demo.py", bucket, FILE])
        .current_dir(command::root());
    let output = s3.tell(&mut program).output().await?;
    ensure!(
        output.status.success(),
        "boto3 failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
