//! StorageClusters.

use crate::Tried;
use penstock_e2e::{Namespace, Result, command, ensure, in_namespace, object, storage};
use serde_json::{Value, json};

async fn accepted(ns: &Namespace, spec: Value) -> Result<()> {
    TRIED.accepted(ns, spec).await
}

async fn refused(ns: &Namespace, spec: Value, because: &str) -> Result<()> {
    TRIED.refused(ns, spec, because).await
}

const TRIED: Tried = Tried("StorageCluster");

fn template(size: &str) -> Value {
    json!({"volumeClaimTemplate": {"size": size}})
}

#[tokio::test]
async fn a_minimal_storage_cluster_is_accepted() -> Result<()> {
    in_namespace("api", async |ns| {
        accepted(&ns, json!({"storage": template("1Gi")})).await?;
        accepted(&ns, json!({"storage": {"hostPath": {"path": "/data/penstock"}}})).await?;
        let shared = json!({"storage": template("10Ti"), "storageClass": {"bucket": "shared"}, "tls": {"enabled": false}});
        accepted(&ns, shared).await
    })
    .await
}

#[tokio::test]
async fn a_name_that_no_service_can_have_is_refused() -> Result<()> {
    in_namespace("api", async |ns| {
        let long = "a".repeat(53);
        for name in ["with.dot", "9first", long.as_str()] {
            let object = json!({
                "apiVersion": object::PENSTOCK, "kind": "StorageCluster", "metadata": {"name": name},
                "spec": {"storage": template("1Gi")},
            });
            let Err(error) = ns.apply(&object).await else {
                penstock_e2e::bail!("the name {name} was accepted");
            };
            ensure!(format!("{error:#}").contains("metadata.name"), "{error:#}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_gateway_has_a_port_of_its_own() -> Result<()> {
    in_namespace("api", async |ns| {
        let with = |gateway: Value| json!({"storage": template("1Gi"), "gateway": gateway});
        for good in [
            json!({"enabled": true}),
            json!({"enabled": true, "port": 9150, "fastPath": "Require"}),
            json!({"enabled": false}),
        ] {
            accepted(&ns, with(good)).await?;
        }
        for (bad, because) in [
            (json!({"enabled": true, "port": 9091}), "the agents' own"),
            (json!({"enabled": true, "port": 80}), "spec.gateway.port"),
            (json!({"port": 9150}), "set enabled to true"),
            (
                json!({"enabled": true, "fastPath": "Off"}),
                "spec.gateway.fastPath",
            ),
        ] {
            refused(&ns, with(bad), because).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_rdma_cannot_be_is_refused() -> Result<()> {
    in_namespace("api", async |ns| {
        let with = |rdma: Value| json!({"storage": template("1Gi"), "rdma": rdma});
        accepted(&ns, with(json!({"policy": "Disabled"}))).await?;
        let nic = json!({"policy": "Require", "extendedResource": "rdma/hca", "networks": "rdma-net", "hugepages": "64Mi"});
        accepted(&ns, with(nic)).await?;
        let claimed = json!({"resourceClaimTemplateName": "nic", "hostNetwork": true, "lockedMemory": "Capability"});
        accepted(&ns, with(claimed)).await?;
        for (rdma, because) in [
            (json!({"policy": "Maybe"}), "rdma.policy"),
            (json!({"policy": "Require"}), "has no RDMA device"),
            (json!({"resourceClaimTemplateName": "a", "extendedResource": "b/c"}), "at most one"),
            (json!({"extendedResource": "hca"}), "rdma.extendedResource"),
            (json!({"hostNetwork": true, "networks": "n"}), "at most one of hostNetwork and networks"),
            (json!({"hugepages": "0"}), "positive quantity"),
            (json!({"device": "mlx5 0"}), "rdma.device"),
        ] {
            refused(&ns, with(rdma), because).await?;
        }
        refused(&ns, json!({"storage": template("1Gi"), "storageClass": {"rdma": "prefer"}}), "storageClass.rdma").await
    })
    .await
}

#[tokio::test]
async fn bad_storage_clusters_are_refused_with_the_cause() -> Result<()> {
    in_namespace("api", async |ns| {
        refused(&ns, json!({}), "storage").await?;
        refused(&ns, json!({"storage": {}}), "volumeClaimTemplate").await?;
        let both = json!({"volumeClaimTemplate": {"size": "1Gi"}, "hostPath": {"path": "/data"}});
        refused(&ns, json!({"storage": both}), "hostPath").await?;
        refused(&ns, json!({"storage": template("lots")}), "size").await?;
        refused(&ns, json!({"storage": {"hostPath": {"path": "data"}}}), "path").await?;
        refused(&ns, json!({"storage": template("1Gi"), "nodes": 3}), "one node").await?;
        refused(&ns, json!({"storage": template("1Gi"), "nodes": 0}), "nodes").await?;
        refused(
            &ns,
            json!({"storage": template("1Gi"), "engine": "Magic"}),
            "engine",
        )
        .await?;
        refused(
            &ns,
            json!({"storage": template("1Gi"), "deletionPolicy": "Maybe"}),
            "deletionPolicy",
        )
        .await?;
        let bucket = json!({"storage": template("1Gi"), "storageClass": {"bucket": "Not_A_Bucket"}});
        refused(&ns, bucket, "bucket").await?;
        refused(
            &ns,
            json!({"storage": template("1Gi"), "unknownField": 1}),
            "unknownField",
        )
        .await
    })
    .await
}

#[tokio::test]
async fn storage_cannot_be_changed_under_a_running_cluster() -> Result<()> {
    in_namespace("api", async |ns| {
        let cluster = storage::cluster(&ns, "kept").await?;
        cluster.applied().await?;
        let mut moved = cluster.manifest().clone();
        moved["spec"]["storage"] = json!({"hostPath": {"path": "/elsewhere"}});
        let Err(error) = ns.apply(&moved).await else {
            penstock_e2e::bail!("moving the storage was accepted")
        };
        // Applying merges, so the answer may speak of both forms being set or of the change; both name the field.
        ensure!(format!("{error:#}").contains("storage"), "{error:#}");

        let mut smaller = cluster.manifest().clone();
        smaller["spec"]["storage"]["volumeClaimTemplate"]["size"] = json!("1Mi");
        let Err(error) = ns.apply(&smaller).await else {
            penstock_e2e::bail!("shrinking was accepted")
        };
        ensure!(format!("{error:#}").contains("size"), "{error:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_explains_every_field_and_apply_fits() -> Result<()> {
    let explained = command::kubectl(&["explain", "storageclusters.spec", "--recursive"]).await?;
    for field in ["storage", "tls", "storageClass", "deletionPolicy", "nodes"] {
        ensure!(
            explained.contains(field),
            "kubectl explain does not know {field}:\n{explained}"
        );
    }
    let crd = command::kubectl(&["get", "crd", "storageclusters.penstock.io", "-o", "json"]).await?;
    let compact = serde_json::to_string(&serde_json::from_str::<Value>(&crd)?)?;
    ensure!(
        compact.len() < 120_000,
        "the CRD has {} bytes as JSON",
        compact.len()
    );
    Ok(())
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    in_namespace("api", async |ns| {
        let good = json!({"storage": template("1Gi")});
        ensure!(
            refused(&ns, good, "storage").await.is_err(),
            "a good object counted as refused"
        );
        ensure!(
            accepted(&ns, json!({})).await.is_err(),
            "a bad object counted as accepted"
        );
        let wrong_cause = refused(&ns, json!({}), "something else entirely").await;
        ensure!(wrong_cause.is_err(), "a refusal for another cause counted");
        Ok(())
    })
    .await
}
