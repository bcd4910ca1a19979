//! The end of a StorageCluster. Nothing here waits for another object, so deletion cannot hang on one.

use crate::{
    apply::{api_of, unless_gone},
    context::Context,
    credentials,
    error::Error,
    gateway,
    resources::{Names, storage_class},
    tls,
};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::events::EventType,
};
use penstock_crds::{CSI_DRIVER, StorageCluster, storage_cluster::DeletionPolicy};
use serde_json::json;

/// The finalizer of a StorageCluster.
pub const FINALIZER: &str = "penstock.io/storagecluster";

/// Puts the finalizer on a cluster that lacks it.
pub async fn hold(context: &Context, names: &Names, cluster: &StorageCluster) -> Result<(), Error> {
    let held = cluster.metadata.finalizers.clone().unwrap_or_default();
    if held.iter().any(|name| name == FINALIZER) {
        return Ok(());
    }
    set_finalizers(
        context,
        names,
        cluster,
        held.into_iter().chain([FINALIZER.to_owned()]).collect(),
    )
    .await
}

/// Removes what the garbage collector cannot (cluster-scoped) or must not (kept by policy), then lets the cluster go.
pub async fn release(context: &Context, names: &Names, cluster: &StorageCluster) -> Result<(), Error> {
    let held = cluster.metadata.finalizers.clone().unwrap_or_default();
    if !held.iter().any(|name| name == FINALIZER) {
        return Ok(());
    }
    let orphans = volumes_of(context, names).await;
    if orphans > 0 {
        let note = format!(
            "{orphans} PersistentVolumes lose their storage node with this cluster; their pods get I/O errors until a \
             StorageCluster {} is there again",
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
    let left = held.into_iter().filter(|name| name != FINALIZER).collect();
    set_finalizers(context, names, cluster, left).await
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

/// How many volumes have their bucket here. Only for a warning, so failing to count is no reason to stop.
async fn volumes_of(context: &Context, names: &Names) -> usize {
    let owner = format!("{}/{}", names.namespace, names.cluster);
    let volumes = Api::<PersistentVolume>::all(context.client.clone());
    let Ok(volumes) = volumes.list(&ListParams::default()).await else {
        return 0;
    };
    let here = |volume: &&PersistentVolume| {
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        csi.is_some_and(|csi| {
            let attributes = csi.volume_attributes.as_ref();
            csi.driver == CSI_DRIVER && attributes.and_then(|all| all.get("storageCluster")) == Some(&owner)
        })
    };
    volumes.iter().filter(here).count()
}

async fn set_finalizers(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    let api = Api::<StorageCluster>::namespaced(context.client.clone(), &names.namespace);
    // With the version that was read: a finalizer that somebody else added meanwhile is not lost.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": cluster.metadata.resource_version},
    });
    let patched = api
        .patch(&names.cluster, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    unless_gone(patched).map_err(Error::api(format!("set the finalizers of {}", names.cluster)))?;
    Ok(())
}
