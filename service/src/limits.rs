//! Limits that the system sets to a process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many descriptors as the system allows this process without asking: those that lend files need many.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::info!(%error, "the limit of open files stays as it is");
    }
}
