//! Milvus' way to its bucket: the StorageCluster, a key of its own that writes Milvus' own files alone, and the operator's view of it.

use super::names::{Names, Part};
use crate::{apply::apply, context::Context, error::Error, resources::REGION, secrets, status::Step};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use penstock_crds::{
    StorageCluster, VectorIndex,
    conditions::{
        READY, REASON_INCOMPLETE_SECRET, REASON_NO_BUCKET, REASON_NO_STORAGE_CLUSTER, REASON_NOT_INSTALLED,
        REASON_STORAGE_NOT_READY, REASON_STORAGE_UNREACHABLE,
    },
    vector_index::{StorageAccess, StorageStatus},
};
use penstock_rdma::{
    Client, Credentials, Endpoint, Options, Policy,
    admin::{Access, KeyRequest, Scope},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Where Milvus keeps its files.
pub struct Storage {
    /// With Milvus' own key.
    pub client: Client,
    /// Host and port that Milvus asks.
    pub address: String,
    /// It asks over TLS.
    pub tls: bool,
    /// The CA of that is in the Secret.
    pub has_ca: bool,
    /// Changes with the key pair and the CA.
    pub digest: String,
    /// For the status.
    pub status: StorageStatus,
}

/// What a Secret with a key pair holds.
struct Pair {
    credentials: Credentials,
    ca: Option<String>,
}

/// Makes sure that Milvus has a key for its bucket.
pub async fn ensure(
    context: &Context,
    names: &Names,
    index: &VectorIndex,
) -> Result<Result<Storage, Step>, Error> {
    let wanted = &index.spec.storage;
    let cluster_name = &wanted.cluster_name;
    let clusters = Api::<StorageCluster>::namespaced(context.client.clone(), &names.namespace);
    let found = clusters.get_opt(cluster_name).await;
    let Some(cluster) = found.map_err(Error::api(format!("read StorageCluster {cluster_name}")))? else {
        let message = format!(
            "there is no StorageCluster {cluster_name} in this namespace: make it, or change spec.storage"
        );
        return Ok(Err(Step::failed(REASON_NO_STORAGE_CLUSTER, message)));
    };
    let status = cluster.status.clone().unwrap_or_default();
    let is_ready =
        crate::status::told(&status.conditions, READY).is_some_and(|(status, ..)| status == "True");
    let (Some(endpoint), Some(secret), true) = (status.endpoint, status.credentials_secret, is_ready) else {
        let message = format!("StorageCluster {cluster_name} is not Ready");
        return Ok(Err(Step::waiting(REASON_STORAGE_NOT_READY, message)));
    };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let Some(root) = pair(&secrets, &secret).await? else {
        let message = format!("Secret {secret} of StorageCluster {cluster_name} holds no key pair");
        return Ok(Err(Step::failed(REASON_INCOMPLETE_SECRET, message)));
    };
    let (milvus_asks, ca) = match (wanted.access, status.gateway) {
        (StorageAccess::Direct, _) => (endpoint.clone(), root.ca.clone()),
        (StorageAccess::Gateway, Some(gateway)) => (gateway.endpoint, None),
        (StorageAccess::Gateway, None) => {
            let message = format!(
                "StorageCluster {cluster_name} has no gateway: set spec.gateway.enabled there, or spec.storage.access to Direct here"
            );
            return Ok(Err(Step::failed(REASON_NOT_INSTALLED, message)));
        }
    };
    let node = match Node::new(&endpoint, root.ca.as_deref()) {
        Ok(node) => node,
        Err(error) => return Ok(Err(unreachable(&error))),
    };
    let credentials = match own_key(context, names, index, &secrets, &node, &root, ca.as_deref()).await? {
        Ok(credentials) => credentials,
        Err(error) => return Ok(Err(unreachable(&error))),
    };
    let client = match node.client(credentials.clone()) {
        Ok(client) => client,
        Err(error) => return Ok(Err(unreachable(&error))),
    };
    match client.head_bucket(&wanted.bucket).await {
        Ok(()) => {}
        Err(penstock_rdma::Error::Refused { status: 404, .. }) => {
            let message = format!(
                "there is no bucket {} in StorageCluster {cluster_name}: make it, with the vectors below {}",
                wanted.bucket, index.spec.source.prefix
            );
            return Ok(Err(Step::failed(REASON_NO_BUCKET, message)));
        }
        Err(error) => return Ok(Err(unreachable(&error))),
    }
    let mut digest = Sha256::new();
    for part in [
        credentials.access_key_id(),
        credentials.secret_access_key(),
        ca.as_deref().unwrap_or_default(),
    ] {
        digest.update(part);
        digest.update([0]);
    }
    let (tls, address) = match milvus_asks.split_once("://") {
        Some((scheme, address)) => (scheme == "https", address.to_owned()),
        None => (false, milvus_asks.clone()),
    };
    Ok(Ok(Storage {
        client,
        address,
        tls,
        has_ca: ca.is_some(),
        digest: hex::encode(digest.finalize())[..16].to_owned(),
        status: StorageStatus {
            endpoint: milvus_asks,
            access: format!("{:?}", wanted.access),
        },
    }))
}

/// How the operator talks to the storage node.
pub struct Node {
    endpoint: Endpoint,
    ca: Option<Vec<u8>>,
}

impl Node {
    fn new(endpoint: &str, ca: Option<&str>) -> penstock_rdma::Result<Self> {
        Ok(Self {
            endpoint: endpoint.parse()?,
            ca: ca.map(|ca| ca.as_bytes().to_vec()),
        })
    }

    fn client(&self, credentials: Credentials) -> penstock_rdma::Result<Client> {
        let options = Options {
            region: REGION.into(),
            ca_pem: self.ca.clone(),
            policy: Policy::Off,
            // A reconciliation that waits is tried again.
            retries: 1,
            stall_timeout: Duration::from_secs(10),
            ..Options::default()
        };
        Client::new(self.endpoint.clone(), credentials, options)
    }
}

/// A client with the root key pair of a StorageCluster, if there is one and it is told where.
pub async fn administrator(context: &Context, names: &Names, cluster: &str) -> Result<Option<Client>, Error> {
    let clusters = Api::<StorageCluster>::namespaced(context.client.clone(), &names.namespace);
    let found = clusters.get_opt(cluster).await;
    let found = found.map_err(Error::api(format!("read StorageCluster {cluster}")))?;
    let status = found.and_then(|found| found.status).unwrap_or_default();
    let (Some(endpoint), Some(secret)) = (status.endpoint, status.credentials_secret) else {
        return Ok(None);
    };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), &names.namespace);
    let Some(root) = pair(&secrets, &secret).await? else {
        return Ok(None);
    };
    let node = Node::new(&endpoint, root.ca.as_deref());
    Ok(node.and_then(|node| node.client(root.credentials)).ok())
}

