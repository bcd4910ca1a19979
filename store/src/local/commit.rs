//! Group commit: one thread takes every change that waits and makes them one transaction of the index, so that many small
//! writes share the fsync of their folder and of the index.

use super::{
    change::Change,
    data::{Data, NewFile},
    index::{Fault, Index, Outcome},
    internal,
};
use crate::engine::{Error, Result};
use redb::Durability;
use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};
use tokio::sync::oneshot;

/// More changes than this wait for the next transaction, so that the first ones do not wait for ever.
const MAX_BATCH: usize = 1024;

/// What became of a transaction.
enum Ended {
    Committed,
    /// Nothing of it is or will be there.
    Failed(Error),
    /// The disk failed during the commit: the next start may find it made or not.
    Unknown(Error),
}

/// Answers a change once its transaction has ended.
type Answer = Box<dyn FnOnce(Ended) + Send>;
/// Applies a change, and says how to answer it. An error fails the whole transaction.
type Apply = Box<dyn FnOnce(&mut Change<'_>) -> std::result::Result<Answer, ()> + Send>;

struct Job {
    apply: Apply,
    /// Folder that must be on disk before the commit.
    slot: Option<u8>,
}

/// The thread that commits.
pub(super) struct Committer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Committer {
    pub fn start(index: Arc<Index>, data: Arc<Data>) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let broken = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&broken);
        let thread = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || run(&index, &data, &waiting, &noted))?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            broken,
        })
    }

    /// Why no change can be committed until the process is started anew.
    pub fn alive(&self) -> std::result::Result<(), String> {
        if let Some(cause) = &*lock(&self.broken) {
            return Err(cause.clone());
        }
        match &*lock(&self.thread) {
            Some(thread) if !thread.is_finished() => Ok(()),
            _ => Err("the thread that commits has ended".to_owned()),
        }
    }

    /// Applies a change and waits until it is on disk. `file` is what the change refers to for the first time; it stays
    /// only when the change does. If the caller goes away, the change is made or not made, but never by half.
    pub async fn change<T: Send + 'static>(
        &self,
        file: Option<NewFile>,
        apply: impl FnOnce(&mut Change<'_>) -> Outcome<Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel::<Result<T>>();
        let slot = file.as_ref().map(NewFile::slot);
        let apply: Apply = Box::new(move |change| match apply(change) {
            Ok(outcome) => Ok(Box::new(move |ended| {
                let (outcome, keep) = match ended {
                    Ended::Committed => {
                        let keep = outcome.is_ok();
                        (outcome, keep)
                    }
                    Ended::Failed(error) => (Err(error), false),
                    // If the change turns out to be made its file is needed, if not the next start reclaims it.
                    Ended::Unknown(error) => (Err(error), true),
                };
                if let Some(file) = file
                    && keep
                {
                    file.keep();
                }
                // The one who asked may have gone away.
                let _nobody_waits = answer.send(outcome);
            })),
            Err(fault) => {
                let _nobody_waits = answer.send(Err(error_of(&fault)));
                Err(())
            }
        });
        let sent = match &*lock(&self.jobs) {
            Some(jobs) => jobs.send(Job { apply, slot }).is_ok(),
            None => false,
        };
        if !sent {
            return Err(internal("committed a change")(
                "the thread that commits has ended",
            ));
        }
        match answered.await {
            Ok(outcome) => outcome,
            Err(_) => Err(internal("committed a change")(
                "another change in the same transaction failed",
            )),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Ends the thread's loop; then wait, so that the index is closed when the engine is gone.
        lock(&self.jobs).take();
        if let Some(thread) = lock(&self.thread).take()
            && thread.thread().id() != thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

fn run(index: &Index, data: &Data, waiting: &Receiver<Job>, broken: &Mutex<Option<String>>) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(MAX_BATCH - 1));
        commit(index, data, batch, broken);
    }
}

fn commit(index: &Index, data: &Data, batch: Vec<Job>, broken: &Mutex<Option<String>>) {
    let mut answers = Vec::with_capacity(batch.len());
    let outcome = try_commit(index, data, batch, &mut answers);
    match outcome {
        Ok(dead) => {
            for answer in answers {
                answer(Ended::Committed);
            }
            data.discard(dead);
        }
        Err(failure) => {
            tracing::error!(error = %failure.text, "a transaction of the index failed; its changes are not made");
            if failure.lasting {
                *lock(broken) = Some(failure.text.clone());
            }
            for answer in answers {
                answer(if failure.unknown {
                    Ended::Unknown(failure.to_error())
                } else {
                    Ended::Failed(failure.to_error())
                });
            }
        }
    }
}

struct Failure {
    text: String,
    full: bool,
    /// redb refuses everything after an input/output error until the index is opened anew.
    lasting: bool,
    /// Whether the transaction may have reached the disk all the same.
    unknown: bool,
}

impl Failure {
    fn to_error(&self) -> Error {
        if self.full {
            return Error::NoSpace("the index".to_owned());
        }
        internal("committed a change")(self.text.clone())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            text: penstock_service::chain(&fault),
            full: fault.is_full(),
            lasting: matches!(fault, Fault::Index(_)),
            unknown: false,
        }
    }
}

fn try_commit(
    index: &Index,
    data: &Data,
    batch: Vec<Job>,
    answers: &mut Vec<Answer>,
) -> std::result::Result<Vec<super::rows::FileId>, Failure> {
    let mut transaction = index
        .database
        .begin_write()
        .map_err(|error| Failure::from(Fault::from(error)))?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(|error| Failure {
            text: error.to_string(),
            full: false,
            lasting: true,
            unknown: false,
        })?;
    let mut slots = BTreeSet::new();
    let mut change = Change::begin(&transaction, index.totals())?;
    for job in batch {
        match (job.apply)(&mut change) {
            Ok(answer) => answers.push(answer),
            Err(()) => {
                return Err(Failure {
                    text: "the index failed while a change was applied".to_owned(),
                    full: false,
                    lasting: false,
                    unknown: false,
                });
            }
        }
        slots.extend(job.slot);
    }
    if !change.changed {
        // Nothing but refusals: there is nothing to make durable.
        return Ok(Vec::new());
    }
    change.write_totals()?;
    let dead = std::mem::take(&mut change.dead);
    let totals = (change.total_objects, change.total_bytes);
    drop(change);
    for slot in slots {
        data.sync_slot(slot).map_err(|error| Failure {
            text: format!("the folder of data files {slot:02x} could not be written to disk: {error}"),
            full: error.kind() == io::ErrorKind::StorageFull,
            lasting: false,
            unknown: false,
        })?;
    }
    transaction.commit().map_err(|error| Failure {
        unknown: true,
        ..Failure::from(Fault::from(error))
    })?;
    index.set_totals(totals.0, totals.1);
    Ok(dead)
}

fn error_of(fault: &Fault) -> Error {
    if fault.is_full() {
        return Error::NoSpace("the index".to_owned());
    }
    internal("changed the index")(penstock_service::chain(fault))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
