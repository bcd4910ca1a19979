//! Why a call of the Controller service failed, and the gRPC code of each reason.

use crate::{access::AccessError, attributes::AttributeError, grpc::code};
use penstock_store::engine;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field asks for something that there is not.
    #[error("{0}")]
    Unsupported(String),
    /// The capacity range contradicts itself.
    #[error("a volume of at least {required} and at most {limit} bytes cannot be")]
    Capacity {
        /// `required_bytes`.
        required: i64,
        /// `limit_bytes`.
        limit: i64,
    },
    /// A StorageClass parameter or volume attribute.
    #[error(transparent)]
    Attributes(#[from] AttributeError),
    /// The secrets.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// What the secrets say leads nowhere.
    #[error("the secrets do not lead to a storage node")]
    Connect(#[source] penstock_rdma::Error),
    /// The name is taken by a volume with other properties.
    #[error("volume {name:?} exists already with {what}; delete it, or choose another name")]
    Incompatible {
        /// Volume name.
        name: String,
        /// In which way it differs from what is asked for.
        what: String,
    },
    /// The bucket or folder is there, and was not made here.
    #[error(
        "{0:?} exists already and was not made for a volume: mount it as a static PersistentVolume, or have it removed"
    )]
    Taken(String),
    /// There is no such volume.
    #[error("there is no volume {0:?}")]
    NoSuchVolume(String),
    /// The storage node said no, or could not be asked.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The storage node did not answer.
    #[error("the storage node gave no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The record of a volume broke off while it was read.
    #[error("the record of the volume, {object}, could not be read")]
    Broken {
        /// Where it is.
        object: engine::ObjectRef,
        /// Why.
        source: std::io::Error,
    },
    /// The record of a volume is none.
    #[error(
        "{object} is no record of a volume; somebody wrote over it, or a newer version of the driver made it"
    )]
    Record {
        /// Where it is.
        object: engine::ObjectRef,
        /// Why.
        source: serde_json::Error,
    },
}

impl Error {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_)
            | Self::Unsupported(_)
            | Self::Attributes(_)
            | Self::Access(_)
            | Self::Connect(_) => Code::InvalidArgument,
            Self::Capacity { .. } => Code::OutOfRange,
            Self::Incompatible { .. } | Self::Taken(_) => Code::AlreadyExists,
            Self::NoSuchVolume(_) => Code::NotFound,
            Self::Engine(error) => code::of(error),
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Broken { .. } => Code::Unavailable,
            Self::Record { .. } => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        code::status(error.code(), &error)
    }
}
