//! Milvus and its workers.

use crate::storage_cluster::PullPolicy;
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The Milvus that serves the index: one pod with all parts (`milvus run standalone`), an etcd, and workers that build indexes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Milvus {
    /// Its version, as `2.3.5`: what the operator may ask of it depends on that.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+$"))]
    pub version: String,

    /// Its image. Default: `milvusdb/milvus:v<version>`, with `-gpu` for GPU indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When images are pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets of the namespace for pulling images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The disk for messages that are not in the bucket yet.
    #[serde(default)]
    pub disk: Disk,

    /// The etcd with Milvus' catalogue.
    #[serde(default)]
    pub etcd: Etcd,

    /// Milvus' pod.
    #[serde(default)]
    pub pods: Pods,

    /// Settings of Milvus by their path in `milvus.yaml`, as `dataCoord.segment.maxSize: "512"`. Where storage, ports, keys and etcd are is the
    /// operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new(
        "self.all(key, key.matches('^[A-Za-z]+([.][A-Za-z0-9]+)+$') && !key.startsWith('minio.') && !key.startsWith('etcd.') && !key.startsWith('common.security.') && key != 'common.storageType')"
    ).message("config has paths of milvus.yaml, as dataCoord.segment.maxSize; minio.*, etcd.*, common.security.* and common.storageType are the operator's"))]
    pub config: BTreeMap<String, String>,
}

/// A disk.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a disk cannot be changed: make a new VectorIndex"))]
pub struct Disk {
    /// StorageClass of the disk. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,

    /// Size of the disk, as `10Gi`.
    #[serde(default = "size")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message(
        "size must be a positive quantity, as 10Gi"
    ))]
    pub size: String,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            storage_class_name: None,
            size: size(),
        }
    }
}

fn size() -> String {
    "10Gi".into()
}

/// The etcd with Milvus' catalogue.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Etcd {
    /// Its image, with `etcd` in it (3.4 or newer).
    #[serde(default = "etcd_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// Its disk.
    #[serde(default)]
    pub disk: Disk,

    /// Its pod.
    #[serde(default)]
    pub pods: Pods,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            image: etcd_image(),
            disk: Disk::default(),
            pods: Pods::default(),
        }
    }
}

fn etcd_image() -> String {
    "quay.io/coreos/etcd:v3.5.25".into()
}

/// Where and how pods run.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// Processor and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels that a Kubernetes node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,

    /// The container runtime, as `nvidia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
}

/// The pods that build indexes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workers {
    /// How many.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// What becomes of them while there is nothing to build.
    #[serde(default)]
    pub when_idle: WhenIdle,

    /// GPUs of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,

    /// After how many minutes without any progress an import, a build or a load is told as stalled (`Degraded`); it goes on all the same. A large segment
    /// makes no progress until it is done.
    #[serde(default = "hour")]
    #[schemars(range(min = 1, max = 10_080))]
    pub stalled_after_minutes: u32,

    /// The pods.
    #[serde(default)]
    pub pods: Pods,
}

/// What becomes of workers while there is nothing to build.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum WhenIdle {
    /// They stay, and the next build begins at once.
    #[default]
    Keep,
    /// They go, and give back what they hold (GPUs); the next build waits for new ones.
    Remove,
}

fn hour() -> u32 {
    60
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            replicas: 1,
            when_idle: WhenIdle::default(),
            gpu: None,
            stalled_after_minutes: hour(),
            pods: Pods::default(),
        }
    }
}

fn one() -> i32 {
    1
}

/// GPUs of a worker: by DRA, or as an extended resource.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.resourceClaimTemplateName) != has(self.extendedResource)").message(
    "set exactly one of resourceClaimTemplateName and extendedResource: each gives a worker its GPUs"
))]
pub struct Gpu {
    /// A ResourceClaimTemplate of this namespace (DRA), as one of class `gpu.penstock.io`; it may ask for a NIC near the GPU too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub resource_claim_template_name: Option<String>,

    /// An extended resource, as `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
        length(max = 317)
    )]
    pub extended_resource: Option<String>,

    /// How many of the extended resource.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub count: i32,

    /// Milvus' memory pool on each GPU at first, in MiB (`gpu.initMemSize`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_pool_mib: Option<u32>,

    /// The most memory of that pool, in MiB (`gpu.maxMemSize`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_pool_mib: Option<u32>,
}
