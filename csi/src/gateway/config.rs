//! Which storage nodes the gateway of a node serves: a JSON file, a ConfigMap in Kubernetes. Nothing in it is secret.

use crate::access::Host;
use penstock_rdma::{Policy, relay::RelayOptions};
use penstock_store::gateway::Upstream;
use serde::Deserialize;
use std::{collections::HashSet, io, net::SocketAddr, path::Path};

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Whether bytes of a storage node on this host go past its port.
    #[serde(default)]
    pub fast_path: Policy,
}

/// Why the file cannot be used.
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
    /// Reads the file.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = || path.display().to_string();
        let text = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: shown(),
            source,
        })?;
        let config: Self = serde_json::from_slice(&text).map_err(|source| ConfigError::Parse {
            path: shown(),
            source,
        })?;
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
    /// The upstream, reached from this host.
    ///
    /// # Errors
    /// When its endpoint is none.
    pub fn upstream(&self, host: &Host) -> Result<Upstream, ConfigError> {
        let endpoint = self.endpoint.parse().map_err(|source| ConfigError::Endpoint {
            name: self.name.clone(),
            source,
        })?;
        Ok(Upstream {
            name: self.name.clone(),
            endpoint,
            options: RelayOptions {
                ca_pem: self.ca.clone().map(String::into_bytes),
                policy: self.fast_path,
                local_socket: host.local_socket.clone(),
                local_sockets: host.local_sockets.clone(),
                ..RelayOptions::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path()).map_err(|error| penstock_service::chain(&error))
    }

    #[test]
    fn a_file_names_its_upstreams() {
        let config = read(
            r#"{"upstreams": [{"name": "demo", "listen": "0.0.0.0:9100", "endpoint": "https://demo.default.svc:9000",
                 "ca": "-----BEGIN", "fastPath": "require"},
                {"name": "other", "listen": "0.0.0.0:9101", "endpoint": "http://other:9000"}]}"#,
        )
        .unwrap();
        assert_eq!(config.upstreams[0].fast_path, Policy::Require);
        assert_eq!(config.upstreams[1].fast_path, Policy::Prefer);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        let of = |upstreams: &str| read(&format!(r#"{{"upstreams": [{upstreams}]}}"#)).unwrap_err();
        let one = r#"{"name": "a", "listen": "0.0.0.0:9100", "endpoint": "http://a:1"}"#;
        let error = of(&format!("{one},{one}"));
        assert!(error.contains("same name a"), "{error}");
        let error = of(&format!("{one},{}", one.replace("\"a\"", "\"b\"")));
        assert!(error.contains("same listen 0.0.0.0:9100"), "{error}");
        let error = of(&one.replace("endpoint", "endpiont"));
        assert!(error.contains("endpiont"), "{error}");
    }
}
