//! What was imported, remembered in a ConfigMap: Milvus forgets its imports, and must not be asked for the same one twice.

use super::names::{Names, Part};
use crate::{apply::apply, context::Context, error::Error};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The ConfigMap's key.
const KEY: &str = "imports.json";

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Imports {
    /// How often the source's files were replaced under the same spec.
    pub epoch: u64,
    /// By collection, by group of files.
    pub collections: BTreeMap<String, BTreeMap<String, Import>>,
    /// Collections that served before, and when they ceased to, in seconds since 1970.
    pub retired: BTreeMap<String, i64>,
}

/// The import of a group of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Import {
    /// Entity tags of the files.
    pub etags: String,
    /// Milvus' numbers for it.
    pub tasks: Vec<i64>,
    /// Rows, when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Imports {
    pub async fn read(context: &Context, names: &Names) -> Result<Self, Error> {
        let name = names.imports();
        let maps = Api::<ConfigMap>::namespaced(context.client.clone(), &names.namespace);
        let found = maps.get_opt(&name).await;
        let found = found.map_err(Error::api(format!("read ConfigMap {name}")))?;
        let text = found
            .and_then(|map| map.data)
            .and_then(|mut data| data.remove(KEY));
        match text {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(&text).map_err(|error| Error::Record { name, error }),
        }
    }

    pub async fn write(&self, context: &Context, names: &Names) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|error| Error::Record {
            name: names.imports(),
            error,
        })?;
        apply(
            &context.client,
            &json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": names.owned(&names.imports(), Part::Milvus),
                "data": {KEY: text},
            }),
        )
        .await?;
        Ok(())
    }

    /// Rows that are in a collection.
    pub fn rows(&self, collection: &str) -> u64 {
        let imports = self.collections.get(collection);
        imports
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(|import| import.rows)
            .sum()
    }
}
