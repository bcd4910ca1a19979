//! Which storage nodes the gateway of a node serves: a folder with a JSON file for each, in Kubernetes a Secret that the operator
//! keeps.

use crate::transport::Transport;
use penstock_rdma::{
    Credentials, Policy,
    relay::{RelayMemory, RelayOptions, RelayRdma},
};
use penstock_store::gateway::Upstream;
use serde::Deserialize;
use std::{collections::HashSet, fmt, io, net::SocketAddr, path::Path};

/// The folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// One listener each.
    pub upstreams: Vec<UpstreamConfig>,
}

/// A storage node, and where its gateway listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UpstreamConfig {
    /// In metrics and logs.
    pub name: String,
    /// Address that serves S3.
    pub listen: SocketAddr,
    /// The storage node, as `https://demo.default.svc:9000`.
    pub endpoint: String,
    /// Certificates (PEM) of its CA.
    #[serde(default)]
    pub ca: Option<String>,
    /// Whether bytes go by this host's socket or by RDMA.
    #[serde(default)]
    pub fast_path: Policy,
    /// The gateway's own identity, without which nothing goes by RDMA.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// A key pair. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Identity {
    /// Public half.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"(hidden)")
            .finish()
    }
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the gateway's configuration {path}")]
    Read {
        /// Where it is.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is not of the right form.
    #[error("the gateway's configuration {path} is not understood; see docs/gateway.md")]
    Parse {
        /// Where it is.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Two upstreams with one name or one address.
    #[error("two upstreams of the gateway have the same {what} {value}; give each its own")]
    Twice {
        /// `name` or `listen`.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// The endpoint is none.
    #[error("the endpoint of the gateway's upstream {name} cannot be used")]
    Endpoint {
        /// Of which upstream.
        name: String,
        /// Why.
        source: penstock_rdma::Error,
    },
}

impl Config {
    /// Reads the files `*.json` of a folder.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(folder: &Path) -> Result<Self, ConfigError> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            |source| ConfigError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
            let path = entry.map_err(unreadable(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut config = Self::default();
        for path in paths {
            let text = std::fs::read(&path).map_err(unreadable(&path))?;
            let upstream = serde_json::from_slice(&text).map_err(|source| ConfigError::Parse {
                path: path.display().to_string(),
                source,
            })?;
            config.upstreams.push(upstream);
        }
        let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
        for upstream in &config.upstreams {
            if !names.insert(&upstream.name) {
                return Err(ConfigError::Twice {
                    what: "name",
                    value: upstream.name.clone(),
                });
            }
            if !addresses.insert(upstream.listen) {
                return Err(ConfigError::Twice {
                    what: "listen",
                    value: upstream.listen.to_string(),
                });
            }
        }
        Ok(config)
    }
}

impl UpstreamConfig {
    /// The upstream, reached from this host; bytes by RDMA are in `memory`.
    ///
    /// # Errors
    /// When its endpoint is none.
    pub fn upstream(&self, transport: &Transport, memory: &RelayMemory) -> Result<Upstream, ConfigError> {
        let endpoint = self.endpoint.parse().map_err(|source| ConfigError::Endpoint {
            name: self.name.clone(),
            source,
        })?;
        let rdma = self.identity.as_ref().zip(transport.rails());
        let rdma = rdma.map(|(identity, rails)| {
            let identity = Credentials::new(&identity.access_key_id, &identity.secret_access_key);
            RelayRdma::new(rails.clone(), identity, memory.clone())
        });
        let host = transport.host();
        Ok(Upstream {
            name: self.name.clone(),
            endpoint,
            options: RelayOptions {
                ca_pem: self.ca.clone().map(String::into_bytes),
                policy: self.fast_path,
                local_socket: host.local_socket.clone(),
                local_sockets: host.local_sockets.clone(),
                rdma,
                ..RelayOptions::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[&str]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("..data"), "what the kubelet has there").unwrap();
        for (number, text) in files.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number}.json")), text).unwrap();
        }
        Config::read(folder.path()).map_err(|error| penstock_service::chain(&error))
    }

    #[test]
    fn each_file_is_an_upstream() {
        let config = read(&[
            r#"{"name": "demo", "listen": "0.0.0.0:9100", "endpoint": "https://demo.default.svc:9000", "ca": "-----BEGIN",
                "fastPath": "require", "identity": {"accessKeyId": "AKID", "secretAccessKey": "very-secret"}}"#,
            r#"{"name": "other", "listen": "0.0.0.0:9101", "endpoint": "http://other:9000"}"#,
        ])
        .unwrap();
        assert_eq!(config.upstreams[0].fast_path, Policy::Require);
        assert_eq!(config.upstreams[1].fast_path, Policy::Prefer);
        assert_eq!(config.upstreams[1].identity, None);
        assert!(!format!("{config:?}").contains("very-secret"));
        assert_eq!(read(&[]).unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let one = r#"{"name": "a", "listen": "0.0.0.0:9100", "endpoint": "http://a:1"}"#;
        let error = read(&[one, one]).unwrap_err();
        assert!(error.contains("same name a"), "{error}");
        let error = read(&[one, &one.replace("\"a\"", "\"b\"")]).unwrap_err();
        assert!(error.contains("same listen 0.0.0.0:9100"), "{error}");
        let error = read(&[&one.replace("endpoint", "endpiont")]).unwrap_err();
        assert!(error.contains("endpiont") && error.contains("0.json"), "{error}");
    }
}
