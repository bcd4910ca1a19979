//! The index over the vectors.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The index over the vectors. Changing it builds a new collection beside the old one, which serves until the new one is verified.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.params) || !has(self.params.nlist) || self.type in ['IVF_FLAT', 'IVF_SQ8', 'IVF_PQ', 'GPU_IVF_FLAT', 'GPU_IVF_PQ']").message(
        "params.nlist belongs to the IVF types"
    ),
    validation = Rule::new("!has(self.params) || !(has(self.params.m) || has(self.params.nbits)) || self.type in ['IVF_PQ', 'GPU_IVF_PQ']").message(
        "params.m and params.nbits belong to IVF_PQ and GPU_IVF_PQ"
    ),
    validation = Rule::new("!has(self.params) || !(has(self.params.maxDegree) || has(self.params.efConstruction)) || self.type == 'HNSW'").message(
        "params.maxDegree and params.efConstruction belong to HNSW"
    ),
    validation = Rule::new(
        "!has(self.params) || !(has(self.params.graphDegree) || has(self.params.intermediateGraphDegree) || has(self.params.buildAlgorithm) || \
         has(self.params.adaptForCpu)) || self.type == 'GPU_CAGRA'"
    ).message("params.graphDegree, intermediateGraphDegree, buildAlgorithm and adaptForCpu belong to GPU_CAGRA"),
    validation = Rule::new("self.type != 'IVF_PQ' || (has(self.params) && has(self.params.m))").message(
        "IVF_PQ needs params.m, a divisor of the dimension"
    )
)]
pub struct Index {
    /// Its type, as Milvus names it.
    #[serde(rename = "type")]
    pub index_type: IndexType,

    /// How it is built; Milvus' defaults where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<IndexParameters>,
}

/// Types of indexes.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum IndexType {
    /// Every vector is looked at.
    #[serde(rename = "FLAT")]
    Flat,
    /// Lists of near vectors.
    #[serde(rename = "IVF_FLAT")]
    IvfFlat,
    /// Lists of near vectors, a byte for each number.
    #[serde(rename = "IVF_SQ8")]
    IvfSq8,
    /// Lists of near vectors, in codes of their parts.
    #[serde(rename = "IVF_PQ")]
    IvfPq,
    /// A graph in memory.
    #[serde(rename = "HNSW")]
    Hnsw,
    /// A graph on disk.
    #[serde(rename = "DISKANN")]
    DiskAnn,
    /// A graph, built and searched by a GPU.
    #[serde(rename = "GPU_CAGRA")]
    GpuCagra,
    /// `IVF_FLAT` on a GPU.
    #[serde(rename = "GPU_IVF_FLAT")]
    GpuIvfFlat,
    /// `IVF_PQ` on a GPU.
    #[serde(rename = "GPU_IVF_PQ")]
    GpuIvfPq,
    /// Every vector is looked at, by a GPU.
    #[serde(rename = "GPU_BRUTE_FORCE")]
    GpuBruteForce,
}

impl IndexType {
    /// As Milvus writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::IvfFlat => "IVF_FLAT",
            Self::IvfSq8 => "IVF_SQ8",
            Self::IvfPq => "IVF_PQ",
            Self::Hnsw => "HNSW",
            Self::DiskAnn => "DISKANN",
            Self::GpuCagra => "GPU_CAGRA",
            Self::GpuIvfFlat => "GPU_IVF_FLAT",
            Self::GpuIvfPq => "GPU_IVF_PQ",
            Self::GpuBruteForce => "GPU_BRUTE_FORCE",
        }
    }

    /// Whether it needs GPUs.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        self.as_str().starts_with("GPU_")
    }
}

/// How an index is built.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.graphDegree) || self.graphDegree < (has(self.intermediateGraphDegree) ? self.intermediateGraphDegree : 128)"
).message("graphDegree is less than intermediateGraphDegree (128 if not set)"))]
pub struct IndexParameters {
    /// IVF: how many lists (default 128).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub nlist: Option<u32>,

    /// IVF_PQ: into how many parts a vector is cut, a divisor of the dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32768))]
    pub m: Option<u32>,

    /// IVF_PQ: bits of a part's code (default 8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 16))]
    pub nbits: Option<u32>,

    /// HNSW: the most neighbours of a node (Milvus' `M`; default 16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 64))]
    pub max_degree: Option<u32>,

    /// HNSW: how many candidates are looked at while it is built (Milvus' `efConstruction`; default 200).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 512))]
    pub ef_construction: Option<u32>,

    /// GPU_CAGRA: neighbours of a node before pruning (default 128).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1024))]
    pub intermediate_graph_degree: Option<u32>,

    /// GPU_CAGRA: neighbours of a node after pruning (default 64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1023))]
    pub graph_degree: Option<u32>,

    /// GPU_CAGRA: how the graph is made (default `NN_DESCENT`; Milvus' documentation and its code differ, so it is always said).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_algorithm: Option<BuildAlgorithm>,

    /// GPU_CAGRA: build by GPU, search by processor (Milvus 2.6.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt_for_cpu: Option<bool>,
}

/// How a CAGRA graph is made.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum BuildAlgorithm {
    /// Out of an IVF_PQ index; takes less memory.
    #[serde(rename = "IVF_PQ")]
    IvfPq,
    /// By descent; faster.
    #[serde(rename = "NN_DESCENT")]
    NnDescent,
}

impl BuildAlgorithm {
    /// As Milvus writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IvfPq => "IVF_PQ",
            Self::NnDescent => "NN_DESCENT",
        }
    }
}
