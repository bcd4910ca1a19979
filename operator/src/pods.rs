//! Pods: which there are, and what they say at their own HTTP endpoints.

use crate::{context::Context, error::Error};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// The pods of `owner` in a namespace, which these labels select, as `a=b,c=d`.
pub async fn list(context: &Context, namespace: &str, owner: &str, labels: &str) -> Result<Vec<Pod>, Error> {
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let listed = pods.list(&ListParams::default().labels(labels)).await;
    Ok(listed
        .map_err(Error::api(format!("list the pods of {owner}")))?
        .items)
}

/// What a pod answers to a GET of `path`, if that is at most `most` bytes; else why there is no answer.
pub async fn ask(pod: &Pod, port: u16, path: &str, most: usize) -> Result<Bytes, String> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let address: IpAddr = address
        .and_then(|address| address.parse().ok())
        .ok_or("the pod has no address yet")?;
    let uri = format!("http://{}{path}", SocketAddr::new(address, port));
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = async {
        let uri = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
        let response = client
            .get(uri)
            .await
            .map_err(|error| penstock_service::chain(&error))?;
        if !response.status().is_success() {
            return Err(format!("its endpoint answers {} to {path}", response.status()));
        }
        let body = Limited::new(response.into_body(), most).collect().await;
        Ok(body
            .map_err(|error| format!("its answer broke off: {error}"))?
            .to_bytes())
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "its endpoint did not answer within {} s",
            PATIENCE.as_secs()
        )),
    }
}
