//! Secrets at rest: sealed with keys that are derived from one master key, which is kept apart from what it seals where the
//! storage node is given one (`--master-key-file`).

use super::keys::KeyStore;
use crate::{engine, keys::keep_secret};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

const LENGTH: usize = 32;
const FILE: &str = "master-key";

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read or written.
    #[error("the master key file {} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the file holds is no key.
    #[error("the master key file {} holds no key: write 32 random bytes as hexadecimal digits or base64", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
    },
    /// The store has secrets that were sealed with a key which is not there any more.
    #[error(
        "the master key that this data folder was sealed with is not in {}; put it back from where you keep it (or give it by --master-key-file). If it is lost, \
         --another-master-key goes on without: what it encrypted stays unreadable, and the keys that it sealed are revoked",
        path.display()
    )]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The store has secrets that were sealed with another key.
    #[error(
        "the data folder was sealed with another master key than that in {}; start the storage node with the one that it had. If that is lost, \
         --another-master-key goes on without: what it encrypted stays unreadable, and the keys that it sealed are revoked",
        path.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
    },
    /// The index failed.
    #[error("what master key the data folder was sealed with cannot be read or noted")]
    Store(#[from] engine::Error),
}

/// Whether a store may get another master key than it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has to be the same.
    Refused,
    /// What the old one sealed is given up.
    Accepted,
}

/// What all secrets are sealed with in the end.
pub struct MasterKey([u8; LENGTH]);

impl MasterKey {
    /// The key that `store` was sealed with: in `file`, or without one in `folder`, where it is made if the store has none yet. The store
    /// remembers which one it is, by a number that says nothing of the key, so that a lost or mistaken key is told before anything is
    /// sealed with another.
    ///
    /// # Errors
    /// See [`MasterKeyError`]. No message holds the key.
    pub async fn of(
        store: &dyn KeyStore,
        file: Option<&Path>,
        folder: &Path,
        change: Change,
    ) -> Result<Self, MasterKeyError> {
        let path = file.map_or_else(|| folder.join(FILE), Path::to_owned);
        let known = store.master_key_id().await?;
        let may_make = known.is_none() || change == Change::Accepted;
        if file.is_none() && !may_make && !path.exists() {
            return Err(MasterKeyError::Missing { path });
        }
        let key = Self::load(file, folder)?;
        let id = key.id();
        if known == Some(id) {
            return Ok(key);
        }
        if known.is_some() && change == Change::Refused {
            return Err(MasterKeyError::Another { path });
        }
        match store.set_master_key_id(id).await {
            // Reading has to go on, and the next start notes it.
            Err(engine::Error::NoSpace(_)) if known.is_none() => {
                tracing::warn!("the disk is full, so it is not noted which master key the data folder has");
            }
            noted => noted?,
        }
        Ok(key)
    }

