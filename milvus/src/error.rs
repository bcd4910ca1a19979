//! Why a call failed.

use crate::proto::common::Status;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Error>;

/// There is no such collection (`merr.ErrCollectionNotFound`).
const COLLECTION_NOT_FOUND: i32 = 100;
/// The collection is not loaded (`merr.ErrCollectionNotLoaded`).
const COLLECTION_NOT_LOADED: i32 = 101;
/// There is no such index (`merr.ErrIndexNotFound`).
const INDEX_NOT_FOUND: i32 = 700;
/// There is no such alias (`merr.ErrAliasNotFound`).
const ALIAS_NOT_FOUND: i32 = 1600;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("{0} is no address of Milvus")]
    Address(String),
    /// Milvus does not answer, or not as Milvus does.
    #[error("Milvus does not answer {call}: {}", .source.message())]
    Unreachable {
        /// The call.
        call: &'static str,
        /// What gRPC says.
        #[source]
        source: Box<tonic::Status>,
    },
    /// Milvus refuses.
    #[error("Milvus refuses {call}: {reason} (code {code})")]
    Refused {
        /// The call.
        call: &'static str,
        /// Milvus' number for the cause (`pkg/util/merr`).
        code: i32,
        /// Its words.
        reason: String,
    },
    /// An answer lacks what it must have.
    #[error("Milvus' answer to {call} lacks {what}")]
    Incomplete {
        /// The call.
        call: &'static str,
        /// What is missing.
        what: &'static str,
    },
}

impl Error {
    /// What is asked about is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        let not_found = [COLLECTION_NOT_FOUND, INDEX_NOT_FOUND, ALIAS_NOT_FOUND];
        matches!(self, Self::Refused { code, .. } if not_found.contains(code))
    }

    /// The collection is there and not loaded.
    #[must_use]
    pub fn is_not_loaded(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == COLLECTION_NOT_LOADED)
    }

    /// Milvus does not know the user, or the password is another one.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.code() == tonic::Code::Unauthenticated)
    }

    /// Milvus answered, and what was asked for is wrong: asking again is of no use.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// What a status says of a call. Servers tell of errors by `code`, old parts of them by `error_code` alone.
pub fn accepted(call: &'static str, status: Option<&Status>) -> Result<()> {
    let status = status.ok_or(Error::Incomplete {
        call,
        what: "a status",
    })?;
    let code = if status.code == 0 {
        status.error_code
    } else {
        status.code
    };
    if code == 0 {
        return Ok(());
    }
    Err(Error::Refused {
        call,
        code,
        reason: status.reason.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_inside_answers_are_found() {
        let status = |code, error_code| Status {
            code,
            error_code,
            reason: "why".into(),
            ..Status::default()
        };
        assert!(accepted("Load", Some(&status(0, 0))).is_ok());
        let missing = accepted("Load", Some(&status(100, 4))).unwrap_err();
        assert!(missing.is_not_found() && !missing.is_not_loaded() && missing.is_refusal());
        assert_eq!(missing.to_string(), "Milvus refuses Load: why (code 100)");
        assert!(
            accepted("Load", Some(&status(101, 1)))
                .unwrap_err()
                .is_not_loaded()
        );
        let old = accepted("Load", Some(&status(0, 1))).unwrap_err();
        assert!(matches!(old, Error::Refused { code: 1, .. }));
        assert!(matches!(accepted("Load", None), Err(Error::Incomplete { .. })));
    }
}
