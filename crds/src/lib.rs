//! The custom resources of `penstock.io/v1alpha1`.
//!
//! The Rust types are the source; `crdgen` writes the YAML beside them and into the chart. Validation is CEL in the schema,
//! so no webhook has to run for it.
#![forbid(unsafe_code)]

pub mod conditions;
pub mod storage_cluster;
pub mod vector_index;

pub use storage_cluster::{StorageCluster, StorageClusterSpec, StorageClusterStatus};
pub use vector_index::{VectorIndex, VectorIndexSpec, VectorIndexStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "penstock-operator";
/// Label of what belongs to a StorageCluster; its value is the cluster's name.
pub const CLUSTER_LABEL: &str = "penstock.io/cluster";
/// Label of what belongs to a VectorIndex; its value is the index's name.
pub const INDEX_LABEL: &str = "penstock.io/vectorindex";
/// Name of the CSI driver, and provisioner of every StorageClass.
pub const CSI_DRIVER: &str = "csi.penstock.io";

/// All custom resource definitions.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![StorageCluster::crd(), VectorIndex::crd()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crd_fits_into_an_annotation_of_kubectl_apply() {
        for crd in all() {
            let size = serde_json::to_string(&crd).unwrap().len();
            assert!(size < 120_000, "{:?} has {size} bytes", crd.metadata.name);
        }
    }

    #[test]
    fn every_property_is_described() {
        fn walk(path: &str, schema: &serde_json::Value, missing: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    missing.push(path.clone());
                }
                walk(&path, property, missing);
            }
        }
        let mut missing = Vec::new();
        for crd in all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
            walk("spec", spec, &mut missing);
        }
        assert!(
            missing.is_empty(),
            "kubectl explain has nothing to say of: {missing:?}"
        );
    }
}
