//! Encryption of objects where they are stored (S3 API, "Protecting data with server-side encryption").
//!
//! Each object has a random data key, which is kept beside it, sealed: by a key of the customer's, which is kept nowhere (SSE-C),
//! or by one that is made of the storage node's master key (SSE-S3). The bytes are encrypted with keys that are made of the data
//! key, one a data file.

use super::{Error, Result};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use std::fmt;

const LENGTH: usize = 32;
const SALT: usize = 32;

/// 32 bytes that must not be seen.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; LENGTH]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A key that a customer gives with every request (SSE-C). It is in no log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomerKey(Secret);

impl From<[u8; LENGTH]> for CustomerKey {
    fn from(key: [u8; LENGTH]) -> Self {
        Self(Secret(key))
    }
}

/// What the keys of objects are sealed with that are encrypted by the storage node (SSE-S3).
#[derive(Debug)]
pub(crate) struct ServerKey(Secret);

impl From<[u8; LENGTH]> for ServerKey {
    fn from(key: [u8; LENGTH]) -> Self {
        Self(Secret(key))
    }
}

/// How a write is to be encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// By the storage node (SSE-S3).
    Server,
    /// With the customer's key (SSE-C).
    Customer(CustomerKey),
}

/// A data key that only the right key opens.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// How an object is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encrypted {
    /// By the storage node (SSE-S3).
    Server(Sealed),
    /// With a key of the customer's (SSE-C).
    Customer(Sealed),
}

/// What the bytes of one object are encrypted with.
#[derive(Debug, Clone)]
pub(crate) struct DataKey(Secret);

impl DataKey {
    fn random() -> Self {
        Self(Secret(rand::random()))
    }

    /// The key for one data file.
    pub fn for_file(&self, file: u128) -> Option<LessSafeKey> {
        let key = Prk::new_less_safe(HKDF_SHA256, &self.0.0);
        let (purpose, file) = (b"penstock data file".as_slice(), file.to_be_bytes());
        let info = [purpose, file.as_slice()];
        // The only error is a length that no HKDF can give.
        let key = key.expand(&info, &AES_256_GCM).map(UnboundKey::from);
        key.ok().map(LessSafeKey::new)
    }
}

/// The key for one sealing. Each has a salt of its own, so that one nonce is enough.
fn sealing(secret: &Secret, salt: &[u8; SALT], purpose: &'static str) -> Option<LessSafeKey> {
    let extracted = Salt::new(HKDF_SHA256, salt).extract(&secret.0);
    let info = [purpose.as_bytes()];
    let key = extracted.expand(&info, &AES_256_GCM).map(UnboundKey::from);
    key.ok().map(LessSafeKey::new)
}

fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

const BY_CUSTOMER: &str = "penstock data key, by a customer's";
const BY_SERVER: &str = "penstock data key, by the server's";

impl Sealed {
    fn new(key: &DataKey, by: &Secret, purpose: &'static str) -> Option<Self> {
        let (salt, mut sealed) = (rand::random::<[u8; SALT]>(), key.0.0.to_vec());
        let sealing = sealing(by, &salt, purpose)?;
        sealing
            .seal_in_place_append_tag(only_nonce(), Aad::empty(), &mut sealed)
            .ok()?;
        sealed.splice(0..0, salt);
        Some(Self(sealed))
    }

    fn open(&self, by: &Secret, purpose: &'static str) -> Option<DataKey> {
        let (salt, sealed) = self.0.split_first_chunk::<SALT>()?;
        let mut opened = sealed.to_vec();
        let key = sealing(by, salt, purpose)?.open_in_place(only_nonce(), Aad::empty(), &mut opened);
        Some(DataKey(Secret((*key.ok()?).try_into().ok()?)))
    }
}

impl Encryption {
    /// A new data key, as it is and sealed.
    ///
    /// # Errors
    /// Where the storage node is to encrypt and has no key.
    pub(crate) fn begin(&self, server: Option<&ServerKey>) -> Result<(DataKey, Encrypted)> {
        let key = DataKey::random();
        let sealed = match self {
            Self::Customer(by) => Sealed::new(&key, &by.0, BY_CUSTOMER).map(Encrypted::Customer),
            Self::Server => {
                let by = server.ok_or(Error::NotSupported("Encryption without a master key"))?;
                Sealed::new(&key, &by.0, BY_SERVER).map(Encrypted::Server)
            }
        };
        let sealed = sealed.ok_or(Error::Internal {
            doing: "sealed the key of an object",
            source: "AES-256-GCM failed".into(),
        })?;
        Ok((key, sealed))
    }
}

impl Encrypted {
    /// Of what is kept of it.
    pub(crate) fn from_row(is_customers: bool, sealed: Vec<u8>) -> Self {
        let sealed = Sealed(sealed);
        match is_customers {
            true => Self::Customer(sealed),
            false => Self::Server(sealed),
        }
    }

    /// What is to be kept of it.
    pub(crate) fn to_row(&self) -> (bool, Vec<u8>) {
        let (Self::Server(Sealed(sealed)) | Self::Customer(Sealed(sealed))) = self;
        (self.is_customers(), sealed.clone())
    }

    /// Whether a key of the customer's is needed.
    pub fn is_customers(&self) -> bool {
        matches!(self, Self::Customer(_))
    }

