//! The HTTP service around s3s: counts every request, and refuses early what s3s would take further than we want.

use super::{
    Front, access::Access, bound, cors, encryption, error, form, get::Partial, hosts::Hosts, logging::Watched,
};
use crate::{
    access::{Authority, KeyRing, Principal},
    access_log::AccessLog,
    admin::Admin,
    engine::Engine,
    local_path::Peer,
    metrics::Metrics,
    rdma::{Names, Rdma, Receipt, Refusal},
};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use penstock_rdma::{Credentials, admin, local::NODE_ID, protocol};
use percent_encoding::percent_decode_str;
use s3s::{
    Body, HttpError, HttpResponse, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    config::{S3Config, StaticConfigProvider},
    route::S3Route,
    s3_error,
    service::{S3Service, S3ServiceBuilder},
};
use std::{cell::RefCell, sync::Arc, time::Instant};

/// The largest XML document taken: 1000 keys of DeleteObjects, 10 000 parts.
const MAX_DOCUMENT: usize = 8 << 20;

tokio::task_local! {
    /// The operation that a request turned out to be, for the metrics.
    static OPERATION: RefCell<Option<String>>;
}

/// Says which operation a request turned out to be.
pub(crate) fn note_operation(name: &str) {
    // Outside of a scope (a front door without its service) there is nobody to tell.
    let _unscoped = OPERATION.try_with(|operation| operation.replace(Some(name.to_owned())));
}

/// What a service is made of.
pub struct Parts {
    /// Where objects are.
    pub engine: Arc<dyn Engine>,
    /// Who may do everything.
    pub root: Credentials,
    /// What clients are told.
    pub region: String,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether and how bytes go by RDMA.
    pub rdma: Rdma,
    /// What administrators work on; without, there is the root key alone.
    pub admin: Option<Admin>,
    /// Domains below which buckets are hosts.
    pub domains: Vec<String>,
    /// What buckets that keep an access log are told; without, none can.
    pub access_log: Option<AccessLog>,
}

/// What is below paths that are no bucket's.
struct Routes {
    rdma: Rdma,
    admin: Option<Admin>,
    authority: Authority,
}

fn is_below(path: &str, reserved: &str) -> bool {
    let rest = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(reserved));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[async_trait::async_trait]
impl S3Route for Routes {
    fn is_match(&self, _: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        is_below(uri.path(), protocol::RESERVED) || is_below(uri.path(), admin::RESERVED)
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if is_below(request.uri.path(), protocol::RESERVED) {
            return self.rdma.call(request).await;
        }
        // A signature in a query is not of the document.
        let signer = request
            .credentials
            .as_ref()
            .filter(|_| request.headers.contains_key(header::AUTHORIZATION));
        let principal = signer.and_then(|signer| self.authority.principal(&signer.access_key));
        if !matches!(principal, Some(Principal::Root)) {
            return Err(s3_error!(
                AccessDenied,
                "Administration is for the root key alone."
            ));
        }
        match &self.admin {
            Some(admin) => admin.call(&self.rdma, request).await,
            None => Err(s3_error!(
                NotImplemented,
                "This storage node is not administered."
            )),
        }
    }
}

/// Answers S3 requests. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    s3: S3Service,
    front: Front,
    rdma: Rdma,
    metrics: Metrics,
    node_id: Option<HeaderValue>,
}

impl Service {
    /// The S3 API over `engine`, for whoever signs with `root`; bytes go as HTTP bodies.
    pub fn new(engine: Arc<dyn Engine>, root: Credentials, region: String, metrics: Metrics) -> Self {
        let rdma = Rdma::off(metrics.clone());
        Self::with_rdma(engine, root, region, metrics, rdma)
    }

    /// As [`Service::new`], for clients that want their bytes by RDMA too.
    pub fn with_rdma(
        engine: Arc<dyn Engine>,
        root: Credentials,
        region: String,
        metrics: Metrics,
        rdma: Rdma,
    ) -> Self {
        Self::of(Parts {
            engine,
            root,
            region,
            metrics,
            rdma,
            admin: None,
            domains: Vec::new(),
            access_log: None,
        })
    }

