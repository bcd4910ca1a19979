//! Passing on requests that somebody else signed, for a program that stands between S3 clients and a storage node and has no
//! key of its own.
//!
//! ```text
//!   client ── signed request ──▶ program ── Relay ─┬─ socket on this host: the same request, and descriptors beside the answer
//!                                                  └─ network: the same request
//! ```
//! Nothing that a signature can cover is changed: method, path, query, `Host`, headers, body. What is added for the socket
//! (`x-penstock-lend`, `x-penstock-returned`) is read beside the signature, and gives the asker another form of the bytes that
//! the signature gives access to anyway.

use crate::{
    Endpoint, Error, Policy, Result,
    client::{http_client, tls_config},
    local::{self, Answered, HANDED, LEND, LEND_ONLY, LEND_PREFERRED, Lent, LentHeader, Local, RETURNED},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use hyper::body::{Body, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// How a relay reaches its storage node.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Certificates (PEM) trusted beside those of the system: the CA of the storage node.
    pub ca_pem: Option<Vec<u8>>,
    /// A connection that does not stand after this has failed.
    pub connect_timeout: Duration,
    /// Whether the socket on this host is used, and whether there is another way.
    pub policy: Policy,
    /// The socket of the storage node, when it is on this host.
    pub local_socket: Option<PathBuf>,
    /// The folder of this host in which storage nodes have their sockets, named after them.
    pub local_sockets: Option<PathBuf>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            policy: Policy::Prefer,
            local_socket: None,
            local_sockets: None,
        }
    }
}

/// Which connection carried a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The storage node's socket on this host.
    Socket,
    /// TCP.
    Network,
}

/// An answer of the storage node, whatever its status.
pub struct Relayed {
    /// As it came. Where something was lent its body is empty, its `Content-Length` 0.
    pub response: Response<Incoming>,
    /// How it came.
    pub carrier: Carrier,
    /// The bytes of the answer, where they were lent in place of a body.
    pub lent: Option<(LentHeader, Lent)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// No connection could be made; the storage node has not seen the request.
    #[error("the storage node {endpoint} cannot be reached")]
    Unreachable {
        /// Which.
        endpoint: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection ended before the answer; the storage node may have performed the request.
    #[error("the connection to the storage node {endpoint} ended before its answer")]
    Broken {
        /// Which.
        endpoint: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The policy allows only the socket.
    #[error("the bytes of {endpoint} may only travel over its socket on this host, and {cause}")]
    NoFastPath {
        /// Which.
        endpoint: String,
        /// What stands against it.
        cause: String,
    },
    /// The request's target is no path.
    #[error("the request cannot be addressed: {0}")]
    Unaddressable(String),
    /// What was lent does not fit what was said of it.
    #[error("the storage node {endpoint} lent what it did not announce: {cause}")]
    Malformed {
        /// Which.
        endpoint: String,
        /// What is wrong.
        cause: String,
    },
}

/// Passes requests on to one storage node. Cheap to clone; clones share their connections.
pub struct Relay<B> {
    endpoint: Endpoint,
    policy: Policy,
    http: Http<HttpsConnector<HttpConnector>, B>,
    local: Option<Arc<Local<B>>>,
}

impl<B> Clone for Relay<B> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            policy: self.policy,
            http: self.http.clone(),
            local: self.local.clone(),
        }
    }
}

