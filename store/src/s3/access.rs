//! Who may do what: the root key may do everything, the gateways' key make RDMA sessions, nobody else anything.

use super::service::note_operation;
use crate::{local_path::Peer, rdma::is_signed};
use penstock_rdma::{Credentials, local::CONNECT};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
};
use std::sync::Arc;

/// The key pairs that signatures are checked with. s3s compares signatures in constant time.
#[derive(Clone)]
pub(crate) struct Keys {
    pub root: Credentials,
    /// Of gateways, which carry what others signed.
    pub gateway: Option<Credentials>,
}

impl Keys {
    /// The secret of a key, as long as there is such a key.
    pub fn secret_of(&self, access_key: &str) -> Option<&str> {
        let keys = [Some(&self.root), self.gateway.as_ref()];
        let found = keys
            .into_iter()
            .flatten()
            .find(|key| key.access_key_id() == access_key);
        found.map(Credentials::secret_access_key)
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.secret_of(access_key) {
            Some(secret) => Ok(SecretKey::from(secret)),
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
        let Some(signer) = context.credentials().cloned() else {
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
        // What may be asked without a signature later on is what this operation is. A signature in a query proves nothing of
        // headers.
        let is_plain = context.s3_op().name() == "GetObject" && context.uri().query().is_none();
        let presented = context.headers().get(CONNECT).cloned();
        if let Some(presented) = presented.filter(|_| is_plain)
            && is_signed(context.headers(), &CONNECT)
            && let Some(peer) = context.extensions_mut().get::<Arc<Peer>>()
        {
            peer.signed(&presented, &signer);
        }
        Ok(())
    }
}
