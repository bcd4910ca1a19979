//! Checksums of bytes that moved.

use super::ParseError;
use base64::{Engine as _, prelude::BASE64_STANDARD};

const ALGORITHM: &str = "CRC64NVME ";

/// A CRC-64/NVME in a header: `CRC64NVME <base64 of its eight bytes, the most significant first>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl Checksum {
    /// The checksum as it is sent.
    pub fn encode(self) -> String {
        format!("{ALGORITHM}{}", BASE64_STANDARD.encode(self.0.to_be_bytes()))
    }

    /// Parses it; `field` is the header's name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, ParseError> {
        text.strip_prefix(ALGORITHM)
            .and_then(|value| BASE64_STANDARD.decode(value).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(|bytes| Self(u64::from_be_bytes(bytes)))
            .ok_or(ParseError::new(
                field,
                "is not CRC64NVME and a base64 of eight bytes",
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(crc: u64, text in ".{0,30}") {
            prop_assert_eq!(Checksum::parse("x", &Checksum(crc).encode()), Ok(Checksum(crc)));
            let _parsed_or_refused = Checksum::parse("x", &text);
        }
    }

    #[test]
    fn other_algorithms_and_lengths_are_refused() {
        for wrong in [
            "",
            "CRC64NVME",
            "CRC64NVME AAAAAA==",
            "CRC32C AAAAAAAAAAA=",
            "CRC64NVME  AAAAAAAAAAA=",
        ] {
            assert!(Checksum::parse("x", wrong).is_err(), "{wrong}");
        }
    }
}
