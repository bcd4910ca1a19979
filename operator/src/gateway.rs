//! S3 for the pods of every node, by the agent of that node: an identity for the agents, an entry in what they follow, and a
//! Service that leads to them.
//!
//! ```text
//!   cluster's namespace   Secret <name>-gateway: the gateways' key pair ──▶ the storage node, which knows them by it
//!   agents' namespace     Secret penstock-gateway: an entry per cluster ──mounted──▶ agents
//!                         Service penstock-gateway-<name>-<namespace> ──▶ the agent of the client's node
//! ```
//! The key pair gives access to no object, so it may lie on every node.

use crate::{
    apply::{api_of, apply, unless_gone},
    context::Context,
    credentials,
    error::Error,
    finalize,
    resources::{
        self, GATEWAYS, Names, Taken, gateway_endpoint, gateway_entry, gateway_key, gateway_port, port_of,
    },
    secrets,
    status::{Step, told},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use penstock_crds::{
    FIELD_MANAGER, StorageCluster,
    conditions::{
        GATEWAY_READY, REASON_DISABLED, REASON_NAME_TAKEN, REASON_NOT_INSTALLED, REASON_PORT_TAKEN,
    },
    storage_cluster::RdmaPolicy,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How it turned out.
pub struct Outcome {
    pub step: Step,
    /// Where it is served.
    pub endpoint: Option<String>,
}

/// The gateways' key pair.
pub struct Identity {
    /// Changes with it.
    pub hash: String,
    access: String,
    secret: String,
}

fn failed(reason: &'static str, message: String) -> Outcome {
    Outcome {
        step: Step::failed(reason, message),
        endpoint: None,
    }
}

/// The key pair that the storage node is to know gateways by, where bytes may go by RDMA; made if there is none.
///
/// # Errors
/// The inner one says what is missing in the Secret.
pub async fn identity(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
) -> Result<Result<Option<Identity>, Step>, Error> {
    let wanted = cluster.spec.gateway.enabled && cluster.spec.rdma.policy != RdmaPolicy::Disabled;
    if !wanted || context.config.gateway_selector.is_none() {
        return Ok(Ok(None));
    }
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let name = names.gateway();
    let secret = secrets::once(&secrets, &name, &names.owned(&name), credentials::key_pair).await?;
    let hash = match credentials::complete(&name, &secret) {
        Ok(hash) => hash,
        Err(step) => return Ok(Err(step)),
    };
    let data = secret.data.unwrap_or_default();
    let value = |key: &str| {
        let value = data.get(key).map(|value| value.0.as_slice());
        String::from_utf8_lossy(value.unwrap_or_default())
            .trim()
            .to_owned()
    };
    Ok(Ok(Some(Identity {
        hash,
        access: value("accessKeyId"),
        secret: value("secretAccessKey"),
    })))
}

/// Has agents serve the cluster, or not any more.
pub async fn ensure(
    context: &Context,
    names: &Names,
    cluster: &StorageCluster,
    ca: Option<&str>,
    identity: Option<&Identity>,
) -> Result<Outcome, Error> {
    let is_wanted = cluster.spec.gateway.enabled;
    if !is_wanted || context.config.gateway_selector.is_none() {
        // Whatever was made, or half made, has been told of.
        let before = cluster
            .status
            .as_ref()
            .and_then(|status| told(&status.conditions, GATEWAY_READY));
        let nothing = [REASON_DISABLED, REASON_NOT_INSTALLED];
        if before.is_some_and(|(_, reason, _)| !nothing.contains(&reason)) {
            remove(context, names).await?;
        }
        if is_wanted {
            let message = "no agent serves S3 to pods: set csi.agent.gateway.enabled in the chart's values";
            return Ok(failed(REASON_NOT_INSTALLED, message.to_owned()));
        }
        return Ok(Outcome {
            step: Step::disabled("gateway.enabled is false"),
            endpoint: None,
        });
    }
    // One cluster after the other, so that no two get the same port.
    let _turn = context.gateways.lock().await;
    let entries = entries(context).await?;
    let key = gateway_key(names);
    let own = entries.get(&key).and_then(|entry| port_of(&entry.0));
    let taken: Vec<Taken> = entries
        .iter()
        .filter(|(other, _)| **other != key)
        .filter_map(|(other, entry)| Some((port_of(&entry.0)?, owner_of(other))))
        .collect();
    let port = match gateway_port(cluster.spec.gateway.port, own, &taken) {
        Ok(port) => port,
        Err((port, owner)) => {
            let message =
                format!("port {port} of the agents is {owner}'s: set spec.gateway.port to another one");
            return Ok(failed(REASON_PORT_TAKEN, message));
        }
    };
    let service = resources::gateway_service(names, &context.config, port);
    let name = service["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let found = api_of(&context.client, &service)
        .get_opt(&name)
        .await
        .map_err(Error::api(format!("read Service {name}")))?;
    if found.is_some_and(|found| !finalize::is_ours(&found, names)) {
        let message = format!(
            "a Service {name} exists in {} and is not this cluster's: delete it, or give the StorageCluster another name",
            context.config.namespace
        );
        return Ok(failed(REASON_NAME_TAKEN, message));
    }
    let pair = identity.map(|identity| (identity.access.as_str(), identity.secret.as_str()));
    let entry = gateway_entry(names, cluster, port, ca, pair).to_string();
    if entries
        .get(&key)
        .is_none_or(|before| before.0 != entry.as_bytes())
    {
        write(context, &key, &json!(ByteString(entry.into_bytes()))).await?;
    }
    apply(&context.client, &service).await?;
    Ok(Outcome {
        step: Step::done(format!("agents serve it on port {port}, behind Service {name}")),
        endpoint: Some(gateway_endpoint(names, &context.config)),
    })
}

/// `<namespace>.<name>.json` is `<namespace>/<name>`'s.
fn owner_of(key: &str) -> String {
    key.trim_end_matches(".json").replacen('.', "/", 1)
}

async fn entries(context: &Context) -> Result<BTreeMap<String, ByteString>, Error> {
    let found = api(context)
        .get_opt(GATEWAYS)
        .await
        .map_err(Error::api(format!("read Secret {GATEWAYS}")))?;
    Ok(found.and_then(|found| found.data).unwrap_or_default())
}

fn api(context: &Context) -> Api<Secret> {
    Api::namespaced(context.client.clone(), &context.config.namespace)
}

/// Sets one entry, or takes it away (`null`); the others are other clusters'.
async fn write(context: &Context, key: &str, entry: &Value) -> Result<(), Error> {
    let doing = || format!("write {key} into Secret {GATEWAYS}");
    let parameters = PatchParams::default();
    let patch = json!({"data": {key: entry}});
    let patched = api(context)
        .patch(GATEWAYS, &parameters, &Patch::Merge(&patch))
        .await;
    if unless_gone(patched).map_err(Error::api(doing()))?.is_some() || entry.is_null() {
        return Ok(());
    }
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {
            "name": GATEWAYS, "namespace": context.config.namespace,
            "labels": {
                "app.kubernetes.io/name": "penstock-gateway", "app.kubernetes.io/managed-by": FIELD_MANAGER,
                "app.kubernetes.io/part-of": "penstock",
            },
        },
        "data": {key: entry},
    }))
    .unwrap_or_default();
    let created = api(context).create(&PostParams::default(), &secret).await;
    created.map(drop).map_err(Error::api(doing()))
}

/// Takes away all that was made for it.
pub async fn remove(context: &Context, names: &Names) -> Result<(), Error> {
    let _turn = context.gateways.lock().await;
    let service = resources::gateway_service(names, &context.config, 0);
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let services = api_of(&context.client, &service);
    let doing = format!("delete Service {name}");
    let found = services.get_opt(name).await.map_err(Error::api(doing.clone()))?;
    if found.is_some_and(|found| finalize::is_ours(&found, names)) {
        unless_gone(services.delete(name, &Default::default()).await).map_err(Error::api(doing))?;
    }
    let key = gateway_key(names);
    let entries = entries(context).await?;
    if entries.contains_key(&key) {
        if entries.len() == 1 {
            let deleted = api(context).delete(GATEWAYS, &Default::default()).await;
            unless_gone(deleted).map_err(Error::api(format!("delete Secret {GATEWAYS}")))?;
        } else {
            write(context, &key, &Value::Null).await?;
        }
    }
    let name = names.gateway();
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let deleted = secrets.delete(&name, &Default::default()).await;
    unless_gone(deleted).map_err(Error::api(format!("delete Secret {name}")))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_whose_entry_it_is() {
        assert_eq!(owner_of("default.demo.json"), "default/demo");
    }
}
