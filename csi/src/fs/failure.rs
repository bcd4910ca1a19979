//! What can go wrong below the file system, and the one table of error numbers for it.

use crate::fuse::Errno;
use penstock_store::engine;
use std::{io, time::Duration};

/// Why the storage node did not do what the file system asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It said no, or could not be asked.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// It did not answer, or no byte moved.
    #[error("the storage node gave no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// An object's bytes ended too early.
    #[error("the object's bytes ended after {got} of {expected}")]
    Cut {
        /// Bytes expected.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// An object's bytes broke off.
    #[error("the object's bytes broke off")]
    Broken(#[source] io::Error),
    /// The local staging file failed.
    #[error("the staging file on this node failed")]
    Staging(#[source] io::Error),
}

impl Failure {
    /// The error number a program sees. `docs/filesystem.md` shows this table.
    pub fn errno(&self) -> Errno {
        use engine::Error as E;
        match self {
            Self::Engine(error) => match error {
                E::NoSuchKey(_) | E::Marker(_) => Errno::NOENT,
                // Another version is there now, or the whole bucket is gone: the open file or mount is of the past.
                E::PreconditionFailed(_) | E::NoSuchBucket(_) | E::NotModified(_) => Errno::STALE,
                E::InvalidKey { .. } => Errno::NAMETOOLONG,
                E::AccessDenied(_) => Errno::ACCESS,
                E::NoSpace(_) => Errno::NOSPC,
                E::QuotaExceeded(_) => Errno::DQUOT,
                E::Locked(..) => Errno::PERM,
                E::Body(source) => of_io(source),
                E::InvalidArgument(_) => Errno::INVAL,
                _ => Errno::IO,
            },
            Self::Deadline(_) | Self::Cut { .. } | Self::Broken(_) => Errno::IO,
            Self::Staging(source) => of_io(source),
        }
    }

    /// Whether it says that there is no such object.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Engine(engine::Error::NoSuchKey(_) | engine::Error::Marker(_))
        )
    }

    /// Whether it says that a precondition does not hold.
    pub fn is_precondition(&self) -> bool {
        matches!(self, Self::Engine(engine::Error::PreconditionFailed(_)))
    }

    /// Whether it is an everyday answer and nothing an operator of the node should read in the log.
    fn is_ordinary(&self) -> bool {
        self.is_missing() || self.is_precondition()
    }

    /// Logs the failure once, where it becomes an error number.
    pub fn report(self, doing: &'static str, what: &str) -> Errno {
        let errno = self.errno();
        if !self.is_ordinary() {
            let cause = penstock_service::chain(&self);
            tracing::warn!(doing, what, %errno, cause, "a file operation failed");
        }
        errno
    }
}

/// The number of a local error (ENOSPC, EDQUOT …).
fn of_io(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_store::engine::ObjectRef;

    #[test]
    fn each_failure_has_the_error_number_that_programs_expect() {
        let object = || ObjectRef::new("b", "k");
        let errno = |error| Failure::Engine(error).errno();
        assert_eq!(errno(engine::Error::NoSuchKey(object())), Errno::NOENT);
        assert_eq!(errno(engine::Error::PreconditionFailed(object())), Errno::STALE);
        assert_eq!(errno(engine::Error::AccessDenied("x".into())), Errno::ACCESS);
        assert_eq!(errno(engine::Error::NoSpace("x".into())), Errno::NOSPC);
        assert_eq!(
            errno(engine::Error::Body(io::Error::from_raw_os_error(
                Errno::DQUOT.raw_os_error()
            ))),
            Errno::DQUOT
        );
        assert_eq!(Failure::Deadline(Duration::from_secs(60)).errno(), Errno::IO);
        let full = io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        assert_eq!(Failure::Staging(full).errno(), Errno::NOSPC);
    }
}
