//! The loop: a StorageCluster, or something of it, changed, so make it true again.

use crate::{
    apply::{api_of, apply},
    context::Context,
    credentials,
    error::Error,
    finalize, gateway, needs, nodes, rdma, reconciliation,
    resources::{self, Hashes, Names},
    status::{Findings, Step},
    tls,
};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod, Service},
    },
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::{
        controller::{Action, Controller},
        reflector::ObjectRef,
        watcher,
    },
};
use penstock_crds::{
    CLUSTER_LABEL, FIELD_MANAGER, StorageCluster,
    conditions::{REASON_API_REFUSED, REASON_NAME_TAKEN, REASON_ROLLING_OUT},
    storage_cluster::{NodeCounts, RdmaPolicy},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What no watch tells (Secrets, StorageClasses, the age of certificates) is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// While something is waited for or failing.
const LOOK_SOON: Duration = Duration::from_secs(5);

/// Reconciles until the token fires.
pub async fn run(context: Arc<Context>, leading: CancellationToken) {
    let client = context.client.clone();
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
    let looks = Controller::new(
        Api::<StorageCluster>::all(client.clone()),
        watcher::Config::default(),
    )
    .owns(Api::<StatefulSet>::all(client.clone()), ours.clone())
    .owns(Api::<Service>::all(client.clone()), ours.clone())
    .watches(Api::<Pod>::all(client), ours, |pod| {
        let cluster = pod.metadata.labels.as_ref()?.get(CLUSTER_LABEL)?.clone();
        Some(ObjectRef::new(&cluster).within(pod.metadata.namespace.as_deref()?))
    })
    .graceful_shutdown_on(async move { leading.cancelled().await })
    .run(reconcile, retry, context);
    reconciliation::until_its_end(looks).await;
}

fn retry(cluster: Arc<StorageCluster>, error: &Error, context: Arc<Context>) -> Action {
    reconciliation::again(&*cluster, error, &context, LOOK_SOON)
}

async fn reconcile(cluster: Arc<StorageCluster>, context: Arc<Context>) -> Result<Action, Error> {
    reconciliation::measured(&context, reconcile_once(&cluster, &context)).await
}

async fn reconcile_once(cluster: &StorageCluster, context: &Context) -> Result<Action, Error> {
    let names = Names::of(cluster)?;
    if cluster.metadata.deletion_timestamp.is_some() {
        finalize::release(context, &names, cluster).await?;
        return Ok(Action::await_change());
    }
    reconciliation::hold(context, cluster, finalize::FINALIZER).await?;
    let findings = match make_true(context, &names, cluster).await {
        Ok(findings) => findings,
        Err(error) => {
            // A refusal is told where the user looks; the loop tries again all the same.
            report(context, cluster, &refused(context, &names, cluster, &error)).await?;
            return Err(error);
        }
    };
    report(context, cluster, &findings).await?;
    Ok(Action::requeue(if findings.settled() {
        LOOK_AGAIN
    } else {
        LOOK_SOON
    }))
}

async fn make_true(context: &Context, names: &Names, cluster: &StorageCluster) -> Result<Findings, Error> {
    let mut findings = blank(context, names, cluster);
    let certificates = match cluster.spec.tls.enabled {
        true => Some(tls::ensure(context, names).await?),
        false => None,
    };
    findings.tls = match &certificates {
        Some(_) => Step::done("the certificate is valid and current"),
        None => Step::disabled("tls.enabled is false: requests travel in the clear"),
    };
    let ca = certificates.as_ref().map(|certificates| certificates.ca.as_str());
    let credentials = match credentials::ensure(context, names, &findings.endpoint, ca).await? {
        Ok(hash) => hash,
        Err(step) => {
            findings.credentials = step;
            return Ok(findings);
        }
    };
    findings.credentials = Step::done(format!("Secret {} holds the key pair", names.credentials()));

    // Before the storage node, which does not start without what it is told of.
    let (identity, incomplete) = match gateway::identity(context, names, cluster).await? {
        Ok(identity) => (identity, None),
        Err(step) => (None, Some(step)),
    };
    let hashes = Hashes {
        credentials,
        tls: certificates.as_ref().map(|made| made.hash()).unwrap_or_default(),
        gateway: identity.as_ref().map(|identity| identity.hash.clone()),
    };
    for object in [
        resources::service_account(names),
        resources::role(names),
        resources::role_binding(names, &context.config.csi_service_account),
        resources::nodes_service(names),
        resources::endpoint_service(names),
    ] {
        apply(&context.client, &object).await?;
    }
    let set = apply_stateful_set(context, names, cluster, &hashes).await?;
    match incomplete {
        Some(step) => findings.gateway = step,
        None => {
            let outcome = gateway::ensure(context, names, cluster, ca, identity.as_ref()).await?;
            (findings.gateway, findings.gateway_endpoint) = (outcome.step, outcome.endpoint);
        }
    }
    let pods = nodes::pods(context, names).await?;
    (findings.counts, findings.nodes) = nodes::judge(&set, &pods);
    if !findings.nodes.is_done()
        && let Some(step) = needs::missing(context, names, cluster).await?
    {
        findings.nodes = step;
    }
    findings.rdma = rdma::observe(cluster, &pods).await;
    (findings.storage_class, findings.storage_class_name) =
        ensure_storage_class(context, names, cluster).await?;
    Ok(findings)
}

/// What is found before anything was looked at.
fn blank(context: &Context, names: &Names, cluster: &StorageCluster) -> Findings {
    let waiting = || Step::waiting(REASON_ROLLING_OUT, "not reached yet");
    Findings {
        generation: cluster.metadata.generation,
        credentials: waiting(),
        tls: waiting(),
        storage_class: waiting(),
        nodes: waiting(),
        rdma: waiting(),
        gateway: waiting(),
        gateway_endpoint: None,
        rdma_required: cluster.spec.rdma.policy == RdmaPolicy::Require,
        counts: NodeCounts::new(cluster.spec.nodes, 0, 0),
        endpoint: names.endpoint(cluster),
        credentials_secret: names.credentials(),
        storage_class_name: None,
        image: resources::image(cluster, &context.config).to_owned(),
    }
}

fn refused(context: &Context, names: &Names, cluster: &StorageCluster, error: &Error) -> Findings {
    let mut findings = blank(context, names, cluster);
    findings.nodes = Step::failed(REASON_API_REFUSED, penstock_service::chain(error));
    findings
}

async fn apply_stateful_set(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
    hashes: &Hashes,
) -> Result<StatefulSet, Error> {
    let doing = || format!("apply StatefulSet {}", names.cluster);
    let sets = Api::<StatefulSet>::namespaced(context.client.clone(), &names.namespace);
    let found = sets.get_opt(&names.cluster).await.map_err(Error::api(doing()))?;
    // The template of a claim cannot be changed: its size stays, and the claims themselves are enlarged.
    let size = found.as_ref().and_then(template_size);
    if let (Some(size), Some(template)) = (&size, &cluster.spec.storage.volume_claim_template)
        && *size != template.size
    {
        enlarge_claims(context, names, &template.size).await?;
    }
    let wanted = resources::stateful_set(names, cluster, &context.config, hashes, size.as_deref());
    sets.patch(
        &names.cluster,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&wanted),
    )
    .await
    .map_err(Error::api(doing()))
}

