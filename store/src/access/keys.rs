//! The keys beside the root key: each gives access to what its scopes say, until it expires or is revoked. They are kept with
//! their secrets sealed: Signature Version 4 needs the secret itself, so it cannot be a hash.

use super::sealing::{Change, MasterKey, Sealing};
use crate::engine;
use penstock_rdma::admin::{Access, KeyInfo, KeyRequest, NewKey, Scope};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::OffsetDateTime;

/// Limits that no use needs to pass, so that nobody can fill the memory of the storage node with keys.
const MOST_KEYS: usize = 10_000;
const MOST_SCOPES: usize = 100;
const LONGEST_NAME: usize = 64;
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Where keys are kept: text to bytes, durable when a call has returned.
#[async_trait::async_trait]
pub trait KeyStore: Send + Sync {
    /// All of them.
    async fn keys(&self) -> engine::Result<Vec<(String, Vec<u8>)>>;
    /// Keeps one, or with `None` forgets it.
    async fn set_key(&self, access_key: &str, row: Option<Vec<u8>>) -> engine::Result<()>;
    /// Which master key it was sealed with, if any was used yet.
    async fn master_key_id(&self) -> engine::Result<Option<u64>>;
    /// Notes it.
    async fn set_master_key_id(&self, id: u64) -> engine::Result<()>;
}

/// Why a key cannot be made, or all of them not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The request is not one that can be met.
    #[error("{0}")]
    Invalid(String),
    /// Another key has the name.
    #[error("there is a key with the name {0:?} already; revoke it first, or choose another name")]
    NameTaken(String),
    /// This node keeps none.
    #[error("this storage node has the root key alone")]
    NotKept,
    /// A secret cannot be opened.
    #[error(
        "the key {0} was sealed with another master key; start the storage node with the master key that it had \
         (--master-key-file)"
    )]
    Sealed(String),
    /// The index failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// A key with scopes.
pub struct Key {
    access_key: String,
    secret: String,
    /// What policies call it.
    pub name: String,
    pub(super) scopes: Vec<Scope>,
    created: SystemTime,
    expires: Option<SystemTime>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("access_key", &self.access_key)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Key {
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Whether a scope is of this bucket.
    pub(crate) fn covers(&self, bucket: &str) -> bool {
        self.scopes.iter().any(|scope| scope.covers(bucket))
    }

    fn is_good(&self) -> bool {
        self.expires.is_none_or(|expires| SystemTime::now() < expires)
    }

    fn info(&self) -> KeyInfo {
        KeyInfo {
            access_key_id: self.access_key.clone(),
            name: self.name.clone(),
            scopes: self.scopes.clone(),
            created: self.created.into(),
            expires: self.expires.map(OffsetDateTime::from),
        }
    }
}

/// A key as it is kept.
#[derive(Serialize, Deserialize)]
enum Row {
    V1 {
        name: String,
        /// With the access key as what it belongs to.
        secret: Vec<u8>,
        /// Bucket, prefix, and whether it may write.
        scopes: Vec<(String, String, bool)>,
        /// Seconds of the epoch, as the next.
        created: u64,
        expires: Option<u64>,
    },
}

/// All keys with scopes.
pub struct KeyRing {
    sealing: Sealing,
    store: Option<Arc<dyn KeyStore>>,
    keys: RwLock<HashMap<String, Arc<Key>>>,
    /// One change at a time, so that a name is given once.
    changing: tokio::sync::Mutex<()>,
}

impl KeyRing {
    /// The keys in `store`.
    ///
    /// # Errors
    /// [`KeyError::Sealed`] with another master key than they were made with, and failures of the index.
    pub async fn open(master: &MasterKey, store: Arc<dyn KeyStore>) -> Result<Self, KeyError> {
        Self::open_with(master, store, Change::Refused).await
    }

