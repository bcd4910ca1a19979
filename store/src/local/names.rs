//! Which bucket names and keys there can be.

use crate::engine::{Error, ObjectRef, Result};

/// The S3 API's limit on a key, in bytes of UTF-8.
const MAX_KEY: usize = 1024;

/// Checks a new bucket's name (S3 API, "General purpose bucket naming rules").
pub(super) fn check_bucket(name: &str) -> Result<()> {
    let refuse = |cause| {
        Err(Error::InvalidBucketName {
            name: name.chars().take(80).collect(),
            cause,
        })
    };
    if !(3..=63).contains(&name.len()) {
        return refuse("it must have 3 to 63 characters");
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !name.chars().all(allowed) {
        return refuse("it may hold only lower-case letters, digits, hyphens and dots");
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !edge(name.chars().next()) || !edge(name.chars().next_back()) {
        return refuse("it must begin and end with a letter or digit");
    }
    if name.contains("..") {
        return refuse("it must not hold two dots in a row");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return refuse("it must not look like an IP address");
    }
    Ok(())
}

/// Checks an object's key.
pub(super) fn check_key(object: &ObjectRef) -> Result<()> {
    let refuse = |cause| {
        Err(Error::InvalidKey {
            key: object.key.chars().take(64).collect(),
            cause,
        })
    };
    match object.key.len() {
        0 => refuse("it is empty"),
        1..=MAX_KEY => Ok(()),
        _ => refuse("it is longer than 1024 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_s3_rules() {
        for good in ["abc", "my-bucket.1", "0-9", &"a".repeat(63)] {
            assert!(check_bucket(good).is_ok(), "{good}");
        }
        for bad in [
            "ab",
            "Abc",
            "a_b",
            "-abc",
            "abc.",
            "a..b",
            "192.168.1.1",
            "a/b",
            "a\0bc",
            &"a".repeat(64),
        ] {
            assert!(check_bucket(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_has_1_to_1024_bytes() {
        let check = |key: String| check_key(&ObjectRef::new("b", key));
        assert!(check("ü".repeat(512)).is_ok());
        assert!(check("ü".repeat(513)).is_err());
        assert!(check(String::new()).is_err());
    }
}
