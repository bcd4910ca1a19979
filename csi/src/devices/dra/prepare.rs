//! Preparing claims for the kubelet and undoing it: the work behind both versions of the service.
//!
//! ```text
//!  prepare    read the claim ──▶ checkpoint ──▶ CDI file     known already: the CDI file is written again
//!  unprepare  CDI file gone ──▶ checkpoint gone              from what is here; the claim may be gone
//! ```
//! Each step can be repeated, and a crash between two is mended by the next call, which the kubelet makes until one succeeds.

use super::{
    cdi::{Given, Specs},
    checkpoint::{Checkpoint, CheckpointError, Prepared},
    claim::{self, Allocated, ClaimError},
    device,
    file::FileError,
};
use crate::devices::watch::Nics;
use async_trait::async_trait;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use penstock_service::chain;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long the API server may take. The kubelet waits 45 s for all claims of a pod.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where claims are read.
#[async_trait]
pub(super) trait Claims: Send + Sync {
    /// A claim; `None` when there is none of this name.
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<ResourceClaim>, kube::Error>;
}

#[async_trait]
impl Claims for Client {
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<ResourceClaim>, kube::Error> {
        Api::namespaced(self.clone(), namespace).get_opt(name).await
    }
}

/// A claim as the kubelet names it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// Why a claim is not prepared, or still is.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("claim {0} is gone; kubelet forgets it with its pod")]
    Gone(String),
    #[error("claim {0} cannot be read from the API server")]
    Read(String, #[source] kube::Error),
    #[error("claim {} cannot be read from the API server: no answer within {} s", .0, PATIENCE.as_secs())]
    Slow(String),
    #[error("{0:?} is no UID of a claim")]
    Uid(String),
    #[error(
        "RDMA device {device} of claim {claim} is not on this node any more; delete the pod, to have another one allocated"
    )]
    NoDevice { device: String, claim: String },
    #[error(
        "RDMA device {device} of claim {claim} is unhealthy: {why}; check its link and cable, or delete the pod, to have another one allocated"
    )]
    Unhealthy {
        device: String,
        claim: String,
        why: String,
    },
}

/// What is prepared on this node. One call at a time: a call that kubelet gave up ends before the next begins.
pub(super) struct Preparer<C> {
    claims: C,
    node: String,
    nics: Nics,
    specs: Specs,
    checkpoint: Mutex<Checkpoint>,
}

impl<C: Claims> Preparer<C> {
    pub(super) fn new(claims: C, node: String, nics: Nics, specs: Specs, checkpoint: Checkpoint) -> Self {
        Self {
            claims,
            node,
            nics,
            specs,
            checkpoint: Mutex::new(checkpoint),
        }
    }

    /// Writes the CDI files of all prepared claims, which a reboot removes. Those of devices that are gone stay missing, so that no
    /// container starts with another device.
    pub(super) async fn replay(&self) {
        let checkpoint = self.checkpoint.lock().await;
        for (uid, prepared) in checkpoint.iter() {
            match self.describe(uid, prepared) {
                Ok(()) => {
                    tracing::info!(claim = %prepared.full_name(), uid, "a claim is prepared since before")
                }
                Err(error) => tracing::warn!(claim = %prepared.full_name(), uid, "{}", chain(&error)),
            }
        }
    }

    /// Prepares a claim, or says again what it was given.
    pub(super) async fn prepare(&self, asked: &Asked) -> Result<Vec<Allocated>, PrepareError> {
        check(&asked.uid)?;
        let mut checkpoint = self.checkpoint.lock().await;
        if let Some(prepared) = checkpoint.get(&asked.uid) {
            self.describe(&asked.uid, prepared)?;
            return Ok(prepared.devices.clone());
        }
        let name = format!("{}/{}", asked.namespace, asked.name);
        let claim = tokio::time::timeout(PATIENCE, self.claims.get(&asked.namespace, &asked.name)).await;
        let claim = claim.map_err(|_| PrepareError::Slow(name.clone()))?;
        let claim = claim.map_err(|error| PrepareError::Read(name.clone(), error))?;
        let claim = claim.ok_or_else(|| PrepareError::Gone(name.clone()))?;
        let prepared = Prepared {
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            devices: claim::allocated(&claim, &asked.uid, &self.node)?,
        };
        // A pod that begins must not begin with a dead link; one that runs is not stopped for it.
        for allocated in &prepared.devices {
            if let Some(why) = self.trouble(&allocated.device) {
                return Err(PrepareError::Unhealthy {
                    device: allocated.device.clone(),
                    claim: name,
                    why,
                });
            }
        }
        // First the note, so that whatever is written for the claim is known to be undone.
        checkpoint.insert(&asked.uid, prepared.clone())?;
        self.describe(&asked.uid, &prepared)?;
        tracing::info!(claim = name, uid = asked.uid, devices = ?prepared.names(), "a claim is prepared");
        Ok(prepared.devices)
    }

    /// Undoes it. What is not prepared is undone.
    pub(super) async fn unprepare(&self, asked: &Asked) -> Result<(), PrepareError> {
        check(&asked.uid)?;
        let mut checkpoint = self.checkpoint.lock().await;
        self.specs.remove(&asked.uid)?;
        let known = checkpoint.get(&asked.uid).is_some();
        // Also the file of one that could not be read.
        checkpoint.remove(&asked.uid)?;
        if known {
            tracing::info!(
                claim = format!("{}/{}", asked.namespace, asked.name),
                uid = asked.uid,
                "a claim is given back"
            );
        }
        Ok(())
    }

    fn trouble(&self, device: &str) -> Option<String> {
        let nics = self.nics.borrow();
        nics.iter().find(|nic| device::name(nic) == device)?.trouble()
    }

    /// Writes a claim's CDI file by what the devices are now: after a reboot, they may have other nodes.
    fn describe(&self, uid: &str, prepared: &Prepared) -> Result<(), PrepareError> {
        let nics = self.nics.borrow().clone();
        let mut given = Vec::new();
        for allocated in &prepared.devices {
            let nic = nics.iter().find(|nic| device::name(nic) == allocated.device);
            let nic = nic.ok_or_else(|| PrepareError::NoDevice {
                device: allocated.device.clone(),
                claim: prepared.full_name(),
            })?;
            let wanted = |node: &&std::path::PathBuf| {
                allocated.parameters.connection_manager || !node.ends_with("rdma_cm")
            };
            given.push(Given {
                device: allocated.device.clone(),
                nic: nic.name.clone(),
                nodes: nic.nodes.iter().filter(wanted).cloned().collect(),
            });
        }
        given.dedup_by(|one, other| one.device == other.device);
        Ok(self.specs.write(uid, &given)?)
    }
}

impl Prepared {
    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn names(&self) -> Vec<&str> {
        self.devices.iter().map(|device| device.device.as_str()).collect()
    }
}

/// A UID becomes part of a file's name.
fn check(uid: &str) -> Result<(), PrepareError> {
    let fits = !uid.is_empty()
        && uid.len() <= 128
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(())
    } else {
        Err(PrepareError::Uid(uid.to_owned()))
    }
}

#[cfg(test)]
mod tests;
