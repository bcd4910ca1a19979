//! From the spec to what Milvus is asked for, as pure functions.

use super::names::Names;
use penstock_crds::{
    VectorIndex,
    vector_index::{FieldType, Index, IndexType, KeyType, Verify},
};
use penstock_milvus::{Collection, DataType, Field};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name of the index in its collection.
pub const INDEX: &str = "penstock";

/// A collection, its index and how it is searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The name that clients search in.
    pub alias: String,
    /// The collection. Its name ends with a digest of all that cannot be changed once it is made, so that another wish is another collection.
    pub collection: Collection,
    /// Field of the primary key.
    pub key: String,
    /// Field of the vectors.
    pub vector: String,
    /// What "near" means, in Milvus' words.
    pub metric: &'static str,
    /// Milvus' type of the index.
    pub index_type: &'static str,
    /// Its parameters, a JSON object.
    pub index: String,
    /// Parameters of a search as clients make it, and of one that looks (almost) everywhere.
    pub search: Search,
}

/// Search parameters, JSON objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    pub usual: String,
    pub exhaustive: String,
}

impl Plan {
    /// `epoch` counts how often the source was replaced under the same spec.
    pub fn of(names: &Names, index: &VectorIndex, epoch: u64) -> Self {
        let spec = &index.spec;
        let alias = names.alias(index);
        let wanted = json!({
            "collection": spec.collection, "index": spec.index, "source": spec.source.prefix, "epoch": epoch,
        });
        let digest = hex::encode(Sha256::digest(wanted.to_string().as_bytes()));
        Self {
            collection: Collection {
                name: format!("{alias}_{}", &digest[..DIGITS]),
                description: format!("VectorIndex {}/{}", names.namespace, names.index),
                fields: fields(index),
                dynamic: spec.collection.dynamic,
                shards: spec.collection.shards,
            },
            key: spec.collection.primary_key.name.clone(),
            vector: spec.collection.vector.name.clone(),
            metric: spec.collection.vector.metric.as_str(),
            index_type: spec.index.index_type.as_str(),
            index: parameters(&spec.index).to_string(),
            search: search(&spec.index, &spec.verify),
            alias,
        }
    }

