//! What requests say of encryption, and answers; PutBucketEncryption, GetBucketEncryption, DeleteBucketEncryption (S3 API,
//! "Protecting data with server-side encryption").

use super::{
    Front,
    access::Whence,
    attributes::malformed,
    config::{Document, documents},
    error,
};
use crate::engine::{CustomerKey, Encrypted, Encryption, Engine, ObjectInfo};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{Extensions, HeaderMap, StatusCode};
use md5::{Digest, Md5};
use s3s::{
    S3Result,
    dto::{
        DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, GetBucketEncryptionInput,
        GetBucketEncryptionOutput, PutBucketEncryptionInput, PutBucketEncryptionOutput, ServerSideEncryption,
        ServerSideEncryptionConfiguration,
    },
    s3_error,
};

const HEADER: &str = "x-amz-server-side-encryption";
/// The last words of the names of headers that hold keys.
pub(super) const KEY_HEADERS: &str = "-server-side-encryption-customer-key";

/// A key of the customer's, and its MD5 in base64, which the answer repeats.
pub(super) struct Customer {
    pub key: CustomerKey,
    md5: String,
}

/// The headers of a request that are about a customer's key, which all have or none.
pub(super) struct KeyHeaders<'r> {
    pub algorithm: Option<&'r str>,
    pub key: Option<&'r str>,
    pub md5: Option<&'r str>,
}

/// What a request says of a customer's key.
macro_rules! customer {
    ($request:expr, $input:expr) => {
        $crate::s3::encryption::KeyHeaders {
            algorithm: $input.sse_customer_algorithm.as_deref(),
            key: $input.sse_customer_key.as_deref(),
            md5: $input.sse_customer_key_md5.as_deref(),
        }
        .read(&$request.extensions, &$request.headers)
    };
}

/// What a copy says of the key of its source.
macro_rules! source_customer {
    ($request:expr, $input:expr) => {
        $crate::s3::encryption::KeyHeaders {
            algorithm: $input.copy_source_sse_customer_algorithm.as_deref(),
            key: $input.copy_source_sse_customer_key.as_deref(),
            md5: $input.copy_source_sse_customer_key_md5.as_deref(),
        }
        .read(&$request.extensions, &$request.headers)
    };
}
pub(super) use {customer, source_customer};

impl KeyHeaders<'_> {
    /// The key; `None` where there is none of the headers.
    pub fn read(&self, extensions: &Extensions, headers: &HeaderMap) -> S3Result<Option<Customer>> {
        let (algorithm, key, md5) = match (self.algorithm, self.key, self.md5) {
            (None, None, None) => return Ok(None),
            given => given,
        };
        if !Whence::of(extensions).keeps_secrets(headers) {
            return Err(s3_error!(
                InvalidRequest,
                "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection."
            ));
        }
        match algorithm {
            Some("AES256") => {}
            None => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm."
                ));
            }
            Some(_) => {
                return Err(error::coded(
                    "InvalidEncryptionAlgorithmError",
                    StatusCode::BAD_REQUEST,
                    "The Encryption request you specified is not valid. Supported value: AES256.",
                ));
            }
        }
        let Some(key) = key else {
            return Err(s3_error!(
                InvalidArgument,
                "Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key."
            ));
        };
        let bytes = BASE64_STANDARD.decode(key).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let Some(bytes) = bytes else {
            return Err(s3_error!(
                InvalidArgument,
                "The secret key was invalid for the specified algorithm."
            ));
        };
        let Some(md5) = md5 else {
            return Err(s3_error!(
                InvalidArgument,
                "Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated MD5 of the secret key."
            ));
        };
        let computed = BASE64_STANDARD.encode(Md5::digest(bytes));
        if md5 != computed {
            return Err(s3_error!(
                InvalidArgument,
                "The calculated MD5 hash of the key did not match the hash that was provided."
            ));
        }
        Ok(Some(Customer {
            key: bytes.into(),
            md5: computed,
        }))
    }
}

/// What a write asks for beside a customer's key.
pub(super) struct Asked<'r> {
    pub bucket: &'r str,
    pub algorithm: Option<&'r ServerSideEncryption>,
    pub key_id: Option<&'r str>,
    pub context: Option<&'r str>,
}

/// How a write is to be encrypted, as it says, or else its bucket.
macro_rules! encryption {
    ($front:expr, $input:expr, $customer:expr) => {
        $crate::s3::encryption::Asked {
            bucket: &$input.bucket,
            algorithm: $input.server_side_encryption.as_ref(),
            key_id: $input.ssekms_key_id.as_deref(),
            context: $input.ssekms_encryption_context.as_deref(),
        }
        .read($front, $customer)
    };
}
pub(super) use encryption;

