//! Bulk imports: Milvus reads files out of its own bucket.

use crate::{
    Milvus, Result,
    client::{answered, pair},
    error::{Error, accepted},
    proto::{
        common::ImportState,
        milvus::{GetImportStateRequest, GetImportStateResponse, ImportRequest, ListImportTasksRequest},
    },
};

/// An import, as Milvus tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its number.
    pub task: i64,
    /// The keys that are read, as they were given, if Milvus tells them.
    pub files: Vec<String>,
    /// How it stands.
    pub state: State,
}

/// How an import stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is under way, this far (0 to 100).
    Running(u8),
    /// All rows are there, this many. They are not indexed yet.
    Done(u64),
    /// It has failed, and left nothing.
    Failed(String),
}

impl Milvus {
    /// Begins to import files into a collection: one of rows (Parquet, JSON), or several of a column each (NumPy). `files` are
    /// keys in Milvus' bucket, from the bucket's root. Returns the tasks' numbers.
    ///
    /// # Errors
    /// Refusals (no such collection), and what every call may meet.
    pub async fn import(&self, collection: &str, files: &[String]) -> Result<Vec<i64>> {
        const CALL: &str = "Import";
        let request = ImportRequest {
            collection_name: collection.into(),
            row_based: files.iter().all(|file| file.ends_with(".json")),
            files: files.to_vec(),
            ..ImportRequest::default()
        };
        let answer = self.service().import(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        match answer.tasks.is_empty() {
            true => Err(Error::Incomplete {
                call: CALL,
                what: "a task",
            }),
            false => Ok(answer.tasks),
        }
    }

    /// How an import stands.
    ///
    /// # Errors
    /// Refusals (Milvus forgets old ones), and what every call may meet.
    pub async fn import_state(&self, task: i64) -> Result<Import> {
        const CALL: &str = "GetImportState";
        let request = self.request(GetImportStateRequest { task });
        let answer = self.service().get_import_state(request).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        Ok(read(&answer))
    }

    /// The imports into a collection that Milvus remembers.
    ///
    /// # Errors
    /// As [`Milvus::import_state`].
    pub async fn imports(&self, collection: &str) -> Result<Vec<Import>> {
        const CALL: &str = "ListImportTasks";
        let request = ListImportTasksRequest {
            collection_name: collection.into(),
            ..ListImportTasksRequest::default()
        };
        let answer = self.service().list_import_tasks(self.request(request)).await;
        let answer = answered(CALL, answer)?;
        accepted(CALL, answer.status.as_ref())?;
        Ok(answer.tasks.iter().map(read).collect())
    }
}

fn read(told: &GetImportStateResponse) -> Import {
    let info = |key: &str| pair(&told.infos, key);
    let state = match ImportState::try_from(told.state) {
        Ok(ImportState::ImportFailed | ImportState::ImportFailedAndCleaned) => State::Failed(
            info("failed_reason")
                .unwrap_or("Milvus does not say why")
                .to_owned(),
        ),
        Ok(ImportState::ImportCompleted) => State::Done(u64::try_from(told.row_count).unwrap_or(0)),
        _ => State::Running(
            info("progress_percent")
                .and_then(|percent| percent.parse().ok())
                .unwrap_or(0),
        ),
    };
    Import {
        task: told.id,
        // Keys hold no comma in Milvus' list of them.
        files: info("files")
            .map(|files| files.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::common::KeyValuePair;

    #[test]
    fn what_is_told_of_an_import_is_understood() {
        let told = |state: ImportState, infos: &[(&str, &str)]| {
            read(&GetImportStateResponse {
                id: 7,
                state: state.into(),
                row_count: 100,
                infos: infos
                    .iter()
                    .map(|(key, value)| KeyValuePair {
                        key: (*key).into(),
                        value: (*value).into(),
                    })
                    .collect(),
                ..GetImportStateResponse::default()
            })
        };
        let running = told(
            ImportState::ImportPersisted,
            &[("progress_percent", "58"), ("files", "a/b.parquet")],
        );
        assert_eq!(running.state, State::Running(58));
        assert_eq!(running.files, ["a/b.parquet"]);
        assert_eq!(told(ImportState::ImportCompleted, &[]).state, State::Done(100));
        let failed = told(ImportState::ImportFailed, &[("failed_reason", "NoSuchKey")]);
        assert_eq!(failed.state, State::Failed("NoSuchKey".into()));
        assert_eq!(told(ImportState::ImportPending, &[]).state, State::Running(0));
    }
}
