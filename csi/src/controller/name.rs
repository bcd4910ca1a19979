//! Names of volumes on the storage node.
//!
//! A volume's name is any text; its bucket, folder and record need one that S3 allows. That is the *key*: the name itself
//! where it will do, as with Kubernetes' `pvc-<uuid>`, so that people find a claim's bucket by the name of its volume.

use crate::attributes::REGISTRY_BUCKET;
use sha2::{Digest, Sha256};

/// How much of a name is kept, for people to recognise, when it is replaced by a digest.
const READABLE: usize = 30;

/// The key of a volume's name; always the same one for the same name.
pub(super) fn of_volume(name: &str) -> String {
    if is_key(name) && name != REGISTRY_BUCKET {
        return name.to_owned();
    }
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let readable: String = name.chars().take(READABLE).map(allowed).collect();
    let readable = match readable.trim_matches('-') {
        "" => "volume",
        readable => readable,
    };
    let digest = hex::encode(Sha256::digest(name));
    format!("{readable}-{}", &digest[..32])
}

/// The key in a volume's id: `<key>`, `<bucket>/<key>` or `<bucket>/<folder>/<key>`. `None` for an id that this driver does
/// not give.
pub(super) fn key(id: &str) -> Option<&str> {
    let key = id.rsplit('/').next()?;
    is_key(key).then_some(key)
}

/// Bucket names without dots (S3, "General purpose bucket naming rules"), which are safe as a part of a path too.
fn is_key(text: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|&c| alphanumeric(c) || c == b'-')
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(|&c| alphanumeric(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_can_be_a_bucket_is_kept() {
        let name = "pvc-8a1f3f6e-2f0a-4a1c-9d77-0c6d3d0f8e11";
        assert_eq!(of_volume(name), name);
    }

    #[test]
    fn any_other_name_gets_a_key_of_its_own() {
        let long = "x".repeat(128);
        let names = [
            "",
            "a",
            "Ab",
            "ab",
            "a_b",
            "a.b.c",
            "ü",
            "-abc",
            "abc-",
            "../..",
            REGISTRY_BUCKET,
            &long,
            &long[1..],
        ];
        let keys: std::collections::BTreeSet<_> = names.iter().map(|name| of_volume(name)).collect();
        assert_eq!(keys.len(), names.len(), "{keys:?}");
        for key in &keys {
            assert!(is_key(key) && key != REGISTRY_BUCKET, "{key}");
        }
        assert!(of_volume("Team A/Data").starts_with("team-a-data-"));
    }

    #[test]
    fn an_id_ends_with_its_key() {
        assert_eq!(key("pvc-1"), Some("pvc-1"));
        assert_eq!(key("shared/pvc-1"), Some("pvc-1"));
        assert_eq!(key("shared/team/pvc-1"), Some("pvc-1"));
        for id in [
            "",
            "/",
            "shared/",
            "shared/..",
            "shared/a b c",
            "Static",
            "shared/.",
        ] {
            assert_eq!(key(id), None, "{id}");
        }
    }
}
