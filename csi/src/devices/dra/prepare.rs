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
    file::FileError,
    offered::Offered,
};
use crate::devices::watch::Devices;
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
        "{kind} {device} of claim {claim} is not on this node any more; delete the pod, to have another one allocated"
    )]
    NoDevice {
        kind: &'static str,
        device: String,
        claim: String,
    },
    #[error(
        "{kind} {device} of claim {claim} is unhealthy: {why}; mend that, or delete the pod, to have another one allocated"
    )]
    Unhealthy {
        kind: &'static str,
        device: String,
        claim: String,
        why: String,
    },
    #[error("{kind} {device} of claim {claim} cannot be put into a container: {why}")]
    Edits {
        kind: &'static str,
        device: String,
        claim: String,
        why: String,
    },
}

/// A device of a prepared claim, and its names towards the container runtime.
pub(super) type Answer<K> = (Allocated<<K as Offered>::Parameters>, Vec<String>);

/// What is prepared on this node. One call at a time: a call that kubelet gave up ends before the next begins.
pub(super) struct Preparer<C, K: Offered> {
    pub(super) claims: C,
    pub(super) node: String,
    pub(super) devices: Devices<K>,
    pub(super) host: K::Host,
    pub(super) specs: Specs,
    pub(super) checkpoint: Mutex<Checkpoint<K::Parameters>>,
}

impl<C: Claims, K: Offered> Preparer<C, K> {
    /// Writes the CDI files of all prepared claims, which a reboot removes. Those of devices that are gone stay missing, so that no
    /// container starts with another device.
    pub(super) async fn replay(&self) {
        let checkpoint = self.checkpoint.lock().await;
        for (uid, prepared) in checkpoint.iter() {
            match self.describe(uid, prepared) {
                Ok(_) => {
                    tracing::info!(claim = %prepared.full_name(), uid, "a claim is prepared since before")
                }
                Err(error) => tracing::warn!(claim = %prepared.full_name(), uid, "{}", chain(&error)),
            }
        }
    }

    /// Prepares a claim, or says again what it was given.
    pub(super) async fn prepare(&self, asked: &Asked) -> Result<Vec<Answer<K>>, PrepareError> {
        check(&asked.uid)?;
        let mut checkpoint = self.checkpoint.lock().await;
        if let Some(prepared) = checkpoint.get(&asked.uid) {
            return self.describe(&asked.uid, prepared);
        }
        let name = format!("{}/{}", asked.namespace, asked.name);
        let claim = tokio::time::timeout(PATIENCE, self.claims.get(&asked.namespace, &asked.name)).await;
        let claim = claim.map_err(|_| PrepareError::Slow(name.clone()))?;
        let claim = claim.map_err(|error| PrepareError::Read(name.clone(), error))?;
        let claim = claim.ok_or_else(|| PrepareError::Gone(name.clone()))?;
        let prepared = Prepared {
            namespace: asked.namespace.clone(),
            name: asked.name.clone(),
            devices: claim::allocated::<K>(&claim, &asked.uid, &self.node)?,
        };
        // A pod that begins must not begin with a dead device; one that runs is not stopped for it.
        for allocated in &prepared.devices {
            if let Some(why) = self.trouble(&allocated.device) {
                return Err(PrepareError::Unhealthy {
                    kind: K::NAME,
                    device: allocated.device.clone(),
                    claim: name,
                    why,
                });
            }
        }
        // First the note, so that whatever is written for the claim is known to be undone.
        checkpoint.insert(&asked.uid, prepared.clone())?;
        let answers = self.describe(&asked.uid, &prepared)?;
        tracing::info!(claim = name, uid = asked.uid, devices = ?prepared.names(), "a claim is prepared");
        Ok(answers)
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

    fn trouble(&self, name: &str) -> Option<String> {
        let devices = self.devices.borrow();
        let device = devices.iter().find(|device| device.name() == name)?;
        device.left_out().or_else(|| device.trouble())
    }

    /// Writes a claim's CDI file by what the devices are now: after a reboot, they may have other nodes.
    fn describe(
        &self,
        uid: &str,
        prepared: &Prepared<K::Parameters>,
    ) -> Result<Vec<Answer<K>>, PrepareError> {
        let devices = self.devices.borrow().clone();
        let (mut given, mut answers) = (Vec::new(), Vec::new());
        for allocated in &prepared.devices {
            let (kind, name, claim) = (K::NAME, allocated.device.clone(), prepared.full_name());
            let Some(device) = devices.iter().find(|device| device.name() == name) else {
                return Err(PrepareError::NoDevice {
                    kind,
                    device: name,
                    claim,
                });
            };
            let edits = device.edits(&allocated.parameters, &self.host);
            let edits = edits.map_err(|why| PrepareError::Edits {
                kind,
                device: name.clone(),
                claim,
                why,
            })?;
            let one = Given { device: name, edits };
            answers.push((allocated.clone(), self.specs.ids(uid, &one)));
            // Two requests may have shares of one device.
            if given.iter().all(|other: &Given| other.device != one.device) {
                given.push(one);
            }
        }
        self.specs.write(uid, &given)?;
        Ok(answers)
    }
}

impl<P> Prepared<P> {
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
pub(super) mod tests;
