//! Calls of an administrator, whose documents are JSON.

use super::{Client, request::Request};
use crate::{Error, Result, admin::BASE};
use bytes::Bytes;
use http::{Method, header::CONTENT_TYPE};
use percent_encoding::utf8_percent_encode;
use serde::{Serialize, de::DeserializeOwned};

/// One call, below [`BASE`].
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<Bytes>,
}

impl Call {
    pub fn new(method: Method, what: &str) -> Self {
        Self {
            method,
            path: format!("{BASE}/{what}"),
            body: None,
        }
    }

    pub fn with(method: Method, what: &str, document: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(document)
            .map_err(|error| Error::Invalid(format!("the request cannot be written: {error}")))?;
        Ok(Self {
            body: Some(body.into()),
            ..Self::new(method, what)
        })
    }

    /// Of the one that is called so.
    pub fn of(mut self, name: &str) -> Self {
        self.path.push('/');
        self.path
            .extend(utf8_percent_encode(name, super::request::UNRESERVED));
        self
    }

    fn request(self) -> Result<Request> {
        // A key that was made, and not told of, would be nobody's.
        let request = Request::at(self.method, self.path).once();
        match self.body {
            None => Ok(request),
            Some(body) => request
                .header(CONTENT_TYPE, "application/json")
                .map(|request| request.body(body)),
        }
    }
}

impl Client {
    /// A call that is answered with a document.
    pub(crate) async fn administer<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let (_, document) = self.fetch(&call.request()?).await?;
        serde_json::from_slice(&document).map_err(|error| self.malformed(error.to_string()))
    }

    /// A call that is answered with nothing.
    pub(crate) async fn order(&self, call: Call) -> Result<()> {
        self.fetch(&call.request()?).await?;
        Ok(())
    }
}
