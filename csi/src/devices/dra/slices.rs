//! Publishing a node's devices as ResourceSlices, and keeping them as they should be.
//!
//! The kubelet deletes the slices of its node when it starts and a while after a driver's end, and anybody with the right may
//! delete them: so they are watched, and written anew.

use super::{
    device::{self, Unhealthy},
    offered::Offered,
};
use crate::devices::watch::Devices;
use futures::StreamExt;
use k8s_openapi::{
    api::{
        core::v1::Node,
        resource::v1::{Device, ResourcePool, ResourceSlice, ResourceSliceSpec},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use penstock_service::{CancellationToken, Flag, chain};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Devices of a slice: the API allows 128, and 64 where one has a taint (`ResourceSliceMaxDevicesWithAdvancedFeatures`).
const CHUNK: usize = 64;
/// How long nothing may happen before the slices are looked at all the same.
const LOOK: Duration = Duration::from_secs(60);
/// Pause after a failure, doubled at each further one.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Changes that come together are written together.
const SETTLE: Duration = Duration::from_millis(200);

/// Why slices could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// The API server.
    #[error("cannot {doing} of node {node}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// The node.
        node: String,
        /// Why.
        source: kube::Error,
    },
}

/// Writes the slices of one node's devices of a kind.
pub(super) struct Publisher {
    client: Client,
    node: String,
    unhealthy: Unhealthy,
}

impl Publisher {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self {
            client,
            node,
            unhealthy: Unhealthy::Tainted,
        }
    }

    /// Keeps the slices as `devices` says until `shutdown` fires; `flag` passes while they are. They stay afterwards: a driver that is replaced
    /// takes them over, and the kubelet deletes those of a driver that does not come back.
    pub(super) async fn keep<K: Offered>(
        mut self,
        mut devices: Devices<K>,
        flag: Flag,
        shutdown: CancellationToken,
    ) {
        let selector = self.selector::<K>();
        let slices = Api::<ResourceSlice>::all(self.client.clone());
        let changes = watcher(slices, watcher::Config::default().fields(&selector));
        let changes = changes.default_backoff().boxed();
        // Of failures the client tells in its own log; listing fails in the same way, with a message.
        let mut changes = changes.filter(|change| std::future::ready(change.is_ok()));
        let mut pause = PAUSE;
        while !shutdown.is_cancelled() {
            let known = devices.borrow_and_update().clone();
            let wait = match self.reconcile(&known).await {
                Ok(()) => {
                    flag.pass();
                    pause = PAUSE;
                    LOOK
                }
                Err(error) => {
                    let text = chain(&error);
                    tracing::warn!("ResourceSlices are not as they should be: {text}");
                    flag.fail(text);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    pause
                }
            };
            let news = async {
                tokio::select! {
                    // Without a sender the process ends.
                    _ = devices.changed() => {}
                    _ = changes.next() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                tokio::time::sleep(SETTLE).await;
            };
            if shutdown.run_until_cancelled(news).await.is_none() {
                return;
            }
        }
    }

    fn selector<K: Offered>(&self) -> String {
        format!("spec.nodeName={},spec.driver={}", self.node, K::DRIVER)
    }

    async fn reconcile<K: Offered>(&mut self, found: &[K]) -> Result<(), PublishError> {
        let kept = self.write(found).await?;
        if !kept {
            tracing::info!("this API server does not know taints of devices; unhealthy ones are left out");
            self.unhealthy = Unhealthy::LeftOut;
            self.write(found).await?;
        }
        Ok(())
    }

    /// Writes what differs. False when the API server dropped taints.
    async fn write<K: Offered>(&self, known: &[K]) -> Result<bool, PublishError> {
        let failed = |doing| {
            move |source| PublishError::Api {
                doing,
                node: self.node.clone(),
                source,
            }
        };
        let slices = Api::<ResourceSlice>::all(self.client.clone());
        let found = slices
            .list(&ListParams::default().fields(&self.selector::<K>()))
            .await;
        let found = found.map_err(failed("list the ResourceSlices"))?.items;
        let devices = device::devices(known, self.unhealthy);
        let offered = devices.len();
        let Some(plan) = plan(K::DRIVER, &self.node, &found, devices) else {
            return Ok(true);
        };
        let mut kept = true;
        let owner = self.owner().await.map_err(failed("read the object"))?;
        for mut slice in plan.write {
            slice.metadata.owner_references = Some(vec![owner.clone()]);
            let name = slice.metadata.name.clone().unwrap_or_default();
            let parameters = PostParams::default();
            let written = if slice.metadata.resource_version.is_some() {
                slices.replace(&name, &parameters, &slice).await
            } else {
                slices.create(&parameters, &slice).await
            };
            let written = written.map_err(failed("write a ResourceSlice"))?;
            kept &= tainted(&written) == tainted(&slice);
        }
        for name in plan.delete {
            match slices.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(failed("delete a ResourceSlice")(error)),
            }
        }
        for device in known {
            if let Some(why) = device.left_out() {
                tracing::warn!("{} {} is not offered: {why}", K::NAME, device.id());
            }
        }
        let generation = plan.generation;
        tracing::info!(devices = offered, generation, "{} are published", K::DRIVER);
        Ok(kept)
    }

    /// The node, whose end is that of its slices.
    async fn owner(&self) -> kube::Result<OwnerReference> {
        let node = Api::<Node>::all(self.client.clone())
            .get_metadata(&self.node)
            .await?;
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        })
    }
}

