//! Whether the index finds what is there: some stored vectors are searched for, as clients do and exhaustively.

use super::plan::Plan;
use penstock_milvus::{Hit, Milvus};
use std::collections::HashSet;

/// Neighbours that are compared.
const NEIGHBOURS: usize = 10;
/// Searches in one request.
const TOGETHER: usize = 50;

/// What was found of what is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recall {
    /// The share, 0 to 1.
    pub share: f64,
    /// Vectors that were searched for.
    pub sample: usize,
}

/// Searches for up to `sample` stored vectors.
pub async fn recall(milvus: &Milvus, plan: &Plan, sample: usize) -> penstock_milvus::Result<Recall> {
    let collection = &plan.collection.name;
    let rows = milvus
        .rows(collection, &plan.key, &plan.vector, "", sample)
        .await?;
    let (mut found, mut there) = (0, 0);
    let queries: Vec<Vec<f32>> = rows.vectors.iter().map(|vector| beside(vector)).collect();
    for vectors in queries.chunks(TOGETHER) {
        let search = async |parameters: &str| {
            milvus
                .search(
                    collection,
                    &plan.vector,
                    plan.metric,
                    vectors,
                    NEIGHBOURS,
                    parameters,
                )
                .await
        };
        let usual = search(&plan.search.usual).await?;
        let exhaustive = search(&plan.search.exhaustive).await?;
        for (usual, exhaustive) in usual.iter().zip(&exhaustive) {
            let (one_found, one_there) = compare(usual, exhaustive);
            found += one_found;
            there += one_there;
        }
    }
    // Of nothing, everything is found.
    #[allow(clippy::cast_precision_loss)]
    let share = if there == 0 {
        1.0
    } else {
        found as f64 / there as f64
    };
    Ok(Recall {
        share,
        sample: rows.vectors.len(),
    })
}

/// A vector next to a stored one, another one each time: Milvus remembers where it found one that it was asked for before, and a second search for it would
/// find more than the first.
fn beside(vector: &[f32]) -> Vec<f32> {
    let nudge = |number: &f32| number * (1.0 + 1e-5 * (rand::random::<f32>() - 0.5));
    vector.iter().map(nudge).collect()
}

/// How many of the `exhaustive` search's hits the `usual` one has, and of how many. One that is as near as the last is as good.
fn compare(usual: &[Hit], exhaustive: &[Hit]) -> (usize, usize) {
    let near: HashSet<_> = exhaustive.iter().map(|hit| &hit.id).collect();
    let last = exhaustive.last().map(|hit| hit.score.to_bits());
    let is_found = |hit: &&Hit| near.contains(&hit.id) || last == Some(hit.score.to_bits());
    let found = usual.iter().take(exhaustive.len()).filter(is_found).count();
    (found, exhaustive.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_milvus::Id;

    fn hits(list: &[(i64, f32)]) -> Vec<Hit> {
        list.iter()
            .map(|(id, score)| Hit {
                id: Id::Int(*id),
                score: *score,
            })
            .collect()
    }

    #[test]
    fn what_is_missed_lowers_the_recall_and_ties_do_not() {
        let exhaustive = hits(&[(1, 0.0), (2, 0.5), (3, 1.0)]);
        assert_eq!(
            compare(&hits(&[(1, 0.0), (2, 0.5), (3, 1.0)]), &exhaustive),
            (3, 3)
        );
        assert_eq!(
            compare(&hits(&[(1, 0.0), (3, 1.0), (9, 2.0)]), &exhaustive),
            (2, 3)
        );
        assert_eq!(
            compare(&hits(&[(1, 0.0), (2, 0.5), (7, 1.0)]), &exhaustive),
            (3, 3)
        );
        assert_eq!(compare(&[], &exhaustive), (0, 3));
    }
}
