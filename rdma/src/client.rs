//! The client: what all operations share. The operations are in the modules below, one per subject of the S3 API.

pub(crate) mod admin;
mod body;
mod bucket;
mod gpu;
mod list;
mod local;
mod multipart;
mod nodes;
mod object;
mod rdma;
mod request;
mod send;
mod sign;
mod upload;

pub use gpu::{Landed, Sent};
pub use object::{Download, Fallback};
pub use rdma::RelayMemory;
pub(crate) use rdma::{Carry, CarryOptions, Got, Put, Why};

use crate::{Credentials, Endpoint, Error, Policy, Result, fabric::Rails, local::Local};
use body::Outgoing;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Builder, Client as Http, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use nodes::Others;
use rdma::Rdma;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// More storage nodes with the same buckets, as several before one distributed store have them. Windows and parts are
    /// spread over all of them, and what one cannot do now is asked of another.
    pub nodes: Vec<Endpoint>,
    /// Region that is signed for.
    pub region: String,
    /// Certificates (PEM) trusted beside those of the system: the CA of the storage node.
    pub ca_pem: Option<Vec<u8>>,
    /// A connection that does not stand after this has failed.
    pub connect_timeout: Duration,
    /// A request on which no byte moves for this long has failed, so that a dead storage node holds no caller for ever.
    /// The time a caller needs to give or take bytes does not count.
    pub stall_timeout: Duration,
    /// How often a request is tried again after a broken connection or a 503, where a repetition cannot do harm.
    pub retries: u32,
    /// Bodies larger than this many bytes are written as a multipart upload with parts of this size (S3: at least 5 MiB).
    /// One part is held in memory per request under way, so that it can be signed and sent again.
    pub part_size: usize,
    /// How many parts of one body are under way at the same time.
    pub parallel_parts: usize,
    /// Which ways the bytes of objects may travel.
    pub policy: Policy,
    /// The RDMA devices of this machine; without, bytes do not go by RDMA. Clients with the same ones share their memory.
    pub rails: Option<Rails>,
    /// Registered memory of each rail for reads and writes together, in bytes. It is pinned as it is first needed.
    pub rdma_memory: u64,
    /// Connections by RDMA to the storage node over each rail. Each one serves many requests at a time.
    pub rdma_sessions: usize,
    /// Where HTTP is allowed, writes and ranges of fewer bytes than this go by it.
    pub rdma_threshold: u64,
    /// Whether bytes that came by RDMA are compared with their checksum, as those over HTTP always are.
    pub verify: bool,
    /// The socket of the storage node, when it is on this host.
    pub local_socket: Option<PathBuf>,
    /// The folder of this host in which storage nodes have their sockets, named after them. The client looks there when it
    /// has learned which node it talks to.
    pub local_sockets: Option<PathBuf>,
    /// Whether whole objects that are read from lent files are compared with their checksum, as those over HTTP always are.
    pub verify_lent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            region: "us-east-1".to_owned(),
            ca_pem: None,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
            retries: 4,
            part_size: 16 << 20,
            parallel_parts: 2,
            policy: Policy::default(),
            rails: None,
            rdma_memory: 256 << 20,
            rdma_sessions: 2,
            rdma_threshold: 16 << 10,
            verify: true,
            local_socket: None,
            local_sockets: None,
            verify_lent: true,
        }
    }
}

/// A client of one storage node, or of several that have the same buckets. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// `None` without rails, where RDMA is switched off, and in the client that the RDMA side itself uses.
    rdma: Option<Arc<Rdma>>,
}

struct Inner {
    endpoint: Endpoint,
    /// Of [`Options::nodes`].
    others: Others,
    credentials: Credentials,
    options: Options,
    http: Http<HttpsConnector<HttpConnector>, Outgoing>,
    /// `None` when bytes must travel over HTTP.
    local: Option<Arc<Local<Outgoing>>>,
}

impl Client {
    /// A client of the storage node at `endpoint`. Nothing is sent yet. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `ca_pem` holds no certificate, when TLS is asked for and there is nothing to trust, or when only
    /// some of several storage nodes are spoken to over TLS.
    pub fn new(endpoint: Endpoint, credentials: Credentials, options: Options) -> Result<Self> {
        let tls = tls_config(&endpoint, options.ca_pem.as_deref())?;
        let http = http_client(tls, options.connect_timeout, |_| {});
        let others = Others::new(&endpoint, &credentials, &options, &http)?;
        let plain = Self {
            inner: Arc::new(Inner {
                local: local::of(&options),
                others,
                endpoint,
                credentials,
                options,
                http,
            }),
            rdma: None,
        };
        let options = &plain.inner.options;
        let rails = options.rails.clone().filter(|_| options.policy != Policy::Off);
        let rdma = rails.map(|rails| Arc::new(Rdma::new(plain.clone(), rails)));
        Ok(Self { rdma, ..plain })
    }

    /// The storage node that is asked, of several the first.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.inner.endpoint)
            .field("credentials", &self.inner.credentials)
            .finish_non_exhaustive()
    }
}

/// An HTTP client with the settings that all connections to storage nodes have, and those that `more` sets.
pub(crate) fn http_client<B>(
    tls: ClientConfig,
    connect_timeout: Duration,
    more: impl FnOnce(&mut Builder),
) -> Http<HttpsConnector<HttpConnector>, B>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_keepalive(Some(Duration::from_secs(15)));
    // hyper's client and not reqwest: reqwest's URL type folds `..` and `.` path segments, which are legal in keys.
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let mut builder = Http::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(64)
        .http1_read_buf_exact_size(256 << 10);
    more(&mut builder);
    builder.build(connector)
}

pub(crate) fn tls_config(endpoint: &Endpoint, ca_pem: Option<&[u8]>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if endpoint.is_tls() {
        // An image without system certificates is fine as long as a CA is given, so errors show only in an empty store.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = ca_pem {
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate
                .map_err(|error| Error::Invalid(format!("the CA certificate is not PEM: {error}")))?;
            roots
                .add(certificate)
                .map_err(|error| Error::Invalid(format!("the CA certificate cannot be used: {error}")))?;
            found = true;
        }
        if !found {
            return Err(Error::Invalid(
                "the CA file holds no certificate; give one or more PEM certificates".to_owned(),
            ));
        }
    }
    if endpoint.is_tls() && roots.is_empty() {
        return Err(Error::Invalid(format!(
            "no CA certificate is known to trust {endpoint} with; give the storage node's CA certificate"
        )));
    }
    // The provider is named here, so that a program need not install a default one for this client.
    Ok(
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}
