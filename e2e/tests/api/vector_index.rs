//! VectorIndexes.

use crate::Tried;
use penstock_e2e::{Result, ensure, in_namespace, object};
use serde_json::{Value, json};

const TRIED: Tried = Tried("VectorIndex");

/// A good spec with `change` merged into it.
fn spec(change: Value) -> Value {
    let mut spec = json!({
        "storage": {"clusterName": "demo", "bucket": "vectors"}, "milvus": {"version": "2.3.5"},
        "collection": {"vector": {"name": "vector", "dimension": 128}}, "source": {"prefix": "embeddings/"},
        "index": {"type": "HNSW"},
    });
    penstock_e2e::object::merge(&mut spec, change);
    spec
}

#[tokio::test]
async fn every_type_of_index_is_accepted_with_its_parameters() -> Result<()> {
    in_namespace("api", async |ns| {
        for index in [
            json!({"type": "FLAT"}),
            json!({"type": "IVF_FLAT", "params": {"nlist": 1024}}),
            json!({"type": "IVF_SQ8"}),
            json!({"type": "IVF_PQ", "params": {"m": 16, "nbits": 8}}),
            json!({"type": "HNSW", "params": {"maxDegree": 32, "efConstruction": 360}}),
            json!({"type": "DISKANN"}),
        ] {
            TRIED.accepted(&ns, spec(json!({"index": index}))).await?;
        }
        let gpu = json!({"gpu": {"extendedResource": "nvidia.com/gpu"}});
        for index in [
            json!({"type": "GPU_CAGRA", "params": {"intermediateGraphDegree": 64, "graphDegree": 32, "buildAlgorithm": "IVF_PQ"}}),
            json!({"type": "GPU_IVF_FLAT"}),
            json!({"type": "GPU_IVF_PQ", "params": {"m": 16}}),
            json!({"type": "GPU_BRUTE_FORCE"}),
        ] {
            TRIED.accepted(&ns, spec(json!({"index": index, "workers": gpu}))).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn parameters_of_another_type_are_refused() -> Result<()> {
    in_namespace("api", async |ns| {
        for (index, because) in [
            (
                json!({"type": "HNSW", "params": {"nlist": 16}}),
                "params.nlist belongs to the IVF types",
            ),
            (
                json!({"type": "IVF_FLAT", "params": {"maxDegree": 16}}),
                "belong to HNSW",
            ),
            (
                json!({"type": "IVF_FLAT", "params": {"m": 16}}),
                "belong to IVF_PQ",
            ),
            (
                json!({"type": "HNSW", "params": {"graphDegree": 16}}),
                "belong to GPU_CAGRA",
            ),
            (json!({"type": "IVF_PQ"}), "IVF_PQ needs params.m"),
            (json!({"type": "HNSW", "params": {"maxDegree": 100}}), "maxDegree"),
            (json!({"type": "LSH"}), "index.type"),
        ] {
            TRIED.refused(&ns, spec(json!({"index": index})), because).await?;
        }
        let cagra =
            json!({"type": "GPU_CAGRA", "params": {"intermediateGraphDegree": 32, "graphDegree": 64}});
        let gpu = json!({"gpu": {"extendedResource": "nvidia.com/gpu"}});
        TRIED
            .refused(
                &ns,
                spec(json!({"index": cagra, "workers": gpu})),
                "graphDegree is less than",
            )
            .await
    })
    .await
}

#[tokio::test]
async fn gpus_come_one_way_and_are_needed_for_their_types() -> Result<()> {
    in_namespace("api", async |ns| {
        let gpu = |gpu: Value| spec(json!({"index": {"type": "GPU_CAGRA"}, "workers": {"gpu": gpu}}));
        TRIED
            .accepted(&ns, gpu(json!({"resourceClaimTemplateName": "near"})))
            .await?;
        let both = gpu(json!({"resourceClaimTemplateName": "near", "extendedResource": "nvidia.com/gpu"}));
        TRIED
            .refused(
                &ns,
                both,
                "exactly one of resourceClaimTemplateName and extendedResource",
            )
            .await?;
        TRIED.refused(&ns, gpu(json!({})), "exactly one of").await?;
        TRIED
            .refused(
                &ns,
                spec(json!({"index": {"type": "GPU_CAGRA"}})),
                "set workers.gpu",
            )
            .await
    })
    .await
}

#[tokio::test]
async fn fields_and_settings_that_cannot_be_are_refused() -> Result<()> {
    in_namespace("api", async |ns| {
        for (change, because) in [
            (json!({"collection": {"vector": {"dimension": 1}}}), "dimension"),
            (
                json!({"collection": {"primaryKey": {"name": "vector"}}}),
                "names of their own",
            ),
            (
                json!({"collection": {"fields": [{"name": "vector", "type": "Float"}]}}),
                "names of their own",
            ),
            (
                json!({"collection": {"fields": [{"name": "title", "type": "VarChar"}]}}),
                "maxLength belongs to",
            ),
            (
                json!({"collection": {"fields": [{"name": "price", "type": "Float", "maxLength": 3}]}}),
                "maxLength belongs to",
            ),
            (json!({"collection": {"vector": {"metric": "HAMMING"}}}), "metric"),
            (json!({"source": {"prefix": "/embeddings"}}), "do not begin with"),
            (json!({"source": {"prefix": ""}}), "prefix"),
            (json!({"storage": {"bucket": "Vectors"}}), "bucket"),
            (json!({"milvus": {"version": "v2.3"}}), "version"),
            (
                json!({"milvus": {"config": {"common.security.authorizationEnabled": "false"}}}),
                "are the operator's",
            ),
            (
                json!({"milvus": {"config": {"minio.accessKeyID": "k"}}}),
                "are the operator's",
            ),
            (json!({"milvus": {"disk": {"size": "big"}}}), "positive quantity"),
            (json!({"workers": {"replicas": -1}}), "replicas"),
            (
                json!({"verify": {"minimumRecallPercent": 101}}),
                "minimumRecallPercent",
            ),
        ] {
            TRIED.refused(&ns, spec(change), because).await?;
        }
        let settings = json!({"milvus": {"config": {"dataCoord.segment.maxSize": "1024"}}});
        TRIED.accepted(&ns, spec(settings)).await
    })
    .await
}

#[tokio::test]
async fn what_clients_and_data_hang_on_stays() -> Result<()> {
    in_namespace("api", async |ns| {
        // Of a StorageCluster that is not there, so that nothing is made of it.
        let object = |spec: Value| json!({"apiVersion": object::PENSTOCK, "kind": "VectorIndex", "metadata": {"name": "kept"}, "spec": spec});
        ns.apply(&object(spec(json!({"collection": {"name": "things"}})))).await?;
        for (change, because) in [
            (json!({"storage": {"clusterName": "other"}}), "clusterName cannot be changed"),
            (json!({"storage": {"bucket": "other"}}), "bucket cannot be changed"),
            (json!({"collection": {"name": "other"}}), "collection.name cannot be changed"),
            (json!({"milvus": {"disk": {"size": "20Gi"}}}), "a disk cannot be changed"),
        ] {
            let mut changed = spec(json!({"collection": {"name": "things"}}));
            penstock_e2e::object::merge(&mut changed, change);
            let Err(error) = ns.apply(&object(changed)).await else {
                penstock_e2e::bail!("accepted although {because}");
            };
            ensure!(format!("{error:#}").contains(because), "{error:#}");
        }
        // What is built anew beside may be changed.
        let other = json!({"collection": {"name": "things"}, "index": {"type": "FLAT"}, "workers": {"replicas": 0}});
        ns.apply(&object(spec(other))).await.map(drop)
    })
    .await
}
