//! Numbers in lowercase hexadecimal of fixed length.

use super::ParseError;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const NOT_HEX: &str = "is not lowercase hexadecimal";

/// Exactly `2 * N` lowercase digits.
pub(super) fn bytes<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], ParseError> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(ParseError::new(field, "has another length than it must have"));
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let mut value = 0;
        for digit in pair {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(ParseError::new(field, NOT_HEX)),
            };
            value = value << 4 | digit;
        }
        *byte = value;
    }
    Ok(bytes)
}

pub(super) fn append(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}