/// How many devices have taints.
fn tainted(slice: &ResourceSlice) -> usize {
    let devices = slice.spec.devices.iter().flatten();
    devices
        .filter(|device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty()))
        .count()
}

/// What is to be done to have a pool of some devices.
#[derive(Debug)]
struct Plan {
    generation: i64,
    write: Vec<ResourceSlice>,
    delete: Vec<String>,
}

/// `None` when all is as it should be. A pool is changed by writing all of its slices with a higher generation: who reads some of
/// the new and some of the old ones knows by their numbers that he does not see a whole pool.
fn plan(driver: &str, node: &str, found: &[ResourceSlice], devices: Vec<Device>) -> Option<Plan> {
    let mut chunks: Vec<Vec<Device>> = devices.chunks(CHUNK).map(<[Device]>::to_vec).collect();
    if chunks.is_empty() && found.is_empty() {
        return None;
    }
    // A pool without devices is one slice without any: without a slice, older generations could come back from a cache.
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let count = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
    let generation = found
        .iter()
        .map(|slice| slice.spec.pool.generation)
        .max()
        .unwrap_or(0);
    let named = |name: &str| {
        found
            .iter()
            .find(|slice| slice.metadata.name.as_deref() == Some(name))
    };
    let same = found.len() == chunks.len()
        && chunks.iter().enumerate().all(|(index, chunk)| {
            named(&slice_name(driver, node, index)).is_some_and(|slice| {
                let pool = &slice.spec.pool;
                pool.name == node
                    && pool.generation == generation
                    && pool.resource_slice_count == count
                    && without_times(slice.spec.devices.clone().unwrap_or_default()) == *chunk
            })
        });
    if same {
        return None;
    }
    let generation = generation + 1;
    let mut write = Vec::new();
    for (index, chunk) in chunks.into_iter().enumerate() {
        let name = slice_name(driver, node, index);
        let resource_version = named(&name).and_then(|slice| slice.metadata.resource_version.clone());
        write.push(ResourceSlice {
            metadata: ObjectMeta {
                name: Some(name),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: ResourceSliceSpec {
                driver: driver.to_owned(),
                node_name: Some(node.to_owned()),
                pool: ResourcePool {
                    name: node.to_owned(),
                    generation,
                    resource_slice_count: count,
                },
                devices: Some(chunk),
                ..ResourceSliceSpec::default()
            },
        });
    }
    let kept: Vec<_> = write
        .iter()
        .filter_map(|slice| slice.metadata.name.clone())
        .collect();
    let all = found.iter().filter_map(|slice| slice.metadata.name.clone());
    Some(Plan {
        generation,
        delete: all.filter(|name| !kept.contains(name)).collect(),
        write,
    })
}

/// The API server notes when it first saw a taint.
fn without_times(mut devices: Vec<Device>) -> Vec<Device> {
    for taint in devices
        .iter_mut()
        .flat_map(|device| device.taints.iter_mut().flatten())
    {
        taint.time_added = None;
    }
    devices
}

/// Always the same, so that a crash between two writes leaves nothing that a later one does not find.
fn slice_name(driver: &str, node: &str, index: usize) -> String {
    let name = format!("{node}-{driver}-{index}");
    if name.len() <= 253 {
        return name;
    }
    let digest = hex::encode(Sha256::digest(node.as_bytes()));
    format!("{}-{driver}-{index}", &digest[..16])
}

#[cfg(test)]
mod tests;
