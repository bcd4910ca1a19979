//! The name of a session.

use super::{ParseError, hex};
use std::fmt;

/// 128 random bits that name a session; 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u128);

impl SessionId {
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
        Self::parse_as("x-amz-rdma-session", text)
    }

    pub(super) fn parse_as(field: &'static str, text: &str) -> Result<Self, ParseError> {
        hex::bytes(field, text).map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

impl fmt::Debug for SessionId {
    /// Its first 32 bits: enough to find it again in a log, and useless to whoever reads one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}…", self.0 >> 96)
    }
}
