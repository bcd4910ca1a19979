//! Files that a crash leaves whole: the old one or the new one.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What the name of a file ends with that is being written. Neither a checkpoint nor a CDI specification ends like this.
const UNFINISHED: &str = "unfinished";

/// A file or folder, and what could not be done with it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", .path.display())]
pub(super) struct FileError {
    pub(super) doing: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| FileError { doing, path, source }
}

/// Writes `path` durably, whatever was there.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension(UNFINISHED);
    let done = || {
        let mut file = fs::File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(path)
    };
    done().map_err(failed("write", path))
}

/// Removes `path`, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path).map_err(failed("remove", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Makes a folder, and removes what a crash left unfinished in it whose name begins with `prefix`.
pub(super) fn prepare_folder(folder: &Path, prefix: &str) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    for path in list(folder)? {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with(prefix) && path.extension() == Some(OsStr::new(UNFINISHED)) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// What is in a folder, in order.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = || {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    let mut paths = entries().map_err(failed("list", folder))?;
    paths.sort();
    Ok(paths)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
