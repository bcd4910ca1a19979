//! Passing on requests that somebody else signed, for a program that stands between S3 clients and a storage node, and has no
//! key that gives access to objects.
//!
//! ```text
//!   client ── signed request ──▶ program ── Relay ─┬─ socket on this host: the same request, and descriptors beside the answer
//!                                                  ├─ RDMA: the same request, and a window beside it, which the relay signs
//!                                                  └─ network: the same request
//! ```
//! Nothing that a signature can cover is changed: method, path, query, `Host`, headers, body. What is added for the socket
//! (`x-penstock-lend`, `x-penstock-returned`) is read beside the signature, and gives the asker another form of the bytes that
//! the signature gives access to anyway. What is added for RDMA (`x-amz-rdma-*`) says where these bytes are, and is believed by the
//! relay's own signature ([`crate::protocol::GatewaySignature`]).

mod request;

pub use crate::client::RelayMemory;
pub use request::RelayBody;
pub(crate) use request::strip;

use crate::{
    Client, Credentials, Endpoint, Error, Options, Policy, Result, Via,
    client::{Carry, CarryOptions, Got, Put, Why, http_client, tls_config},
    fabric::Rails,
    local::{self, Answered, HANDED, LEND, LEND_ONLY, LEND_PREFERRED, Lent, LentHeader, Local, RETURNED},
    protocol::header,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header::HOST, response::Parts};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use request::{Subject, is_of_rdma, subject};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How the client of a gateway reaches it, `http` or `https`, beside what the gateway passes on. It gives no right: what came over
/// plain HTTP is not taken for encrypted because the gateway's own way is.
pub const PASSED_ON: HeaderName = HeaderName::from_static("x-penstock-passed-on");

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
    /// Bytes to a storage node on another host go by RDMA with this, and by HTTP without.
    pub rdma: Option<RelayRdma>,
}

/// How a relay moves bytes by RDMA.
#[derive(Debug, Clone)]
pub struct RelayRdma {
    /// The devices of this machine.
    pub rails: Rails,
    /// The relay's own key pair, which the storage node knows as its gateway's. It gives access to no object.
    pub identity: Credentials,
    /// What bytes are in on their way.
    pub memory: RelayMemory,
    /// Where HTTP is allowed, fewer bytes than this go by it.
    pub threshold: u64,
    /// A body of a PUT is kept whole until the storage node has fetched it; those of more bytes than this go by HTTP.
    pub largest_body: u64,
}

impl RelayRdma {
    /// With the settings that most have.
    pub fn new(rails: Rails, identity: Credentials, memory: RelayMemory) -> Self {
        Self {
            rails,
            identity,
            memory,
            threshold: 64 << 10,
            largest_body: 64 << 20,
        }
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            policy: Policy::Prefer,
            local_socket: None,
            local_sockets: None,
            rdma: None,
        }
    }
}

/// What carried a request's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The storage node's socket on this host.
    Socket,
    /// RDMA, and TCP for the rest of it.
    Rdma,
    /// TCP.
    Network,
}

/// An answer of the storage node, whatever its status.
pub struct Relayed {
    /// As the client would have got it. Where something was lent its `Content-Length` is 0.
    pub head: Parts,
    /// What carried the request's body, and the answer's head.
    pub carrier: Carrier,
    /// What follows.
    pub body: RelayedBody,
}

