//! Group commit: one thread takes every change that waits and makes them one transaction of the index, so that many small
//! writes share the fsync of their folder and of the index.

use super::{
    change::Change,
    data::{Data, Named, NewFile},
    index::{Fault, Index, Outcome, is_full},
    internal, open,
    rows::FileId,
};
use crate::engine::{Error, Result};
use redb::Durability;
use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};
use tokio::sync::oneshot;

/// More changes than this wait for the next transaction, so that the first ones do not wait for ever.
const MAX_BATCH: usize = 1024;
/// Between two attempts to open an index whose disk failed, where nobody asks for a change.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What became of a transaction.
enum Ended {
    Committed,
    /// Nothing of it is or will be there.
    Failed(Error),
    /// The disk failed during the commit: it may turn out to be made or not.
    Unknown(Error),
}

/// Answers a change once its transaction has ended.
type Answer = Box<dyn FnOnce(Ended) + Send>;
/// Applies a change where nothing has failed before, and says how to answer it. A failure fails the whole transaction.
type Apply = Box<dyn FnOnce(Applied<&mut Change<'_>>) -> (Answer, Applied<()>) + Send>;
type Applied<T> = std::result::Result<T, Failure>;

struct Job {
    apply: Apply,
    /// What the change refers to for the first time; its folder must be on disk before the commit.
    file: Option<Named>,
}

/// The thread that commits.
pub(super) struct Committer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Committer {
    /// `path` is where the index is.
    pub fn start(index: Arc<Index>, data: Arc<Data>, path: PathBuf) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let broken = Arc::new(Mutex::new(None));
        let committing = Committing {
            index,
            data,
            path,
            broken: Arc::clone(&broken),
            doubtful: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || committing.run(&waiting))?;
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
        let named = file.as_ref().map(NewFile::named);
        let apply: Apply = Box::new(move |change| {
            let applied = change.and_then(|change| apply(change).map_err(Failure::from));
            let (outcome, failed) = match applied {
                Ok(outcome) => (outcome, Ok(())),
                Err(failure) => (Err(failure.to_error()), Err(failure)),
            };
            let answer: Answer = Box::new(move |ended| {
                let (outcome, keep) = match ended {
                    Ended::Committed => {
                        let keep = outcome.is_ok();
                        (outcome, keep)
                    }
                    Ended::Failed(error) => (Err(error), false),
                    // If the change turns out to be made its file is needed, if not it is discarded then.
                    Ended::Unknown(error) => (Err(error), true),
                };
                if let Some(file) = file
                    && keep
                {
                    file.keep();
                }
                // The one who asked may have gone away.
                let _nobody_waits = answer.send(outcome);
            });
            (answer, failed)
        });
        let sent = match &*lock(&self.jobs) {
            Some(jobs) => jobs.send(Job { apply, file: named }).is_ok(),
            None => false,
        };
        let ended = || internal("committed a change")("the thread that commits has ended");
        if !sent {
            return Err(ended());
        }
        answered.await.unwrap_or_else(|_| Err(ended()))
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

/// What the thread has.
struct Committing {
    index: Arc<Index>,
    data: Arc<Data>,
    path: PathBuf,
    broken: Arc<Mutex<Option<String>>>,
    /// Files of which it is not known whether a row refers to them, until the index can be read anew.
    doubtful: Vec<FileId>,
}

impl Committing {
    fn run(mut self, waiting: &Receiver<Job>) {
        loop {
            let first = match self.is_broken() {
                false => waiting.recv().map_err(RecvTimeoutError::from),
                true => waiting.recv_timeout(REOPEN_EVERY),
            };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    let _noted = self.reopen();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut batch = vec![first];
            batch.extend(waiting.try_iter().take(MAX_BATCH - 1));
            self.commit(batch);
        }
    }

    fn is_broken(&self) -> bool {
        lock(&self.broken).is_some()
    }

    fn commit(&mut self, batch: Vec<Job>) {
        let mut made = Made::default();
        let outcome = match self.is_broken() {
            true => self.reopen(),
            false => Ok(()),
        };
        let mut jobs = batch.into_iter();
        let outcome = outcome.and_then(|()| try_commit(&self.index, &self.data, &mut jobs, &mut made));
        let Err(failure) = outcome else {
            for answer in made.answers {
                answer(Ended::Committed);
            }
            self.data.discard(made.dead);
            return;
        };
        tracing::error!(error = %failure.text, "a transaction of the index failed; its changes are not made");
        if failure.unknown {
            self.doubtful.extend(made.files);
            self.doubtful.extend(made.dead);
        }
        // Whoever is answered may read at once.
        if failure.lasting {
            let _noted = self.reopen();
        }
        for answer in made.answers {
            answer(match failure.unknown {
                true => Ended::Unknown(failure.to_error()),
                false => Ended::Failed(failure.to_error()),
            });
        }
        for job in jobs {
            let (answer, _) = (job.apply)(Err(failure.clone()));
            answer(Ended::Failed(failure.to_error()));
        }
    }

    /// Opens the index anew, from what is on disk, and finds out what became of the transaction that failed.
    fn reopen(&mut self) -> Applied<()> {
        let opened = self.index.reopen(|| open::reopen(&self.path));
        if let Err(error) = opened {
            let text = penstock_service::chain(&error);
            tracing::error!(
                error = text,
                "the index cannot be opened after its disk failed; it is tried again every second"
            );
            *lock(&self.broken) = Some(text.clone());
            return Err(Failure {
                text,
                full: error.is_full(),
                lasting: false,
                unknown: false,
            });
        }
        *lock(&self.broken) = None;
        tracing::warn!("the index was opened anew after its disk failed");
        for file in std::mem::take(&mut self.doubtful) {
            match self.index.is_referenced(file) {
                Ok(true) => {}
                Ok(false) => self.data.discard(vec![file]),
                Err(_) => self.doubtful.push(file),
            }
        }
        Ok(())
    }
}

/// What a transaction has come to until it ends.
#[derive(Default)]
struct Made {
    answers: Vec<Answer>,
    /// What it refers to for the first time.
    files: Vec<FileId>,
    /// What nothing refers to after it.
    dead: Vec<FileId>,
}

#[derive(Clone)]
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
            lasting: matches!(fault, Fault::Index(_) | Fault::Closed),
            unknown: false,
        }
    }
}

