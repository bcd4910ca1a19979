//! How the handles of one node are open for the kernel, which refuses (EIO) to have a file open through its cache and by
//! passthrough at the same time, or by passthrough from two files.

use super::content::Content;
use crate::{
    fuse::{Errno, Notifier, OpenMode},
    passthrough::Passthrough,
};
use std::{
    fs::File,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Registers files with the kernel, as long as that works.
#[derive(Default)]
pub struct Backer {
    by: Passthrough,
    /// It was refused in a way that it will be the next time.
    is_broken: AtomicBool,
}

impl Backer {
    /// Registers in this way.
    pub fn new(by: Passthrough) -> Self {
        Self {
            by,
            is_broken: AtomicBool::new(false),
        }
    }

    /// Whether it is worth trying.
    pub fn is_usable(&self) -> bool {
        !matches!(self.by, Passthrough::Off) && !self.is_broken.load(Ordering::Relaxed)
    }

    async fn open(&self, notifier: &Notifier, file: &File) -> Option<i32> {
        let device = notifier.for_passthrough()?;
        match self.by.open(device, file).await {
            Ok(id) => Some(id),
            Err(error) => {
                // Anything else is of one file (on a stacked file system), or of this moment (`node` restarts).
                let lasting = [
                    Errno::PERM,
                    Errno::NOTTY,
                    Errno::OPNOTSUPP,
                    Errno::NOSYS,
                    Errno::INVAL,
                ]
                .map(|errno| Some(errno.raw_os_error()));
                if lasting.contains(&error.raw_os_error()) && !self.is_broken.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "the kernel does not take files for passthrough; they are read by this process");
                }
                tracing::debug!(%error, "no passthrough");
                None
            }
        }
    }

    async fn close(&self, notifier: &Notifier, id: i32) {
        let Some(device) = notifier.for_passthrough() else {
            return;
        };
        if let Err(error) = self.by.close(device, id).await {
            tracing::debug!(%error, id, "a file stays registered for passthrough until its mount ends");
        }
    }
}

/// The modes of one node.
#[derive(Default)]
pub struct Modes(tokio::sync::Mutex<State>);

#[derive(Default)]
struct State {
    /// Handles in the mode `Cached`.
    cached: usize,
    /// Handles in the mode `Passthrough`, the number, and the content that is behind it.
    passing: usize,
    id: i32,
    content: Weak<Content>,
}

impl Modes {
    /// The mode of a new handle. `file` is what the kernel may read in place of asking, if it may. Counted until
    /// [`Modes::close`]. `None` when it goes with none of the handles that are open: then the node must be another one.
    pub async fn open(
        &self,
        backer: &Backer,
        notifier: Option<&Notifier>,
        content: &Arc<Content>,
        file: Option<&File>,
    ) -> Option<OpenMode> {
        let mut state = self.0.lock().await;
        if state.passing > 0 {
            let open = state.content.upgrade();
            let is_same = open.is_some_and(|open| Arc::ptr_eq(&open, content));
            // Whoever writes must not do it by passthrough, not even in name: a shared mapping would write to the lent file.
            if file.is_none() || !is_same {
                return None;
            }
            state.passing += 1;
            return Some(OpenMode::Passthrough(state.id));
        }
        if let (0, Some(file), Some(notifier)) = (state.cached, file, notifier)
            && let Some(id) = backer.open(notifier, file).await
        {
            (state.passing, state.id, state.content) = (1, id, Arc::downgrade(content));
            return Some(OpenMode::Passthrough(id));
        }
        state.cached += 1;
        Some(OpenMode::Cached)
    }

    /// Whether the kernel reads the node by itself for anybody.
    pub async fn is_passing(&self) -> bool {
        self.0.lock().await.passing > 0
    }

    /// The kernel has released a handle.
    pub async fn close(&self, backer: &Backer, notifier: Option<&Notifier>, mode: OpenMode) {
        let mut state = self.0.lock().await;
        match mode {
            OpenMode::Cached => state.cached -= 1,
            OpenMode::Passthrough(id) => {
                state.passing -= 1;
                if let (0, Some(notifier)) = (state.passing, notifier) {
                    backer.close(notifier, id).await;
                }
            }
        }
    }
}