/// The bytes of an answer.
pub enum RelayedBody {
    /// As they come from the storage node.
    Passed(Incoming),
    /// Lent in place of a body.
    Lent(LentHeader, Lent),
    /// So many, by RDMA, in order, each piece with what carried it after all. It ends with an error where they do not come whole.
    Moved(u64, BoxStream<'static, Result<(Bytes, Via)>>),
    /// Whole already: of a refusal.
    Whole(Bytes),
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
    /// The policy allows only the socket and RDMA.
    #[error("the bytes of {endpoint} may only travel over its socket on this host or by RDMA, and {cause}")]
    NoFastPath {
        /// Which.
        endpoint: String,
        /// What stands against it.
        cause: String,
    },
    /// The client sent a header that relays alone add.
    #[error("the header {0} is a gateway's to add")]
    NotTheClients(http::HeaderName),
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

/// What became of a request that was to go by RDMA.
enum Tried<B> {
    Answered(Relayed),
    Not(Request<B>),
}

/// Passes requests on to one storage node. Cheap to clone; clones share their connections.
pub struct Relay<B> {
    endpoint: Endpoint,
    policy: Policy,
    http: Http<HttpsConnector<HttpConnector>, B>,
    local: Option<Arc<Local<B>>>,
    rdma: Option<Arc<ByRdma>>,
}

/// The way by RDMA, and what was last said of it.
struct ByRdma {
    carry: Carry,
    works: Mutex<Option<bool>>,
}

impl ByRdma {
    fn new(endpoint: &Endpoint, options: &RelayOptions, rdma: &RelayRdma) -> Result<Self> {
        let mut of_client = Options {
            ca_pem: options.ca_pem.clone(),
            connect_timeout: options.connect_timeout,
            policy: options.policy,
            rails: Some(rdma.rails.clone()),
            ..Options::default()
        };
        Carry::client_options(&mut of_client, &rdma.memory);
        let client = Client::new(endpoint.clone(), rdma.identity.clone(), of_client)?;
        let options = CarryOptions {
            memory: rdma.memory.clone(),
            least: rdma.threshold,
            largest_body: rdma.largest_body,
        };
        Ok(Self {
            carry: Carry::new(client, options),
            works: Mutex::default(),
        })
    }

    /// Says once that it works, or why not any more.
    fn note(&self, endpoint: &Endpoint, not: Option<&Error>) {
        let mut works = self.works.lock().unwrap_or_else(PoisonError::into_inner);
        if works.replace(not.is_none()) == Some(not.is_none()) {
            return;
        }
        match not {
            None => tracing::info!(%endpoint, "the gateway's bytes travel by RDMA to the storage node"),
            Some(error) => {
                tracing::info!(%endpoint, %error, "the gateway's bytes travel by HTTP to the storage node, and not by RDMA");
            }
        }
    }
}

impl<B> Clone for Relay<B> {
    fn clone(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            policy: self.policy,
            http: self.http.clone(),
            local: self.local.clone(),
            rdma: self.rdma.clone(),
        }
    }
}

impl<B> Relay<B>
where
    B: RelayBody,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A relay to the storage node at `endpoint`. Nothing is sent yet. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `ca_pem` holds no certificate, or when TLS is asked for and there is nothing to trust.
    pub fn new(endpoint: Endpoint, options: RelayOptions) -> Result<Self> {
        let tls = tls_config(&endpoint, options.ca_pem.as_deref())?;
        let rdma = options
            .rdma
            .as_ref()
            .filter(|_| options.policy != Policy::Off)
            .map(|rdma| ByRdma::new(&endpoint, &options, rdma))
            .transpose()?;
        let possible = options.local_socket.is_some() || options.local_sockets.is_some();
        let local = (options.policy != Policy::Off && possible).then(|| {
            Arc::new(Local::new(
                options.local_socket,
                options.local_sockets,
                options.connect_timeout,
                options.policy != Policy::Require || rdma.is_some(),
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
            rdma: rdma.map(Arc::new),
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
        if request.headers().contains_key(header::GATEWAY) {
            return Err(RelayError::NotTheClients(header::GATEWAY));
        }
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
        if request.method() == Method::GET && !is_of_rdma(request.headers()) {
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
                let (head, body) = response.into_parts();
                Ok(Relayed {
                    head,
                    carrier: Carrier::Socket,
                    body: match lent {
                        Some((header, lent)) => RelayedBody::Lent(header, lent),
                        None => RelayedBody::Passed(body),
                    },
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
        let request = match self.by_rdma(request).await? {
            Tried::Answered(relayed) => return Ok(relayed),
            Tried::Not(request) => request,
        };
        if self.policy == Policy::Require && !self.allows(&request).await {
            let cause = match &self.rdma {
                Some(_) => format!("{cause}, and there is no way by RDMA for them"),
                None => cause.to_owned(),
            };
            return Err(RelayError::NoFastPath {
                endpoint: self.endpoint.to_string(),
                cause,
            });
        }
        let (head, body) = self.ask_over_network(request).await?.into_parts();
        Ok(Relayed {
            head,
            carrier: Carrier::Network,
            body: RelayedBody::Passed(body),
        })
    }

    /// Where HTTP is not for the bytes of objects, it is for everything else, as long as there is a way for the bytes.
    async fn allows(&self, request: &Request<B>) -> bool {
        match &self.rdma {
            Some(rdma) => subject(request) == Subject::NoBytes && rdma.carry.is_there().await.is_ok(),
            None => false,
        }
    }

    /// Sends by RDMA what can go by it. What comes back was not performed.
    async fn by_rdma(&self, request: Request<B>) -> std::result::Result<Tried<B>, RelayError> {
        let Some(rdma) = &self.rdma else {
            return Ok(Tried::Not(request));
        };
        match subject(&request) {
            Subject::Get => {
                let (head, body) = request.into_parts();
                let (head_of_answer, body_of_answer) = match rdma.carry.get(&head).await {
                    Got::Moving(moving) => {
                        rdma.note(&self.endpoint, None);
                        let mut answer = Response::new(());
                        *answer.status_mut() = moving.status;
                        *answer.headers_mut() = moving.headers;
                        let body = RelayedBody::Moved(moving.length, moving.pieces);
                        (answer.into_parts().0, body)
                    }
                    Got::Answered(response) => {
                        let (mut head, body) = response.into_parts();
                        strip(&mut head.headers);
                        let relayed = Relayed {
                            head,
                            carrier: Carrier::Network,
                            body: RelayedBody::Passed(body),
                        };
                        return Ok(self.answered(relayed));
                    }
                    Got::Refused(response) => {
                        let (head, body) = response.into_parts();
                        let relayed = Relayed {
                            head,
                            carrier: Carrier::Network,
                            body: RelayedBody::Whole(body),
                        };
                        return Ok(self.answered(relayed));
                    }
                    Got::Not(why) => {
                        self.note(rdma, &why);
                        return Ok(Tried::Not(Request::from_parts(head, body)));
                    }
                };
                Ok(self.answered(Relayed {
                    head: head_of_answer,
                    carrier: Carrier::Rdma,
                    body: body_of_answer,
                }))
            }
            Subject::Put(length) if rdma.carry.takes(length) => {
                let (head, mut body) = request.into_parts();
                let put = rdma.carry.put(&head, &mut body, length, B::want).await;
                let (response, carrier) = match put {
                    Put::Done(response) => {
                        rdma.note(&self.endpoint, None);
                        (response.map(|()| Bytes::new()), Carrier::Rdma)
                    }
                    Put::Refused(response) => (response, Carrier::Rdma),
                    Put::Not(why, read) => {
                        self.note(rdma, &why);
                        if let Some(read) = read {
                            body.refill(read);
                        }
                        return Ok(Tried::Not(Request::from_parts(head, body)));
                    }
                    Put::Broken(source) => {
                        return Err(RelayError::Broken {
                            endpoint: self.endpoint.to_string(),
                            source,
                        });
                    }
                };
                let (head, body) = response.into_parts();
                Ok(self.answered(Relayed {
                    head,
                    carrier,
                    body: RelayedBody::Whole(body),
                }))
            }
            _ => Ok(Tried::Not(request)),
        }
    }

    fn answered(&self, relayed: Relayed) -> Tried<B> {
        if let Some(local) = &self.local {
            local.learn(&relayed.head.headers);
        }
        Tried::Answered(relayed)
    }

    fn note(&self, rdma: &ByRdma, why: &Why) {
        match why {
            Why::NoWay(error) => rdma.note(&self.endpoint, Some(error)),
            // Of this moment.
            Why::Busy => tracing::debug!("all memory for RDMA is in use; bytes go by HTTP"),
        }
    }

    /// Whether the last bytes that could go by RDMA did; `None` where none could.
    pub fn works_by_rdma(&self) -> Option<bool> {
        let rdma = self.rdma.as_ref()?;
        Some(*rdma.works.lock().unwrap_or_else(PoisonError::into_inner) == Some(true))
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
