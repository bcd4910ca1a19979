//! `StorageCluster`: storage nodes that serve S3, and the StorageClass that turns claims into their buckets.

use k8s_openapi::{
    api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A StorageCluster is an S3 object store: its storage nodes, their disk, keys and certificates, and the StorageClass that
/// turns a PersistentVolumeClaim into a bucket.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "penstock.io",
    version = "v1alpha1",
    kind = "StorageCluster",
    namespaced,
    shortname = "pcluster",
    category = "penstock",
    status = "StorageClusterStatus",
    validation = Rule::new("self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name becomes the name of a Service and a StatefulSet: at most 52 lower-case letters, digits and '-', beginning with a letter"
    ),
    doc = "An S3 object store on Kubernetes: storage nodes, their disk, keys and certificates, and a StorageClass that turns claims into buckets.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".status.nodes.summary"}"#,
    printcolumn = r#"{"name":"Endpoint","type":"string","jsonPath":".status.endpoint"}"#,
    printcolumn = r#"{"name":"StorageClass","type":"string","jsonPath":".status.storageClassName"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct StorageClusterSpec {
    /// Image of the storage node. Default: the one that belongs to the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// When the image is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets of the cluster's namespace for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// How many storage nodes.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    #[x_kube(validation = Rule::new("self == 1").message(
        "the Local engine keeps objects on one node's disk, so nodes must be 1: use one StorageCluster per disk"
    ))]
    pub nodes: i32,

    /// Where objects live.
    #[serde(default)]
    pub engine: Engine,

    /// The disk of the storage node.
    pub storage: Storage,

    /// Encryption of the endpoint.
    #[serde(default)]
    pub tls: Tls,

    /// How bytes travel besides HTTP.
    #[serde(default)]
    pub rdma: Rdma,

    /// The StorageClass for claims that become buckets.
    #[serde(default)]
    pub storage_class: StorageClass,

    /// The path to clients on the same Kubernetes node: the folder of the node in which the storage node makes its socket, as
    /// the chart's `csi.node.localSockets.dir`. Pods of this storage node then mount a hostPath, which no Pod Security level
    /// below *privileged* allows in their namespace. Default: none; clients on the same node go over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 69), pattern("^/[^.].*$"))]
    pub local_path: Option<String>,

    /// S3 for the pods of every Kubernetes node, by the agent of that node, so that programs which know nothing of Penstock have its
    /// fast paths. Needs the chart's `csi.agent.gateway.enabled`.
    #[serde(default)]
    pub gateway: Gateway,

    /// The master key, with which the storage node seals keys and what it encrypts, from a Secret. Default: it is made on the data disk, beside what it
    /// seals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<MasterKey>,

    /// Where the storage node keeps backups of itself, and when it makes them. Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<Backups>,

    /// What deleting the StorageCluster does to its data, keys and certificates.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Processor and memory of a storage node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels that a Kubernetes node must have to run a storage node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that a storage node tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// Affinity of the storage node's pod (a `v1.Affinity`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<serde_json::Value>,
}

fn one() -> i32 {
    1
}

/// `v1.Affinity` in full would make up most of the CRD; the API server checks it where it is used, in the StatefulSet.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
        "description": "Affinity of the storage node's pod (a `v1.Affinity`).",
    })
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum PullPolicy {
    /// At every start.
    Always,
    /// When the node lacks it.
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// As a pod spec writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Where objects live.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Engine {
    /// On the storage node's own disk.
    #[default]
    Local,
}

/// The disk of the storage node: exactly one kind.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.volumeClaimTemplate) != has(self.hostPath)").message(
        "set exactly one of volumeClaimTemplate and hostPath"
    ),
    validation = Rule::new("has(self.hostPath) == has(oldSelf.hostPath)").message(
        "the kind of storage cannot be changed: the data would stay behind; make a new StorageCluster and copy"
    )
)]
pub struct Storage {
    /// A PersistentVolumeClaim per storage node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim_template: Option<VolumeClaimTemplate>,

    /// A folder of the Kubernetes node, writable for user 65532. Needs a namespace that allows hostPath volumes, and a
    /// `nodeSelector`, since the data stay on that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
}

/// A claim for the storage node's disk.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "has(self.storageClassName) == has(oldSelf.storageClassName) && \
     (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)"
).message("storageClassName cannot be changed: the data would stay behind; make a new StorageCluster and copy"))]
pub struct VolumeClaimTemplate {
    /// StorageClass of the disk. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,

