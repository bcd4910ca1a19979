//! The end of a VectorIndex: its pods first, so that nothing writes any more, then its key, and its files if they are to go. Nothing here waits for
//! another object for ever.

use super::{
    names::{Names, Part},
    parts, storage,
};
use crate::{
    apply::unless_gone,
    context::Context,
    error::Error,
    reconciliation::{is_held, let_go},
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::PersistentVolumeClaim,
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
    runtime::events::EventType,
};
use penstock_crds::{INDEX_LABEL, VectorIndex, storage_cluster::DeletionPolicy};
use penstock_rdma::{Client, ListingQuery};

/// The finalizer of a VectorIndex.
pub const FINALIZER: &str = "penstock.io/vectorindex";
/// Seconds that pods are given to end, and the storage node to answer. After that the index goes without them.
const PATIENCE: i64 = 180;

/// Removes what has to go; `false` while that takes time.
pub async fn release(context: &Context, names: &Names, index: &VectorIndex) -> Result<bool, Error> {
    if !is_held(index, FINALIZER) {
        return Ok(true);
    }
    let since = index
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second());
    let is_late = Timestamp::now().as_second() - since > PATIENCE;
    // etcd last: without it, Milvus does not come to its end.
    for parts in [&[Part::Milvus, Part::Workers][..], &[Part::Etcd]] {
        let mut is_over = true;
        for part in parts {
            stop(context, names, *part).await?;
            is_over &= parts::pods(context, names, *part).await?.is_empty();
        }
        if !is_over && !is_late {
            return Ok(false);
        }
    }
    if let Err(cause) = clean(context, names, index).await? {
        if !is_late {
            tracing::warn!(
                namespace = names.namespace,
                index = names.index,
                cause,
                "the files of an index cannot be removed yet"
            );
            return Ok(false);
        }
        let note = format!(
            "its key and its files below {} stay: {cause}",
            names.prefix(index)
        );
        context.tell(index, EventType::Warning, "FilesStay", &note).await;
    }
    if index.spec.deletion_policy == DeletionPolicy::Delete {
        let claims = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &names.namespace);
        let ours = ListParams::default().labels(&format!("{INDEX_LABEL}={}", names.index));
        let doing = || format!("delete the claims of {}", names.index);
        for claim in claims.list(&ours).await.map_err(Error::api(doing()))? {
            let name = claim.metadata.name.unwrap_or_default();
            unless_gone(claims.delete(&name, &DeleteParams::default()).await).map_err(Error::api(doing()))?;
        }
    }
    let_go(context, index, FINALIZER).await?;
    Ok(true)
}

async fn stop(context: &Context, names: &Names, part: Part) -> Result<(), Error> {
    let name = names.part(part);
    let background = DeleteParams::background();
    let deleted = match part {
        Part::Etcd | Part::Milvus => {
            let sets = Api::<StatefulSet>::namespaced(context.client.clone(), &names.namespace);
            sets.delete(&name, &background).await.map(drop)
        }
        Part::Workers => {
            let deployments = Api::<Deployment>::namespaced(context.client.clone(), &names.namespace);
            deployments.delete(&name, &background).await.map(drop)
        }
    };
    unless_gone(deleted).map_err(Error::api(format!("delete {name}")))?;
    Ok(())
}

/// Revokes the key, and removes Milvus' files if the policy says so. A StorageCluster that is gone has neither.
async fn clean(context: &Context, names: &Names, index: &VectorIndex) -> Result<Result<(), String>, Error> {
    let Some(client) = storage::administrator(context, names, &index.spec.storage.cluster_name).await? else {
        return Ok(Ok(()));
    };
    let removed = async {
        if index.spec.deletion_policy == DeletionPolicy::Delete {
            remove_files(
                &client,
                &index.spec.storage.bucket,
                &format!("{}/", names.prefix(index)),
            )
            .await?;
        }
        let keys = client.keys().await?;
        if let Some(key) = keys.into_iter().find(|key| key.name == names.key()) {
            client.revoke_key(&key.access_key_id).await?;
        }
        Ok::<_, penstock_rdma::Error>(())
    };
    Ok(removed.await.map_err(|error| penstock_service::chain(&error)))
}

async fn remove_files(client: &Client, bucket: &str, prefix: &str) -> penstock_rdma::Result<()> {
    let query = ListingQuery {
        prefix: prefix.into(),
        limit: 1000,
        ..ListingQuery::default()
    };
    loop {
        let page = match client.list(bucket, &query).await {
            // The bucket has gone with its files.
            Err(penstock_rdma::Error::Refused { status: 404, .. }) => return Ok(()),
            page => page?,
        };
        if page.objects.is_empty() {
            return Ok(());
        }
        for (key, _) in page.objects {
            client.delete(bucket, &key).await?;
        }
    }
}
