//! The XML documents of the S3 API that the client reads and writes.

use crate::{Bucket, Listing, ObjectHead, ObjectHeaders, Part, PartId, Upload};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::time::SystemTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What is wrong with a document.
type Outcome<T> = Result<T, String>;

fn read<'a, T: Deserialize<'a>>(document: &'a [u8], root: &str) -> Outcome<T> {
    let text = std::str::from_utf8(document).map_err(|_| format!("{root} is not UTF-8"))?;
    quick_xml::de::from_str(text).map_err(|error| format!("{root}: {error}"))
}

fn date(text: &str) -> Outcome<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|_| format!("{text:?} is not a date"))
}

/// Undoes `encoding-type=url`. A `+` is a space there, as in a form.
fn decoded(text: &str, encoding: Option<&str>) -> Outcome<String> {
    if encoding != Some("url") {
        return Ok(text.to_owned());
    }
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| format!("{text:?} is not UTF-8"))
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// Code and message of an error document; `None` when it is none.
pub(crate) fn error(document: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Error {
        #[serde(rename = "Code")]
        code: String,
        #[serde(rename = "Message", default)]
        message: String,
    }
    let text = std::str::from_utf8(document).ok()?;
    if !text.contains("<Error>") && !text.contains("<Error ") {
        return None;
    }
    let error: Error = quick_xml::de::from_str(text).ok()?;
    Some((error.code, error.message))
}

pub(crate) fn buckets(document: &[u8]) -> Outcome<Vec<Bucket>> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "Buckets", default)]
        buckets: List,
    }
    #[derive(Deserialize, Default)]
    struct List {
        #[serde(rename = "Bucket", default)]
        bucket: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "Name")]
        name: String,
        #[serde(rename = "CreationDate")]
        created: String,
    }
    let document: Document = read(document, "ListAllMyBucketsResult")?;
    let buckets = document.buckets.bucket.into_iter();
    buckets
        .map(|bucket| {
            Ok(Bucket {
                created: date(&bucket.created)?,
                name: bucket.name,
            })
        })
        .collect()
}

pub(crate) fn listing(document: &[u8]) -> Outcome<Listing> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "EncodingType")]
        encoding: Option<String>,
        #[serde(rename = "NextContinuationToken")]
        next: Option<String>,
        #[serde(rename = "Contents", default)]
        contents: Vec<Entry>,
        #[serde(rename = "CommonPrefixes", default)]
        prefixes: Vec<Prefix>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "Key")]
        key: String,
        #[serde(rename = "Size")]
        size: u64,
        #[serde(rename = "ETag")]
        etag: String,
        #[serde(rename = "LastModified")]
        modified: String,
    }
    #[derive(Deserialize)]
    struct Prefix {
        #[serde(rename = "Prefix")]
        prefix: String,
    }
    let document: Document = read(document, "ListBucketResult")?;
    let encoding = document.encoding.as_deref();
    let mut listing = Listing {
        next: document.next,
        ..Listing::default()
    };
    for entry in document.contents {
        let head = ObjectHead {
            size: entry.size,
            etag: unquoted(&entry.etag),
            modified: date(&entry.modified)?,
            crc64nvme: None,
            headers: ObjectHeaders::default(),
        };
        listing.objects.push((decoded(&entry.key, encoding)?, head));
    }
    for prefix in document.prefixes {
        listing.common_prefixes.push(decoded(&prefix.prefix, encoding)?);
    }
    Ok(listing)
}

/// Entity tag and date.
pub(crate) fn copied(document: &[u8]) -> Outcome<(String, SystemTime)> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "ETag")]
        etag: String,
        #[serde(rename = "LastModified")]
        modified: String,
    }
    let document: Document = read(document, "CopyObjectResult")?;
    Ok((unquoted(&document.etag), date(&document.modified)?))
}

pub(crate) fn upload_id(document: &[u8]) -> Outcome<String> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "UploadId")]
        id: String,
    }
    let document: Document = read(document, "InitiateMultipartUploadResult")?;
    Ok(document.id)
}

