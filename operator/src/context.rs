//! What a reconciliation needs besides the object.

use crate::metrics::Metrics;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Mutex;

/// How this operator is installed; the chart sets all of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Image of the storage node where a StorageCluster names none.
    #[arg(long, env = "PENSTOCK_STORE_IMAGE", value_name = "IMAGE")]
    pub store_image: String,

    /// When images are pulled, where a StorageCluster does not say.
    #[arg(long, env = "PENSTOCK_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,

    /// ServiceAccount of the CSI controller, as NAMESPACE/NAME: it may read the Secrets that provisioning needs.
    #[arg(long, env = "PENSTOCK_CSI_SERVICE_ACCOUNT", value_name = "NAMESPACE/NAME", value_parser = service_account)]
    pub csi_service_account: ServiceAccount,

    /// Labels of the pods whose agents serve S3 to their nodes, as KEY=VALUE,…; without, no StorageCluster can have a gateway.
    #[arg(long, env = "PENSTOCK_GATEWAY_SELECTOR", value_name = "KEY=VALUE,…", value_parser = labels)]
    pub gateway_selector: Option<Labels>,

    /// These agents serve HTTPS, and no HTTP.
    #[arg(long, env = "PENSTOCK_GATEWAY_TLS")]
    pub gateway_tls: bool,

    /// Namespace of the operator and of the agents: here are the Lease that elects the leader, and what agents serve.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: String,

    /// Name of this replica in the Lease.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,
}

/// Labels that select pods.
pub type Labels = BTreeMap<String, String>;

fn labels(text: &str) -> Result<Labels, String> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    let pairs: Option<Labels> = text.split(',').map(pair).collect();
    pairs.ok_or_else(|| "write KEY=VALUE,KEY=VALUE".into())
}

/// A ServiceAccount by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
}

fn service_account(text: &str) -> Result<ServiceAccount, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ServiceAccount {
            namespace: namespace.into(),
            name: name.into(),
        }),
        _ => Err("write NAMESPACE/NAME".into()),
    }
}

/// Shared by all reconciliations.
pub struct Context {
    pub client: Client,
    pub config: Config,
    pub metrics: Metrics,
    /// Held while the gateways' ports are looked at and one is given away.
    pub gateways: Mutex<()>,
    recorder: Recorder,
}

impl Context {
    pub fn new(client: Client, config: Config, metrics: Metrics) -> Arc<Self> {
        let reporter = Reporter {
            controller: "penstock-operator".into(),
            instance: Some(config.identity.clone()),
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Arc::new(Self {
            client,
            config,
            metrics,
            gateways: Mutex::default(),
            recorder,
        })
    }

    /// Publishes an Event on an object. What it tells is in the status too, so a lost Event is only logged.
    pub async fn tell<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.into(),
            // The API takes at most 1 kB.
            note: Some(note.chars().take(900).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason, "an Event was not published");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_chart_says_is_understood() {
        let parsed = service_account("system/csi").unwrap();
        assert_eq!(
            parsed,
            ServiceAccount {
                namespace: "system".into(),
                name: "csi".into()
            }
        );
        assert_eq!(
            labels("a/b=c,d=").unwrap(),
            [("a/b".into(), "c".into()), ("d".into(), String::new())].into()
        );
        assert!(labels("").is_err() && labels("a").is_err() && labels("=b").is_err());
        assert!(service_account("csi").is_err());
        assert!(service_account("/csi").is_err());
    }
}
