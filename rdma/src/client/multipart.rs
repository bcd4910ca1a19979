//! CreateMultipartUpload, UploadPart, CompleteMultipartUpload, AbortMultipartUpload, ListParts, ListMultipartUploads.

use super::{
    Client,
    object::{CRC64NVME, crc64nvme_of, modified_of},
    request::Request,
};
use crate::{Condition, Error, Moved, ObjectHeaders, Part, PartId, Result, Upload, Via, Written, xml};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::Method;
use std::time::{Instant, SystemTime};

impl Client {
    /// Begins an upload and returns its id. An answer that is lost leaves an upload without parts behind.
    ///
    /// # Errors
    /// `NoSuchBucket` and transport failures.
    pub async fn create_upload(&self, bucket: &str, key: &str, headers: &ObjectHeaders) -> Result<String> {
        let request = Request::new(Method::POST, bucket, Some(key))
            .query("uploads", "")
            .object_headers(headers)?
            .repeatedly();
        let (_, document) = self.fetch(&request).await?;
        xml::upload_id(&document).map_err(|cause| self.malformed(cause))
    }

    /// Uploads one part, or replaces it.
    ///
    /// # Errors
    /// `NoSuchUpload` and transport failures.
    pub async fn upload_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        bytes: Bytes,
    ) -> Result<Part> {
        let sent = self.send_part(bucket, key, upload, number, bytes).await?;
        Ok(sent.0)
    }

    /// As [`Client::upload_part`], and which way the bytes went.
    pub(super) async fn send_part(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        number: u16,
        bytes: Bytes,
    ) -> Result<(Part, Via)> {
        let size = bytes.len() as u64;
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        let request = Request::new(Method::PUT, bucket, Some(key))
            .query("partNumber", &number.to_string())
            .query("uploadId", upload)
            .header(CRC64NVME, &BASE64_STANDARD.encode(crc.to_be_bytes()))?
            .cheap_etag()?;
        let (response, via) = self.send_bytes(request, bytes).await?;
        let part = Part {
            number,
            size,
            etag: self.etag_of(response.headers())?,
            modified: SystemTime::now(),
        };
        Ok((part, via))
    }

    /// Makes the object of the named parts. Where the answer is lost, it is asked for again: storage nodes answer that as
    /// they did the first time, as S3 does, with a condition too.
    ///
    /// # Errors
    /// `NoSuchUpload`, `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, `PreconditionFailed` and transport failures.
    pub async fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        upload: &str,
        parts: &[PartId],
        condition: &Condition,
    ) -> Result<Written> {
        let begun = Instant::now();
        let request = Request::new(Method::POST, bucket, Some(key))
            .query("uploadId", upload)
            .condition(condition)?
            .repeatedly()
            .body(xml::complete_upload(parts).into());
        let (response, document) = self.fetch(&request).await?;
        // S3 may begin the answer with 200 before it knows the outcome, and put the error into the document.
        if let Some((code, message)) = xml::error(&document) {
            return Err(Error::Refused {
                status: response.status().as_u16(),
                code,
                message,
            });
        }
        let (etag, crc64nvme) = xml::completed(&document).map_err(|cause| self.malformed(cause))?;
        Ok(Written {
            etag,
            crc64nvme: crc64nvme.or_else(|| crc64nvme_of(response.headers())),
            modified: modified_of(response.headers()).unwrap_or_else(SystemTime::now),
            moved: Moved {
                via: Via::Http,
                bytes: 0,
                elapsed: begun.elapsed(),
                checksum: None,
            },
        })
    }

    /// Drops an upload and its parts.
    ///
    /// # Errors
    /// `NoSuchUpload` and transport failures.
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: &str) -> Result<()> {
        let request = Request::new(Method::DELETE, bucket, Some(key))
            .query("uploadId", upload)
            .once();
        self.fetch(&request).await?;
        Ok(())
    }

    /// The parts of an upload, by number.
    ///
    /// # Errors
    /// `NoSuchUpload` and transport failures.
    pub async fn parts(&self, bucket: &str, key: &str, upload: &str) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let mut request = Request::new(Method::GET, bucket, Some(key)).query("uploadId", upload);
            if let Some(marker) = &marker {
                request = request.query("part-number-marker", marker);
            }
            let (_, document) = self.fetch(&request).await?;
            let page = xml::parts(&document).map_err(|cause| self.malformed(cause))?;
            parts.extend(page.0);
            match page.1 {
                Some(next) => marker = Some(next),
                None => return Ok(parts),
            }
        }
    }

    /// The unfinished uploads of a bucket, by key.
    ///
    /// # Errors
    /// `NoSuchBucket` and transport failures.
    pub async fn uploads(&self, bucket: &str) -> Result<Vec<Upload>> {
        let mut uploads = Vec::new();
        let mut marker: Option<(String, String)> = None;
        loop {
            let mut request = Request::new(Method::GET, bucket, None)
                .query("uploads", "")
                .query("encoding-type", "url");
            if let Some((key, id)) = &marker {
                request = request.query("key-marker", key).query("upload-id-marker", id);
            }
            let (_, document) = self.fetch(&request).await?;
            let page = xml::uploads(&document).map_err(|cause| self.malformed(cause))?;
            uploads.extend(page.0);
            match page.1 {
                Some(next) => marker = Some(next),
                None => return Ok(uploads),
            }
        }
    }
}