    /// The data key of what was written in this way and is read with this key.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] where a key is missing or not called for, [`Error::AccessDenied`] where it is another one (S3 API,
    /// "Using server-side encryption with customer-provided keys"); [`Error::Internal`] where the master key is another one.
    pub(crate) fn open(
        found: Option<&Self>,
        key: Option<&CustomerKey>,
        server: Option<&ServerKey>,
    ) -> Result<Option<DataKey>> {
        match (found, key) {
            (None, None) => Ok(None),
            (Some(Self::Server(sealed)), None) => {
                let opened = server.and_then(|by| sealed.open(&by.0, BY_SERVER));
                opened.map(Some).ok_or_else(|| Error::Internal {
                    doing: "opened the key of an encrypted object",
                    source: "the object was encrypted with another master key; start the storage node with the one that it had then (--master-key-file, or the file master-key in its data folder)".into(),
                })
            }
            (Some(Self::Customer(sealed)), Some(key)) => match sealed.open(&key.0, BY_CUSTOMER) {
                Some(opened) => Ok(Some(opened)),
                None => Err(Error::AccessDenied(
                    "the object is encrypted with another key than the one that was given".to_owned(),
                )),
            },
            (Some(Self::Customer(_)), None) => Err(Error::InvalidRequest(
                "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
                    .to_owned(),
            )),
            (None | Some(Self::Server(_)), Some(_)) => Err(Error::InvalidRequest(
                "The encryption parameters are not applicable to this object.".to_owned(),
            )),
        }
    }

    /// As [`Encrypted::open`], for the facts of an object: the master key is not asked for.
    ///
    /// # Errors
    /// As there.
    pub fn check(found: Option<&Self>, key: Option<&CustomerKey>) -> Result<()> {
        match (found, key) {
            (Some(Self::Server(_)), None) => Ok(()),
            (found, key) => Self::open(found, key, None).map(drop),
        }
    }

    /// Whether an upload was begun with this key.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] where it was not.
    pub fn check_upload(found: Option<&Self>, key: &CustomerKey) -> Result<()> {
        Self::open_upload(found, Some(key), None).map(drop)
    }

    /// As [`Encrypted::open`], for a part of an upload that was begun in this way.
    pub(crate) fn open_upload(
        found: Option<&Self>,
        key: Option<&CustomerKey>,
        server: Option<&ServerKey>,
    ) -> Result<Option<DataKey>> {
        let cause = match (found, key) {
            (None | Some(Self::Server(_)), Some(_)) => {
                "The multipart upload initiate did not request encryption. Please resend the request without sending encryption parameters."
            }
            (Some(Self::Customer(_)), None) => {
                "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters."
            }
            (found, key) => match Self::open(found, key, server) {
                Err(Error::AccessDenied(_)) => {
                    "The provided encryption parameters did not match the ones used originally."
                }
                opened => return opened,
            },
        };
        Err(Error::InvalidRequest(cause.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(opened: Result<Option<DataKey>>) -> Option<[u8; LENGTH]> {
        opened.ok().flatten().map(|key| key.0.0)
    }

    #[test]
    fn a_data_key_is_opened_by_the_key_that_sealed_it_alone() {
        let (one, other) = (CustomerKey::from([1; 32]), CustomerKey::from([2; 32]));
        let (key, sealed) = Encryption::Customer(one.clone()).begin(None).unwrap();
        assert_eq!(
            key_of(Encrypted::open(Some(&sealed), Some(&one), None)),
            Some(key.0.0)
        );
        let refused = Encrypted::open(Some(&sealed), Some(&other), None);
        assert!(matches!(refused, Err(Error::AccessDenied(_))));
        let refused = Encrypted::check(Some(&sealed), None);
        assert!(matches!(refused, Err(Error::InvalidRequest(_))));
        let (is_customers, mut row) = sealed.to_row();
        assert!(
            !row.windows(4)
                .any(|bytes| bytes == [1; 4] || bytes == &key.0.0[..4])
        );
        row[SALT] ^= 1;
        let spoiled = Encrypted::from_row(is_customers, row);
        assert!(Encrypted::check(Some(&spoiled), Some(&one)).is_err());
        assert!(Encrypted::check(None, Some(&one)).is_err() && Encrypted::check(None, None).is_ok());

        let (server, changed) = (ServerKey::from([1; 32]), ServerKey::from([3; 32]));
        assert!(Encryption::Server.begin(None).is_err());
        let (key, sealed) = Encryption::Server.begin(Some(&server)).unwrap();
        assert_eq!(
            key_of(Encrypted::open(Some(&sealed), None, Some(&server))),
            Some(key.0.0)
        );
        for wrong in [None, Some(&changed)] {
            assert!(matches!(
                Encrypted::open(Some(&sealed), None, wrong),
                Err(Error::Internal { .. })
            ));
        }
        assert!(Encrypted::check(Some(&sealed), Some(&one)).is_err());
        // The same bytes as a customer's key open nothing of the server's.
        let (_, row) = sealed.to_row();
        assert!(Encrypted::check(Some(&Encrypted::from_row(true, row)), Some(&one)).is_err());
    }

    #[test]
    fn no_key_is_seen_in_what_is_written_for_debugging() {
        let key = CustomerKey::from([77; 32]);
        let (data, sealed) = Encryption::Customer(key.clone()).begin(None).unwrap();
        let seen = format!(
            "{key:?} {data:?} {sealed:?} {:?}",
            Encryption::Customer(key.clone())
        );
        let expected = "CustomerKey(…) DataKey(…) Customer(Sealed) Customer(CustomerKey(…))";
        assert_eq!(seen, expected);
    }
}