    /// As [`KeyRing::open`]; where another master key is accepted, those that it cannot open are revoked.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(
        master: &MasterKey,
        store: Arc<dyn KeyStore>,
        change: Change,
    ) -> Result<Self, KeyError> {
        let sealing = master.sealing("secret access keys");
        let mut keys = HashMap::new();
        for (access_key, row) in store.keys().await? {
            let damaged = |error| engine::Error::Internal {
                doing: "read the keys",
                source: Box::new(error),
            };
            let Row::V1 {
                name,
                secret,
                scopes,
                created,
                expires,
            } = postcard::from_bytes(&row).map_err(damaged)?;
            let secret = sealing.open(&secret, &access_key);
            let Some(secret) = secret.and_then(|secret| String::from_utf8(secret).ok()) else {
                if change == Change::Refused {
                    return Err(KeyError::Sealed(access_key));
                }
                tracing::warn!(key = %access_key, %name, "a key was sealed with another master key, and is revoked");
                store.set_key(&access_key, None).await?;
                continue;
            };
            let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
            let scope = |(bucket, prefix, writes)| Scope {
                bucket,
                prefix,
                access: if writes { Access::ReadWrite } else { Access::Read },
            };
            let key = Key {
                secret,
                access_key: access_key.clone(),
                name,
                scopes: scopes.into_iter().map(scope).collect(),
                created: at(created),
                expires: expires.map(at),
            };
            keys.insert(access_key, Arc::new(key));
        }
        Ok(Self {
            sealing,
            store: Some(store),
            keys: RwLock::new(keys),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// None, and none can be made.
    pub fn empty() -> Self {
        Self {
            sealing: MasterKey::random().sealing("secret access keys"),
            store: None,
            keys: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// A key that has not expired.
    pub(crate) fn find(&self, access_key: &str) -> Option<Arc<Key>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(access_key).filter(|key| key.is_good()).cloned()
    }

    /// Whether a key that has not expired has the name.
    pub(crate) fn has_name(&self, name: &str) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.values().any(|key| key.name == name && key.is_good())
    }

    /// All keys, by name; those that have expired too.
    pub(crate) fn list(&self) -> Vec<KeyInfo> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<KeyInfo> = keys.values().map(|key| key.info()).collect();
        list.sort_by(|one, other| (&one.name, &one.access_key_id).cmp(&(&other.name, &other.access_key_id)));
        list
    }

    /// Makes a key. It is durable when it is answered, and its secret is told once.
    pub(crate) async fn create(&self, request: KeyRequest) -> Result<NewKey, KeyError> {
        let store = self.store.as_ref().ok_or(KeyError::NotKept)?;
        check(&request)?;
        let _alone = self.changing.lock().await;
        if self.list().iter().any(|key| key.name == request.name) {
            return Err(KeyError::NameTaken(request.name));
        }
        if self.list().len() >= MOST_KEYS {
            return Err(KeyError::Invalid(format!(
                "there are {MOST_KEYS} keys already; revoke those of no use"
            )));
        }
        let letter = |_| char::from(LETTERS[usize::from(rand::random::<u8>()) % LETTERS.len()]);
        let random: String = (0..16).map(letter).collect();
        // Whole seconds, as they are kept.
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let whole = |time| UNIX_EPOCH + Duration::from_secs(seconds(time));
        let key = Key {
            access_key: format!("PSTK{random}"),
            secret: hex::encode(rand::random::<[u8; 20]>()),
            name: request.name,
            scopes: request.scopes,
            created: whole(SystemTime::now()),
            expires: request.expires.map(SystemTime::from).map(whole),
        };
        let sealed = self.sealing.seal(key.secret.as_bytes(), &key.access_key);
        let scopes = key.scopes.iter();
        let row = Row::V1 {
            name: key.name.clone(),
            secret: sealed.ok_or_else(|| KeyError::Invalid("the secret cannot be sealed".to_owned()))?,
            scopes: scopes
                .map(|scope| (scope.bucket.clone(), scope.prefix.clone(), scope.writes()))
                .collect(),
            created: seconds(key.created),
            expires: key.expires.map(seconds),
        };
        let row = postcard::to_stdvec(&row).map_err(|error| engine::Error::Internal {
            doing: "wrote a key",
            source: Box::new(error),
        })?;
        store.set_key(&key.access_key, Some(row)).await?;
        let new = NewKey {
            info: key.info(),
            secret_access_key: key.secret.clone(),
        };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.access_key.clone(), Arc::new(key));
        Ok(new)
    }

    /// Takes a key away, for good when it is answered. Says whether there was one.
    pub(crate) async fn revoke(&self, access_key: &str) -> Result<bool, KeyError> {
        let store = self.store.as_ref().ok_or(KeyError::NotKept)?;
        let _alone = self.changing.lock().await;
        if !self.list().iter().any(|key| key.access_key_id == access_key) {
            return Ok(false);
        }
        store.set_key(access_key, None).await?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(access_key);
        Ok(true)
    }
}

fn check(request: &KeyRequest) -> Result<(), KeyError> {
    let invalid = |what: String| Err(KeyError::Invalid(what));
    let name = &request.name;
    let is_usual = |letter: char| letter.is_ascii_alphanumeric() || "+=,.@_-".contains(letter);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_usual) {
        return invalid(format!(
            "{name:?} cannot be the name of a key: it is 1 to {LONGEST_NAME} letters, digits, and + = , . @ _ -"
        ));
    }
    if request.scopes.is_empty() || request.scopes.len() > MOST_SCOPES {
        return invalid(format!("a key has 1 to {MOST_SCOPES} scopes"));
    }
    for scope in &request.scopes {
        let plain = scope.bucket.strip_suffix('*').unwrap_or(&scope.bucket);
        let is_usual =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || ".-".contains(letter);
        if scope.bucket.is_empty() || scope.bucket.len() > 63 || !plain.chars().all(is_usual) {
            return invalid(format!(
                "{:?} names no bucket: it is the name of one, or the beginning of names and a star",
                scope.bucket
            ));
        }
        if scope.prefix.len() > 1024 {
            return invalid("the prefix of a scope is longer than a key can be (1024 bytes)".to_owned());
        }
    }
    if request
        .expires
        .is_some_and(|expires| expires <= OffsetDateTime::now_utc())
    {
        return invalid("the key would have expired already".to_owned());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    pub(in crate::access) struct Kept(Mutex<HashMap<String, Vec<u8>>>, Mutex<Option<u64>>);

    #[async_trait::async_trait]
    impl KeyStore for Kept {
        async fn keys(&self) -> engine::Result<Vec<(String, Vec<u8>)>> {
            Ok(self.0.lock().unwrap().clone().into_iter().collect())
        }

        async fn set_key(&self, access_key: &str, row: Option<Vec<u8>>) -> engine::Result<()> {
            let mut kept = self.0.lock().unwrap();
            match row {
                Some(row) => kept.insert(access_key.to_owned(), row),
                None => kept.remove(access_key),
            };
            Ok(())
        }

        async fn master_key_id(&self) -> engine::Result<Option<u64>> {
            Ok(*self.1.lock().unwrap())
        }

        async fn set_master_key_id(&self, id: u64) -> engine::Result<()> {
            *self.1.lock().unwrap() = Some(id);
            Ok(())
        }
    }

    fn request(name: &str) -> KeyRequest {
        KeyRequest {
            name: name.to_owned(),
            scopes: vec![Scope {
                bucket: "b".to_owned(),
                prefix: String::new(),
                access: Access::Read,
            }],
            expires: None,
        }
    }

    #[tokio::test]
    async fn keys_outlive_the_process_and_end_when_they_are_revoked() {
        let (master, store) = (MasterKey::random(), Arc::new(Kept::default()));
        let ring = KeyRing::open(&master, store.clone()).await.unwrap();
        let made = ring.create(request("ci")).await.unwrap();
        let id = &made.info.access_key_id;
        for row in store.0.lock().unwrap().values() {
            let secret = made.secret_access_key.as_bytes();
            assert!(
                !row.windows(secret.len()).any(|window| window == secret),
                "it is sealed"
            );
        }
        let again = KeyRing::open(&master, store.clone()).await.unwrap();
        assert_eq!(again.list(), std::slice::from_ref(&made.info));
        assert_eq!(again.find(id).unwrap().secret(), made.secret_access_key);
        let another = MasterKey::random();
        let other = KeyRing::open(&another, store.clone()).await;
        assert!(matches!(other, Err(KeyError::Sealed(key)) if key == *id));
        assert_eq!(store.0.lock().unwrap().len(), 1, "nothing is lost by a mistake");
        let lost = Arc::new(Kept::default());
        *lost.0.lock().unwrap() = store.0.lock().unwrap().clone();
        let other = KeyRing::open_with(&another, lost.clone(), Change::Accepted).await;
        assert!(other.unwrap().list().is_empty() && lost.0.lock().unwrap().is_empty());
        assert!(again.revoke(id).await.unwrap());
        assert!(!again.revoke(id).await.unwrap());
        assert!(again.find(id).is_none() && store.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_key_that_expires_is_no_key_any_more() {
        let ring = KeyRing::open(&MasterKey::random(), Arc::new(Kept::default()))
            .await
            .unwrap();
        let soon = OffsetDateTime::now_utc() + Duration::from_millis(2100);
        let made = ring
            .create(KeyRequest {
                expires: Some(soon),
                ..request("short")
            })
            .await
            .unwrap();
        let id = made.info.access_key_id;
        assert!(ring.find(&id).is_some());
        tokio::time::sleep(Duration::from_millis(2200)).await;
        assert!(ring.find(&id).is_none() && !ring.has_name("short"));
        assert_eq!(ring.list().len(), 1, "it is told of until it is revoked");
    }

    #[tokio::test]
    async fn what_cannot_be_a_key_is_refused() {
        let ring = KeyRing::open(&MasterKey::random(), Arc::new(Kept::default()))
            .await
            .unwrap();
        ring.create(request("ci")).await.unwrap();
        assert!(matches!(
            ring.create(request("ci")).await,
            Err(KeyError::NameTaken(_))
        ));
        let past = Some(OffsetDateTime::UNIX_EPOCH);
        let wrong = |change: fn(&mut Scope)| {
            let mut request = request("x");
            change(&mut request.scopes[0]);
            request
        };
        for bad in [
            request(""),
            request("a/b"),
            request(&"x".repeat(65)),
            KeyRequest {
                scopes: vec![],
                ..request("x")
            },
            KeyRequest {
                expires: past,
                ..request("x")
            },
            wrong(|scope| scope.bucket.clear()),
            wrong(|scope| scope.bucket = "a*b".to_owned()),
            wrong(|scope| scope.bucket = "A".to_owned()),
            wrong(|scope| scope.prefix = "x".repeat(1025)),
        ] {
            let outcome = ring.create(bad.clone()).await;
            assert!(matches!(outcome, Err(KeyError::Invalid(_))), "{bad:?}");
        }
        assert_eq!(ring.list().len(), 1);
        let none = KeyRing::empty();
        assert!(matches!(none.create(request("x")).await, Err(KeyError::NotKept)));
    }
}
