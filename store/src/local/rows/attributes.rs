//! What few objects have, as rows.

use super::{Instant, LockModeRow};
use crate::engine::{Attributes, Checksum, Checksums, Encrypted, PartFacts, Retention};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a few objects have. A later version appends to it, and never changes what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::local) enum Attribute {
    Tags(BTreeMap<String, String>),
    /// Name and value in base64, beside the CRC64NVME that all have.
    Checksum(String, String),
    /// The checksum is one of the checksums of the parts.
    Composite,
    /// Length, CRC-64/NVME and the checksum that was asked for of each part.
    Parts(Vec<(u64, u64, Option<String>)>),
    Expires(String),
    Redirect(String),
    Retention(LockModeRow, Instant),
    LegalHold(bool),
    /// Whether with a key of the customer's, and the sealed data key.
    Encrypted(bool, Vec<u8>),
}

pub(in crate::local) fn attributes_of(rows: &[Attribute]) -> Attributes {
    let mut attributes = Attributes {
        encryption: encryption_of(rows),
        ..Attributes::default()
    };
    for row in rows {
        match row {
            Attribute::Tags(tags) => attributes.tags = tags.clone(),
            Attribute::Checksum(name, value) => {
                if let Some(kind) = Checksum::parse(name) {
                    attributes.checksums.of.insert(kind, value.clone());
                }
            }
            Attribute::Composite => attributes.checksums.is_composite = true,
            Attribute::Parts(parts) => {
                let facts = parts.iter().map(|(size, crc64nvme, checksum)| PartFacts {
                    size: *size,
                    crc64nvme: *crc64nvme,
                    checksum: checksum.clone(),
                });
                attributes.parts = facts.collect();
            }
            Attribute::Expires(date) => attributes.expires = Some(date.clone()),
            Attribute::Redirect(to) => attributes.redirect = Some(to.clone()),
            Attribute::Retention(mode, until) => {
                attributes.retention = Some(Retention {
                    mode: (*mode).into(),
                    until: until.to_time(),
                });
            }
            Attribute::LegalHold(holds) => attributes.legal_hold = Some(*holds),
            Attribute::Encrypted(..) => {}
        }
    }
    attributes
}

/// How what has these rows is encrypted.
pub(in crate::local) fn encryption_of(rows: &[Attribute]) -> Option<Encrypted> {
    rows.iter().find_map(|row| match row {
        Attribute::Encrypted(is_customers, sealed) => {
            Some(Encrypted::from_row(*is_customers, sealed.clone()))
        }
        _ => None,
    })
}

pub(in crate::local) fn rows_of(attributes: &Attributes) -> Vec<Attribute> {
    let Attributes {
        tags,
        checksums: Checksums { of, is_composite },
        parts,
        expires,
        redirect,
        retention,
        legal_hold,
        encryption,
    } = attributes;
    let mut rows = Vec::new();
    if !tags.is_empty() {
        rows.push(Attribute::Tags(tags.clone()));
    }
    let checksums = of.iter();
    rows.extend(checksums.map(|(kind, value)| Attribute::Checksum(kind.name().to_owned(), value.clone())));
    rows.extend(is_composite.then_some(Attribute::Composite));
    if !parts.is_empty() {
        let parts = parts.iter();
        let parts = parts.map(|part| (part.size, part.crc64nvme, part.checksum.clone()));
        rows.push(Attribute::Parts(parts.collect()));
    }
    rows.extend(expires.clone().map(Attribute::Expires));
    rows.extend(redirect.clone().map(Attribute::Redirect));
    rows.extend(retention.map(|Retention { mode, until }| Attribute::Retention(mode.into(), until.into())));
    rows.extend(legal_hold.map(Attribute::LegalHold));
    let encrypted = encryption.as_ref().map(Encrypted::to_row);
    rows.extend(encrypted.map(|(is_customers, sealed)| Attribute::Encrypted(is_customers, sealed)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LockMode;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn attributes_are_what_they_were() {
        let attributes = Attributes {
            tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            checksums: Checksums {
                of: BTreeMap::from([(Checksum::Crc32, "AAAA".to_owned())]),
                is_composite: true,
            },
            parts: vec![PartFacts {
                size: 5,
                crc64nvme: 6,
                checksum: Some("x".to_owned()),
            }],
            expires: Some("0".to_owned()),
            redirect: Some("/x".to_owned()),
            retention: Some(Retention {
                mode: LockMode::Compliance,
                until: UNIX_EPOCH + Duration::from_secs(9),
            }),
            legal_hold: Some(true),
            encryption: Some(Encrypted::from_row(true, vec![1, 2])),
        };
        assert_eq!(attributes_of(&rows_of(&attributes)), attributes);
        assert!(rows_of(&Attributes::default()).is_empty());
    }
}