fn unreachable(error: &penstock_rdma::Error) -> Step {
    Step::waiting(REASON_STORAGE_UNREACHABLE, penstock_service::chain(error))
}

async fn pair(api: &Api<Secret>, name: &str) -> Result<Option<Pair>, Error> {
    let found = api.get_opt(name).await;
    let found = found.map_err(Error::api(format!("read Secret {name}")))?;
    let text = |key| secrets::text(found.as_ref()?, key);
    let (Some(access), Some(secret)) = (text("accessKeyId"), text("secretAccessKey")) else {
        return Ok(None);
    };
    Ok(Some(Pair {
        credentials: Credentials::new(access, secret),
        ca: text("ca.crt"),
    }))
}

/// The key pair that opens the bucket, as far as Milvus needs it. Its secret is told once, so one whose Secret was lost is revoked and made anew.
async fn own_key(
    context: &Context,
    names: &Names,
    index: &VectorIndex,
    secrets: &Api<Secret>,
    node: &Node,
    root: &Pair,
    ca: Option<&str>,
) -> Result<Result<Credentials, penstock_rdma::Error>, Error> {
    let held = pair(secrets, &names.storage()).await?;
    let root = match node.client(root.credentials.clone()) {
        Ok(root) => root,
        Err(error) => return Ok(Err(error)),
    };
    let known = match root.keys().await {
        Ok(keys) => keys.into_iter().find(|key| key.name == names.key()),
        Err(error) => return Ok(Err(error)),
    };
    let scopes = scopes(names, index);
    let credentials = match (held, &known) {
        (Some(held), Some(known))
            if held.credentials.access_key_id() == known.access_key_id && known.scopes == scopes =>
        {
            held.credentials
        }
        _ => {
            let made = async {
                if let Some(known) = &known {
                    root.revoke_key(&known.access_key_id).await?;
                }
                let request = KeyRequest {
                    name: names.key(),
                    scopes,
                    expires: None,
                };
                root.create_key(&request).await
            };
            match made.await {
                Ok(made) => Credentials::new(made.info.access_key_id, made.secret_access_key),
                Err(error) => return Ok(Err(error)),
            }
        }
    };
    let mut data = json!({
        "accessKeyId": credentials.access_key_id(), "secretAccessKey": credentials.secret_access_key(),
    });
    if let Some(ca) = ca {
        data["ca.crt"] = json!(ca);
    }
    apply(
        &context.client,
        &json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": names.owned(&names.storage(), Part::Milvus),
            "stringData": data,
        }),
    )
    .await?;
    Ok(Ok(credentials))
}

/// What Milvus' key opens: its own files to write, and the bucket to read, because it imports from there and lists it when it starts.
fn scopes(names: &Names, index: &VectorIndex) -> Vec<Scope> {
    let scope = |prefix: String, access| Scope {
        bucket: index.spec.storage.bucket.clone(),
        prefix,
        access,
    };
    vec![
        scope(format!("{}/", names.prefix(index)), Access::ReadWrite),
        scope(String::new(), Access::Read),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::index;
    use super::*;

    #[test]
    fn milvus_cannot_change_the_vectors() {
        let index = index(json!({}));
        let scopes = scopes(&Names::of(&index).unwrap(), &index);
        let writing: Vec<_> = scopes
            .iter()
            .filter(|scope| scope.access == Access::ReadWrite)
            .collect();
        assert_eq!(writing.len(), 1);
        assert_eq!(writing[0].prefix, ".milvus/default/products/");
        assert!(scopes.iter().all(|scope| scope.bucket == "vectors"));
    }
}
