//! Packet sequence numbers.

use super::{ParseError, hex};

/// The first packet sequence number of an end: 24 random bits, not zero; 6 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Psn(u32);

impl Psn {
    /// A random one, so that nobody beside the path knows it.
    pub fn random() -> Self {
        Self(rand::random_range(1..1 << 24))
    }

    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The number as it is sent.
    pub fn encode(self) -> String {
        format!("{:06x}", self.0)
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let [high, middle, low] = hex::bytes("x-amz-rdma-psn", text)?;
        match u32::from_be_bytes([0, high, middle, low]) {
            0 => Err(ParseError::new("x-amz-rdma-psn", "is zero")),
            number => Ok(Self(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_six_digits_that_are_not_all_zero_are_taken() {
        assert_eq!(Psn::parse("0a0b0c").map(Psn::number), Ok(0x000a_0b0c));
        for wrong in ["", "000000", "0a0b0", "0a0b0c0", "0A0B0C", "+a0b0c", "0x0b0c"] {
            assert!(Psn::parse(wrong).is_err(), "{wrong}");
        }
        for _ in 0..1000 {
            let psn = Psn::random();
            assert_eq!(Psn::parse(&psn.encode()), Ok(psn));
        }
    }
}
