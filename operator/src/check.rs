//! `penstock-operator check`: is everything of an installation there? What `helm test` runs.

use crate::error::Error;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        storage::v1::{CSIDriver, CSINode},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, api::ListParams};
use penstock_crds::CSI_DRIVER;
use std::time::{Duration, Instant};

/// What is checked.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Namespace of the installation.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,

    /// Wait this many seconds for what is not there yet.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience: u64,
}

/// Prints one line per part.
///
/// # Errors
/// When a part is missing or not available in time; the message names the first.
pub async fn run(args: &Args) -> Result<(), Error> {
    let client = Client::try_default().await.map_err(Error::Connect)?;
    let deadline = Instant::now() + Duration::from_secs(args.patience);
    loop {
        let found = look(&client, &args.namespace).await;
        let trouble = found
            .iter()
            .find_map(|(what, outcome)| outcome.as_ref().err().map(|why| format!("{what}: {why}")));
        if trouble.is_none() || Instant::now() > deadline {
            for (what, outcome) in &found {
                println!("{what}: {}", outcome.as_ref().unwrap_or_else(|why| why));
            }
            return trouble.map_or(Ok(()), |why| Err(Error::CheckFailed(why)));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

type Outcome = Result<String, String>;

async fn look(client: &Client, namespace: &str) -> Vec<(String, Outcome)> {
    let mut found = Vec::new();
    for crd in penstock_crds::all() {
        let name = crd.metadata.name.unwrap_or_default();
        found.push((
            format!("CustomResourceDefinition {name}"),
            established(client, &name).await,
        ));
    }
    let driver = Api::<CSIDriver>::all(client.clone()).get(CSI_DRIVER).await;
    found.push((
        format!("CSIDriver {CSI_DRIVER}"),
        driver.map(|_| "ok".into()).map_err(|error| error.to_string()),
    ));
    for name in ["penstock-operator", "penstock-csi-controller"] {
        found.push((
            format!("Deployment {name}"),
            deployment(client, namespace, name).await,
        ));
    }
    found.push((
        "DaemonSet penstock-node".into(),
        daemon_set(client, namespace, "penstock-node").await,
    ));
    found.push((format!("nodes with {CSI_DRIVER}"), registered(client).await));
    found
}

async fn established(client: &Client, name: &str) -> Outcome {
    let crd = Api::<CustomResourceDefinition>::all(client.clone())
        .get(name)
        .await
        .map_err(|error| error.to_string())?;
    let conditions = crd
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    match conditions
        .iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
    {
        true => Ok("ok".into()),
        false => Err("not established".into()),
    }
}

async fn deployment(client: &Client, namespace: &str, name: &str) -> Outcome {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let found = api.get(name).await.map_err(|error| error.to_string())?;
    let wanted = found.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let available = found
        .status
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    counted(available, wanted)
}

async fn daemon_set(client: &Client, namespace: &str, name: &str) -> Outcome {
    let api = Api::<DaemonSet>::namespaced(client.clone(), namespace);
    let status = api
        .get(name)
        .await
        .map_err(|error| error.to_string())?
        .status
        .unwrap_or_default();
    counted(
        status.number_available.unwrap_or(0),
        status.desired_number_scheduled,
    )
}

async fn registered(client: &Client) -> Outcome {
    let nodes = Api::<CSINode>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| error.to_string())?;
    let with = nodes
        .iter()
        .filter(|node| node.spec.drivers.iter().any(|driver| driver.name == CSI_DRIVER))
        .count();
    match with {
        0 => Err("the driver is registered on no node; see the logs of DaemonSet penstock-node".into()),
        _ => Ok(format!("{with} of {}", nodes.items.len())),
    }
}

fn counted(available: i32, wanted: i32) -> Outcome {
    let told = format!("{available} of {wanted} available");
    if available >= wanted && wanted > 0 {
        Ok(told)
    } else {
        Err(told)
    }
}
