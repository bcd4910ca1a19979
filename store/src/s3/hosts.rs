//! Virtual-host style addressing (S3 API, "Virtual hosting of buckets"): with the domain `s3.example.com`, the host
//! `BUCKET.s3.example.com` names a bucket, and the path the key alone. Of every other host the path names both.

use http::{Request, header::HOST};
use percent_encoding::percent_decode_str;
use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};
use std::{borrow::Cow, sync::Arc};

/// The domains below which buckets are hosts, in lower case. Cheap to clone.
///
/// s3s has such types too; theirs take every other name, and every address, for that of a bucket.
#[derive(Debug, Clone)]
pub(super) struct Hosts(Arc<[String]>);

impl Hosts {
    pub fn new(domains: &[String]) -> Self {
        Self(domains.iter().map(|domain| domain.to_ascii_lowercase()).collect())
    }

    /// The bucket that a host is. Names of hosts are compared without regard to case; buckets' have none but lower.
    fn bucket_in(&self, host: &str) -> Option<String> {
        let host = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) {
                name
            } else {
                host
            }
        });
        let host = host.to_ascii_lowercase();
        let below = |domain: &String| {
            host.strip_suffix(domain.as_str())?
                .strip_suffix('.')
                .map(str::to_owned)
        };
        self.0.iter().find_map(below).filter(|bucket| !bucket.is_empty())
    }

    /// The path that names bucket and key, as it came, of a request on either.
    pub fn path<'r, B>(&self, request: &'r Request<B>) -> Cow<'r, str> {
        let path = request.uri().path();
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        match host.and_then(|host| self.bucket_in(host)) {
            Some(bucket) => Cow::Owned(format!("/{bucket}{path}")),
            None => Cow::Borrowed(path),
        }
    }

    /// Whether the host is a bucket.
    pub fn names_bucket<B>(&self, request: &Request<B>) -> bool {
        matches!(self.path(request), Cow::Owned(_))
    }

    /// The bucket of a request.
    pub fn bucket<B>(&self, request: &Request<B>) -> Option<String> {
        let path = self.path(request);
        let name = path.trim_start_matches('/').split('/').next()?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        (!name.is_empty()).then(|| name.into_owned())
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let named = VirtualHost::new(host);
        Ok(match self.bucket_in(host) {
            Some(bucket) => named.with_bucket(bucket),
            None => named,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_a_host_below_a_domain_or_the_first_part_of_the_path() {
        let hosts = Hosts::new(&["S3.example.com".to_owned(), "other".to_owned()]);
        let none = Hosts::new(&[]);
        for (host, uri, bucket, path) in [
            ("b.s3.example.com", "/k", Some("b"), "/b/k"),
            ("B.s3.EXAMPLE.com:9000", "/", Some("b"), "/b/"),
            ("a.b.s3.example.com", "/k/l?x", Some("a.b"), "/a.b/k/l"),
            ("b.other", "/k", Some("b"), "/b/k"),
            ("s3.example.com", "/b/k", Some("b"), "/b/k"),
            (".s3.example.com", "/b/k", Some("b"), "/b/k"),
            ("xs3.example.com", "/b/k", Some("b"), "/b/k"),
            ("127.0.0.1:9000", "/b%2Dc", Some("b-c"), "/b%2Dc"),
            ("[::1]:9000", "/", None, "/"),
        ] {
            let request = Request::get(uri).header(HOST, host).body(()).unwrap();
            assert_eq!(hosts.bucket(&request).as_deref(), bucket, "{host} {uri}");
            assert_eq!(hosts.path(&request), path, "{host} {uri}");
            assert_eq!(none.path(&request), request.uri().path());
        }
    }
}
