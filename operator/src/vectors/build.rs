//! A collection, step by step: made, filled, indexed, loaded, verified, served. Every step asks Milvus how things stand, so that a reconciliation goes on
//! wherever one before it ended.

use super::{
    imports::{Import, Imports},
    measure,
    names::Names,
    plan::{INDEX, Plan},
    source::{Group, Source},
    status::Findings,
    verify,
};
use crate::{context::Context, error::Error, status::Step};
use k8s_openapi::jiff::Timestamp;
use penstock_crds::{
    VectorIndex,
    conditions::{
        REASON_IMPORT_FAILED, REASON_IMPORTING, REASON_INDEX_FAILED, REASON_INDEXING, REASON_LOADING,
        REASON_LOW_RECALL, REASON_MILVUS_REFUSED, REASON_MILVUS_UNHEALTHY, REASON_NO_SOURCE,
    },
    vector_index::{Refresh, SourceStatus, Verified},
};
use penstock_milvus::{Milvus, State};
use std::collections::BTreeMap;

/// Imports that are under way at a time: Milvus keeps each one's rows in memory.
const AT_ONCE: usize = 4;
/// Seconds that a collection stays after it ceased to serve: searches that are under way still end.
const HOLD: i64 = 60;

/// What Milvus says of imports that were under way when it was started again.
const RESTARTED: &str = "service restarted";

/// Why a step did not come to its end.
enum Stop {
    /// It is told.
    Told,
    /// Milvus.
    Milvus(penstock_milvus::Error),
    /// The API server.
    Kubernetes(Error),
}

impl From<penstock_milvus::Error> for Stop {
    fn from(error: penstock_milvus::Error) -> Self {
        Self::Milvus(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Kubernetes(error)
    }
}

/// What building needs.
pub struct Builder<'a> {
    pub context: &'a Context,
    pub names: &'a Names,
    pub index: &'a VectorIndex,
    pub milvus: &'a Milvus,
    pub source: &'a Source,
}

