//! Who signed a form's policy (S3 API, "Authenticating Requests: Browser-Based Uploads Using POST").

use super::fields::Fields;
use crate::access::{Authority, Principal};
use ring::hmac::{HMAC_SHA256, Key, sign};
use s3s::{S3Result, auth::Credentials, s3_error};
use subtle::ConstantTimeEq;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who it is; nobody where nothing says that it is signed.
pub(super) fn signer(authority: &Authority, fields: &Fields) -> S3Result<(Principal, Option<Credentials>)> {
    const NAMES: [&str; 4] = [
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-signature",
    ];
    if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "Signature Version 2 is not supported; please use AWS4-HMAC-SHA256."
        ));
    }
    if NAMES.iter().all(|name| fields.get(name).is_none()) && fields.policy().is_none() {
        return Ok((Principal::Anonymous, None));
    }
    let [algorithm, credential, date, signature] = {
        let mut found = [""; 4];
        for (place, name) in found.iter_mut().zip(NAMES) {
            *place = fields.get(name).ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "Bucket POST must contain a field named '{name}'."
                )
            })?;
        }
        found
    };
    let policy = fields.policy();
    let policy = policy.ok_or_else(|| s3_error!(InvalidArgument, "A form that is signed needs a policy."))?;
    if algorithm != ALGORITHM {
        return Err(s3_error!(
            InvalidArgument,
            "X-Amz-Algorithm only supports {ALGORITHM}."
        ));
    }
    let parts: Vec<&str> = credential.split('/').collect();
    let [access, day, region, "s3", "aws4_request"] = parts.as_slice() else {
        return Err(s3_error!(
            InvalidArgument,
            "The credential is ACCESS-KEY/YYYYMMDD/REGION/s3/aws4_request."
        ));
    };
    if date.get(..8) != Some(day) {
        return Err(s3_error!(
            InvalidArgument,
            "The credential is not of the day of x-amz-date."
        ));
    }
    let known = authority.principal(access).zip(authority.secret_of(access));
    let (principal, secret) = known.ok_or_else(|| {
        s3_error!(
            InvalidAccessKeyId,
            "The access key is not known to this storage node, or has expired."
        )
    })?;
    let expected = hex::encode(signed(&secret, &[day, region, "s3", "aws4_request"], policy));
    if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return Err(s3_error!(SignatureDoesNotMatch));
    }
    let credentials = Credentials {
        access_key: (*access).to_owned(),
        secret_key: secret.into(),
    };
    Ok((principal, Some(credentials)))
}

fn signed(secret: &str, scope: &[&str], text: &str) -> Vec<u8> {
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.iter().chain(&[text]) {
        key = sign(&Key::new(HMAC_SHA256, &key), part.as_bytes())
            .as_ref()
            .to_vec();
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in "Example: Browser-Based Upload using HTTP POST (Using AWS Signature Version 4)" has this signing key's form;
    /// here against HMACs computed with Python's standard library.
    #[test]
    fn the_signature_is_a_chain_of_hmacs() {
        let scope = ["20151229", "us-east-1", "s3", "aws4_request"];
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let expected = EXPECTED;
        assert_eq!(hex::encode(signed(secret, &scope, "cG9saWN5")), expected);
    }

    const EXPECTED: &str = "e111a490e8a950717d8db19d106c47897aedddfde15e06f5e03bb6c108f2f942";
}
