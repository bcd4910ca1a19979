//! The HTTP service around s3s: counts every request, and refuses early what s3s would take further than we want.

use super::{
    Front,
    access::{Access, Keys},
    bound,
};
use crate::{
    engine::Engine,
    local_path::Peer,
    metrics::Metrics,
    rdma::{Names, Rdma, Route},
};
use http::{HeaderValue, Method, Request, header};
use hyper::body::Incoming;
use penstock_rdma::{Credentials, local::NODE_ID};
use percent_encoding::percent_decode_str;
use s3s::{
    Body, HttpError, HttpResponse, S3Error, S3ErrorCode,
    config::{S3Config, StaticConfigProvider},
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

/// Answers S3 requests. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    s3: S3Service,
    front: Front,
    keys: Keys,
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
        let mut config = S3Config::default();
        config.xml_max_body_size = MAX_DOCUMENT;
        // Form uploads are refused before they come this far.
        config.post_object_max_file_size = 0;
        let front = Front {
            engine,
            region,
            metrics: metrics.clone(),
            rdma: rdma.clone(),
        };
        let keys = Keys(root);
        let mut builder = S3ServiceBuilder::new(front.clone());
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        builder.set_auth(keys.clone());
        builder.set_access(Access);
        builder.set_validation(Names::new());
        builder.set_route(Route(rdma));
        Self {
            s3: builder.build(),
            front,
            keys,
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
        let answer = self.answer_nameless(request).await?;
        Ok(self.named_by(answer))
    }

    /// Answers a request without a signature, of a connection that may do without for some.
    pub(crate) async fn answer_bound(
        &self,
        peer: &Arc<Peer>,
        request: &Request<Incoming>,
    ) -> Result<HttpResponse, HttpError> {
        let begun = Instant::now();
        let answered = bound::answer(&self.front, &self.keys, peer, request).await;
        let answer = match answered {
            Ok(answer) => answer,
            Err(refusal) => as_response(refusal)?,
        };
        self.metrics
            .request("GetObject", answer.status(), begun.elapsed());
        Ok(self.named_by(answer))
    }

    fn named_by(&self, mut answer: HttpResponse) -> HttpResponse {
        if let Some(id) = &self.node_id {
            answer.headers_mut().insert(NODE_ID, id.clone());
        }
        answer
    }

    async fn answer_nameless(&self, mut request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let begun = Instant::now();
        if let Some(refusal) = refuse(&request) {
            let response = as_response(refusal)?;
            self.metrics
                .request("Refused", response.status(), begun.elapsed());
            return Ok(response);
        }
        let scoped = OPERATION.scope(RefCell::new(None), async {
            hide_tokens(&mut request);
            let answer = self.s3.call(request.map(Body::from)).await;
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

fn as_response(refusal: S3Error) -> Result<HttpResponse, HttpError> {
    refusal
        .to_http_response()
        .map_err(|error| HttpError::new(Box::new(error)))
}

/// s3s logs requests; what opens memory must not be in a log.
fn hide_tokens(request: &mut Request<Incoming>) {
    for (name, value) in request.headers_mut() {
        if name.as_str().starts_with(penstock_rdma::protocol::header::PREFIX) {
            value.set_sensitive(true);
        }
    }
}

fn refuse(request: &Request<Incoming>) -> Option<S3Error> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    // s3s reads a form's file into memory before anything is checked.
    if request.method() == Method::POST
        && header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("multipart/form-data"))
    {
        return Some(S3Error::with_message(
            S3ErrorCode::NotImplemented,
            "Uploads by HTML form are not implemented.",
        ));
    }
    // s3s believes the signature in the query then, and the list of signed headers in the other one would be believed of it.
    let is_presigned = request.uri().query().is_some_and(|query| {
        let mut names = query
            .split('&')
            .map(|pair| pair.split('=').next().unwrap_or(pair));
        names.any(|name| percent_decode_str(name).eq(b"X-Amz-Signature".iter().copied()))
    });
    if is_presigned && request.headers().contains_key(header::AUTHORIZATION) {
        return Some(S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            "Only one auth mechanism allowed: sign in the query or in the Authorization header.",
        ));
    }
    // Signature Version 2 rests on SHA-1.
    let in_query = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("AWSAccessKeyId=")));
    if in_query || header(header::AUTHORIZATION).is_some_and(|value| value.starts_with("AWS ")) {
        return Some(S3Error::with_message(
            S3ErrorCode::InvalidRequest,
            "Signature Version 2 is not supported; please use AWS4-HMAC-SHA256.",
        ));
    }
    None
}
