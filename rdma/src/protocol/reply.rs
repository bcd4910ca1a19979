//! `x-amz-rdma-reply`.

use super::{ParseError, QpToken};

const FIELD: &str = "x-amz-rdma-reply";
/// What the reply to connect begins with; the server's [`QpToken`] follows.
pub const CONNECTED: &str = "200:";

/// The status in a reply to a request on an object.
///
/// # Errors
/// What is wrong with it.
pub fn reply_code(text: &str) -> Result<u16, ParseError> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|code| digits && (200..=599).contains(code))
        .ok_or(ParseError::new(FIELD, "is not a status of three digits"))
}

impl QpToken {
    /// The reply to connect.
    pub fn encode_reply(&self) -> String {
        format!("{CONNECTED}{}", self.encode())
    }

    /// Parses the reply to connect.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_reply(text: &str) -> Result<Self, ParseError> {
        let token = text
            .strip_prefix(CONNECTED)
            .ok_or(ParseError::new(FIELD, "does not begin with 200:"))?;
        Self::parse(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_three_digits() {
        assert_eq!(reply_code("206"), Ok(206));
        for wrong in ["", "20", "2000", "+20", "199", "600", "200:", " 200"] {
            assert!(reply_code(wrong).is_err(), "{wrong:?}");
        }
    }
}
