//! Who may do what.
//!
//! ```text
//!   access key ── KeyRing ──▶ Principal ─┐
//!   S3 operation ── action ─▶ Demand ────┼─▶ Authority::check ─▶ done as asked, or AccessDenied
//!   bucket policy ── policy ▶ Effect ────┘
//! ```
//! As AWS decides it ("Policy evaluation logic"): what a bucket's policy denies is denied to everybody; else the root key may do
//! everything, another key what its scopes say, and anybody what the policy allows. Gateways may do nothing by themselves.

mod action;
mod keys;
mod policy;
mod sealing;

pub use keys::{Key, KeyError, KeyRing, KeyStore};
pub use sealing::{Change, MasterKey, MasterKeyError};

pub(crate) use action::{Demand, Target, demands};
pub(crate) use policy::{Policy, Situation};

use crate::engine::{self, Engine};
use action::{Action, Rights};
use penstock_rdma::Credentials;
use policy::Effect;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

/// Who everything belongs to: the account, as policies call it.
pub(crate) const ACCOUNT: &str = "penstock";

/// Where a request came from, over TCP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub address: IpAddr,
    pub by_tls: bool,
}

/// The bucket policy among a bucket's documents.
pub(crate) const POLICY: &str = "policy";

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Principal {
    /// Nobody signed.
    Anonymous,
    /// Gateways, which carry what others signed.
    Gateway,
    /// A key with scopes.
    Key(Arc<Key>),
    /// The one that all belongs to.
    Root,
}

impl Principal {
    /// What policies call it.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(&key.name),
            _ => None,
        }
    }
}

/// Knows the keys, and the policies of buckets. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub(crate) struct Authority {
    root: Credentials,
    gateway: Option<Credentials>,
    pub ring: Arc<KeyRing>,
    engine: Arc<dyn Engine>,
    rules: Arc<RwLock<Cache>>,
}

/// What a bucket says about access to it.
#[derive(Default)]
struct Rules {
    policy: Option<Policy>,
    /// Whether there is a policy that cannot be read. It might deny anything.
    unreadable: bool,
    /// Whether a public policy opens it to nobody.
    restricted: bool,
    /// Whether what is written without a word on it is encrypted.
    encrypts: bool,
}

/// Rules that were read, so that a request costs no look at the index. All changes go through this process.
#[derive(Default)]
struct Cache {
    of: HashMap<String, Arc<Rules>>,
    /// Counts changes: what was read before one is not kept after it.
    changes: u64,
}

impl Authority {
    pub fn new(
        root: Credentials,
        gateway: Option<Credentials>,
        ring: Arc<KeyRing>,
        engine: Arc<dyn Engine>,
    ) -> Self {
        Self {
            root,
            gateway,
            ring,
            engine,
            rules: Arc::default(),
        }
    }

    /// Whose an access key is, as long as it is somebody's.
    pub fn principal(&self, access_key: &str) -> Option<Principal> {
        if self.root.access_key_id() == access_key {
            return Some(Principal::Root);
        }
        let gateway = self.gateway.as_ref();
        if gateway.is_some_and(|gateway| gateway.access_key_id() == access_key) {
            return Some(Principal::Gateway);
        }
        self.ring.find(access_key).map(Principal::Key)
    }

    /// The secret of a key, as long as there is such a key.
    pub fn secret_of(&self, access_key: &str) -> Option<String> {
        let secret = |found: &Credentials| found.secret_access_key().to_owned();
        match self.principal(access_key)? {
            Principal::Root => Some(secret(&self.root)),
            Principal::Gateway => self.gateway.as_ref().map(secret),
            Principal::Key(key) => Some(key.secret().to_owned()),
            Principal::Anonymous => None,
        }
    }

