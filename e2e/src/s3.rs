//! A StorageCluster, for programs on this machine that speak S3.

use crate::{Namespace, forward::Forward, storage};
use anyhow::Result;
use std::path::PathBuf;
use tokio::process::Command;

/// The way to a StorageCluster, with its root key pair, while it lives.
pub struct S3 {
    forward: Forward,
    ca: PathBuf,
    keys: (String, String),
}

impl S3 {
    /// Of a StorageCluster that is Ready.
    ///
    /// # Errors
    /// When its Secret is incomplete, or it cannot be reached.
    pub async fn of(ns: &Namespace, cluster: &storage::Ready) -> Result<Self> {
        let value = async |key| storage::secret_value(ns, &cluster.credentials, key).await;
        let (id, secret, pem) = (
            value("accessKeyId").await?,
            value("secretAccessKey").await?,
            value("ca.crt").await?,
        );
        let s3 = Self {
            forward: Forward::to(&ns.name, &cluster.name, 9000)?,
            ca: std::env::temp_dir().join(format!(
                "penstock-{}-{}-{}.crt",
                ns.name,
                cluster.name,
                std::process::id()
            )),
            keys: (id, secret),
        };
        std::fs::write(&s3.ca, pem)?;
        Ok(s3)
    }

    /// Tells a program by the variables that AWS' SDKs read.
    pub fn tell<'c>(&self, program: &'c mut Command) -> &'c mut Command {
        program
            .env(
                "AWS_ENDPOINT_URL_S3",
                format!("https://localhost:{}", self.forward.port),
            )
            .env("AWS_ACCESS_KEY_ID", &self.keys.0)
            .env("AWS_SECRET_ACCESS_KEY", &self.keys.1)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CA_BUNDLE", &self.ca)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Missing is as good as removed.
        let _gone = std::fs::remove_file(&self.ca);
    }
}