    /// Of these parts.
    pub fn of(parts: Parts) -> Self {
        let Parts {
            engine,
            root,
            region,
            metrics,
            rdma,
            admin,
            domains,
            access_log,
        } = parts;
        let mut config = S3Config::default();
        config.xml_max_body_size = MAX_DOCUMENT;
        // Forms do not come this far.
        config.post_object_max_file_size = 0;
        config.form_max_fields_size = 0;
        config.form_max_field_size = 0;
        config.form_max_parts = 0;
        let ring = admin
            .as_ref()
            .map_or_else(|| Arc::new(KeyRing::empty()), Admin::ring);
        let authority = Authority::new(root, rdma.gateway().cloned(), ring, Arc::clone(&engine));
        let front = Front {
            engine,
            region,
            metrics: metrics.clone(),
            rdma: rdma.clone(),
            authority: authority.clone(),
            hosts: Hosts::new(&domains),
            access_log,
        };
        let mut builder = S3ServiceBuilder::new(front.clone());
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.set_host(front.hosts.clone());
        builder.set_access(Access(authority.clone()));
        builder.set_auth(authority.clone());
        builder.set_validation(Names::new());
        builder.set_route(Routes {
            rdma: rdma.clone(),
            admin,
            authority,
        });
        Self {
            s3: builder.build(),
            front,
            rdma,
            metrics,
            node_id: None,
        }
    }

