//! The key pair a client signs with.

use std::fmt;

/// An access key and its secret. The secret shows neither in `Debug` nor in any error.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

impl Credentials {
    /// A key pair. Whitespace around either is dropped: mounted Secrets often end with a newline.
    pub fn new(access_key_id: impl AsRef<str>, secret_access_key: impl AsRef<str>) -> Self {
        Self {
            access_key_id: access_key_id.as_ref().trim().to_owned(),
            secret_access_key: secret_access_key.as_ref().trim().to_owned(),
        }
    }

    /// The public half.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The secret half; for signing only.
    pub fn secret_access_key(&self) -> &str {
        &self.secret_access_key
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &"(hidden)")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", Credentials::new("AKID", "very-secret\n"));
        assert!(
            shown.contains("AKID") && !shown.contains("very-secret"),
            "{shown}"
        );
    }
}