    /// Whether a collection of that name was made for the same alias.
    pub fn is_of_alias(alias: &str, collection: &str) -> bool {
        let digest = collection
            .strip_prefix(alias)
            .and_then(|rest| rest.strip_prefix('_'));
        digest.is_some_and(|digest| {
            digest.len() == DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

/// Of the digest in a collection's name.
const DIGITS: usize = 10;

fn fields(index: &VectorIndex) -> Vec<Field> {
    let spec = &index.spec.collection;
    let plain = |name: &str, data_type| Field {
        name: name.into(),
        data_type,
        primary: false,
        auto_id: false,
        partition_key: false,
    };
    let length = |length: Option<u32>| DataType::VarChar(length.unwrap_or(65535));
    let key = Field {
        primary: true,
        auto_id: spec.primary_key.auto_id,
        ..plain(
            &spec.primary_key.name,
            match spec.primary_key.key_type {
                KeyType::Int64 => DataType::Int64,
                KeyType::VarChar => length(spec.primary_key.max_length),
            },
        )
    };
    let vector = plain(&spec.vector.name, DataType::FloatVector(spec.vector.dimension));
    let rest = spec.fields.iter().map(|field| {
        let data_type = match field.field_type {
            FieldType::Bool => DataType::Bool,
            FieldType::Int8 => DataType::Int8,
            FieldType::Int16 => DataType::Int16,
            FieldType::Int32 => DataType::Int32,
            FieldType::Int64 => DataType::Int64,
            FieldType::Float => DataType::Float,
            FieldType::Double => DataType::Double,
            FieldType::VarChar => length(field.max_length),
            FieldType::Json => DataType::Json,
        };
        plain(&field.name, data_type)
    });
    [key, vector].into_iter().chain(rest).collect()
}

/// What Milvus builds the index with: its defaults are said, as they differ between versions.
fn parameters(index: &Index) -> Value {
    let given = index.params.clone().unwrap_or_default();
    match index.index_type {
        IndexType::Flat | IndexType::DiskAnn | IndexType::GpuBruteForce => json!({}),
        IndexType::IvfFlat | IndexType::IvfSq8 | IndexType::GpuIvfFlat => {
            json!({"nlist": given.nlist.unwrap_or(LISTS)})
        }
        IndexType::IvfPq | IndexType::GpuIvfPq => json!({
            "nlist": given.nlist.unwrap_or(LISTS), "m": given.m.unwrap_or(0), "nbits": given.nbits.unwrap_or(8),
        }),
        IndexType::Hnsw => json!({
            "M": given.max_degree.unwrap_or(16), "efConstruction": given.ef_construction.unwrap_or(200),
        }),
        IndexType::GpuCagra => {
            let algorithm = given
                .build_algorithm
                .map_or("NN_DESCENT", |algorithm| algorithm.as_str());
            let mut parameters = json!({
                "intermediate_graph_degree": given.intermediate_graph_degree.unwrap_or(128),
                "graph_degree": given.graph_degree.unwrap_or(64), "build_algo": algorithm,
            });
            if let Some(adapt) = given.adapt_for_cpu {
                parameters["adapt_for_cpu"] = json!(adapt.to_string());
            }
            parameters
        }
    }
}

const LISTS: u32 = 128;

/// What is searched with. An exhaustive search of lists looks into all of them and is exact; one of a graph has room for many candidates, and
/// is as good as exact.
fn search(index: &Index, verify: &Verify) -> Search {
    let lists = index
        .params
        .as_ref()
        .and_then(|given| given.nlist)
        .unwrap_or(LISTS);
    let (usual, exhaustive) = match index.index_type {
        IndexType::Flat | IndexType::GpuBruteForce => (json!({}), json!({})),
        IndexType::IvfFlat
        | IndexType::IvfSq8
        | IndexType::IvfPq
        | IndexType::GpuIvfFlat
        | IndexType::GpuIvfPq => (json!({"nprobe": (lists / 8).max(1)}), json!({"nprobe": lists})),
        IndexType::Hnsw => (json!({"ef": 64}), json!({"ef": 4096})),
        IndexType::DiskAnn => (json!({"search_list": 64}), json!({"search_list": 1024})),
        IndexType::GpuCagra => (
            json!({"itopk_size": 128}),
            json!({"itopk_size": 1024, "search_width": 8}),
        ),
    };
    let usual = if verify.search_params.is_empty() {
        usual
    } else {
        json!(verify.search_params)
    };
    Search {
        usual: usual.to_string(),
        exhaustive: exhaustive.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::index;
    use super::*;

    fn plan(change: Value, epoch: u64) -> Plan {
        let index = index(change);
        Plan::of(&Names::of(&index).unwrap(), &index, epoch)
    }

    #[test]
    fn another_wish_is_another_collection() {
        let one = plan(json!({}), 0);
        assert_eq!(one, plan(json!({}), 0));
        assert!(
            Plan::is_of_alias("products", &one.collection.name),
            "{}",
            one.collection.name
        );
        let others = [
            plan(json!({"index": {"type": "IVF_FLAT"}}), 0),
            plan(json!({"index": {"type": "HNSW", "params": {"maxDegree": 32}}}), 0),
            plan(json!({"source": {"prefix": "other/"}}), 0),
            plan(
                json!({"collection": {"vector": {"name": "vector", "dimension": 64}}}),
                0,
            ),
            plan(json!({}), 1),
        ];
        for other in others {
            assert_ne!(one.collection.name, other.collection.name);
        }
        // What can be changed in place is none.
        assert_eq!(
            one.collection.name,
            plan(json!({"workers": {"replicas": 5}}), 0).collection.name
        );
    }

    #[test]
    fn only_collections_of_the_alias_are_taken_for_its_own() {
        assert!(Plan::is_of_alias("a", "a_0123456789"));
        for other in [
            "a",
            "a_",
            "a_b_0123456789",
            "ab_0123456789",
            "a_0123456789a",
            "a_zzzzzzzzzz",
        ] {
            assert!(!Plan::is_of_alias("a", other), "{other}");
        }
    }

    #[test]
    fn defaults_are_said() {
        assert_eq!(
            plan(json!({"index": {"type": "HNSW"}}), 0).index,
            r#"{"M":16,"efConstruction":200}"#
        );
        let cagra = plan(json!({"index": {"type": "GPU_CAGRA"}}), 0);
        assert!(cagra.index.contains("NN_DESCENT"), "{}", cagra.index);
        let lists = plan(json!({"index": {"type": "IVF_FLAT", "params": {"nlist": 64}}}), 0);
        assert_eq!(lists.search.exhaustive, r#"{"nprobe":64}"#);
        assert_eq!(lists.search.usual, r#"{"nprobe":8}"#);
        let given = plan(json!({"verify": {"searchParams": {"ef": 200}}}), 0);
        assert_eq!(given.search.usual, r#"{"ef":200}"#);
    }

    #[test]
    fn fields_are_those_of_the_spec() {
        let fields = plan(json!({"collection": {
            "primaryKey": {"name": "sku", "type": "VarChar", "maxLength": 32},
            "fields": [{"name": "price", "type": "Float"}, {"name": "title", "type": "VarChar", "maxLength": 100}],
        }}), 0).collection.fields;
        assert_eq!(fields[0].data_type, DataType::VarChar(32));
        assert!(fields[0].primary && !fields[0].auto_id);
        assert_eq!(fields[1].data_type, DataType::FloatVector(128));
        assert_eq!(fields[3].data_type, DataType::VarChar(100));
    }
}