    /// Whether all of `demands` may be done in this situation.
    pub async fn allows(&self, demands: &[Demand<'_>], situation: &Situation<'_>) -> engine::Result<bool> {
        for demand in demands {
            if !self.allows_one(demand, situation).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is nothing to ask about: the root key, where no policy says anything. Almost every request is one.
    pub async fn allows_all(&self, principal: &Principal, bucket: Option<&str>) -> engine::Result<bool> {
        if !matches!(principal, Principal::Root) {
            return Ok(false);
        }
        let rules = match bucket {
            Some(bucket) => self.rules(bucket).await?,
            None => None,
        };
        Ok(rules.is_none_or(|rules| rules.policy.is_none() && !rules.unreadable))
    }

    async fn allows_one(&self, demand: &Demand<'_>, situation: &Situation<'_>) -> engine::Result<bool> {
        let principal = situation.principal;
        if matches!(principal, Principal::Gateway) {
            return Ok(false);
        }
        let is_root = matches!(principal, Principal::Root);
        // Who owns a bucket can always take a policy back that denies it everything.
        if is_root && demand.action.is_of_policies() {
            return Ok(true);
        }
        let rules = match demand.target.bucket() {
            Some(bucket) => self.rules(bucket).await?,
            None => None,
        };
        if rules.as_ref().is_some_and(|rules| rules.unreadable) {
            return Ok(false);
        }
        let policy = rules.as_ref().and_then(|rules| rules.policy.as_ref());
        let effect = policy.and_then(|policy| policy.effect(demand, situation));
        if effect == Some(Effect::Deny) {
            return Ok(false);
        }
        let by_policy = effect == Some(Effect::Allow);
        Ok(match principal {
            Principal::Root => true,
            Principal::Gateway => false,
            Principal::Key(key) => by_policy || key.allows(demand, situation),
            Principal::Anonymous => {
                let is_closed = rules.as_ref().is_some_and(|rules| {
                    rules.restricted && rules.policy.as_ref().is_some_and(Policy::is_public)
                });
                by_policy && !is_closed
            }
        })
    }

    /// What an object is, for rights that depend on it.
    pub async fn head(&self, object: &engine::ObjectRef) -> engine::Result<engine::ObjectInfo> {
        self.engine.head(object).await
    }

    /// Whether nobody in particular may delete something in a bucket. What it is, he says later.
    pub async fn lets_delete(&self, bucket: &str) -> engine::Result<bool> {
        let rules = self.rules(bucket).await?;
        let policy = rules.as_ref().and_then(|rules| rules.policy.as_ref());
        let deletes = |policy: &Policy| {
            policy.opens(Action::DELETE_OBJECT) || policy.opens(Action::DELETE_OBJECT_VERSION)
        };
        Ok(policy.is_some_and(deletes))
    }

    /// Whether what is written into a bucket without a word on it is encrypted.
    pub async fn encrypts(&self, bucket: &str) -> engine::Result<bool> {
        Ok(self.rules(bucket).await?.is_some_and(|rules| rules.encrypts))
    }

    /// What a bucket says; `None` where there is no such bucket.
    async fn rules(&self, bucket: &str) -> engine::Result<Option<Arc<Rules>>> {
        let before = {
            let cache = self.cache();
            if let Some(rules) = cache.of.get(bucket) {
                return Ok(Some(Arc::clone(rules)));
            }
            cache.changes
        };
        let policy = match self.engine.document(bucket, POLICY).await {
            Ok(policy) => policy,
            Err(engine::Error::NoSuchBucket(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut rules = Rules {
            encrypts: crate::s3::encrypts_by_default(&*self.engine, bucket).await,
            ..Rules::default()
        };
        if let Some(text) = policy {
            match Policy::parse(&text, bucket) {
                Ok(policy) => rules.policy = Some(policy),
                Err(error) => {
                    tracing::error!(bucket, %error, "a bucket's policy cannot be read, so everything is denied there; delete the policy or put it anew");
                    rules.unreadable = true;
                }
            }
            rules.restricted = crate::s3::restricts_public_buckets(&*self.engine, bucket).await;
        }
        let rules = Arc::new(rules);
        let mut cache = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if cache.changes == before {
            cache.of.insert(bucket.to_owned(), Arc::clone(&rules));
        }
        Ok(Some(rules))
    }

    /// To be called when what a bucket says may have changed, also when it is gone.
    pub fn forget(&self, bucket: &str) {
        let mut cache = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        cache.changes += 1;
        cache.of.remove(bucket);
    }

    fn cache(&self) -> RwLockReadGuard<'_, Cache> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    /// What the scopes say.
    fn allows(&self, demand: &Demand<'_>, situation: &Situation<'_>) -> bool {
        let writes = match demand.action.rights() {
            Rights::Manage => return false,
            Rights::Write => true,
            Rights::Read => false,
        };
        let Some(bucket) = demand.target.bucket() else {
            // Listing buckets tells of those in the scopes alone.
            return demand.action == Action::LIST_BUCKETS;
        };
        self.scopes.iter().any(|scope| {
            let is_within = |text: &str| text.starts_with(&scope.prefix);
            let fits = match &demand.target {
                Target::Object(_, key) => is_within(key),
                // What a bucket holds is told of the prefix; that it is there, and how it is set up, of all of it.
                Target::Bucket(_) if demand.action.lists() => {
                    situation.is_head || is_within(situation.prefix().unwrap_or(""))
                }
                _ => true,
            };
            fits && scope.covers(bucket) && (!writes || scope.writes())
        })
    }
}
