//! Names that everything of one VectorIndex is derived from.

use crate::{apply::owned_by, error::Error};
use kube::ResourceExt;
use penstock_crds::{FIELD_MANAGER, INDEX_LABEL, VectorIndex};
use serde_json::{Value, json};

/// Port of Milvus' gRPC.
pub const MILVUS_PORT: u16 = 19530;
/// Port of Milvus' metrics and probes.
pub const MILVUS_ADMIN_PORT: u16 = 9091;
/// Port of etcd's clients.
pub const ETCD_PORT: u16 = 2379;

/// The parts of a VectorIndex that are pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Milvus' catalogue.
    Etcd,
    /// Milvus itself.
    Milvus,
    /// What builds indexes.
    Workers,
}

impl Part {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Milvus => "milvus",
            Self::Workers => "workers",
        }
    }
}

/// Names of what belongs to a VectorIndex.
#[derive(Debug, Clone)]
pub struct Names {
    /// Namespace of the index and of everything of it.
    pub namespace: String,
    /// Name of the index.
    pub index: String,
    /// Owner references of what goes with the index.
    pub owner: Value,
}

impl Names {
    pub fn of(index: &VectorIndex) -> Result<Self, Error> {
        Ok(Self {
            namespace: index.namespace().ok_or(Error::Incomplete("a namespace"))?,
            index: index.metadata.name.clone().ok_or(Error::Incomplete("a name"))?,
            owner: owned_by(index),
        })
    }

    /// The StatefulSet or Deployment of a part, and its Service.
    pub fn part(&self, part: Part) -> String {
        format!("{}-{}", self.index, part.as_str())
    }

    /// Secret with Milvus' key pair for the bucket, and the CA.
    pub fn storage(&self) -> String {
        format!("{}-storage", self.index)
    }

    /// Secret with the passwords of Milvus' users.
    pub fn users(&self) -> String {
        format!("{}-users", self.index)
    }

    /// ConfigMap with what was imported.
    pub fn imports(&self) -> String {
        format!("{}-imports", self.index)
    }

    /// What the storage node, which is of the same namespace, calls Milvus' key.
    pub fn key(&self) -> String {
        format!("vectorindex.{}", self.index)
    }

    /// Milvus' address.
    pub fn endpoint(&self) -> String {
        format!(
            "http://{}.{}.svc:{MILVUS_PORT}",
            self.part(Part::Milvus),
            self.namespace
        )
    }

    /// etcd's address.
    pub fn etcd(&self) -> String {
        format!("{}.{}.svc:{ETCD_PORT}", self.part(Part::Etcd), self.namespace)
    }

    /// What keys of Milvus' files begin with.
    pub fn prefix(&self, index: &VectorIndex) -> String {
        let default = || format!(".milvus/{}/{}", self.namespace, self.index);
        let prefix = index.spec.storage.prefix.clone().unwrap_or_else(default);
        prefix.trim_matches('/').to_owned()
    }

    /// The name to search in.
    pub fn alias(&self, index: &VectorIndex) -> String {
        let default = || self.index.replace('-', "_");
        index.spec.collection.name.clone().unwrap_or_else(default)
    }

    /// Labels that select a part's pods.
    pub fn selector(&self, part: Part) -> Value {
        json!({
            "app.kubernetes.io/name": "penstock-milvus", "app.kubernetes.io/component": part.as_str(),
            INDEX_LABEL: self.index,
        })
    }

    /// The same, as a `labelSelector` of a list.
    pub fn selects(&self, part: Part) -> String {
        let selector = self.selector(part);
        let labels = selector.as_object().into_iter().flatten();
        let pairs: Vec<_> = labels
            .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
            .collect();
        pairs.join(",")
    }

    /// Labels of what belongs to a part.
    pub fn labels(&self, part: Part) -> Value {
        let mut labels = self.selector(part);
        labels["app.kubernetes.io/managed-by"] = json!(FIELD_MANAGER);
        labels["app.kubernetes.io/part-of"] = json!("penstock");
        labels
    }

    /// Metadata of an object that goes with the index.
    pub fn owned(&self, name: &str, part: Part) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(part), "ownerReferences": self.owner,
        })
    }
}
