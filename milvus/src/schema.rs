//! Collections, as they are made.

use crate::proto::{
    common::KeyValuePair,
    schema::{self, CollectionSchema, FieldSchema},
};

/// A collection that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Its name: letters, digits and `_`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its fields, the primary key and the vector among them.
    pub fields: Vec<Field>,
    /// Takes fields that are not in the schema.
    pub dynamic: bool,
    /// How many shards.
    pub shards: i32,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub data_type: DataType,
    /// It is the primary key.
    pub primary: bool,
    /// Milvus makes the values of the primary key.
    pub auto_id: bool,
    /// Rows are spread over partitions by it.
    pub partition_key: bool,
}

/// What is in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// Truth values.
    Bool,
    /// Integers of that many bits, signed.
    Int8,
    /// See [`DataType::Int8`].
    Int16,
    /// See [`DataType::Int8`].
    Int32,
    /// See [`DataType::Int8`].
    Int64,
    /// IEEE 754, 32 bits.
    Float,
    /// IEEE 754, 64 bits.
    Double,
    /// Text of at most that many bytes.
    VarChar(u32),
    /// A JSON document.
    Json,
    /// A vector of that many 32-bit floating point numbers.
    FloatVector(u32),
}

impl DataType {
    fn on_the_wire(self) -> (schema::DataType, Vec<KeyValuePair>) {
        let parameter = |key: &str, value: u32| {
            vec![KeyValuePair {
                key: key.into(),
                value: value.to_string(),
            }]
        };
        match self {
            Self::Bool => (schema::DataType::Bool, Vec::new()),
            Self::Int8 => (schema::DataType::Int8, Vec::new()),
            Self::Int16 => (schema::DataType::Int16, Vec::new()),
            Self::Int32 => (schema::DataType::Int32, Vec::new()),
            Self::Int64 => (schema::DataType::Int64, Vec::new()),
            Self::Float => (schema::DataType::Float, Vec::new()),
            Self::Double => (schema::DataType::Double, Vec::new()),
            Self::VarChar(bytes) => (schema::DataType::VarChar, parameter("max_length", bytes)),
            Self::Json => (schema::DataType::Json, Vec::new()),
            Self::FloatVector(dimension) => (schema::DataType::FloatVector, parameter("dim", dimension)),
        }
    }
}

impl Collection {
    pub(crate) fn on_the_wire(&self) -> CollectionSchema {
        let field = |field: &Field| {
            let (data_type, type_params) = field.data_type.on_the_wire();
            FieldSchema {
                name: field.name.clone(),
                is_primary_key: field.primary,
                auto_id: field.auto_id,
                is_partition_key: field.partition_key,
                data_type: data_type.into(),
                type_params,
                ..FieldSchema::default()
            }
        };
        CollectionSchema {
            name: self.name.clone(),
            description: self.description.clone(),
            auto_id: self.fields.iter().any(|field| field.auto_id),
            fields: self.fields.iter().map(field).collect(),
            enable_dynamic_field: self.dynamic,
        }
    }
}