fn try_commit(
    index: &Index,
    data: &Data,
    jobs: &mut impl Iterator<Item = Job>,
    made: &mut Made,
) -> Applied<()> {
    let mut transaction = index.write()?;
    let durable = transaction.set_durability(Durability::Immediate);
    durable.map_err(Fault::from)?;
    let mut change = Change::begin(&transaction, index.totals())?;
    for job in jobs {
        if let Some(file) = job.file
            && data.is_doubtful(file)
        {
            let failure = folder_failed(file.id.slot(), "it could not be a moment ago");
            let (answer, _) = (job.apply)(Err(failure.clone()));
            answer(Ended::Failed(failure.to_error()));
            continue;
        }
        let (answer, applied) = (job.apply)(Ok(&mut change));
        made.answers.push(answer);
        made.files.extend(job.file.map(|file| file.id));
        applied?;
    }
    if !change.changed {
        // Nothing but refusals: there is nothing to make durable.
        return Ok(());
    }
    change.write_totals()?;
    made.dead = std::mem::take(&mut change.dead);
    let totals = (change.total_objects, change.total_bytes);
    drop(change);
    let slots: BTreeSet<u8> = made.files.iter().map(|file| file.slot()).collect();
    for slot in slots {
        data.sync_slot(slot).map_err(|error| Failure {
            full: is_full(&error),
            ..folder_failed(slot, &error)
        })?;
    }
    transaction.commit().map_err(|error| Failure {
        unknown: true,
        ..Failure::from(Fault::from(error))
    })?;
    index.set_totals(totals.0, totals.1);
    Ok(())
}

fn folder_failed(slot: u8, cause: impl std::fmt::Display) -> Failure {
    Failure {
        text: format!("the folder of data files {slot:02x} could not be written to disk: {cause}"),
        full: false,
        lasting: false,
        unknown: false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
