//! `VectorIndex`: vectors in a bucket, made searchable by a Milvus that the operator runs.

mod index;
mod milvus;
mod schema;

pub use index::{Index, IndexParameters, IndexType};
pub use milvus::{Disk, Etcd, Gpu, Milvus, Pods, WhenIdle, Workers};
pub use schema::{Collection, Field, FieldType, KeyType, Metric, PrimaryKey, Vector};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A VectorIndex says: these vectors, in this bucket, searchable with this index.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "penstock.io",
    version = "v1alpha1",
    kind = "VectorIndex",
    plural = "vectorindexes",
    namespaced,
    shortname = "vidx",
    category = "penstock",
    status = "VectorIndexStatus",
    scale(
        spec_replicas_path = ".spec.workers.replicas",
        status_replicas_path = ".status.workers.desired",
        label_selector_path = ".status.workers.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name becomes the name of Services and of a collection: at most 40 lower-case letters, digits and '-', beginning with a letter"
    ),
    doc = "Vectors in a bucket, made searchable: Milvus and its workers, a collection, its index, and the import of the vectors.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Rows","type":"integer","jsonPath":".status.rows"}"#,
    printcolumn = r#"{"name":"Index","type":"string","jsonPath":".spec.index.type"}"#,
    printcolumn = r#"{"name":"Recall","type":"string","jsonPath":".status.verified.recall"}"#,
    printcolumn = r#"{"name":"Endpoint","type":"string","jsonPath":".status.endpoint","priority":1}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.index.type.startsWith('GPU_') || (has(self.workers.gpu))").message(
    "an index of type GPU_… is built by GPUs: set workers.gpu"
))]
pub struct VectorIndexSpec {
    /// Where the vectors are, and where Milvus keeps its files.
    pub storage: Storage,

    /// The Milvus that serves the index.
    pub milvus: Milvus,

    /// The pods that build indexes.
    #[serde(default)]
    pub workers: Workers,

    /// The collection's fields.
    pub collection: Collection,

    /// The files that are imported.
    pub source: Source,

    /// The index over the vectors.
    pub index: Index,

    /// What has to hold before it is Ready.
    #[serde(default)]
    pub verify: Verify,

    /// What deleting the VectorIndex does to Milvus' files in the bucket and to its disks. The vectors that were imported stay in any case.
    #[serde(default)]
    pub deletion_policy: crate::storage_cluster::DeletionPolicy,
}

/// Where the vectors are, and where Milvus keeps its files.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// A StorageCluster of the same namespace.
    #[schemars(regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"), length(max = 52))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterName cannot be changed: make a new VectorIndex"))]
    pub cluster_name: String,

    /// The bucket with the vectors; Milvus keeps its files there as well, below `prefix`, because it imports out of its own bucket only.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("bucket cannot be changed: make a new VectorIndex"))]
    pub bucket: String,

    /// Where in the bucket Milvus keeps its files. Default: `.milvus/<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._/-]+$"), length(min = 1, max = 200))]
    pub prefix: Option<String>,

    /// How Milvus reaches the StorageCluster. `Gateway`: by the agent of its own node, which has the fast path (the StorageCluster needs
    /// `gateway.enabled`). `Direct`: by the StorageCluster's Service.
    #[serde(default)]
    pub access: StorageAccess,
}

/// How Milvus reaches a StorageCluster.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum StorageAccess {
    /// By the node's own agent.
    Gateway,
    /// By the StorageCluster's Service.
    #[default]
    Direct,
}

/// The files that are imported.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// What the keys of the files begin with, as `embeddings/`. Files end in `.parquet` or `.json` (rows), or in `.npy` (a column each, named after
    /// their field; those of one folder belong together).
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/')").message(
        "prefix is a part of S3 keys, which do not begin with '/'"
    ))]
    pub prefix: String,

    /// Whether files that come later are imported too.
    #[serde(default)]
    pub refresh: Refresh,
}

/// Whether files that come later are imported too.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Refresh {
    /// New files are imported within a minute; where one was changed or removed, a new collection is built beside the old one.
    #[default]
    OnChange,
    /// What is there at first, and no more.
    Once,
}

/// What has to hold before a VectorIndex is Ready.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// How many stored vectors are searched for.
    #[serde(default = "sample")]
    #[schemars(range(min = 1, max = 1000))]
    pub sample: u32,

    /// The least share of the ten nearest neighbours that the index has to find of those which an exhaustive search finds, in percent.
    #[serde(default = "recall")]
    #[schemars(range(min = 0, max = 100))]
    pub minimum_recall_percent: u8,

    /// Parameters of the searches that are judged, by Milvus' names, as `{ef: 128}` for HNSW or `{nprobe: 32}` for the IVF types: those that your
    /// clients search with. Default: `ef` 64, `nprobe` an eighth of `nlist`, `search_list` 64, `itopk_size` 128.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub search_params: BTreeMap<String, i64>,
}

impl Default for Verify {
    fn default() -> Self {
        Self {
            sample: sample(),
            minimum_recall_percent: recall(),
            search_params: BTreeMap::new(),
        }
    }
}

fn sample() -> u32 {
    50
}

fn recall() -> u8 {
    90
}

/// How a VectorIndex stands.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VectorIndexStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Progressing, Degraded, and one condition per step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// The step that is under way, and how far it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,

    /// Milvus' address (gRPC) within the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// The name to search in: an alias, which leads to the collection below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,

    /// The collection that serves searches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<String>,

    /// The collection that is being built to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<String>,

    /// Rows of the serving collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<i64>,

    /// The import of the source's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,

    /// The last comparison with an exhaustive search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,

    /// The pods that build indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerStatus>,

    /// Where Milvus reads and writes its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,

    /// How far the step that is under way was last seen to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,

    /// Where the time of builds went, as Milvus' pods counted it since each of them started; looked at after the last verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builds: Option<Builds>,
}

/// Where the time of builds went.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Builds {
    /// Segments whose index was built.
    pub segments: i64,
    /// From the beginning of each build to its end.
    pub milliseconds: i64,
    /// The part of that in which the index was made; the rest went into reading vectors and writing files.
    pub computing_milliseconds: i64,
}

/// How far a step has come.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// In words.
    pub what: String,
    /// When that was first so.
    pub since: Time,
}

/// How far the import is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Files below the prefix.
    pub files: i64,
    /// Those that are imported.
    pub imported: i64,
    /// Their bytes, of all.
    pub bytes: i64,
}

/// How well the index finds.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// The collection that was searched.
    pub collection: String,
    /// Rows that it had.
    pub rows: i64,
    /// The share of the nearest neighbours that was found, as `0.984`.
    pub recall: String,
    /// How many vectors were searched for.
    pub sample: i64,
    /// With which parameters.
    pub search_params: String,
}

/// The pods that build indexes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Wanted.
    pub desired: i32,
    /// Running and ready.
    pub ready: i32,
    /// Labels that select them.
    pub selector: String,
}

/// Where Milvus reads and writes its files.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// The S3 endpoint.
    pub endpoint: String,
    /// Whose it is: the node's agent, or the StorageCluster.
    pub access: String,
}
