//! Where the time of builds goes: into the index itself, or into reading vectors and writing files. Milvus counts it in each pod since that started.

use super::{
    names::{MILVUS_ADMIN_PORT, Names, Part},
    parts,
};
use crate::{context::Context, error::Error, pods};
use penstock_crds::vector_index::Builds;

/// Milvus' metrics are some hundred kilobytes.
const MAX_METRICS: usize = 8 << 20;
/// A build from its beginning to its end, in milliseconds; and the part of it that makes the index.
const ALL: &str = "milvus_indexnode_build_index_latency";
const COMPUTING: &str = "milvus_indexnode_knowhere_build_index_latency";

/// What the pods count together. One that does not answer is left out.
pub async fn builds(context: &Context, names: &Names) -> Result<Builds, Error> {
    let mut builds = Builds::default();
    for part in [Part::Milvus, Part::Workers] {
        for pod in parts::living(context, names, part).await? {
            let Ok(text) = pods::ask(&pod, MILVUS_ADMIN_PORT, "/metrics", MAX_METRICS).await else {
                continue;
            };
            let text = String::from_utf8_lossy(&text);
            builds.segments += sum(&text, ALL, "count");
            builds.milliseconds += sum(&text, ALL, "sum");
            builds.computing_milliseconds += sum(&text, COMPUTING, "sum");
        }
    }
    Ok(builds)
}

/// The sum of a histogram's `sum` or `count` over all labels.
fn sum(text: &str, metric: &str, of: &str) -> i64 {
    let begin = format!("{metric}_{of}");
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(&begin)?;
        let value = if rest.starts_with('{') {
            rest.rsplit_once('}')?.1
        } else {
            rest
        };
        value.trim().parse::<f64>().ok()
    });
    #[allow(clippy::cast_possible_truncation)]
    let total = values.sum::<f64>().round() as i64;
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_summed_over_their_labels() {
        let text = "# TYPE milvus_indexnode_build_index_latency histogram\n\
                    milvus_indexnode_build_index_latency_bucket{node_id=\"1\",le=\"+Inf\"} 3\n\
                    milvus_indexnode_build_index_latency_sum{node_id=\"1\"} 1500.4\n\
                    milvus_indexnode_build_index_latency_sum{node_id=\"2\"} 500\n\
                    milvus_indexnode_build_index_latency_count{node_id=\"1\"} 3\n\
                    milvus_indexnode_knowhere_build_index_latency_sum{node_id=\"1\"} 1.2e+03\n";
        assert_eq!(sum(text, ALL, "sum"), 2000);
        assert_eq!(sum(text, ALL, "count"), 3);
        assert_eq!(sum(text, COMPUTING, "sum"), 1200);
        assert_eq!(sum(text, COMPUTING, "count"), 0);
    }
}