pub(crate) fn complete_upload(parts: &[PartId]) -> String {
    let mut document =
        String::from(r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#);
    for part in parts {
        document.push_str(&format!(
            "<Part><PartNumber>{}</PartNumber><ETag>&quot;{}&quot;</ETag></Part>",
            part.number,
            quick_xml::escape::escape(&part.etag)
        ));
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

/// Entity tag and, where it is said, CRC-64/NVME.
pub(crate) fn completed(document: &[u8]) -> Outcome<(String, Option<u64>)> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "ETag")]
        etag: String,
        #[serde(rename = "ChecksumCRC64NVME")]
        crc64nvme: Option<String>,
    }
    let document: Document = read(document, "CompleteMultipartUploadResult")?;
    let crc = document
        .crc64nvme
        .and_then(|crc| BASE64_STANDARD.decode(crc).ok()?.try_into().ok())
        .map(u64::from_be_bytes);
    Ok((unquoted(&document.etag), crc))
}

/// Parts and the marker of the next page.
pub(crate) fn parts(document: &[u8]) -> Outcome<(Vec<Part>, Option<String>)> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "IsTruncated", default)]
        truncated: bool,
        #[serde(rename = "NextPartNumberMarker")]
        next: Option<String>,
        #[serde(rename = "Part", default)]
        parts: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "PartNumber")]
        number: u16,
        #[serde(rename = "Size")]
        size: u64,
        #[serde(rename = "ETag")]
        etag: String,
        #[serde(rename = "LastModified")]
        modified: String,
    }
    let document: Document = read(document, "ListPartsResult")?;
    let mut parts = Vec::with_capacity(document.parts.len());
    for part in document.parts {
        parts.push(Part {
            number: part.number,
            size: part.size,
            etag: unquoted(&part.etag),
            modified: date(&part.modified)?,
        });
    }
    Ok((parts, document.next.filter(|_| document.truncated)))
}

/// Key and upload id after which the next page begins.
type UploadMarker = (String, String);

/// Uploads and the marker of the next page.
pub(crate) fn uploads(document: &[u8]) -> Outcome<(Vec<Upload>, Option<UploadMarker>)> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "EncodingType")]
        encoding: Option<String>,
        #[serde(rename = "IsTruncated", default)]
        truncated: bool,
        #[serde(rename = "NextKeyMarker", default)]
        next_key: String,
        #[serde(rename = "NextUploadIdMarker", default)]
        next_id: String,
        #[serde(rename = "Upload", default)]
        uploads: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "Key")]
        key: String,
        #[serde(rename = "UploadId")]
        id: String,
        #[serde(rename = "Initiated")]
        started: String,
    }
    let document: Document = read(document, "ListMultipartUploadsResult")?;
    let encoding = document.encoding.as_deref();
    let mut uploads = Vec::with_capacity(document.uploads.len());
    for upload in document.uploads {
        uploads.push(Upload {
            key: decoded(&upload.key, encoding)?,
            id: upload.id,
            started: date(&upload.started)?,
        });
    }
    let next = if document.truncated {
        Some((decoded(&document.next_key, encoding)?, document.next_id))
    } else {
        None
    };
    Ok((uploads, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_with_its_encoded_keys() {
        let document = br#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>
<Contents><Key>a%2Bb+c%01</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;e-2&quot;</ETag><Size>7</Size></Contents>
<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>%C3%BC/</Prefix></CommonPrefixes>
</ListBucketResult>"#;
        let listing = listing(document).unwrap();
        assert_eq!(listing.objects[0].0, "a+b c\u{1}");
        assert_eq!(listing.objects[0].1.etag, "e-2");
        assert_eq!(listing.objects[0].1.size, 7);
        assert_eq!(listing.common_prefixes, ["d/", "ü/"]);
        assert_eq!(listing.next.as_deref(), Some("t"));
    }

    #[test]
    fn an_error_document_is_told_from_others() {
        let said =
            error(b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>");
        assert_eq!(said, Some(("NoSuchKey".to_owned(), "gone".to_owned())));
        assert_eq!(error(b"<CompleteMultipartUploadResult/>"), None);
        assert_eq!(error(b"<html>502</html>"), None);
        assert_eq!(error(b""), None);
    }

    #[test]
    fn no_buckets_is_an_empty_list() {
        assert_eq!(
            buckets(b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"),
            Ok(vec![])
        );
        assert!(buckets(b"<ListAllMyBucketsResult").is_err());
    }
}
