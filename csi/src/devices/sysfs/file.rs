//! Reading folders and files of sysfs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A folder of sysfs.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self, name: &str) -> Self {
        Self::new(self.path.join(name))
    }

    /// Names of what is in it, in order.
    pub(super) fn entries(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// What a file says, without the line's end; `None` when there is no such file, it is empty, or the kernel has no answer
    /// (it refuses the read of an unused entry of a table with `EINVAL`).
    pub(super) fn text(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path.join(name)) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(None)
            }
            Err(error) => missing(Err(error)),
        }
    }

    /// The last part of where a link leads.
    pub(super) fn link_target(&self, name: &str) -> io::Result<Option<String>> {
        let target = missing(fs::read_link(self.path.join(name)))?;
        let last = target.as_deref().and_then(Path::file_name);
        Ok(last.and_then(|name| name.to_str()).map(str::to_owned))
    }
}

/// `None` for what is not there.
pub(super) fn missing<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
