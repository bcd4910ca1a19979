//! CreateBucket, HeadBucket, DeleteBucket, ListBuckets.

use super::{Client, request::Request};
use crate::{Bucket, Result, xml};
use http::Method;

impl Client {
    /// Creates a bucket.
    ///
    /// # Errors
    /// `BucketAlreadyOwnedByYou`, `InvalidBucketName` and transport failures.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.fetch(&Request::new(Method::PUT, bucket, None).once())
            .await?;
        Ok(())
    }

    /// Whether there is such a bucket, and we may use it.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied` and transport failures.
    pub async fn head_bucket(&self, bucket: &str) -> Result<()> {
        self.fetch(&Request::new(Method::HEAD, bucket, None)).await?;
        Ok(())
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty` and transport failures.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        self.fetch(&Request::new(Method::DELETE, bucket, None).once())
            .await?;
        Ok(())
    }

    /// All buckets, by name.
    ///
    /// # Errors
    /// Refusals and transport failures.
    pub async fn buckets(&self) -> Result<Vec<Bucket>> {
        let (_, document) = self.fetch(&Request::service(Method::GET)).await?;
        xml::buckets(&document).map_err(|cause| self.malformed(cause))
    }
}