    /// Size of the disk, as `100Gi`. May grow where the disk's StorageClass allows it.
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message(
            "size must be a positive quantity, as 100Gi"
        ),
        validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity(oldSelf)) >= 0").message(
            "size cannot shrink: disks only grow"
        )
    )]
    pub size: String,
}

/// A folder of the Kubernetes node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// Absolute path of the folder; made when it is missing.
    #[schemars(regex(pattern = r"^/[^\x00]*$"), length(max = 1024))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "path cannot be changed: the data would stay behind; make a new StorageCluster and copy"
    ))]
    pub path: String,
}

/// A master key in a Secret of the cluster's namespace: 32 random bytes, in hexadecimal digits or base64. A data disk remembers which one it was sealed with,
/// and a storage node with another one does not start.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MasterKey {
    /// Name of the Secret.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub secret_name: String,

    /// Key in the Secret.
    #[serde(default = "master_key")]
    #[schemars(regex(pattern = r"^[-._a-zA-Z0-9]+$"), length(max = 253))]
    pub key: String,
}

fn master_key() -> String {
    "master-key".to_owned()
}

/// Backups of a storage node, whole and consistent, made while it serves.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// A PersistentVolumeClaim of the cluster's namespace, on another disk than the data. It belongs to the user: deleting the StorageCluster leaves it.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub claim_name: String,

    /// Hours between two backups that are made by themselves; 0: none but those that are asked for (`penstock-store backup create`).
    #[serde(default = "day")]
    #[schemars(range(min = 0, max = 8760))]
    pub every_hours: u32,

    /// How many stay.
    #[serde(default = "week")]
    #[schemars(range(min = 1, max = 10_000))]
    pub keep: u32,
}

fn day() -> u32 {
    24
}

fn week() -> u32 {
    7
}

/// Encryption of the endpoint.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Serve HTTPS with a certificate of a CA that the operator makes for this cluster.
    #[serde(default = "yes")]
    pub enabled: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { enabled: true }
    }
}

fn yes() -> bool {
    true
}

/// How bytes travel besides HTTP: by RDMA between the storage node and the memory of its clients.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.resourceClaimTemplateName) && has(self.extendedResource))").message(
        "set at most one of resourceClaimTemplateName and extendedResource: each gives the pod its RDMA device"
    ),
    validation = Rule::new(
        "self.policy != 'Require' || has(self.resourceClaimTemplateName) || has(self.extendedResource)"
    ).message(
        "policy Require needs resourceClaimTemplateName or extendedResource: without one the pod has no RDMA device"
    ),
    validation = Rule::new("!(has(self.hostNetwork) && self.hostNetwork && has(self.networks))").message(
        "set at most one of hostNetwork and networks: the pod is in the network of its node, or has networks of its own"
    )
)]
pub struct Rdma {
    /// `Require`: not Ready without RDMA. `Prefer`: RDMA where there is a device. `Disabled`: HTTP only.
    #[serde(default)]
    pub policy: RdmaPolicy,

    /// A ResourceClaimTemplate of this namespace that gives the storage node an RDMA device (DRA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub resource_claim_template_name: Option<String>,

    /// An extended resource of which one gives the storage node an RDMA device (a device plugin), as `rdma/hca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
        length(max = 317)
    )]
    pub extended_resource: Option<String>,

    /// Names of the devices, as `mlx5_0,mlx5_1`: bytes go over all of them, and over the others when one fails. Default: all that
    /// are as fast as the fastest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*$"), length(max = 1023))]
    pub device: Option<String>,

    /// Run in the network of the Kubernetes node, where the RDMA NIC has its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,

    /// Networks that the pod is attached to, as Multus wants them (annotation `k8s.v1.cni.cncf.io/networks`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub networks: Option<String>,

    /// How the storage node may pin memory for its device. Cannot be changed: it decides who owns the data files.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "lockedMemory cannot be changed: it decides which user owns the data files; make a new StorageCluster and copy"
    ))]
    pub locked_memory: LockedMemory,

    /// Huge pages of 2 MiB for the staging memory, as `64Mi`; ordinary pages without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message(
        "hugepages must be a positive quantity, as 64Mi"
    ))]
    pub hugepages: Option<String>,
}

