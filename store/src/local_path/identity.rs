//! What a storage node is called, on its host and in its answers.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The identity cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("the storage node's identity {} cannot be used; it must be a file with 32 hexadecimal digits, or not be there", .path.display())]
pub struct IdentityError {
    path: PathBuf,
    source: io::Error,
}

/// The identity of the store in `data`: 32 hexadecimal digits, made at random once and kept in `data/node-id`.
///
/// # Errors
/// When the file cannot be read or made, or holds something else.
pub fn identity(data: &Path) -> Result<String, IdentityError> {
    let path = data.join("node-id");
    let failed = |source| IdentityError {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim();
            let well_formed = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            match well_formed {
                true => Ok(id.to_owned()),
                false => Err(failed(io::ErrorKind::InvalidData.into())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = format!("{:032x}", rand::random::<u128>());
            // Whole or not there, also after a crash.
            let made = data.join("node-id.new");
            fs::write(&made, format!("{id}\n"))
                .and_then(|()| fs::File::open(&made)?.sync_all())
                .and_then(|()| fs::rename(&made, &path))
                .map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_its_identity_and_two_stores_differ() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = identity(one.path()).unwrap();
        assert_eq!(identity(one.path()).unwrap(), id);
        assert_ne!(identity(other.path()).unwrap(), id);
        fs::write(one.path().join("node-id"), "../../etc/passwd").unwrap();
        assert!(identity(one.path()).is_err());
    }
}
