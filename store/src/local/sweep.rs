//! Reclaiming data files that no row refers to: a crash leaves them between rename and commit, or between a deletion's
//! commit and the removal.

use super::{data::Data, index::Index, rows::FileId};
use std::{fs, io, sync::Arc};

/// Starts the sweep in the background.
pub(super) fn start(index: Arc<Index>, data: Arc<Data>) {
    tokio::task::spawn_blocking(move || {
        match sweep(&index, &data) {
            Ok(0) => {}
            Ok(reclaimed) => tracing::info!(reclaimed, "data files of interrupted writes were removed"),
            Err(error) => tracing::warn!(%error, "data files of interrupted writes could not be looked for"),
        }
        // Whoever waits for the end may open the store anew, so the index must be let go of first.
        drop(index);
        data.sweep_ended();
    });
}

fn sweep(index: &Index, data: &Data) -> io::Result<u64> {
    let mut reclaimed = 0;
    for folder in fs::read_dir(data.folder())? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            // Only what has a name of ours is ours to remove.
            let Some(file) = name.to_str().and_then(FileId::parse) else {
                continue;
            };
            // In this order: a file that is not new any more was committed, and the index read after shows that.
            if data.is_new(file) {
                continue;
            }
            if !index.is_referenced(file).map_err(io::Error::other)? {
                data.discard(vec![file]);
                reclaimed += 1;
            }
        }
    }
    Ok(reclaimed)
}