impl<B> Relay<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A relay to the storage node at `endpoint`. Nothing is sent yet. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `ca_pem` holds no certificate, or when TLS is asked for and there is nothing to trust.
    pub fn new(endpoint: Endpoint, options: RelayOptions) -> Result<Self> {
        let tls = tls_config(&endpoint, options.ca_pem.as_deref())?;
        let possible = options.local_socket.is_some() || options.local_sockets.is_some();
        let local = (options.policy != Policy::Off && possible).then(|| {
            Arc::new(Local::new(
                options.local_socket,
                options.local_sockets,
                options.connect_timeout,
                options.policy != Policy::Require,
            ))
        });
        // `Host` is the sender's, and signed: one that is missing stays missing.
        let http = http_client(tls, options.connect_timeout, |builder| {
            builder.set_host(false);
        });
        Ok(Self {
            policy: options.policy,
            http,
            local,
            endpoint,
        })
    }

    /// The storage node.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether a socket of the storage node is known on this host.
    pub fn is_local(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.is_known())
    }

    /// Sends a request whose target is a path (RFC 9112, 3.2.1), and returns whatever the storage node answers.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn send(&self, mut request: Request<B>) -> std::result::Result<Relayed, RelayError> {
        // Leases and descriptors are between the two ends of a socket; over the network the storage node answers to whoever asks
        // for them as if this relay was not there.
        let speaks_local = [LEND, HANDED, RETURNED]
            .iter()
            .any(|name| request.headers().contains_key(name));
        let local = self
            .local
            .as_ref()
            .filter(|local| local.is_known() && !speaks_local);
        let Some(local) = local else {
            let cause = if speaks_local {
                "the request itself asks for descriptors"
            } else {
                "no socket of it answers there"
            };
            return self.over_network(request, cause).await;
        };
        let wants_rdma = request.headers().contains_key(crate::protocol::header::TOKEN);
        if request.method() == http::Method::GET && !wants_rdma {
            let lend = if self.policy == Policy::Require {
                LEND_ONLY
            } else {
                LEND_PREFERRED
            };
            request.headers_mut().insert(LEND, HeaderValue::from_static(lend));
        }
        match local.send(request, None).await {
            Ok(response) => {
                let answered = response.extensions().get::<Answered>();
                let lent = answered.map_or(Ok(None), |answered| answered.lent(response.headers()));
                let lent = lent.map_err(|cause| RelayError::Malformed {
                    endpoint: self.endpoint.to_string(),
                    cause,
                })?;
                Ok(Relayed {
                    response,
                    carrier: Carrier::Socket,
                    lent,
                })
            }
            Err(local::Failure::NotSent(mut request, error)) => {
                request.headers_mut().remove(LEND);
                let cause = format!("its socket on this host does not answer ({error})");
                self.over_network(*request, &cause).await
            }
            Err(local::Failure::Broken(source)) => Err(RelayError::Broken {
                endpoint: self.endpoint.to_string(),
                source,
            }),
        }
    }

    async fn over_network(
        &self,
        request: Request<B>,
        cause: &str,
    ) -> std::result::Result<Relayed, RelayError> {
        if self.policy == Policy::Require {
            return Err(RelayError::NoFastPath {
                endpoint: self.endpoint.to_string(),
                cause: cause.to_owned(),
            });
        }
        let (response, carrier) = (self.ask_over_network(request).await?, Carrier::Network);
        Ok(Relayed {
            response,
            carrier,
            lent: None,
        })
    }

    /// Sends over the network whatever the policy says, for requests whose answer says what the storage node is and holds no
    /// object: so a relay learns whether the storage node is on this host.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn ask_over_network(
        &self,
        mut request: Request<B>,
    ) -> std::result::Result<Response<Incoming>, RelayError> {
        let target = request
            .uri()
            .path_and_query()
            .map_or("", |target| target.as_str());
        if !target.starts_with('/') {
            return Err(RelayError::Unaddressable(format!("{target:?} is no path")));
        }
        let uri: Uri = self
            .endpoint
            .uri(target)
            .map_err(|error| RelayError::Unaddressable(error.to_string()))?;
        *request.uri_mut() = uri;
        match self.http.request(request).await {
            Ok(response) => {
                if let Some(local) = &self.local {
                    local.learn(response.headers());
                }
                Ok(response)
            }
            Err(error) => {
                let (endpoint, is_connect) = (self.endpoint.to_string(), error.is_connect());
                let source = Box::new(error);
                Err(if is_connect {
                    RelayError::Unreachable { endpoint, source }
                } else {
                    RelayError::Broken { endpoint, source }
                })
            }
        }
    }

    /// The value of `Host` of requests that this program makes itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the endpoint cannot be written as a header.
    pub fn host(&self) -> Result<(http::HeaderName, HeaderValue)> {
        let text = self.endpoint.to_string();
        let authority = text.split_once("://").map_or("", |(_, authority)| authority);
        HeaderValue::try_from(authority)
            .map(|value| (HOST, value))
            .map_err(|error| Error::Invalid(error.to_string()))
    }
}
