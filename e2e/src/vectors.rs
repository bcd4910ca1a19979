//! VectorIndexes as tests want them, and the programs that write and search vectors.

use crate::{Namespace, command, forward::Forward, object, s3::S3, storage};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

/// Numbers of a vector.
pub const DIMENSION: u32 = 128;
/// The bucket with the vectors.
pub const BUCKET: &str = "vectors";

/// An index over what is below `prefix`, small enough for a test's nodes. The throwaway cluster has images and disks of its own.
///
/// # Errors
/// When the API server does not answer.
pub async fn manifest(
    ns: &Namespace,
    name: &str,
    cluster: &str,
    prefix: &str,
    index: &Value,
) -> Result<Value> {
    let mut milvus = json!({
        "version": "2.3.5", "disk": {"size": "1Gi"}, "etcd": {"disk": {"size": "1Gi"}},
        // Small segments show progress; workers that die are given up soon.
        "config": {
            "dataCoord.segment.maxSize": "24", "dataCoord.segment.sealProportion": "1.0", "dataCoord.enableCompaction": "false",
            "common.session.ttl": "10",
        },
    });
    if let Some(class) = storage::disk_class(&ns.client).await? {
        milvus["disk"]["storageClassName"] = json!(class);
        milvus["etcd"]["disk"]["storageClassName"] = json!(class);
    }
    if let Ok(image) = std::env::var("PENSTOCK_MILVUS_IMAGE") {
        milvus["image"] = json!(image);
    }
    if let Ok(image) = std::env::var("PENSTOCK_ETCD_IMAGE") {
        milvus["etcd"]["image"] = json!(image);
    }
    Ok(json!({
        "apiVersion": object::PENSTOCK, "kind": "VectorIndex", "metadata": {"name": name},
        "spec": {
            "storage": {"clusterName": cluster, "bucket": BUCKET}, "milvus": milvus,
            "collection": {"vector": {"name": "vector", "dimension": DIMENSION}},
            "source": {"prefix": prefix}, "index": index, "deletionPolicy": "Delete",
        },
    }))
}

/// A storage node's bucket, for the program that writes vectors.
pub struct Vectors {
    python: PathBuf,
    s3: S3,
}

/// Where Python with pymilvus and PyArrow is.
async fn python() -> Result<PathBuf> {
    let path = command::run("e2e/python-env", &["e2e/vectors/requirements.txt"]).await?;
    Ok(path.trim().into())
}

fn script() -> PathBuf {
    command::root().join("e2e/vectors/vectors.py")
}

impl Vectors {
    /// Of a StorageCluster that is Ready.
    ///
    /// # Errors
    /// When its Secret is incomplete, or it cannot be reached.
    pub async fn of(ns: &Namespace, cluster: &storage::Ready) -> Result<Self> {
        Ok(Self {
            python: python().await?,
            s3: S3::of(ns, cluster).await?,
        })
    }

    /// Writes rows `first` to `first + rows` into an object (`.parquet`, `.json`) or a folder (`/`).
    ///
    /// # Errors
    /// When the program fails.
    pub async fn put(&self, key: &str, first: u32, rows: u32) -> Result<()> {
        self.call(&[
            "put",
            "--bucket",
            BUCKET,
            "--key",
            key,
            "--block",
            &format!("{first}:{rows}"),
        ])
        .await
        .map(drop)
    }

    /// Writes an object that holds no vectors.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn put_rubbish(&self, key: &str) -> Result<()> {
        self.call(&["put-bytes", "--bucket", BUCKET, "--key", key])
            .await
            .map(drop)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn remove(&self, key: &str) -> Result<()> {
        self.call(&["remove", "--bucket", BUCKET, "--key", key])
            .await
            .map(drop)
    }

    /// How many objects there are below a prefix.
    ///
    /// # Errors
    /// When the program fails.
    pub async fn count(&self, prefix: &str) -> Result<i64> {
        let told = self
            .call(&["count", "--bucket", BUCKET, "--prefix", prefix])
            .await?;
        told["objects"].as_i64().context("no count")
    }

    async fn call(&self, arguments: &[&str]) -> Result<Value> {
        let mut program = Command::new(&self.python);
        self.s3.tell(program.arg(script()).args(arguments));
        answer(program).await
    }
}

async fn answer(mut program: Command) -> Result<Value> {
    let output = program.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let last = out.lines().last().unwrap_or_default();
    anyhow::ensure!(
        output.status.success(),
        "vectors.py failed ({}): {err}",
        output.status
    );
    serde_json::from_str(last).with_context(|| format!("vectors.py said {out:?}"))
}

/// Searches in an index, as applications make them.
pub struct Searches {
    python: PathBuf,
    forward: Forward,
    collection: String,
    password: String,
}

impl Searches {
    /// In the index of that name and its alias.
    ///
    /// # Errors
    /// When Milvus cannot be reached.
    pub async fn of(ns: &Namespace, index: &str) -> Result<Self> {
        Ok(Self {
            python: python().await?,
            forward: Forward::to(&ns.name, &format!("{index}-milvus"), 19530)?,
            collection: index.replace('-', "_"),
            password: storage::secret_value(ns, &format!("{index}-users"), "password").await?,
        })
    }

    fn program(&self, command: &str) -> Command {
        let mut program = Command::new(&self.python);
        let address = format!("localhost:{}", self.forward.port);
        program.args([script().as_path(), Path::new(command)]);
        program.args(["--address", &address, "--collection", &self.collection]);
        program.env("MILVUS_PASSWORD", &self.password);
        program
    }

    /// The share of the nearest neighbours that is found, of rows in `blocks` (first, rows).
    ///
    /// # Errors
    /// When the program fails.
    pub async fn recall(&self, blocks: &[(u32, u32)]) -> Result<f64> {
        let mut program = self.program("search");
        for (first, rows) in blocks {
            program.args(["--block", &format!("{first}:{rows}")]);
        }
        answer(program).await?["recall"].as_f64().context("no recall")
    }

    /// Searches without a pause until [`Hammer::stop`].
    ///
    /// # Errors
    /// When the program does not start.
    pub async fn hammer(&self) -> Result<Hammer> {
        let mut program = self.program("hammer");
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        out.read_line(&mut line).await?;
        anyhow::ensure!(line.trim() == "ready", "the searching program said {line:?}");
        Ok(Hammer { child, out })
    }
}

/// A program that searches.
pub struct Hammer {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Hammer {
    /// Ends it; returns how many searches were answered, and what went wrong.
    ///
    /// # Errors
    /// When it ended before.
    pub async fn stop(mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        let mut told = String::new();
        self.out.read_to_string(&mut told).await?;
        self.child.wait().await?;
        serde_json::from_str(told.trim()).with_context(|| format!("the searching program said {told:?}"))
    }
}

/// Waits until an index is Ready for its current generation, and serves what it wants.
///
/// # Errors
/// When it does not in time.
pub async fn serving(
    ns: &Namespace,
    name: &str,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> Result<Value> {
    ns.until("VectorIndex", name, what, |object| {
        storage::condition(object, "Ready") == "True"
            && object["status"]["phase"] == "Serving"
            && check(object)
    })
    .await
}
