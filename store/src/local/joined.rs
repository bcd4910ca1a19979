//! The checksum of an object that was uploaded in parts, from those of its parts (S3 API, "Checking object integrity": full
//! object and composite checksums).

use super::rows::PartV2;
use crate::engine::{Checksum, Checksums};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;

/// Nothing where a part lacks the checksum: there is none of the whole then.
pub(super) fn of_parts(kind: Checksum, is_composite: bool, parts: &[PartV2]) -> Checksums {
    // Every object has it.
    if kind == Checksum::Crc64nvme {
        return Checksums::default();
    }
    let values: Option<Vec<(Vec<u8>, u64)>> = parts
        .iter()
        .map(|part| {
            let value = part.checksums().of.remove(&kind)?;
            Some((BASE64_STANDARD.decode(value).ok()?, part.size))
        })
        .collect();
    let Some(values) = values else {
        return Checksums::default();
    };
    let value = match (is_composite, kind) {
        (true, _) => {
            let all: Vec<u8> = values.iter().flat_map(|(value, _)| value.clone()).collect();
            Some(format!(
                "{}-{}",
                BASE64_STANDARD.encode(digest(kind, &all)),
                values.len()
            ))
        }
        (false, Checksum::Crc32) => whole(CrcAlgorithm::Crc32IsoHdlc, &values),
        (false, Checksum::Crc32c) => whole(CrcAlgorithm::Crc32Iscsi, &values),
        // They cannot be put together.
        (false, Checksum::Sha1 | Checksum::Sha256 | Checksum::Crc64nvme) => None,
    };
    Checksums {
        of: value
            .map(|value| (kind, value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        is_composite,
    }
}

/// A CRC-64/NVME as S3 has it.
pub(super) fn base64_of(crc64nvme: u64) -> String {
    BASE64_STANDARD.encode(crc64nvme.to_be_bytes())
}

fn digest(kind: Checksum, bytes: &[u8]) -> Vec<u8> {
    let crc = |algorithm| {
        let crc = u32::try_from(checksum(algorithm, bytes)).unwrap_or(0);
        crc.to_be_bytes().to_vec()
    };
    match kind {
        Checksum::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc),
        Checksum::Crc32c => crc(CrcAlgorithm::Crc32Iscsi),
        Checksum::Sha1 => Sha1::digest(bytes).to_vec(),
        Checksum::Sha256 => Sha256::digest(bytes).to_vec(),
        Checksum::Crc64nvme => checksum(CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes().to_vec(),
    }
}

fn whole(algorithm: CrcAlgorithm, values: &[(Vec<u8>, u64)]) -> Option<String> {
    let mut sum = None;
    for (value, length) in values {
        let crc = u64::from(u32::from_be_bytes(value.as_slice().try_into().ok()?));
        sum = Some(match sum {
            None => crc,
            Some(before) => checksum_combine(algorithm, before, crc, *length),
        });
    }
    let sum = u32::try_from(sum?).ok()?;
    Some(BASE64_STANDARD.encode(sum.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::rows::Instant;

    fn part(kind: Checksum, bytes: &[u8]) -> PartV2 {
        PartV2 {
            size: bytes.len() as u64,
            digest: [0; 16],
            modified: Instant(0),
            crc64: 0,
            extents: Vec::new(),
            checksums: vec![(
                kind.name().to_owned(),
                BASE64_STANDARD.encode(digest(kind, bytes)),
            )],
        }
    }

    #[test]
    fn crcs_of_parts_are_put_together_and_any_checksum_is_summed_up() {
        for kind in Checksum::ALL {
            let parts = [part(kind, b"hello "), part(kind, b"world"), part(kind, b"")];
            let whole = of_parts(kind, false, &parts).of;
            let expected = BASE64_STANDARD.encode(digest(kind, b"hello world"));
            match kind {
                Checksum::Crc32 | Checksum::Crc32c => assert_eq!(whole.get(&kind), Some(&expected)),
                Checksum::Sha1 | Checksum::Sha256 | Checksum::Crc64nvme => assert!(whole.is_empty()),
            }
            if kind == Checksum::Crc64nvme {
                continue;
            }
            let composite = of_parts(kind, true, &parts);
            assert!(composite.is_composite && composite.of[&kind].ends_with("-3"));
        }
    }

    #[test]
    fn without_one_of_each_part_there_is_none() {
        let parts = [part(Checksum::Crc32, b"a"), part(Checksum::Sha1, b"b")];
        assert!(of_parts(Checksum::Crc32, false, &parts).of.is_empty());
    }
}
