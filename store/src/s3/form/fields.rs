//! The fields of a form.

use super::{Input, PutObjectFields, Success, malformed};
use http::{HeaderMap, HeaderName, HeaderValue};
use multer::Field;
use s3s::{
    S3Result,
    dto::{PutObjectInput, StreamingBlob, Tagging, Timestamp, TimestampFormat},
    s3_error,
    xml::{Deserialize, Deserializer},
};
use std::{collections::BTreeMap, str::FromStr};

/// Their names in lower case, as they are compared, each once.
#[derive(Default)]
pub(super) struct Fields(BTreeMap<String, String>);

/// Headers of PutObject that are fields of forms, beside those that begin with `x-amz-`.
const HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

/// What begins with `x-amz-` and is known, beside metadata and checksums.
const KNOWN: [&str; 14] = [
    "x-amz-acl",
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-server-side-encryption",
    "x-amz-signature",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-checksum-algorithm",
];

/// The name of the file, without the folders that some browsers tell.
pub(super) fn file_name(file: &Field<'_>) -> Option<String> {
    let header = file.headers().get(http::header::CONTENT_DISPOSITION.as_str())?;
    let text = std::str::from_utf8(header.as_bytes()).ok()?;
    let (_, rest) = text.split_once("filename=")?;
    let name = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        None => rest.split(';').next()?.trim(),
    };
    name.rsplit(['/', '\\']).next().map(str::to_owned)
}

impl Fields {
    pub fn add(&mut self, name: &str, value: String) -> S3Result<()> {
        if self.0.insert(name.to_ascii_lowercase(), value).is_some() {
            return Err(malformed("A field of the form is there twice."));
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn policy(&self) -> Option<&str> {
        self.get("policy")
    }

    /// The names that a policy has to name.
    pub fn to_be_named(&self) -> impl Iterator<Item = &str> {
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| {
            !matches!(*name, "policy" | "x-amz-signature" | "file") && !name.starts_with("x-ignore-")
        })
    }

    /// The key, with the file's name in it where it is to be.
    pub fn key(&self, file_name: Option<&str>) -> S3Result<String> {
        match self.get("key").filter(|key| !key.is_empty()) {
            Some(key) => Ok(key.replace("${filename}", file_name.unwrap_or(""))),
            None => Err(s3_error!(
                InvalidArgument,
                "Bucket POST must contain a field named 'key'. If it is specified, please check the order of the fields."
            )),
        }
    }

    /// Those that are headers of PutObject.
    pub fn headers(&self) -> S3Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.0 {
            let is_signature = matches!(
                name.as_str(),
                "x-amz-signature" | "x-amz-credential" | "x-amz-date" | "x-amz-algorithm"
            );
            let is_known = KNOWN.contains(&name.as_str())
                || name.starts_with("x-amz-meta-")
                || name.starts_with("x-amz-checksum-")
                || name.starts_with("x-amz-server-side-encryption-");
            if name.starts_with("x-amz-") && !is_known {
                return Err(crate::s3::error::not_implemented(&format!(
                    "The field {name} of a form"
                )));
            }
            if is_signature || !(name.starts_with("x-amz-") || HEADERS.contains(&name.as_str())) {
                continue;
            }
            let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) else {
                return Err(s3_error!(
                    InvalidArgument,
                    "The field {name:?} cannot be a header."
                ));
            };
            headers.insert(name, value);
        }
        if let Some(acl) = self.get("acl") {
            let acl = HeaderValue::from_str(acl);
            headers.insert(
                "x-amz-acl",
                acl.map_err(|_| s3_error!(InvalidArgument, "The acl is none."))?,
            );
        }
        if let Some(tags) = self.tags()? {
            let tags = HeaderValue::from_str(&tags);
            let tags =
                tags.map_err(|_| s3_error!(InvalidArgument, "The tags of the form cannot be a header."))?;
            headers.insert("x-amz-tagging", tags);
        }
        Ok(headers)
    }

    /// As PutObject has them.
    pub fn into_input(mut self, bucket: &str, key: &str, content: StreamingBlob) -> S3Result<Input> {
        let success = Success::of(&PutObjectFields {
            status: self.get("success_action_status"),
            redirect: self.get("success_action_redirect").or(self.get("redirect")),
        });
        let tagging = self.tags()?;
        let time = |text: Option<String>, format| {
            let read = text.map(|text| Timestamp::parse(format, &text));
            read.transpose()
                .map_err(|_| s3_error!(InvalidArgument, "A date of the form is none."))
        };
        let mut take = |name: &str| self.0.remove(name);
        let input = PutObjectInput {
            body: Some(content),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            tagging,
            acl: take("acl").or_else(|| take("x-amz-acl")).map(Into::into),
            cache_control: take("cache-control"),
            content_disposition: take("content-disposition"),
            content_encoding: take("content-encoding"),
            content_language: take("content-language"),
            content_type: take("content-type"),
            checksum_crc32: take("x-amz-checksum-crc32"),
            checksum_crc32c: take("x-amz-checksum-crc32c"),
            checksum_crc64nvme: take("x-amz-checksum-crc64nvme"),
            checksum_sha1: take("x-amz-checksum-sha1"),
            checksum_sha256: take("x-amz-checksum-sha256"),
            expires: time(take("expires"), TimestampFormat::HttpDate)?,
            object_lock_mode: take("x-amz-object-lock-mode").map(Into::into),
            object_lock_retain_until_date: time(
                take("x-amz-object-lock-retain-until-date"),
                TimestampFormat::DateTime,
            )?,
            object_lock_legal_hold_status: take("x-amz-object-lock-legal-hold").map(Into::into),
            server_side_encryption: take("x-amz-server-side-encryption").map(Into::into),
            sse_customer_algorithm: take("x-amz-server-side-encryption-customer-algorithm"),
            sse_customer_key: take("x-amz-server-side-encryption-customer-key"),
            sse_customer_key_md5: take("x-amz-server-side-encryption-customer-key-md5"),
            ssekms_encryption_context: take("x-amz-server-side-encryption-context"),
            ssekms_key_id: take("x-amz-server-side-encryption-aws-kms-key-id"),
            storage_class: take("x-amz-storage-class").map(Into::into),
            website_redirect_location: take("x-amz-website-redirect-location"),
            metadata: Some(
                self.0
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.strip_prefix("x-amz-meta-")?.to_owned(), value)))
                    .collect(),
            ),
            ..Default::default()
        };
        Ok((input, success))
    }

    /// Tags as headers have them; forms have a document, or the header's form in a field that is called like it.
    fn tags(&self) -> S3Result<Option<String>> {
        let Some(document) = self.get("tagging") else {
            return Ok(self.get("x-amz-tagging").map(str::to_owned));
        };
        let read = Tagging::deserialize(&mut Deserializer::new(document.as_bytes()));
        let read =
            read.map_err(|_| s3_error!(MalformedXML, "The field \"tagging\" is no Tagging document."))?;
        let quoted = |text: Option<String>| {
            let text = text.unwrap_or_default();
            percent_encoding::utf8_percent_encode(&text, crate::s3::convert::UNRESERVED).to_string()
        };
        let tags = read.tag_set.into_iter();
        let pairs: Vec<_> = tags
            .map(|tag| format!("{}={}", quoted(tag.key), quoted(tag.value)))
            .collect();
        Ok(Some(pairs.join("&")))
    }
}
