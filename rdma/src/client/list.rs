//! ListObjectsV2.

use super::{Client, request::Request};
use crate::{Listing, ListingQuery, Result, xml};
use http::Method;

impl Client {
    /// One page of keys.
    ///
    /// # Errors
    /// `NoSuchBucket` and transport failures.
    pub async fn list(&self, bucket: &str, query: &ListingQuery) -> Result<Listing> {
        // `encoding-type=url`: XML 1.0 cannot hold every character that a key may hold.
        let mut request = Request::new(Method::GET, bucket, None)
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("max-keys", &query.limit.to_string());
        if !query.prefix.is_empty() {
            request = request.query("prefix", &query.prefix);
        }
        if let Some(delimiter) = &query.delimiter {
            request = request.query("delimiter", delimiter);
        }
        if let Some(start_after) = &query.start_after {
            request = request.query("start-after", start_after);
        }
        if let Some(continuation) = &query.continuation {
            request = request.query("continuation-token", continuation);
        }
        let (_, document) = self.fetch(&request).await?;
        xml::listing(&document).map_err(|cause| self.malformed(cause))
    }
}
