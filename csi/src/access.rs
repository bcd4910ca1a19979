//! How a storage node is reached: the secrets that come with a CSI call.
//!
//! Kubernetes reads them from the Secret that the StorageClass or the PersistentVolume names, which the operator keeps
//! (`<cluster>-credentials`), so that neither the driver nor its users look for an endpoint.

use penstock_rdma::{Client, Credentials, Endpoint, Options, Policy, fabric::Rails};
use penstock_store::remote::Remote;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, path::PathBuf};

const ACCESS_KEY_ID: &str = "accessKeyId";
const SECRET_ACCESS_KEY: &str = "secretAccessKey";
const ENDPOINT: &str = "endpoint";
const REGION: &str = "region";
const CA: &str = "ca.crt";

/// Why secrets do not lead to a storage node. No value of a secret is in it, save the endpoint.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Keys that must be there are not, or are empty.
    #[error(
        "the secrets lack {}: set csi.storage.k8s.io/provisioner-secret-name, csi.storage.k8s.io/node-stage-secret-name and \
         their -namespace in the StorageClass (nodeStageSecretRef in a PersistentVolume) to a Secret with accessKeyId, \
         secretAccessKey and endpoint, as <cluster>-credentials of a StorageCluster is", .0.join(", ")
    )]
    Missing(Vec<&'static str>),
    /// The endpoint is none.
    #[error("the endpoint in the secrets cannot be used")]
    Endpoint(#[source] penstock_rdma::Error),
}

/// Where this host has sockets of storage nodes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Host {
    /// Folder of this host with the sockets of its storage nodes (penstock-store serve --local-sockets).
    #[arg(long, env = "PENSTOCK_LOCAL_SOCKETS", value_name = "DIR")]
    pub local_sockets: Option<PathBuf>,
    /// The socket of the one storage node that is used (penstock-store serve --local-socket).
    #[arg(long, env = "PENSTOCK_LOCAL_SOCKET", value_name = "PATH")]
    pub local_socket: Option<PathBuf>,
}

/// How a storage node is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `https://host:port`.
    pub endpoint: String,
    /// Region that is signed for.
    pub region: String,
    /// Public half of the key pair.
    pub access_key_id: String,
    /// Secret half of the key pair.
    pub secret_access_key: String,
    /// Certificates (PEM) of the storage node's CA.
    pub ca_pem: Option<String>,
}

impl Access {
    /// Reads the secrets of a CSI call.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn parse(secrets: &HashMap<String, String>) -> Result<Self, AccessError> {
        let get = |key| {
            secrets
                .get(key)
                .map(|value| value.trim())
                .filter(|value| !value.is_empty())
        };
        let mut missing = Vec::new();
        let mut need = |key| {
            let value = get(key);
            if value.is_none() {
                missing.push(key);
            }
            value.unwrap_or_default().to_owned()
        };
        let access = Self {
            access_key_id: need(ACCESS_KEY_ID),
            secret_access_key: need(SECRET_ACCESS_KEY),
            endpoint: need(ENDPOINT),
            region: get(REGION).unwrap_or("us-east-1").to_owned(),
            ca_pem: get(CA).map(str::to_owned),
        };
        if !missing.is_empty() {
            return Err(AccessError::Missing(missing));
        }
        access
            .endpoint
            .parse::<Endpoint>()
            .map_err(AccessError::Endpoint)?;
        Ok(access)
    }

    /// The engine that asks this storage node over HTTP. Nothing is sent yet. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// When the endpoint or the CA certificate cannot be used.
    pub fn engine(&self) -> Result<Remote, penstock_rdma::Error> {
        self.engine_by(Policy::Off, None, &Host::default())
    }

    /// As [`Access::engine`], by the path of this host where the storage node is on it.
    ///
    /// # Errors
    /// As [`Access::engine`].
    pub fn engine_on(&self, host: &Host) -> Result<Remote, penstock_rdma::Error> {
        self.engine_by(Policy::Prefer, None, host)
    }

    /// As [`Access::engine`]; bytes of objects travel by the path of this host or by RDMA as far as `policy`, `host` and
    /// `rails` let them.
    ///
    /// # Errors
    /// As [`Access::engine`].
    pub fn engine_by(
        &self,
        policy: Policy,
        rails: Option<Rails>,
        host: &Host,
    ) -> Result<Remote, penstock_rdma::Error> {
        let options = Options {
            policy,
            rails,
            region: self.region.clone(),
            ca_pem: self.ca_pem.clone().map(String::into_bytes),
            local_socket: host.local_socket.clone(),
            local_sockets: host.local_sockets.clone(),
            ..Options::default()
        };
        let credentials = Credentials::new(&self.access_key_id, &self.secret_access_key);
        Ok(Remote::new(Client::new(
            self.endpoint.parse()?,
            credentials,
            options,
        )?))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"(hidden)")
            .field("ca_pem", &self.ca_pem.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(endpoint: &str) -> HashMap<String, String> {
        [
            (ACCESS_KEY_ID, "AKID"),
            (SECRET_ACCESS_KEY, "very-secret\n"),
            (ENDPOINT, endpoint),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    #[tokio::test]
    async fn the_operators_secret_leads_to_a_storage_node() {
        let access = Access::parse(&secrets("http://demo.default.svc:9000\n")).unwrap();
        assert_eq!(
            (access.region.as_str(), access.secret_access_key.as_str()),
            ("us-east-1", "very-secret")
        );
        let engine = access.engine().unwrap();
        assert_eq!(
            engine.client().endpoint().to_string(),
            "http://demo.default.svc:9000"
        );
    }

    #[test]
    fn all_missing_keys_are_named_at_once_with_the_fields_to_set() {
        let mut given = secrets(" ");
        given.remove(ACCESS_KEY_ID);
        let error = Access::parse(&given).unwrap_err().to_string();
        assert!(
            error.starts_with("the secrets lack accessKeyId, endpoint:"),
            "{error}"
        );
        assert!(
            error.contains("provisioner-secret-name") && error.contains("node-stage-secret-name"),
            "{error}"
        );
    }

    #[test]
    fn an_endpoint_that_is_none_is_refused_before_it_is_asked() {
        let error = penstock_service::chain(&Access::parse(&secrets("demo:9000")).unwrap_err());
        assert!(
            error.contains("demo:9000") && error.contains("https://storage.example:9000"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_ca_that_is_no_certificate_is_refused() {
        let mut given = secrets("https://demo:9000");
        given.insert(CA.into(), "not PEM".into());
        let error = Access::parse(&given).unwrap().engine().unwrap_err();
        assert!(error.to_string().contains("CA"), "{error}");
    }

    #[test]
    fn the_secret_key_shows_nowhere() {
        let access = Access::parse(&secrets("http://demo:9000")).unwrap();
        assert!(!format!("{access:?}").contains("very-secret"));
        let missing = Access::parse(&[(SECRET_ACCESS_KEY.to_owned(), "very-secret".to_owned())].into());
        let error = missing.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("very-secret"));
    }
}
