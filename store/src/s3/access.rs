//! Who may do what: the root key may do everything, nobody else anything.

use super::service::note_operation;
use penstock_rdma::Credentials;
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
};

/// The key pairs that signatures are checked with. s3s compares signatures in constant time.
pub(super) struct Keys(pub Credentials);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key != self.0.access_key_id() {
            return Err(s3_error!(
                InvalidAccessKeyId,
                "The access key is not known to this storage node."
            ));
        }
        Ok(SecretKey::from(self.0.secret_access_key()))
    }
}

/// Refuses whoever did not sign, or signed in a way that is not ours.
pub(super) struct Access;

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        note_operation(context.s3_op().name());
        if context.credentials().is_none() {
            return Err(s3_error!(
                AccessDenied,
                "The request is not signed; sign it with AWS Signature Version 4."
            ));
        }
        Ok(())
    }
}
