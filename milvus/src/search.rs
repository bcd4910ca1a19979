//! Searches and samples.

use crate::{
    Milvus, Result,
    client::{answered, pairs},
    error::{Error, accepted},
    proto::{
        common::{ConsistencyLevel, DslType, PlaceholderGroup, PlaceholderType, PlaceholderValue},
        milvus::{QueryRequest, SearchRequest},
        schema::{IDs, SearchResultData, field_data, i_ds, scalar_field, vector_field},
    },
};
use prost::Message;

/// A primary key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// Of a collection with integers.
    Int(i64),
    /// Of a collection with text.
    Text(String),
}

/// A row that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Which row.
    pub id: Id,
    /// Its score, by the collection's metric.
    pub score: f32,
}

/// Some rows of a collection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Their primary keys.
    pub ids: Vec<Id>,
    /// Their vectors.
    pub vectors: Vec<Vec<f32>>,
}

impl Milvus {
    /// The `limit` rows nearest to each of `vectors`, as the index finds them with `params` (its search parameters, a JSON object).
    /// What was written before is seen.
    ///
    /// # Errors
    /// Refusals (not loaded, wrong parameters), and what every call may meet.
    pub async fn search(
        &self,
        collection: &str,
        field: &str,
        metric: &str,
        vectors: &[Vec<f32>],
        limit: usize,
        params: &str,
    ) -> Result<Vec<Vec<Hit>>> {
        const CALL: &str = "Search";
        let bytes = |vector: &Vec<f32>| vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        let placeholders = PlaceholderGroup {
            placeholders: vec![PlaceholderValue {
                tag: "$0".into(),
                r#type: PlaceholderType::PlaceholderFloatVector.into(),
                values: vectors.iter().map(bytes).collect(),
            }],
        };
        let limit = limit.to_string();
        let request = SearchRequest {
            collection_name: collection.into(),
            placeholder_group: placeholders.encode_to_vec(),
            dsl_type: DslType::BoolExprV1.into(),
            search_params: pairs(&[
                ("anns_field", field),
                ("topk", &limit),
                ("metric_type", metric),
                ("params", params),
                ("round_decimal", "-1"),
            ]),
            nq: i64::try_from(vectors.len()).unwrap_or(i64::MAX),
            consistency_level: ConsistencyLevel::Strong.into(),
            ..SearchRequest::default()
        };
        let answer = self.service().search(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        let results = answer.results.ok_or(Error::Incomplete {
            call: CALL,
            what: "results",
        })?;
        hits(results).ok_or(Error::Incomplete {
            call: CALL,
            what: "as many keys as scores",
        })
    }

    /// Up to `limit` rows that meet `filter` (an expression of Milvus; all do, if it is empty).
    ///
    /// # Errors
    /// Refusals (not loaded, a wrong expression), and what every call may meet.
    pub async fn rows(
        &self,
        collection: &str,
        key: &str,
        vector: &str,
        filter: &str,
        limit: usize,
    ) -> Result<Rows> {
        const CALL: &str = "Query";
        let request = QueryRequest {
            collection_name: collection.into(),
            expr: filter.into(),
            output_fields: vec![key.into(), vector.into()],
            query_params: pairs(&[("limit", &limit.to_string())]),
            consistency_level: ConsistencyLevel::Strong.into(),
            ..QueryRequest::default()
        };
        let answer = self.service().query(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        let field = |name: &str| {
            let found = answer.fields_data.iter().find(|data| data.field_name == name);
            found.and_then(|data| data.field.clone())
        };
        let what = "keys and vectors";
        let (Some(field_data::Field::Scalars(keys)), Some(field_data::Field::Vectors(vectors))) =
            (field(key), field(vector))
        else {
            return Err(Error::Incomplete { call: CALL, what });
        };
        let ids = match keys.data {
            Some(scalar_field::Data::LongData(keys)) => keys.data.into_iter().map(Id::Int).collect(),
            Some(scalar_field::Data::StringData(keys)) => keys.data.into_iter().map(Id::Text).collect(),
            None => Vec::new(),
        };
        let width = usize::try_from(vectors.dim).unwrap_or(0).max(1);
        let vectors: Vec<Vec<f32>> = match vectors.data {
            Some(vector_field::Data::FloatVector(numbers)) => {
                numbers.data.chunks(width).map(<[f32]>::to_vec).collect()
            }
            None => Vec::new(),
        };
        match ids.len() == vectors.len() {
            true => Ok(Rows { ids, vectors }),
            false => Err(Error::Incomplete { call: CALL, what }),
        }
    }
}

impl Milvus {
    /// How many rows searches see; those that were imported into a loaded collection come some seconds later.
    ///
    /// # Errors
    /// Refusals (not loaded), and what every call may meet.
    pub async fn count(&self, collection: &str) -> Result<u64> {
        const CALL: &str = "Query";
        let request = QueryRequest {
            collection_name: collection.into(),
            output_fields: vec!["count(*)".into()],
            consistency_level: ConsistencyLevel::Strong.into(),
            ..QueryRequest::default()
        };
        let answer = self.service().query(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        let counted = answer.fields_data.into_iter().find_map(|data| match data.field {
            Some(field_data::Field::Scalars(numbers)) => match numbers.data {
                Some(scalar_field::Data::LongData(numbers)) => numbers.data.first().copied(),
                _ => None,
            },
            _ => None,
        });
        let counted = counted.and_then(|rows| u64::try_from(rows).ok());
        counted.ok_or(Error::Incomplete {
            call: CALL,
            what: "a count",
        })
    }
}

/// What was found for each query; `None` if keys, scores and counts do not fit each other.
fn hits(results: SearchResultData) -> Option<Vec<Vec<Hit>>> {
    let ids: Vec<Id> = match results.ids {
        Some(IDs {
            id_field: Some(i_ds::IdField::IntId(keys)),
        }) => keys.data.into_iter().map(Id::Int).collect(),
        Some(IDs {
            id_field: Some(i_ds::IdField::StrId(keys)),
        }) => keys.data.into_iter().map(Id::Text).collect(),
        _ => Vec::new(),
    };
    let total: i64 = results.topks.iter().sum();
    if ids.len() != results.scores.len() || i64::try_from(ids.len()).ok()? != total {
        return None;
    }
    let mut rest = ids
        .into_iter()
        .zip(results.scores)
        .map(|(id, score)| Hit { id, score });
    let mut all = Vec::new();
    for count in results.topks {
        all.push(rest.by_ref().take(usize::try_from(count).ok()?).collect());
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::schema::LongArray;

    fn results(ids: &[i64], scores: &[f32], topks: &[i64]) -> SearchResultData {
        SearchResultData {
            ids: Some(IDs {
                id_field: Some(i_ds::IdField::IntId(LongArray { data: ids.to_vec() })),
            }),
            scores: scores.to_vec(),
            topks: topks.to_vec(),
            ..SearchResultData::default()
        }
    }

    #[test]
    fn hits_are_told_apart_by_query() {
        let found = hits(results(&[1, 2, 3], &[0.0, 0.5, 0.1], &[2, 1])).unwrap();
        let ids = |hits: &[Hit]| hits.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found[0]), [Id::Int(1), Id::Int(2)]);
        assert_eq!(ids(&found[1]), [Id::Int(3)]);
        assert_eq!(hits(results(&[], &[], &[0, 0])).unwrap(), [vec![], vec![]]);
    }

    #[test]
    fn an_answer_that_does_not_add_up_is_none() {
        assert!(hits(results(&[1, 2], &[0.0], &[2])).is_none());
        assert!(hits(results(&[1, 2], &[0.0, 0.1], &[1])).is_none());
    }
}