impl Builder<'_> {
    /// Goes as far as it can now, and writes into `findings` how far that is.
    pub async fn advance(&self, findings: &mut Findings) -> Result<(), Error> {
        let mut imports = Imports::read(self.context, self.names).await?;
        let outcome = self.steps(&mut imports, findings).await;
        let step = match outcome {
            Ok(()) | Err(Stop::Told) => return Ok(()),
            Err(Stop::Kubernetes(error)) => return Err(error),
            Err(Stop::Milvus(error)) if error.is_refusal() => {
                Step::failed(REASON_MILVUS_REFUSED, error.to_string())
            }
            Err(Stop::Milvus(error)) => Step::waiting(REASON_MILVUS_UNHEALTHY, error.to_string()),
        };
        // It is told of the step that it kept from its end.
        let steps = [
            &mut findings.imported,
            &mut findings.indexed,
            &mut findings.loaded,
            &mut findings.verified,
        ];
        if let Some(current) = steps.into_iter().find(|step| !step.is_done()) {
            *current = step;
        }
        Ok(())
    }

    async fn steps(&self, imports: &mut Imports, findings: &mut Findings) -> Result<(), Stop> {
        let plan = self.plan(imports).await?;
        let name = &plan.collection.name;
        findings.wanted = Some(name.clone());
        findings.serving = self.milvus.named(&plan.alias).await?;
        if findings.serving.is_none() {
            findings.rows = None;
        }

        let is_there = self.milvus.named(name).await?.is_some();
        if is_there && !imports.collections.contains_key(name) {
            // As after the index was deleted and made again.
            return self.forget(imports, name, findings).await;
        }
        if !is_there {
            // Whatever is remembered of one that was lost is of no use.
            imports.collections.insert(name.clone(), BTreeMap::new());
            imports.write(self.context, self.names).await?;
            self.milvus.create_collection(&plan.collection).await?;
        }
        if self.milvus.index(name, INDEX).await?.is_none() {
            let parameters = [
                ("index_type", plan.index_type),
                ("metric_type", plan.metric),
                ("params", plan.index.as_str()),
            ];
            self.milvus
                .create_index(name, &plan.vector, INDEX, &parameters)
                .await?;
        }
        let rows = self.import(&plan, imports, findings).await?;
        self.wait_for_index(&plan, rows, findings).await?;
        self.load(&plan, findings).await?;
        self.verify(&plan, rows, findings).await?;
        self.serve(&plan, rows, imports, findings).await?;
        self.drop_retired(&plan, imports).await
    }

    /// What is wanted now. Files that were replaced or removed cannot be taken out of a collection, so that is a new one.
    async fn plan(&self, imports: &mut Imports) -> Result<Plan, Stop> {
        let plan = Plan::of(self.names, self.index, imports.epoch);
        let Some(done) = imports.collections.get(&plan.collection.name) else {
            return Ok(plan);
        };
        let is_stale = |(name, import): (&String, &Import)| {
            let now = self.source.groups.iter().find(|group| group.name == *name);
            import.failure.is_none() && now.is_none_or(|now| now.etags != import.etags)
        };
        if self.index.spec.source.refresh == Refresh::Once
            || self.source.groups.is_empty()
            || !done.iter().any(is_stale)
        {
            return Ok(plan);
        }
        imports.epoch += 1;
        imports.write(self.context, self.names).await?;
        Ok(Plan::of(self.names, self.index, imports.epoch))
    }

    /// Has every file imported; returns how many rows that gives.
    async fn import(&self, plan: &Plan, imports: &mut Imports, findings: &mut Findings) -> Result<u64, Stop> {
        let name = &plan.collection.name;
        let spec = &self.index.spec.source;
        let mut records = imports.collections.get(name).cloned().unwrap_or_default();
        let before = records.clone();
        let groups: &[Group] = match spec.refresh {
            Refresh::Once
                if records.values().any(|import| import.rows.is_some())
                    && records.values().all(|import| import.rows.is_some()) =>
            {
                &[]
            }
            _ => &self.source.groups,
        };
        // A failed import has left nothing: another content is tried anew, one that is gone is of no interest, and what Milvus gave up because it was
        // started again was not the file's fault.
        records.retain(|name, import| {
            let is_as_tried = || {
                self.source
                    .groups
                    .iter()
                    .any(|group| group.name == *name && group.etags == import.etags)
            };
            import
                .failure
                .as_ref()
                .is_none_or(|reason| !reason.contains(RESTARTED) && is_as_tried())
        });
        let mut running = Vec::new();
        for (group, import) in &mut records {
            if import.rows.is_some() || import.failure.is_some() || import.tasks.is_empty() {
                continue;
            }
            match self.stand(&import.tasks).await? {
                None => return self.forget(imports, name, findings).await,
                Some(State::Done(rows)) => import.rows = Some(rows),
                Some(State::Failed(reason)) => import.failure = Some(reason),
                Some(State::Running(percent)) => running.push((group.clone(), percent)),
            }
        }
        for group in groups {
            let recorded = records.get(&group.name).cloned();
            let is_intended = recorded.as_ref().is_some_and(|import| import.tasks.is_empty());
            if recorded.is_some() && !is_intended || running.len() >= AT_ONCE {
                continue;
            }
            let mut import = recorded.unwrap_or_else(|| Import {
                etags: group.etags.clone(),
                tasks: Vec::new(),
                rows: None,
                failure: None,
            });
            // It is written down with what it is of before it is begun: one whose number this process did not live to write down is found by its files, and not
            // begun again.
            if is_intended {
                import.tasks = self.begun(name, group).await?;
            }
            if import.tasks.is_empty() {
                records.insert(group.name.clone(), import.clone());
                imports.collections.insert(name.clone(), records.clone());
                imports.write(self.context, self.names).await?;
                import.tasks = self.milvus.import(name, &group.files).await?;
            }
            records.insert(group.name.clone(), import);
            running.push((group.name.clone(), 0));
            imports.collections.insert(name.clone(), records.clone());
            imports.write(self.context, self.names).await?;
        }
        if records != before {
            imports.collections.insert(name.clone(), records.clone());
            imports.write(self.context, self.names).await?;
        }

        let integer = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let files =
            |groups: &mut dyn Iterator<Item = &Group>| groups.map(|group| group.files.len()).sum::<usize>();
        let is_done = |group: &&Group| {
            records
                .get(&group.name)
                .is_some_and(|import| import.rows.is_some())
        };
        let all = files(&mut self.source.groups.iter());
        let imported = files(&mut self.source.groups.iter().filter(is_done));
        findings.source = Some(SourceStatus {
            files: integer(all),
            imported: integer(imported),
            bytes: i64::try_from(self.source.bytes()).unwrap_or(i64::MAX),
        });
        if let Some((group, reason)) = records
            .iter()
            .find_map(|(group, import)| Some((group, import.failure.as_ref()?)))
        {
            let message = format!("{group} cannot be imported: {reason}. Replace the file, or remove it");
            findings.imported = Step::failed(REASON_IMPORT_FAILED, message);
            return Err(Stop::Told);
        }
        if all == 0 {
            let others = match self.source.others {
                0 => String::new(),
                others => format!(" ({others} objects are something else)"),
            };
            let message = format!(
                "there is no .parquet, .json or .npy file below {} in bucket {}{others}",
                spec.prefix, self.index.spec.storage.bucket
            );
            findings.imported = Step::failed(REASON_NO_SOURCE, message);
            return Err(Stop::Told);
        }
        if !running.is_empty() || groups.iter().any(|group| !is_done(&group)) {
            let shown = running
                .iter()
                .map(|(group, percent)| format!("{group} {percent} %"))
                .collect::<Vec<_>>()
                .join(", ");
            findings.imported = Step::waiting(
                REASON_IMPORTING,
                format!("{imported} of {all} files are imported; {shown}"),
            );
            return Err(Stop::Told);
        }
        let rows = imports.rows(name);
        findings.imported = Step::done(format!("{imported} of {all} files are imported, {rows} rows"));
        Ok(rows)
    }

    /// Imports of these files that Milvus has or had under way.
    async fn begun(&self, collection: &str, group: &Group) -> Result<Vec<i64>, Stop> {
        let all = self.milvus.imports(collection).await?;
        let is_it = |import: &penstock_milvus::Import| {
            import.files == group.files && !matches!(import.state, State::Failed(_))
        };
        Ok(all.into_iter().filter(is_it).map(|import| import.task).collect())
    }

    /// How the tasks of one group stand together; `None` if Milvus has forgotten one, as it does after a day.
    async fn stand(&self, tasks: &[i64]) -> Result<Option<State>, Stop> {
        let (mut rows, mut least) = (0, None);
        for task in tasks {
            match self.milvus.import_state(*task).await {
                Err(error) if error.is_refusal() => return Ok(None),
                Err(error) => return Err(error.into()),
                Ok(import) => match import.state {
                    State::Done(more) => rows += more,
                    State::Running(percent) => least = Some(least.unwrap_or(100).min(percent)),
                    failed @ State::Failed(_) => return Ok(Some(failed)),
                },
            }
        }
        Ok(Some(least.map_or(State::Done(rows), State::Running)))
    }

    /// What a collection holds is not known any more, and nothing may be imported into it: another one is made.
    async fn forget<T>(&self, imports: &mut Imports, name: &str, findings: &mut Findings) -> Result<T, Stop> {
        imports.epoch += 1;
        imports.write(self.context, self.names).await?;
        let message = format!("what {name} holds is not known any more; another collection is made");
        findings.imported = Step::waiting(REASON_IMPORTING, message);
        Err(Stop::Told)
    }

    async fn wait_for_index(&self, plan: &Plan, rows: u64, findings: &mut Findings) -> Result<(), Stop> {
        let progress = self
            .milvus
            .index(&plan.collection.name, INDEX)
            .await?
            .unwrap_or_default();
        if progress.holds(rows) {
            findings.indexed = Step::done(format!("{} over {rows} rows", plan.index_type));
            return Ok(());
        }
        findings.indexed = match progress.failure {
            Some(reason) => Step::failed(
                REASON_INDEX_FAILED,
                format!("Milvus cannot build {}: {reason}", plan.index_type),
            ),
            None => Step::waiting(
                REASON_INDEXING,
                format!("{} of {rows} rows are indexed", progress.indexed),
            ),
        };
        Err(Stop::Told)
    }

    async fn load(&self, plan: &Plan, findings: &mut Findings) -> Result<(), Stop> {
        let name = &plan.collection.name;
        match self.milvus.loaded(name).await? {
            Some(100) => {
                findings.loaded = Step::done("it is in memory");
                Ok(())
            }
            told => {
                if told.is_none() {
                    self.milvus.load(name).await?;
                }
                findings.loaded =
                    Step::waiting(REASON_LOADING, format!("{} % are loaded", told.unwrap_or(0)));
                Err(Stop::Told)
            }
        }
    }

    async fn verify(&self, plan: &Plan, rows: u64, findings: &mut Findings) -> Result<(), Stop> {
        let spec = &self.index.spec.verify;
        let name = &plan.collection.name;
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let is_known = |verified: &&Verified| {
            verified.collection == *name
                && verified.rows == rows
                && verified.search_params == plan.search.usual
        };
        let recall = match findings.recall.as_ref().filter(is_known) {
            Some(verified) => verified.recall.clone(),
            None => {
                // What is imported into a collection that serves is seen some seconds later.
                let seen = self.milvus.count(name).await?;
                if i64::try_from(seen).is_ok_and(|seen| seen < rows) {
                    findings.loaded =
                        Step::waiting(REASON_LOADING, format!("searches see {seen} of {rows} rows"));
                    return Err(Stop::Told);
                }
                let sample = usize::try_from(spec.sample).unwrap_or(usize::MAX);
                let recall = verify::recall(self.milvus, plan, sample).await?;
                findings.builds = Some(measure::builds(self.context, self.names).await?);
                let share = format!("{:.3}", recall.share);
                findings.recall = Some(Verified {
                    collection: name.clone(),
                    rows,
                    recall: share.clone(),
                    sample: i64::try_from(recall.sample).unwrap_or(i64::MAX),
                    search_params: plan.search.usual.clone(),
                });
                share
            }
        };
        let least = f64::from(spec.minimum_recall_percent) / 100.0;
        if recall.parse::<f64>().is_ok_and(|recall| recall >= least) {
            findings.verified = Step::done(format!("searches find {recall} of the nearest neighbours"));
            return Ok(());
        }
        let message = format!(
            "searches with {} find {recall} of the nearest neighbours, {least} are wanted: search wider (spec.verify.searchParams, and your clients), \
             build a finer index (spec.index.params), or ask for less (spec.verify.minimumRecallPercent)",
            plan.search.usual
        );
        findings.verified = Step::failed(REASON_LOW_RECALL, message);
        Err(Stop::Told)
    }

    /// Lets the alias lead to the collection.
    async fn serve(
        &self,
        plan: &Plan,
        rows: u64,
        imports: &mut Imports,
        findings: &mut Findings,
    ) -> Result<(), Stop> {
        let name = &plan.collection.name;
        if findings.serving.as_ref() != Some(name) {
            if let Some(before) = &findings.serving {
                imports
                    .retired
                    .insert(before.clone(), Timestamp::now().as_second());
            }
            imports.retired.remove(name);
            imports.write(self.context, self.names).await?;
            self.milvus.set_alias(&plan.alias, name).await?;
            findings.serving = Some(name.clone());
        }
        findings.rows = Some(rows);
        Ok(())
    }

    /// Drops collections that were made for the alias and are of no use any more.
    async fn drop_retired(&self, plan: &Plan, imports: &mut Imports) -> Result<(), Stop> {
        let now = Timestamp::now().as_second();
        let is_over = |name: &String| imports.retired.get(name).is_none_or(|since| now - since >= HOLD);
        let all = self.milvus.collections().await?;
        let gone: Vec<_> = all
            .into_iter()
            .filter(|name| {
                *name != plan.collection.name && Plan::is_of_alias(&plan.alias, name) && is_over(name)
            })
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        for name in &gone {
            self.milvus.release(name).await?;
            self.milvus.drop_collection(name).await?;
            imports.retired.remove(name);
            imports.collections.remove(name);
        }
        imports.write(self.context, self.names).await?;
        Ok(())
    }
}
