//! Who may do what: the root key may do everything, the gateways' key make RDMA sessions, nobody else anything.

use super::service::note_operation;
use penstock_rdma::Credentials;
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
};

/// The key pairs that signatures are checked with. s3s compares signatures in constant time.
pub(super) struct Keys {
    pub root: Credentials,
    /// Of gateways, which carry what others signed.
    pub gateway: Option<Credentials>,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = [Some(&self.root), self.gateway.as_ref()];
        let found = keys
            .into_iter()
            .flatten()
            .find(|key| key.access_key_id() == access_key);
        match found {
            Some(key) => Ok(SecretKey::from(key.secret_access_key())),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The access key is not known to this storage node."
            )),
        }
    }
}

/// Refuses whoever did not sign, and gateways: what they may do is below `/.s3rdma-rc` alone, which does not come here.
pub(super) struct Access {
    /// The access key of gateways.
    pub gateway: Option<String>,
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        note_operation(context.s3_op().name());
        let Some(signer) = context.credentials() else {
            return Err(s3_error!(
                AccessDenied,
                "The request is not signed; sign it with AWS Signature Version 4."
            ));
        };
        if self.gateway.as_ref() == Some(&signer.access_key) {
            return Err(s3_error!(
                AccessDenied,
                "A gateway's key carries what others have signed, and gives access to nothing by itself."
            ));
        }
        Ok(())
    }
}
