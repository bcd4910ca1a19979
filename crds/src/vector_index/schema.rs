//! The collection's fields.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The collection's fields. Changing them builds a new collection beside the old one, which serves until the new one is verified.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "self.vector.name != self.primaryKey.name && !(has(self.fields) && self.fields.exists(f, f.name == self.vector.name || f.name == self.primaryKey.name))"
    ).message("fields need names of their own: primaryKey, vector and fields share one name space"),
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message(
        "collection.name cannot be changed: clients search in it; make a new VectorIndex"
    )
)]
pub struct Collection {
    /// The name to search in, an alias of the collection that serves. Default: the VectorIndex's name with `_` for `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 200))]
    pub name: Option<String>,

    /// What rows are known by.
    #[serde(default)]
    pub primary_key: PrimaryKey,

    /// The vectors.
    pub vector: Vector,

    /// More fields of the files, which searches can filter by and return.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 60))]
    pub fields: Vec<Field>,

    /// Take columns that no field is named for.
    #[serde(default)]
    pub dynamic: bool,

    /// In how many shards rows are written.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub shards: i32,
}

fn one() -> i32 {
    1
}

/// What rows are known by.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.maxLength) == (self.type == 'VarChar')").message(
    "maxLength belongs to a primary key of type VarChar, and to no other"
))]
pub struct PrimaryKey {
    /// Its field.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 200))]
    pub name: String,

    /// Its type.
    #[serde(default, rename = "type")]
    pub key_type: KeyType,

    /// The longest text, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_length: Option<u32>,

    /// Milvus makes the keys; the files have no such column.
    #[serde(default)]
    pub auto_id: bool,
}

impl Default for PrimaryKey {
    fn default() -> Self {
        Self {
            name: "id".into(),
            key_type: KeyType::Int64,
            max_length: None,
            auto_id: false,
        }
    }
}

/// Types of primary keys.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum KeyType {
    /// Integers.
    #[default]
    Int64,
    /// Text.
    VarChar,
}

/// The vectors.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vector {
    /// Their field.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 200))]
    pub name: String,

    /// How many 32-bit floating point numbers each has.
    #[schemars(range(min = 2, max = 32768))]
    pub dimension: u32,

    /// What "near" means.
    #[serde(default)]
    pub metric: Metric,
}

/// What "near" means.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Metric {
    /// Euclidean distance.
    #[default]
    L2,
    /// Inner product.
    Ip,
    /// The angle between.
    Cosine,
}

impl Metric {
    /// As Milvus writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "L2",
            Self::Ip => "IP",
            Self::Cosine => "COSINE",
        }
    }
}

/// A further field.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.maxLength) == (self.type == 'VarChar')").message(
    "maxLength belongs to a field of type VarChar, and to no other"
))]
pub struct Field {
    /// Its name.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"), length(max = 200))]
    pub name: String,

    /// Its type.
    #[serde(rename = "type")]
    pub field_type: FieldType,

    /// The longest text, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub max_length: Option<u32>,
}

/// Types of fields.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum FieldType {
    /// Truth values.
    Bool,
    /// 8-bit integers.
    Int8,
    /// 16-bit integers.
    Int16,
    /// 32-bit integers.
    Int32,
    /// 64-bit integers.
    Int64,
    /// 32-bit floating point numbers.
    Float,
    /// 64-bit floating point numbers.
    Double,
    /// Text.
    VarChar,
    /// JSON documents.
    #[serde(rename = "JSON")]
    Json,
}
