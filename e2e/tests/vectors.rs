//! VectorIndexes with a real Milvus: from vectors in a bucket to answered searches.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use penstock_e2e::{
    Namespace, Result, ensure, gateway, in_namespace, storage,
    vectors::{self, Searches, Vectors},
};
use serde_json::{Value, json};

/// A StorageCluster called `demo` and its bucket.
async fn bucket(ns: &Namespace) -> Result<Vectors> {
    let cluster = storage::cluster(ns, "demo").await?.created().await?;
    Vectors::of(ns, &cluster).await
}

fn rows(count: u64) -> impl Fn(&Value) -> bool {
    move |object| object["status"]["rows"] == count
}

#[tokio::test]
async fn vectors_in_a_bucket_become_an_index_that_answers_searches() -> Result<()> {
    in_namespace("vectors", async |ns| {
        let bucket = bucket(&ns).await?;
        bucket.put("embeddings/a.parquet", 0, 100_000).await?;
        let index = json!({"type": "HNSW", "params": {"maxDegree": 16, "efConstruction": 100}});
        let mut manifest = vectors::manifest(&ns, "products", "demo", "embeddings/", &index).await?;
        ns.apply(&manifest).await?;
        let object = vectors::serving(&ns, "products", "serves 100,000 rows", rows(100_000)).await?;
        let status = &object["status"];
        ensure!(
            status["source"]["files"] == 1 && status["source"]["imported"] == 1,
            "{status}"
        );
        ensure!(status["collection"] == "products", "{status}");
        let told: f64 = status["verified"]["recall"]
            .as_str()
            .unwrap_or_default()
            .parse()?;
        ensure!(told >= 0.95, "{status}");
        let builds = |field: &str| status["builds"][field].as_i64().unwrap_or_default();
        ensure!(builds("segments") > 0, "{status}");
        let computing = builds("computingMilliseconds");
        ensure!(computing > 0 && computing <= builds("milliseconds"), "{status}");
        let searches = Searches::of(&ns, "products").await?;
        let recall = searches.recall(&[(0, 100_000)]).await?;
        ensure!(recall >= 0.95, "recall {recall}");

        // A file that comes later.
        bucket.put("embeddings/b.parquet", 100_000, 20_000).await?;
        let before = status["serving"].clone();
        let object = vectors::serving(&ns, "products", "serves the second file", rows(120_000)).await?;
        ensure!(object["status"]["serving"] == before, "{}", object["status"]);
        let recall = searches.recall(&[(0, 100_000), (100_000, 20_000)]).await?;
        ensure!(recall >= 0.95, "recall with the second file: {recall}");

        // Another index, while it is searched.
        let hammer = searches.hammer().await?;
        manifest["spec"]["index"] = json!({"type": "IVF_FLAT", "params": {"nlist": 128}});
        ns.apply(&manifest).await?;
        let object = vectors::serving(&ns, "products", "serves by IVF_FLAT", |object| {
            object["status"]["serving"] != before && object["status"]["rows"] == 120_000
        })
        .await?;
        let told = hammer.stop().await?;
        ensure!(
            told["failed"] == 0 && told["answered"].as_i64() > Some(10),
            "{told}"
        );
        ensure!(object["status"]["building"].is_null(), "{}", object["status"]);

        // And its end, with all that it kept in the bucket, and nothing else.
        ensure!(
            bucket.count(".milvus/").await? > 0,
            "Milvus keeps nothing in the bucket"
        );
        ns.penstock("VectorIndex")
            .delete("products", &Default::default())
            .await?;
        penstock_e2e::eventually("the index is gone", async || {
            let left = ns.names("penstock.io/v1alpha1", "VectorIndex").await?;
            Ok(match left.is_empty() {
                true => penstock_e2e::Wait::Done(()),
                false => penstock_e2e::Wait::NotYet(left.join(", ")),
            })
        })
        .await?;
        ensure!(
            bucket.count(".milvus/").await? == 0,
            "Milvus' files are still there"
        );
        ensure!(bucket.count("embeddings/").await? == 2, "the vectors are gone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_wrong_is_told_and_can_be_mended() -> Result<()> {
    in_namespace("vectors", async |ns| {
        let told = async |condition: &'static str, what: &'static str| {
            ns.until("VectorIndex", "mended", what, move |object| {
                storage::condition(object, condition) == "False"
                    && storage::message(object, condition).contains(what)
            })
            .await
        };
        let index = json!({"type": "IVF_FLAT", "params": {"nlist": 16}});
        let mut manifest = vectors::manifest(&ns, "mended", "demo", "small/", &index).await?;
        ns.apply(&manifest).await?;
        told("StorageReady", "there is no StorageCluster demo").await?;
        let bucket = bucket(&ns).await?;
        told("StorageReady", "there is no bucket vectors").await?;
        bucket.put("elsewhere/a.parquet", 0, 5_000).await?;
        told(
            "Imported",
            "there is no .parquet, .json or .npy file below small/",
        )
        .await?;
        bucket.put_rubbish("small/a.parquet").await?;
        told("Imported", "small/a.parquet cannot be imported").await?;
        bucket.put("small/a.parquet", 0, 5_000).await?;
        // Searches in one list of sixteen miss much.
        manifest["spec"]["verify"] = json!({"searchParams": {"nprobe": 1}});
        ns.apply(&manifest).await?;
        told("Verified", "searches with {\"nprobe\":1} find").await?;
        manifest["spec"]["verify"] = json!({"searchParams": {"nprobe": 16}});
        ns.apply(&manifest).await?;
        vectors::serving(&ns, "mended", "serves the mended file", rows(5_000)).await?;
        let recall = Searches::of(&ns, "mended").await?.recall(&[(0, 5_000)]).await?;
        ensure!(recall >= 0.95, "recall {recall}");

        // A file that is replaced: what it held before must not be found any more.
        let before = ns.penstock("VectorIndex").get("mended").await?.data["status"]["serving"].clone();
        bucket.put("small/a.parquet", 50_000, 6_000).await?;
        vectors::serving(&ns, "mended", "serves the replaced file", rows(6_000)).await?;
        let after = ns.penstock("VectorIndex").get("mended").await?.data["status"]["serving"].clone();
        ensure!(before != after, "the same collection {after}");
        let recall = Searches::of(&ns, "mended")
            .await?
            .recall(&[(50_000, 6_000)])
            .await?;
        ensure!(recall >= 0.95, "recall after the replacement {recall}");
        Ok(())
    })
    .await
}

/// Whoever dies while an index is built, it becomes Ready by itself, with every row once.
#[tokio::test]
async fn work_goes_on_whoever_dies() -> Result<()> {
    in_namespace("vectors", async |ns| {
        let bucket = bucket(&ns).await?;
        for (number, first) in [0, 20_000, 40_000].into_iter().enumerate() {
            bucket
                .put(&format!("embeddings/{number}.parquet"), first, 20_000)
                .await?;
        }
        let index = json!({"type": "HNSW", "params": {"maxDegree": 16, "efConstruction": 200}});
        ns.apply(&vectors::manifest(&ns, "hardy", "demo", "embeddings/", &index).await?)
            .await?;
        let reaches = async |phase: &'static str| {
            // A fast machine is past it before anybody looks.
            let passed = ["Import", "Index", "Load", "Verify", "Serving"];
            let at = passed.iter().position(|known| *known == phase).unwrap_or(0);
            ns.until("VectorIndex", "hardy", phase, |object| {
                let now = object["status"]["phase"].as_str().unwrap_or_default();
                passed[at..].contains(&now)
            })
            .await
        };
        reaches("Import").await?;
        operator_dies(&ns).await?;
        reaches("Index").await?;
        kill(&ns, "component=workers").await?;
        kill(&ns, "component=milvus").await?;
        operator_dies(&ns).await?;
        reaches("Load").await?;
        ns.api::<Pod>()
            .delete("demo-0", &DeleteParams::default().grace_period(0))
            .await?;
        operator_dies(&ns).await?;
        vectors::serving(&ns, "hardy", "serves 60,000 rows", rows(60_000)).await?;
        let recall = Searches::of(&ns, "hardy")
            .await?
            .recall(&[(0, 20_000), (20_000, 20_000), (40_000, 20_000)])
            .await?;
        ensure!(recall >= 0.95, "recall {recall}");
        Ok(())
    })
    .await
}

/// Kills the pods of the index that have this label.
async fn kill(ns: &Namespace, label: &str) -> Result<()> {
    let chosen = ListParams::default().labels(&format!("app.kubernetes.io/{label}"));
    let at_once = DeleteParams::default().grace_period(0);
    ns.api::<Pod>().delete_collection(&at_once, &chosen).await?;
    Ok(())
}

/// Kills the operator's pods, the one that leads among them.
async fn operator_dies(ns: &Namespace) -> Result<()> {
    let pods = Api::<Pod>::namespaced(ns.client.clone(), penstock_e2e::chart::NAMESPACE);
    let chosen = ListParams::default().labels("app.kubernetes.io/component=operator");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &chosen)
        .await?;
    Ok(())
}

/// An unmodified Milvus has the fast path of its node: the agent counts what went by files and by the socket, and nothing went by HTTP.
#[tokio::test]
async fn milvus_has_the_path_of_its_node() -> Result<()> {
    in_namespace("vectors", async |ns| {
        let node = penstock_e2e::nodes(&ns.client).await?.remove(0);
        let selector = json!({"kubernetes.io/hostname": node});
        let cluster = storage::cluster(&ns, "demo")
            .await?
            .with(json!({
                "gateway": {"enabled": true}, "localPath": "/var/lib/penstock-sockets", "nodeSelector": selector,
            }))
            .created()
            .await?;
        let bucket = Vectors::of(&ns, &cluster).await?;
        bucket.put("small/a.parquet", 0, 20_000).await?;
        gateway::counts(&ns, "demo", &node, "upstream_reachable", "", |value| value == 1).await?;
        let mut manifest = vectors::manifest(&ns, "near", "demo", "small/", &json!({"type": "HNSW"})).await?;
        manifest["spec"]["storage"]["access"] = json!("Gateway");
        for part in [&["milvus"][..], &["milvus", "etcd"], &["workers"]] {
            let spec = part.iter().fold(&mut manifest["spec"], |spec, name| &mut spec[*name]);
            spec["pods"] = json!({"nodeSelector": selector});
        }
        ns.apply(&manifest).await?;
        let object = vectors::serving(&ns, "near", "serves", rows(20_000)).await?;
        ensure!(object["status"]["storage"]["access"] == "Gateway", "{}", object["status"]);
        // The vectors are read at least twice (import, build), and written once.
        let bytes = 20_000 * u64::from(vectors::DIMENSION) * 4;
        let count = async |direction: &str, via: &str, check: fn(u64, u64) -> bool| {
            let labels = format!(r#"direction="{direction}",via="{via}""#);
            gateway::counts(&ns, "demo", &node, "bytes_total", &labels, move |value| check(value, bytes)).await
        };
        count("read", "shm", |value, bytes| value >= bytes).await?;
        count("write", "socket", |value, bytes| value >= bytes).await?;
        count("read", "http", |value, _| value == 0).await?;
        count("write", "http", |value, _| value == 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    in_namespace("vectors", async |ns| {
        let bucket = bucket(&ns).await?;
        bucket.put("small/a.parquet", 0, 2_000).await?;
        let index = json!({"type": "FLAT"});
        let manifest = vectors::manifest(&ns, "checked", "demo", "small/", &index).await?;
        ns.apply(&manifest).await?;
        vectors::serving(&ns, "checked", "serves", rows(2_000)).await?;
        // Other vectors than the ones that are there.
        let recall = Searches::of(&ns, "checked")
            .await?
            .recall(&[(7_000, 2_000)])
            .await?;
        ensure!(recall < 0.5, "vectors that are not there are found: {recall}");
        Ok(())
    })
    .await
}