/// Whether bytes travel by RDMA.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum RdmaPolicy {
    /// Nothing but RDMA will do.
    Require,
    /// By RDMA where there is a device, else by HTTP.
    #[default]
    Prefer,
    /// By HTTP. (Not `Off`, which YAML takes for a boolean.)
    Disabled,
}

impl RdmaPolicy {
    /// As programs are told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Prefer => "prefer",
            Self::Disabled => "off",
        }
    }
}

/// S3 for the pods of every Kubernetes node, by the agent of that node.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.port) || self.enabled").message(
    "port is the gateway's: set enabled to true, or leave port out"
))]
pub struct Gateway {
    /// Serve it: a Service in the namespace of the chart leads each pod to the agent of its own node (`status.gateway.endpoint`).
    #[serde(default)]
    pub enabled: bool,

    /// Port of the agents for this StorageCluster, another one for each; with `hostNetwork` of the agents it is a port of the Kubernetes
    /// nodes. Default: the first that is free from 9100 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    #[x_kube(validation = Rule::new("self != 9090 && self != 9091").message(
        "ports 9090 and 9091 are the agents' own: choose another one"
    ))]
    pub port: Option<u16>,

    /// Whether bytes go past HTTP between agent and storage node: by its socket on the same node, by RDMA to another one. `Prefer`:
    /// where that can be. `Require`: requests whose bytes cannot are refused. `Disabled`: HTTP always.
    #[serde(default)]
    pub fast_path: RdmaPolicy,
}

/// How the storage node may pin memory.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum LockedMemory {
    /// As much as the container runtime allows (`LimitMEMLOCK` of containerd: 8 MiB unless set).
    #[default]
    Limit,
    /// Any amount: the storage node runs as root with the capabilities `IPC_LOCK` and, for files that it wrote as another
    /// user, `DAC_OVERRIDE`. The namespace must allow that (Pod Security level *privileged*).
    Capability,
}

/// The StorageClass for claims that become buckets.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageClass {
    /// Make a StorageClass.
    #[serde(default = "yes")]
    pub create: bool,

    /// Its name. Default: `penstock-<namespace>-<cluster>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub name: Option<String>,

    /// What deleting a claim does to its bucket.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,

    /// Put all volumes into this bucket, a prefix each, instead of making a bucket each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"))]
    pub bucket: Option<String>,

    /// User that owns the files of its volumes (default 0; a pod's `fsGroup` still applies).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,

    /// Group that owns the files of its volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,

    /// Permissions of files, octal, as `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub file_mode: Option<String>,

    /// Permissions of folders, octal, as `0755`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    pub dir_mode: Option<String>,

    /// Whether the bytes of its volumes travel by RDMA. `Require`: a pod on a node where that cannot be does not start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma: Option<RdmaPolicy>,
}

impl Default for StorageClass {
    fn default() -> Self {
        Self {
            create: true,
            name: None,
            reclaim_policy: ReclaimPolicy::default(),
            bucket: None,
            uid: None,
            gid: None,
            file_mode: None,
            dir_mode: None,
            rdma: None,
        }
    }
}

/// What deleting a claim does to its bucket.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum ReclaimPolicy {
    /// Delete it with its objects.
    #[default]
    Delete,
    /// Keep it.
    Retain,
}

impl ReclaimPolicy {
    /// As a StorageClass writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Retain => "Retain",
        }
    }
}

/// What deleting a StorageCluster does to its data, keys and certificates.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// Keep them: a StorageCluster of the same name finds them again.
    #[default]
    Retain,
    /// Delete them.
    Delete,
}

/// How a StorageCluster stands.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Progressing, Degraded, and one condition per step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// Where S3 is served within the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Secret with the key pair, endpoint and CA, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,

    /// The StorageClass that makes buckets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,

    /// Image that the storage nodes are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// Storage nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,

    /// How agents serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayStatus>,
}

/// How agents serve a StorageCluster to the pods of their nodes.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where, for every pod within the Kubernetes cluster.
    pub endpoint: String,
}

/// How many storage nodes there are.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// Wanted.
    pub desired: i32,
    /// Running and ready.
    pub ready: i32,
    /// Running with the current spec.
    pub updated: i32,
    /// `ready/desired`, for people.
    pub summary: String,
}

impl NodeCounts {
    /// Counts, with their summary.
    #[must_use]
    pub fn new(desired: i32, ready: i32, updated: i32) -> Self {
        Self {
            desired,
            ready,
            updated,
            summary: format!("{ready}/{desired}"),
        }
    }
}
