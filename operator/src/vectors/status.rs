//! What was found of a VectorIndex, and what is told of it.

use crate::status::{Step, conditions, summary};
use k8s_openapi::jiff::Timestamp;
use penstock_crds::{
    VectorIndexStatus,
    conditions::{
        IMPORTED, INDEXED, LOADED, MILVUS_READY, READY, REASON_NOT_REACHED, REASON_READY, STORAGE_READY,
        VERIFIED,
    },
    vector_index::{SourceStatus, StorageStatus, Verified, WorkerStatus},
};

/// What a reconciliation found.
pub struct Findings {
    pub generation: Option<i64>,
    pub storage: Step,
    pub milvus: Step,
    pub imported: Step,
    pub indexed: Step,
    pub loaded: Step,
    pub verified: Step,
    pub endpoint: String,
    pub alias: String,
    /// The collection that the alias leads to.
    pub serving: Option<String>,
    /// The collection that is wanted.
    pub wanted: Option<String>,
    pub rows: Option<u64>,
    pub source: Option<SourceStatus>,
    pub recall: Option<Verified>,
    pub workers: Option<WorkerStatus>,
    pub access: Option<StorageStatus>,
}

impl Findings {
    /// What is found before anything was looked at. What Milvus alone can say stays as it was told last.
    pub fn blank(generation: Option<i64>, endpoint: String, alias: String, old: &VectorIndexStatus) -> Self {
        let waiting = || Step::waiting(REASON_NOT_REACHED, "a step before this one is not done");
        Self {
            generation,
            storage: waiting(),
            milvus: waiting(),
            imported: waiting(),
            indexed: waiting(),
            loaded: waiting(),
            verified: waiting(),
            endpoint,
            alias,
            serving: old.serving.clone(),
            wanted: old.building.clone().or_else(|| old.serving.clone()),
            rows: old.rows.and_then(|rows| u64::try_from(rows).ok()),
            source: old.source.clone(),
            recall: old.verified.clone(),
            workers: old.workers.clone(),
            access: old.storage.clone(),
        }
    }

    fn steps(&self) -> [(&'static str, &'static str, &Step); 6] {
        [
            (STORAGE_READY, "Storage", &self.storage),
            (MILVUS_READY, "Milvus", &self.milvus),
            (IMPORTED, "Import", &self.imported),
            (INDEXED, "Index", &self.indexed),
            (LOADED, "Load", &self.loaded),
            (VERIFIED, "Verify", &self.verified),
        ]
    }

    /// Whether nothing is left to be done or waited for.
    pub fn settled(&self) -> bool {
        self.steps().iter().all(|(_, _, step)| step.is_done())
    }

    /// Whether searches are answered, though perhaps by the collection before.
    fn serves(&self) -> bool {
        self.serving.is_some() && self.storage.is_done() && self.milvus.is_done()
    }

    /// The status to be shown after `old`.
    pub fn status(&self, old: &VectorIndexStatus, now: Timestamp) -> VectorIndexStatus {
        let steps = self.steps();
        let all: Vec<_> = steps.iter().map(|(_, _, step)| *step).collect();
        let mut told = summary(&all, "the index answers searches");
        let current = steps.iter().find(|(_, _, step)| !step.is_done());
        if let Some((_, _, step)) = current
            && self.serves()
        {
            // What is wanted now fails or is being built; what was wanted before serves all the same.
            let serving = self.serving.as_deref().unwrap_or_default();
            told[0] = (
                READY,
                "True",
                REASON_READY,
                format!("{serving} answers searches; {}", step.message()),
            );
        }
        told.extend(steps.iter().map(|(kind, _, step)| step.told(kind)));
        let integer = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        VectorIndexStatus {
            observed_generation: self.generation,
            conditions: conditions(told, self.generation, &old.conditions, now),
            phase: Some(match current {
                None => "Serving".into(),
                Some((_, phase, step)) if step.has_failed() => format!("{phase}Failed"),
                Some((_, phase, _)) => (*phase).to_owned(),
            }),
            endpoint: Some(self.endpoint.clone()),
            collection: Some(self.alias.clone()),
            serving: self.serving.clone(),
            building: self
                .wanted
                .clone()
                .filter(|wanted| self.serving.as_ref() != Some(wanted)),
            rows: self.rows.map(integer),
            source: self.source.clone(),
            verified: self.recall.clone(),
            workers: self.workers.clone(),
            storage: self.access.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::told;
    use penstock_crds::conditions::{DEGRADED, PROGRESSING, REASON_IMPORT_FAILED, REASON_INDEXING};

    fn findings() -> Findings {
        Findings::blank(
            Some(3),
            "http://e".into(),
            "a".into(),
            &VectorIndexStatus::default(),
        )
    }

    fn words(status: &VectorIndexStatus, kind: &str) -> (String, String) {
        told(&status.conditions, kind)
            .map(|(status, reason, _)| (status.into(), reason.into()))
            .unwrap()
    }

    #[test]
    fn the_step_that_is_under_way_is_the_phase() {
        let (old, now) = (VectorIndexStatus::default(), Timestamp::UNIX_EPOCH);
        let mut found = findings();
        let status = found.status(&old, now);
        assert_eq!(status.phase.as_deref(), Some("Storage"));
        assert_eq!(words(&status, READY), ("False".into(), REASON_NOT_REACHED.into()));
        found.storage = Step::done("");
        found.milvus = Step::done("");
        found.imported = Step::failed(REASON_IMPORT_FAILED, "v/a.parquet: wrong dimension");
        let status = found.status(&old, now);
        assert_eq!(status.phase.as_deref(), Some("ImportFailed"));
        assert_eq!(
            words(&status, READY),
            ("False".into(), REASON_IMPORT_FAILED.into())
        );
        assert_eq!(
            words(&status, DEGRADED),
            ("True".into(), REASON_IMPORT_FAILED.into())
        );
    }

    #[test]
    fn what_served_before_makes_it_ready_while_another_is_built() {
        let (old, now) = (VectorIndexStatus::default(), Timestamp::UNIX_EPOCH);
        let mut found = findings();
        found.storage = Step::done("");
        found.milvus = Step::done("");
        found.imported = Step::done("");
        found.indexed = Step::waiting(REASON_INDEXING, "10 of 100 rows");
        found.serving = Some("a_1".into());
        found.wanted = Some("a_2".into());
        let status = found.status(&old, now);
        assert_eq!(words(&status, READY), ("True".into(), REASON_READY.into()));
        assert_eq!(
            words(&status, PROGRESSING),
            ("True".into(), REASON_INDEXING.into())
        );
        assert_eq!(
            (status.serving.as_deref(), status.building.as_deref()),
            (Some("a_1"), Some("a_2"))
        );
        // Not while nobody answers.
        found.milvus = Step::waiting(REASON_INDEXING, "0 of 1 pods");
        assert_eq!(words(&found.status(&old, now), READY).0, "False");
    }

    #[test]
    fn nothing_is_being_built_when_the_wanted_one_serves() {
        let mut found = findings();
        found.serving = Some("a_1".into());
        found.wanted = found.serving.clone();
        assert_eq!(
            found
                .status(&VectorIndexStatus::default(), Timestamp::UNIX_EPOCH)
                .building,
            None
        );
    }
}
