//! What was found of a VectorIndex, and what is told of it.

use crate::status::{Step, conditions, summary};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use penstock_crds::{
    VectorIndexStatus,
    conditions::{
        IMPORTED, INDEXED, LOADED, MILVUS_READY, READY, REASON_NOT_REACHED, REASON_READY, REASON_STALLED,
        STORAGE_READY, VERIFIED,
    },
    vector_index::{Builds, Progress, SourceStatus, StorageStatus, Verified, WorkerStatus},
};

use std::time::Duration;

/// The phase of an index that is all that is wanted.
pub const SERVING: &str = "Serving";

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
    pub progress: Option<Progress>,
    pub builds: Option<Builds>,
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
            progress: None,
            builds: old.builds.clone(),
        }
    }

    /// Tells of a step that Milvus has under way and that has not moved for `patience`: it tells nobody itself when it hangs.
    pub fn judge_progress(&mut self, old: &VectorIndexStatus, now: Timestamp, patience: Duration) {
        let under_way = [&mut self.imported, &mut self.indexed, &mut self.loaded];
        let reached = self.storage.is_done() && self.milvus.is_done();
        let Some(step) = under_way
            .into_iter()
            .find(|step| !step.is_done())
            .filter(|step| reached && !step.has_failed())
        else {
            return;
        };
        let before = old
            .progress
            .as_ref()
            .filter(|progress| progress.what == step.message());
        let since = before.map_or(now, |progress| progress.since.0);
        self.progress = Some(Progress {
            what: step.message().to_owned(),
            since: Time(since),
        });
        let seconds = now.as_second() - since.as_second();
        if u64::try_from(seconds).is_ok_and(|seconds| seconds >= patience.as_secs()) {
            let message = format!(
                "{} for {} minutes: look at the logs of Milvus and its workers",
                step.message(),
                seconds / 60
            );
            *step = Step::failed(REASON_STALLED, message);
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
                None => SERVING.into(),
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
            progress: self.progress.clone(),
            builds: self.builds.clone(),
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
    fn what_does_not_move_is_told_after_a_while_and_what_moves_is_not() {
        let patience = Duration::from_secs(600);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let look = |old: &VectorIndexStatus, rows: u32, now| {
            let mut found = findings();
            found.storage = Step::done("");
            found.milvus = Step::done("");
            found.imported = Step::done("");
            found.indexed = Step::waiting(REASON_INDEXING, format!("{rows} of 100 rows"));
            found.judge_progress(old, now, patience);
            found.status(old, now)
        };
        let mut status = look(&VectorIndexStatus::default(), 10, at(0));
        status = look(&status, 10, at(590));
        assert_eq!(words(&status, DEGRADED).0, "False");
        status = look(&status, 20, at(595));
        status = look(&status, 20, at(1100));
        assert_eq!(words(&status, DEGRADED).0, "False");
        status = look(&status, 20, at(1200));
        assert_eq!(words(&status, DEGRADED), ("True".into(), REASON_STALLED.into()));
        let message = told(&status.conditions, DEGRADED).unwrap().2;
        assert!(message.starts_with("20 of 100 rows for 10 minutes"), "{message}");
        // It stays told, and goes when it moves.
        status = look(&status, 20, at(1300));
        assert_eq!(words(&status, DEGRADED).1, REASON_STALLED);
        status = look(&status, 30, at(1310));
        assert_eq!(words(&status, DEGRADED).0, "False");
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
