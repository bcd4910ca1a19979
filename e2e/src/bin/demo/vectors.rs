//! The half with vectors: files in a bucket become an index that answers searches.

use crate::Clock;
use penstock_e2e::{
    Namespace, Result, Wait, command, eventually, storage,
    vectors::{self, Searches, Vectors},
};
use serde_json::json;

const ROWS: u32 = 50_000;
const FILE: &str = "embeddings/part-0.parquet";

pub async fn demo(clock: &mut Clock, ns: &Namespace, cluster: &storage::Ready) -> Result<()> {
    let bucket = Vectors::of(ns, cluster).await?;
    bucket.put(FILE, 0, ROWS).await?;
    clock.done(&format!(
        "PyArrow wrote s3://{}/{FILE}: {ROWS} vectors of {} numbers",
        vectors::BUCKET,
        vectors::DIMENSION
    ));

    let index = json!({"type": "HNSW", "params": {"maxDegree": 16, "efConstruction": 100}});
    let manifest = vectors::manifest(ns, "products", &cluster.name, "embeddings/", &index).await?;
    ns.apply(&manifest).await?;
    let mut last = String::new();
    let object = eventually("VectorIndex products serves", async || {
        let object = serde_json::to_value(ns.penstock("VectorIndex").get("products").await?)?;
        let ready = storage::message(&object, "Ready").to_owned();
        let phase = object["status"]["phase"].as_str().unwrap_or("new").to_owned();
        let now = format!("{phase}: {ready}");
        if now != last {
            println!("           {now}");
            last.clone_from(&now);
        }
        let is_done = phase == "Serving" && storage::condition(&object, "Ready") == "True";
        Ok(if is_done {
            Wait::Done(object)
        } else {
            Wait::NotYet(now)
        })
    })
    .await?;
    clock.done(&format!(
        "VectorIndex products serves {} rows at {}, recall {}",
        object["status"]["rows"],
        object["status"]["endpoint"].as_str().unwrap_or_default(),
        object["status"]["verified"]["recall"]
            .as_str()
            .unwrap_or_default()
    ));

    let recall = Searches::of(ns, "products").await?.recall(&[(0, ROWS)]).await?;
    clock.done(&format!(
        "pymilvus searched 100 times: {:.1} % of the true nearest neighbours",
        recall * 100.0
    ));
    println!("\n$ kubectl get vectorindexes -A");
    print!("{}", command::kubectl(&["get", "vectorindexes", "-A"]).await?);
    Ok(())
}
