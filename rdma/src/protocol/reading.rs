//! The name of an object that a gateway is in the middle of reading, and the lengths that go with it.

use super::{ParseError, hex};
use std::fmt;

/// 128 random bits that name a reading; 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadingId(u128);

impl ReadingId {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The id as it is sent.
    pub fn encode(self) -> String {
        format!("{:032x}", self.0)
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        hex::bytes("x-amz-rdma-reading", text).map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for ReadingId {
    /// As of a session's id, its first 32 bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}

/// Parses a number of bytes: decimal, in its one spelling.
///
/// # Errors
/// What is wrong with `field`.
pub fn length(field: &'static str, text: &str) -> Result<u64, ParseError> {
    let number: Option<u64> = text.parse().ok();
    number
        .filter(|number| number.to_string() == text)
        .ok_or(ParseError::new(field, "is not a decimal number of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_lengths_have_one_spelling() {
        let id = ReadingId::random();
        assert_eq!(ReadingId::parse(&id.encode()), Ok(id));
        assert!(!format!("{id:?}").contains(&id.encode()));
        assert!(
            ReadingId::parse(
                &id.encode()
                    .to_uppercase()
                    .replace(|c: char| c.is_ascii_digit(), "A")
            )
            .is_err()
        );
        assert_eq!(length("n", "18446744073709551615"), Ok(u64::MAX));
        assert_eq!(length("n", "0"), Ok(0));
        for wrong in ["", "01", "+1", "-1", "1 ", "18446744073709551616", "1a"] {
            assert!(length("n", wrong).is_err(), "{wrong:?}");
        }
    }
}
