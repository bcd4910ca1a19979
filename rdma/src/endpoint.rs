//! Where a storage node answers.

use crate::{Error, Result};
use http::{Uri, uri::Scheme};
use std::{fmt, str::FromStr};

/// The base URL of a storage node: `http://host:port` or `https://host:port`, without a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    scheme: Scheme,
    authority: String,
}

impl Endpoint {
    /// Whether the connection is encrypted and the server proves who it is.
    pub fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// A URI on this endpoint. `path_and_query` begins with `/` and is percent-encoded already.
    pub(crate) fn uri(&self, path_and_query: &str) -> Result<Uri> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.as_str())
            .path_and_query(path_and_query)
            .build()
            .map_err(|error| Error::Invalid(format!("the request cannot be addressed: {error}")))
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |cause: &str| {
            Error::Invalid(format!(
                "{text:?} is not an endpoint: {cause}; give one like https://storage.example:9000"
            ))
        };
        let uri: Uri = text.trim().parse().map_err(|_| refuse("it is not a URL"))?;
        let scheme = uri
            .scheme()
            .ok_or_else(|| refuse("http:// or https:// is missing"))?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(refuse("its scheme is neither http nor https"));
        }
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it holds a user name"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse("it has a path"));
        }
        Ok(Self {
            scheme: scheme.clone(),
            authority: authority.as_str().to_owned(),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_host_and_port() {
        let endpoint: Endpoint = "https://demo.default.svc:9000/".parse().unwrap();
        assert!(endpoint.is_tls());
        assert_eq!(endpoint.to_string(), "https://demo.default.svc:9000");
        assert!("http://[::1]:9000".parse::<Endpoint>().is_ok());
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_an_example() {
        for text in [
            "",
            "demo:9000",
            "ftp://x",
            "http://x/bucket",
            "http://u:p@x",
            "http://x?y=1",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("https://storage.example:9000"), "{text}: {error}");
        }
    }
}