impl Asked<'_> {
    pub async fn read(self, front: &Front, customer: Option<&Customer>) -> S3Result<Option<Encryption>> {
        let algorithm = self.algorithm.map(ServerSideEncryption::as_str);
        if algorithm.is_some_and(is_kms) || self.key_id.is_some() || self.context.is_some() {
            return Err(error::not_implemented("Encryption with a key management service"));
        }
        match (algorithm, customer) {
            (Some(_), Some(_)) => Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
            )),
            (Some(ServerSideEncryption::AES256), None) => Ok(Some(Encryption::Server)),
            (Some(_), None) => Err(s3_error!(
                InvalidArgument,
                "The encryption method specified is not supported"
            )),
            (None, Some(customer)) => Ok(Some(Encryption::Customer(customer.key.clone()))),
            (None, None) => {
                let encrypts = front.authority.encrypts(self.bucket).await;
                let encrypts = encrypts.map_err(error::answer)?;
                Ok(encrypts.then_some(Encryption::Server))
            }
        }
    }
}

fn is_kms(algorithm: &str) -> bool {
    algorithm.starts_with("aws:kms")
}

/// Refuses the header of writes on what is none.
pub(super) fn refuse_header(headers: &HeaderMap) -> S3Result<()> {
    match headers.contains_key(HEADER) {
        true => Err(s3_error!(
            InvalidArgument,
            "x-amz-server-side-encryption header is not supported for this operation."
        )),
        false => Ok(()),
    }
}

/// Whether what is known of an object may be told to who has this key.
pub(super) fn permits(info: &ObjectInfo, customer: Option<&Customer>) -> Result<(), crate::engine::Error> {
    let key = customer.map(|customer| &customer.key);
    Encrypted::check(info.attributes.encryption.as_ref(), key)
}

/// What an answer says of encryption.
#[derive(Default)]
pub(super) struct Told {
    pub server: Option<ServerSideEncryption>,
    pub algorithm: Option<String>,
    pub md5: Option<String>,
}

impl Told {
    /// Of what is to be written.
    pub fn asked(encryption: Option<&Encryption>, customer: Option<Customer>) -> Self {
        match encryption {
            None => Self::default(),
            Some(Encryption::Server) => Self::by_server(),
            Some(Encryption::Customer(_)) => Self::by(customer),
        }
    }

    fn by_server() -> Self {
        Self {
            server: Some(ServerSideEncryption::from_static(ServerSideEncryption::AES256)),
            ..Self::default()
        }
    }

    fn by(customer: Option<Customer>) -> Self {
        customer.map_or_else(Self::default, |customer| Self {
            server: None,
            algorithm: Some(ServerSideEncryption::AES256.to_owned()),
            md5: Some(customer.md5),
        })
    }

    /// Of what is there.
    pub fn of(encrypted: Option<&Encrypted>, customer: Option<Customer>) -> Self {
        match encrypted {
            None => Self::default(),
            Some(Encrypted::Server(_)) => Self::by_server(),
            Some(Encrypted::Customer(_)) => Self::by(customer),
        }
    }
}

pub(super) const ENCRYPTION: Document<ServerSideEncryptionConfiguration> = Document::new(
    "encryption",
    (
        "ServerSideEncryptionConfigurationNotFoundError",
        "The server side encryption configuration was not found",
    ),
);

documents! {
    ENCRYPTION:
        get_bucket_encryption(GetBucketEncryptionInput => GetBucketEncryptionOutput) |found|
            GetBucketEncryptionOutput { server_side_encryption_configuration: Some(found) },
        put_bucket_encryption(PutBucketEncryptionInput => PutBucketEncryptionOutput) server_side_encryption_configuration by checked,
        delete_bucket_encryption(DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput);
}

fn checked(given: ServerSideEncryptionConfiguration) -> S3Result<ServerSideEncryptionConfiguration> {
    let default = match given.rules.as_slice() {
        [rule] => rule.apply_server_side_encryption_by_default.as_ref(),
        _ => None,
    };
    let Some(default) = default else {
        return Err(malformed(
            "There is one rule, with an ApplyServerSideEncryptionByDefault.",
        ));
    };
    match default.sse_algorithm.as_str() {
        ServerSideEncryption::AES256 if default.kms_master_key_id.is_some() => Err(s3_error!(
            InvalidArgument,
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse"
        )),
        ServerSideEncryption::AES256 => Ok(given),
        kms if is_kms(kms) => Err(error::not_implemented("Encryption with a key management service")),
        _ => Err(malformed("The SSEAlgorithm is none that S3 knows.")),
    }
}

/// Whether what is written into a bucket without a word on it is encrypted. What cannot be read says so.
pub(crate) async fn encrypts_by_default(engine: &dyn Engine, bucket: &str) -> bool {
    match ENCRYPTION.find_in(engine, bucket).await {
        Ok(found) => found.is_some(),
        Err(_) => true,
    }
}
