//! AWS Signature Version 4 in the `Authorization` header, and a gateway's signature beside one of somebody else.

use super::request::Payload;
use crate::{
    Credentials, Error, Result,
    protocol::{GatewaySignature, header},
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use http::{HeaderMap, HeaderValue, Method, Uri};
use std::time::SystemTime;

/// Adds the signature headers.
///
/// What is signed of the body: over plain HTTP its SHA-256, so that nobody on the way can change a byte. Over TLS
/// `UNSIGNED-PAYLOAD`: the record layer already protects every byte, and hashing it twice costs most of a core per GiB/s.
pub(super) fn sign_headers(
    credentials: &Credentials,
    region: &str,
    method: &Method,
    uri: &Uri,
    headers: &mut HeaderMap,
    payload: &Payload,
) -> Result<()> {
    let unsignable =
        |cause: &dyn std::error::Error| Error::Invalid(format!("the request cannot be signed: {cause}"));
    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id(),
        credentials.secret_access_key(),
        None,
        None,
        "penstock",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|error| unsignable(&error))?
        .into();
    let body = match payload {
        Payload::Empty => SignableBody::Bytes(&[]),
        Payload::Bytes(_) if uri.scheme() == Some(&http::uri::Scheme::HTTPS) => SignableBody::UnsignedPayload,
        Payload::Bytes(bytes) => SignableBody::Bytes(bytes),
    };
    let mut plain = Vec::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let value = value.to_str().map_err(|error| unsignable(&error))?;
        plain.push((name.as_str(), value));
    }
    let request = SignableRequest::new(method.as_str(), uri.to_string(), plain.into_iter(), body)
        .map_err(|error| unsignable(&error))?;
    let (instructions, _signature) = sign(request, &params)
        .map_err(|error| unsignable(&error))?
        .into_parts();
    let (signed, _query) = instructions.into_parts();
    for header in signed {
        let mut value = HeaderValue::from_str(header.value()).map_err(|error| unsignable(&error))?;
        value.set_sensitive(header.sensitive());
        headers.insert(header.name(), value);
    }
    Ok(())
}

/// Signs the headers of the protocol that were added to a request of somebody else.
pub(super) fn sign_beside(
    credentials: &Credentials,
    method: &Method,
    uri: &Uri,
    headers: &mut HeaderMap,
) -> Result<()> {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let signature = GatewaySignature::sign(credentials, SystemTime::now(), method, target, headers);
    let value = signature.and_then(|signature| HeaderValue::try_from(signature.encode()).ok());
    let mut value = value.ok_or_else(|| {
        Error::Invalid(
            "the request cannot be carried: it has a signature or a header of RDMA twice".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    headers.insert(header::GATEWAY, value);
    Ok(())
}
