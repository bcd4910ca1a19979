//! The root key pair, given by files or the environment, or made at the first start; and the gateways', where there are any.

use penstock_rdma::Credentials;
use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FILE: &str = "root-credentials";
const ACCESS: &str = "PENSTOCK_ROOT_ACCESS_KEY";
const SECRET: &str = "PENSTOCK_ROOT_SECRET_KEY";

/// Why there is no root key pair.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Half a pair was given.
    #[error(
        "{given} is given without {missing}; give both, or neither to have a pair made in the data folder"
    )]
    Half {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Nothing was given.
    #[error(
        "there is no root key pair to sign with; set PENSTOCK_ROOT_ACCESS_KEY and PENSTOCK_ROOT_SECRET_KEY, or name the \
         storage node's folder with --data"
    )]
    Missing,
    /// A file cannot be read or written.
    #[error("the key file {} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was given is no key.
    #[error("the {what} from {from} cannot be used: {cause}")]
    Unusable {
        /// Which half.
        what: &'static str,
        /// Where it came from.
        from: String,
        /// Which rule it breaks.
        cause: &'static str,
    },
}

/// Where keys may come from.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// File with the access key.
    pub access_file: Option<&'a Path>,
    /// File with the secret key.
    pub secret_file: Option<&'a Path>,
    /// The access key itself.
    pub access: Option<&'a str>,
    /// The secret key itself.
    pub secret: Option<&'a str>,
}

/// The root key pair, and the file it was made in, if it was not given.
///
/// # Errors
/// See [`KeyError`]. No message holds a secret.
pub fn root(sources: &Sources<'_>, folder: &Path) -> Result<(Credentials, Option<PathBuf>), KeyError> {
    if let Some(pair) = given(sources)? {
        return Ok((pair, None));
    }
    let path = folder.join(FILE);
    let file_error = |source| KeyError::File {
        path: path.clone(),
        source,
    };
    let pair = match fs::read_to_string(&path) {
        Ok(text) => read(&text, &path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder).map_err(file_error)?,
        Err(error) => return Err(file_error(error)),
    };
    Ok((pair, Some(path)))
}

/// The root key pair of a storage node that runs already: the one that was given, or else the one in its folder.
///
/// # Errors
/// See [`KeyError`]. No message holds a secret.
pub fn known(sources: &Sources<'_>, folder: Option<&Path>) -> Result<Credentials, KeyError> {
    if let Some(pair) = given(sources)? {
        return Ok(pair);
    }
    let path = folder.ok_or(KeyError::Missing)?.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => read(&text, &path),
        Err(source) => Err(KeyError::File { path, source }),
    }
}

fn given(sources: &Sources<'_>) -> Result<Option<Credentials>, KeyError> {
    let access = half(sources.access_file, sources.access, ACCESS)?;
    let secret = half(sources.secret_file, sources.secret, SECRET)?;
    match (access, secret) {
        (Some((access, access_from)), Some((secret, secret_from))) => {
            check("access key", &access, access_from, 3)?;
            check("secret key", &secret, secret_from, 8)?;
            Ok(Some(Credentials::new(access, secret)))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(KeyError::Half {
            given: "the root access key",
            missing: "the root secret key",
        }),
        (None, Some(_)) => Err(KeyError::Half {
            given: "the root secret key",
            missing: "the root access key",
        }),
    }
}

/// The key pair of gateways, from its two files.
///
/// # Errors
/// See [`KeyError`]; also when it is the root key pair, which may do everything.
pub fn gateway(access: &Path, secret: &Path, root: &Credentials) -> Result<Credentials, KeyError> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path).map_err(|source| KeyError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok((text.trim().to_owned(), path.display().to_string()))
    };
    let ((access, access_from), (secret, secret_from)) = (read(access)?, read(secret)?);
    if access == root.access_key_id() {
        return Err(KeyError::Unusable {
            what: "access key",
            from: access_from,
            cause: "it is the root access key; give gateways one of their own",
        });
    }
    check("access key", &access, access_from, 3)?;
    check("secret key", &secret, secret_from, 8)?;
    Ok(Credentials::new(access, secret))
}