fn template_size(set: &StatefulSet) -> Option<String> {
    let claim = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
    Some(
        claim
            .spec
            .as_ref()?
            .resources
            .as_ref()?
            .requests
            .as_ref()?
            .get("storage")?
            .0
            .clone(),
    )
}

async fn enlarge_claims(context: &Context, names: &Names, size: &str) -> Result<(), Error> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), &names.namespace);
    let ours = ListParams::default().labels(&format!("{CLUSTER_LABEL}={}", names.cluster));
    for claim in claims.list(&ours).await.map_err(Error::api("list claims"))? {
        let Some(name) = claim.metadata.name else { continue };
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let patched = claims
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched.map_err(Error::api(format!("enlarge claim {name} to {size}")))?;
    }
    Ok(())
}

async fn ensure_storage_class(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
) -> Result<(Step, Option<String>), Error> {
    if let Some(old) = &cluster
        .status
        .as_ref()
        .and_then(|status| status.storage_class_name.clone())
        && (*old != names.storage_class(cluster) || !cluster.spec.storage_class.create)
    {
        // Renamed or not wanted any more.
        let mut before = cluster.clone();
        before.spec.storage_class.name = Some(old.clone());
        finalize::remove_storage_class(context, names, &before).await?;
    }
    if !cluster.spec.storage_class.create {
        return Ok((Step::disabled("storageClass.create is false"), None));
    }
    let wanted = resources::storage_class(names, cluster);
    let name = names.storage_class(cluster);
    let api = api_of(&context.client, &wanted);
    if let Some(found) = api
        .get_opt(&name)
        .await
        .map_err(Error::api(format!("read StorageClass {name}")))?
    {
        if !finalize::is_ours(&found, names) {
            let message = format!(
                "a StorageClass {name} exists and is not this cluster's: set spec.storageClass.name to a free name"
            );
            return Ok((Step::failed(REASON_NAME_TAKEN, message), None));
        }
        let same = |field: &str| found.data.get(field).unwrap_or(&Value::Null) == &wanted[field];
        if !["parameters", "reclaimPolicy", "volumeBindingMode"]
            .into_iter()
            .all(same)
        {
            // These fields cannot be changed; claims that are bound do not need their class any more.
            finalize::remove_storage_class(context, names, cluster).await?;
        }
    }
    apply(&context.client, &wanted).await?;
    Ok((
        Step::done(format!("StorageClass {name} makes buckets here")),
        Some(name),
    ))
}

/// Writes the status if it says something new.
async fn report(context: &Context, cluster: &StorageCluster, findings: &Findings) -> Result<(), Error> {
    let old = cluster.status.clone().unwrap_or_default();
    let new = findings.status(&old, Timestamp::now());
    if new == old {
        return Ok(());
    }
    reconciliation::report(context, cluster, &new, &old.conditions, &new.conditions).await
}