    /// Says in every answer which storage node it is, so that clients on its host find its socket.
    #[must_use]
    pub fn named(mut self, node_id: &str) -> Self {
        self.node_id = HeaderValue::from_str(node_id).ok();
        self
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When no answer can be made; the connection is closed then.
    pub async fn answer(&self, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let answer = match Watched::of(&self.front, &request) {
            None => self.answer_nameless(request).await?,
            Some(watched) => watched.answer(self.answer_nameless(request)).await?,
        };
        Ok(self.named_by(answer))
    }

    /// Answers a request without a signature, of a connection that may do without for some.
    pub(crate) async fn answer_bound(
        &self,
        peer: &Arc<Peer>,
        request: &Request<Incoming>,
    ) -> Result<HttpResponse, HttpError> {
        let work = async {
            let begun = Instant::now();
            let answered = bound::answer(&self.front, peer, request).await;
            let answer = match answered {
                Ok(answer) => answer,
                Err(refusal) => as_response(refusal)?,
            };
            self.metrics
                .request("GetObject", answer.status(), begun.elapsed());
            Ok(answer)
        };
        let answer = match Watched::of(&self.front, request) {
            None => work.await?,
            Some(watched) => watched.answer(work).await?,
        };
        Ok(self.named_by(answer))
    }

    fn named_by(&self, mut answer: HttpResponse) -> HttpResponse {
        if let Some(id) = &self.node_id {
            answer.headers_mut().insert(NODE_ID, id.clone());
        }
        answer
    }

    async fn answer_nameless(&self, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        if request.method() == Method::OPTIONS {
            let begun = Instant::now();
            let answer = match cors::preflight(&self.front, &request).await {
                Ok(answer) => answer,
                Err(refusal) => as_response(refusal)?,
            };
            self.metrics
                .request("Preflight", answer.status(), begun.elapsed());
            return Ok(answer);
        }
        let asking = cors::Asking::of(&self.front, &request);
        let mut answer = self.answer_any(request).await?;
        if let Some(asking) = asking {
            asking.tell(&self.front, answer.headers_mut()).await;
        }
        Ok(answer)
    }

    async fn answer_any(&self, mut request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let begun = Instant::now();
        let refused = |refusal: S3Error| {
            let response = as_response(refusal)?;
            self.metrics
                .request("Refused", response.status(), begun.elapsed());
            Ok(response)
        };
        if let Some(refusal) = refuse(&self.front.hosts, &request) {
            return refused(refusal);
        }
        hide_tokens(&mut request);
        if form::is_form(&request) {
            let answer = match form::answer(&self.front, request).await {
                Ok(answer) => answer,
                Err(refusal) => as_response(refusal)?,
            };
            self.metrics
                .request("PostObject", answer.status(), begun.elapsed());
            return Ok(answer);
        }
        let (request, receipt) = match self.take_in(request) {
            Ok(taken) => taken,
            Err(refusal) => return refused(refusal.answer()),
        };
        let scoped = OPERATION.scope(RefCell::new(None), async {
            let mut answer = self.s3.call(request).await;
            if let Ok(response) = &mut answer
                && response.extensions().get::<Partial>().is_some()
            {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
            if let Some(receipt) = receipt {
                answer = receipt.end(answer).await;
            }
            (answer, OPERATION.with(RefCell::take))
        });
        let (answer, operation) = scoped.await;
        if let Ok(response) = &answer {
            // Without a name it was refused before it was known what it was: a bad signature, a bad path.
            let operation = operation.as_deref().unwrap_or("Unknown");
            self.metrics
                .request(operation, response.status(), begun.elapsed());
        }
        answer
    }
}

/// A body that a gateway has in its window, beside the request that has it as if it had come by HTTP.
struct Receiving {
    receipt: Receipt,
    length: u64,
}

impl Receiving {
    /// The answer, once nothing is under way any more. What the transfer was refused with comes through several readers, which say
    /// other things of it.
    async fn end(self, answer: Result<HttpResponse, HttpError>) -> Result<HttpResponse, HttpError> {
        self.receipt.drained().await;
        let mut answer = answer?;
        if answer.status().is_success() {
            answer.headers_mut().extend(self.receipt.headers(self.length));
        } else if let Some(refusal) = self.receipt.refusal() {
            return as_response(refusal.answer());
        }
        Ok(answer)
    }
}

impl Service {
    /// The request as its client sent it, where a gateway carries it.
    fn take_in(&self, mut request: Request<Incoming>) -> Result<(Request<Body>, Option<Receiving>), Refusal> {
        let Some(carried) = self.rdma.carried(&mut request)? else {
            return Ok((request.map(Body::from), None));
        };
        if request.method() != Method::PUT {
            request.extensions_mut().insert(carried);
            return Ok((request.map(Body::from), None));
        }
        let length = u64::from(carried.tokened.token.window.size);
        let (body, receipt) = self.rdma.receive(carried.tokened.clone())?;
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        request.extensions_mut().insert(carried);
        let request = request.map(|_nothing| Body::from(body));
        Ok((request, Some(Receiving { receipt, length })))
    }
}

fn as_response(refusal: S3Error) -> Result<HttpResponse, HttpError> {
    refusal
        .to_http_response()
        .map_err(|error| HttpError::new(Box::new(error)))
}

/// s3s logs requests; what opens memory, or objects, must not be in a log.
fn hide_tokens(request: &mut Request<Incoming>) {
    for (name, value) in request.headers_mut() {
        let name = name.as_str();
        if name.starts_with(penstock_rdma::protocol::header::PREFIX)
            || name.ends_with(encryption::KEY_HEADERS)
        {
            value.set_sensitive(true);
        }
    }
}

fn refuse(hosts: &Hosts, request: &Request<Incoming>) -> Option<S3Error> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if form::lacks_form(hosts, request) {
        return Some(error::coded(
            "PreconditionFailed",
            StatusCode::PRECONDITION_FAILED,
            "Bucket POST must be of the enclosure-type multipart/form-data",
        ));
    }
    let query = request.uri().query().unwrap_or_default();
    let names: Vec<_> = query
        .split('&')
        .map(|pair| percent_decode_str(pair.split('=').next().unwrap_or(pair)).decode_utf8_lossy())
        .collect();
    let in_query = |wanted: &str| names.iter().any(|name| name == wanted);
    // s3s believes the signature in the query then, and the list of signed headers in the other one would be believed of it.
    let is_presigned = in_query("X-Amz-Signature");
    if is_presigned && request.headers().contains_key(header::AUTHORIZATION) {
        return Some(S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            "Only one auth mechanism allowed: sign in the query or in the Authorization header.",
        ));
    }
    // Signature Version 2 rests on SHA-1.
    let is_v2 = in_query("AWSAccessKeyId") || in_query("Signature");
    if is_v2 || header(header::AUTHORIZATION).is_some_and(|value| value.starts_with("AWS ")) {
        return Some(S3Error::with_message(
            S3ErrorCode::InvalidRequest,
            "Signature Version 2 is not supported; please use AWS4-HMAC-SHA256.",
        ));
    }
    // It would be left undone.
    if names
        .iter()
        .any(|name| name.to_ascii_lowercase().contains("server-side-encryption"))
    {
        return Some(S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            "Encryption is asked for in headers, and not in the query: sign the header and send it.",
        ));
    }
    None
}
