//! What can go wrong in the operator.

/// Why the operator, or one reconciliation, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process cannot listen for signals.
    #[error("cannot listen for SIGTERM")]
    Signals(#[source] std::io::Error),
    /// There is no API server to talk to.
    #[error("cannot find the API server: run this in a pod, or set KUBECONFIG")]
    Connect(#[source] kube::Error),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] penstock_service::admin::BindError),
    /// The API server refused or did not answer.
    #[error("the API server refused to {doing}")]
    Api {
        /// What was tried, as "apply Service demo".
        doing: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// What was written down of imports cannot be read, or written.
    #[error(
        "ConfigMap {name} holds no record of imports that can be read: delete it to have everything imported into a new collection"
    )]
    Record {
        /// The ConfigMap.
        name: String,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// An object without a namespace or name.
    #[error("the API server sent an object without {0}")]
    Incomplete(&'static str),
    /// The lease went to another replica while this one was working.
    #[error("the lease was lost; this replica ends and starts anew")]
    LeaseLost,
    /// `check` found something missing.
    #[error("{0}")]
    CheckFailed(String),
}

impl Error {
    /// Wraps an answer of the API server.
    pub fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Api {
            doing,
            source: Box::new(source),
        }
    }

    /// A short word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Api { .. } | Self::Connect(_) => "api",
            Self::Certificate(_) => "certificate",
            _ => "other",
        }
    }
}
