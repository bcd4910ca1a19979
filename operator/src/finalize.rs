//! The end of a StorageCluster. Nothing here waits for another object, so deletion cannot hang on one.

use crate::{
    apply::{api_of, unless_gone},
    context::Context,
    credentials,
    error::Error,
    gateway,
    reconciliation::{is_held, let_go},
    resources::{Names, storage_class},
    tls,
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::events::EventType,
};
use penstock_crds::{CSI_DRIVER, StorageCluster, storage_cluster::DeletionPolicy};
use serde_json::json;

/// The finalizer of a StorageCluster.
pub const FINALIZER: &str = "penstock.io/storagecluster";

/// Removes what the garbage collector cannot (cluster-scoped) or must not (kept by policy), then lets the cluster go.
pub async fn release(context: &Context, names: &Names, cluster: &StorageCluster) -> Result<(), Error> {
    if !is_held(cluster, FINALIZER) {
        return Ok(());
    }
    let orphans = volumes_of(context, names).await;
    if !orphans.is_empty() {
        let note = format!(
            "{} PersistentVolumes lose their storage node with this cluster; their pods get I/O errors until a \
             StorageCluster {} is there again",
            orphans.len(),
            names.cluster
        );
        context
            .tell(cluster, EventType::Warning, "VolumesLoseStorage", &note)
            .await;
    }
    remove_storage_class(context, names, cluster).await?;
    gateway::remove(context, names).await?;
    if cluster.spec.deletion_policy == DeletionPolicy::Delete {
        credentials::remove(context, names).await?;
        tls::remove(context, names).await?;
    }
    if cluster.spec.deletion_policy == DeletionPolicy::Delete || is_ending(context, names).await {
        let goes = cluster.spec.storage.host_path.is_none();
        for volume in &orphans {
            give_up(context, volume, goes).await?;
        }
    }
    let_go(context, cluster, FINALIZER).await
}

/// Removes the cluster's StorageClass, unless one of that name is somebody else's.
pub async fn remove_storage_class(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
) -> Result<(), Error> {
    let class = storage_class(names, cluster);
    let name = names.storage_class(cluster);
    let doing = format!("delete StorageClass {name}");
    let api = api_of(&context.client, &class);
    let found = api.get_opt(&name).await.map_err(Error::api(doing.clone()))?;
    if found.is_some_and(|found| is_ours(&found, names)) {
        unless_gone(api.delete(&name, &Default::default()).await).map_err(Error::api(doing))?;
    }
    Ok(())
}

/// Whether a cluster-scoped object was made for this cluster.
pub fn is_ours(object: &kube::api::DynamicObject, names: &Names) -> bool {
    let owner = format!("{}/{}", names.namespace, names.cluster);
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get("penstock.io/owner")) == Some(&owner)
}

/// The volumes that have their bucket here. Without them the cluster can go as well, so failing to list them is no reason to stop.
async fn volumes_of(context: &Context, names: &Names) -> Vec<PersistentVolume> {
    let volumes = Api::<PersistentVolume>::all(context.client.clone());
    let volumes = match volumes.list(&ListParams::default()).await {
        Ok(volumes) => volumes.items,
        Err(error) => {
            let cluster = format!("{}/{}", names.namespace, names.cluster);
            tracing::warn!(cluster, %error, "the volumes that this cluster leaves behind cannot be listed");
            return Vec::new();
        }
    };
    // They are told apart by the key pair that they are mounted with, which static ones have as well.
    let (name, namespace) = (names.credentials(), names.namespace.as_str());
    let here = |volume: &PersistentVolume| {
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        let csi = csi.filter(|csi| csi.driver == CSI_DRIVER);
        csi.and_then(|csi| csi.node_stage_secret_ref.as_ref())
            .is_some_and(|secret| {
                secret.name.as_ref() == Some(&name) && secret.namespace.as_deref() == Some(namespace)
            })
    };
    volumes.into_iter().filter(here).collect()
}

/// Whether the cluster goes with its namespace, and so with its claim and its Secrets, whatever the policy says.
async fn is_ending(context: &Context, names: &Names) -> bool {
    let namespaces = Api::<Namespace>::all(context.client.clone());
    match namespaces.get_metadata_opt(&names.namespace).await {
        Ok(namespace) => namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::warn!(namespace = names.namespace, %error, "whether the namespace is being deleted cannot be seen");
            false
        }
    }
}

/// Lets a volume go that was to be deleted with its claim: the key pair has gone that the CSI driver would need for it, so it would
/// try for ever, and the volume stay. If its bucket `goes` as well, the volume is deleted; Kubernetes keeps it as long as it is claimed.
async fn give_up(context: &Context, volume: &PersistentVolume, goes: bool) -> Result<(), Error> {
    let name = volume.name_any();
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if policy != Some("Delete") {
        return Ok(());
    }
    let volumes = Api::<PersistentVolume>::all(context.client.clone());
    let patch = Patch::Merge(json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}));
    let patched = volumes.patch(&name, &PatchParams::default(), &patch).await;
    unless_gone(patched).map_err(Error::api(format!(
        "keep the CSI driver from PersistentVolume {name}"
    )))?;
    if goes {
        let deleted = volumes.delete(&name, &Default::default()).await;
        unless_gone(deleted).map_err(Error::api(format!("delete PersistentVolume {name}")))?;
    }
    Ok(())
}