/// One half and where it came from; a file wins over the environment.
fn half(
    file: Option<&Path>,
    value: Option<&str>,
    variable: &str,
) -> Result<Option<(String, String)>, KeyError> {
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|source| KeyError::File {
            path: path.to_owned(),
            source,
        })?;
        return Ok(Some((text.trim().to_owned(), path.display().to_string())));
    }
    Ok(value.map(|value| (value.trim().to_owned(), variable.to_owned())))
}

fn check(what: &'static str, key: &str, from: String, shortest: usize) -> Result<(), KeyError> {
    let unusable = |cause| Err(KeyError::Unusable { what, from, cause });
    if key.len() < shortest {
        return unusable(if key.is_empty() {
            "it is empty"
        } else {
            "it is too short"
        });
    }
    if !key.chars().all(|c| c.is_ascii_graphic()) {
        return unusable("it holds spaces or characters beyond ASCII");
    }
    if what == "access key" && key.contains(['/', ',', '=']) {
        return unusable("it holds one of / , = which separate the parts of a signature");
    }
    Ok(())
}

fn read(text: &str, path: &Path) -> Result<Credentials, KeyError> {
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or("").trim().to_owned()
    };
    let (access, secret) = (value(ACCESS), value(SECRET));
    check("access key", &access, path.display().to_string(), 3)?;
    check("secret key", &secret, path.display().to_string(), 8)?;
    Ok(Credentials::new(access, secret))
}

/// Makes a pair, in the form a shell can source.
fn make(folder: &Path) -> io::Result<Credentials> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let letter = |_| char::from(LETTERS[usize::from(rand::random::<u8>()) % LETTERS.len()]);
    let access: String = (0..20).map(letter).collect();
    let secret = hex::encode(rand::random::<[u8; 20]>());
    keep_secret(folder, FILE, &format!("{ACCESS}={access}\n{SECRET}={secret}\n"))?;
    Ok(Credentials::new(access, secret))
}

/// Writes a file that only its owner reads. A crash leaves the whole file or none.
pub(crate) fn keep_secret(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let half_made = folder.join(format!("{name}.new"));
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&half_made)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&half_made, folder.join(name))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_is_made_once_and_read_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let (made, path) = root(&Sources::default(), folder.path()).unwrap();
        let path = path.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, _) = root(&Sources::default(), folder.path()).unwrap();
        assert!(made == again);
        assert_eq!(made.access_key_id().len(), 20);
        assert_eq!(made.secret_access_key().len(), 40);
    }

    #[test]
    fn half_a_pair_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources {
            secret: Some("very-secret-key"),
            ..Sources::default()
        };
        let error = root(&sources, folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("without the root access key") && !error.contains("very-secret"),
            "{error}"
        );
    }

    #[test]
    fn a_key_from_a_file_loses_its_newline() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "from-the-file\n").unwrap();
        let sources = Sources {
            access: Some("AKID"),
            secret: Some("from-the-environment"),
            secret_file: Some(&file),
            ..Sources::default()
        };
        let (pair, made) = root(&sources, folder.path()).unwrap();
        assert_eq!(pair.secret_access_key(), "from-the-file");
        assert!(made.is_none());
    }

    #[test]
    fn gateways_have_a_key_pair_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (access, secret) = (folder.path().join("access"), folder.path().join("secret"));
        fs::write(&access, "gateway\n").unwrap();
        fs::write(&secret, "gateway-secret\n").unwrap();
        let root = Credentials::new("root", "root-secret");
        let pair = gateway(&access, &secret, &root).unwrap();
        assert!(pair == Credentials::new("gateway", "gateway-secret"));
        assert!(gateway(&access, &folder.path().join("none"), &root).is_err());
        fs::write(&access, "root").unwrap();
        let error = gateway(&access, &secret, &root).unwrap_err().to_string();
        assert!(error.contains("root access key"), "{error}");
    }

    #[test]
    fn keys_that_no_signature_can_carry_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (access, secret) in [
            ("", "12345678"),
            ("a/b", "12345678"),
            ("abc", "short"),
            ("abc", "with a space"),
        ] {
            let sources = Sources {
                access: Some(access),
                secret: Some(secret),
                ..Sources::default()
            };
            assert!(root(&sources, folder.path()).is_err(), "{access} {secret}");
        }
    }
}