    /// The key in `file`; without one, that in `folder`, where it is made if it is not there.
    ///
    /// # Errors
    /// See [`MasterKeyError`]. No message holds the key.
    pub fn load(file: Option<&Path>, folder: &Path) -> Result<Self, MasterKeyError> {
        let path = file.map_or_else(|| folder.join(FILE), Path::to_owned);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                let made = hex::encode(rand::random::<[u8; LENGTH]>());
                match keep_secret(folder, FILE, &format!("{made}\n")) {
                    Ok(()) => made,
                    Err(source) => return Err(MasterKeyError::File { path, source }),
                }
            }
            Err(source) => return Err(MasterKeyError::File { path, source }),
            Ok(text) => text,
        };
        let text = text.trim();
        let bytes = hex::decode(text).or_else(|_| BASE64_STANDARD.decode(text));
        let key = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or(MasterKeyError::Unusable { path })
    }

    /// One that nobody else has, for as long as this process runs.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What the keys of encrypted objects are sealed with.
    pub(crate) fn data_keys(&self) -> Option<[u8; LENGTH]> {
        self.derive("data keys")
    }

    /// A number that tells it from others.
    fn id(&self) -> u64 {
        let derived = self.derive("key id").unwrap_or_default();
        derived
            .first_chunk()
            .map_or(0, |first| u64::from_be_bytes(*first))
    }

    /// `None` never: the only error is a length that no HKDF can give.
    fn derive(&self, purpose: &'static str) -> Option<[u8; LENGTH]> {
        let extracted = Salt::new(HKDF_SHA256, b"penstock-store").extract(&self.0);
        let mut key = [0; LENGTH];
        let info = [purpose.as_bytes()];
        let expanded = extracted.expand(&info, HKDF_SHA256);
        expanded.ok()?.fill(&mut key).ok().map(|()| key)
    }

    /// The key for one purpose: what is sealed for another one cannot be opened with it.
    pub(super) fn sealing(&self, purpose: &'static str) -> Sealing {
        let extracted = Salt::new(HKDF_SHA256, b"penstock-store").extract(&self.0);
        let info = [purpose.as_bytes()];
        // The only error is a length that no HKDF can give.
        let key = extracted.expand(&info, &AES_256_GCM).map(UnboundKey::from);
        Sealing(key.ok().map(LessSafeKey::new))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// Seals short secrets: AES-256-GCM with a random nonce (NIST SP 800-38D), for far fewer than the 2^32 that it is good for.
pub(super) struct Sealing(Option<LessSafeKey>);

impl Sealing {
    /// `of` is what the secret belongs to, and is needed to open it.
    pub fn seal(&self, secret: &[u8], of: &str) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = secret.to_vec();
        let key = self.0.as_ref()?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(of.as_bytes()),
            &mut sealed,
        )
        .ok()?;
        sealed.splice(0..0, nonce);
        Some(sealed)
    }

    /// `None` for what was sealed with another key, for something else, or was changed.
    pub fn open(&self, sealed: &[u8], of: &str) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut opened = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let secret = self
            .0
            .as_ref()?
            .open_in_place(nonce, Aad::from(of.as_bytes()), &mut opened)
            .ok()?;
        Some(secret.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_for_the_same_thing_alone() {
        let master = MasterKey::random();
        let sealing = master.sealing("keys");
        let sealed = sealing.seal(b"secret", "one").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(sealing.open(&sealed, "one").unwrap(), b"secret");
        assert_eq!(sealing.open(&sealed, "other"), None);
        assert_eq!(master.sealing("other").open(&sealed, "one"), None);
        assert_eq!(MasterKey::random().sealing("keys").open(&sealed, "one"), None);
        let mut changed = sealed.clone();
        changed[NONCE_LEN] ^= 1;
        assert_eq!(sealing.open(&changed, "one"), None);
        assert_eq!(sealing.open(&sealed[..5], "one"), None);
        assert_ne!(sealing.seal(b"secret", "one").unwrap(), sealed);
    }

    #[test]
    fn a_master_key_is_made_once_or_given() {
        let folder = tempfile::tempdir().unwrap();
        let made = MasterKey::load(None, folder.path()).unwrap();
        assert_eq!(MasterKey::load(None, folder.path()).unwrap().0, made.0);
        let mode = fs::metadata(folder.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = folder.path().join("given");
        assert!(
            MasterKey::load(Some(&file), folder.path()).is_err(),
            "what is given has to be there"
        );
        for text in [hex::encode([7; 32]), BASE64_STANDARD.encode([7; 32]) + "\n"] {
            fs::write(&file, text).unwrap();
            assert_eq!(MasterKey::load(Some(&file), folder.path()).unwrap().0, [7; 32]);
        }
        for text in ["", "secret", &hex::encode([7; 31])] {
            fs::write(&file, text).unwrap();
            let error = MasterKey::load(Some(&file), folder.path())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("holds no key") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_store_knows_its_master_key() {
        let store = super::super::keys::tests::Kept::default();
        let folder = tempfile::tempdir().unwrap();
        let of = |change| MasterKey::of(&store, None, folder.path(), change);
        let made = of(Change::Refused).await.unwrap();
        assert_eq!(of(Change::Refused).await.unwrap().0, made.0);
        let path = folder.path().join(FILE);
        let kept = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = of(Change::Refused).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Missing { .. }) && !path.exists());
        fs::write(&path, hex::encode([7; LENGTH])).unwrap();
        let error = of(Change::Refused).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Another { .. }));
        let told = error.to_string();
        assert!(
            told.contains("--another-master-key") && !told.contains("0707"),
            "{told}"
        );
        fs::write(&path, kept).unwrap();
        assert_eq!(of(Change::Refused).await.unwrap().0, made.0);
        fs::remove_file(&path).unwrap();
        let another = of(Change::Accepted).await.unwrap();
        assert_ne!(another.0, made.0);
        assert_eq!(of(Change::Refused).await.unwrap().0, another.0);
    }
}
