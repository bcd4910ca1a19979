//! The headers of the local path as values. Both ends are untrusted to each other, so parsing is strict.

use std::fmt;

/// A run of bytes of a lent file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which descriptor of the answer, from 0.
    pub file: usize,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
}

/// What [`super::LENT`] says: `<lease>;<descriptors>;<size>;<file>:<offset>:<length>,…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentHeader {
    /// Names the lease, so that it can be returned.
    pub lease: u64,
    /// How many descriptors come with the answer.
    pub files: usize,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// The bytes asked for, in order.
    pub extents: Vec<Extent>,
}

impl fmt::Display for LentHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{};{};", self.lease, self.files, self.size)?;
        for (position, extent) in self.extents.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}:{}", extent.file, extent.offset, extent.length)?;
        }
        Ok(())
    }
}

impl LentHeader {
    /// Reads the header; `None` when it is not well-formed or its numbers contradict each other.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(';');
        let (lease, files, size) = (
            number(fields.next()?)?,
            usize::try_from(number(fields.next()?)?).ok()?,
            number(fields.next()?)?,
        );
        let list = fields.next()?;
        if fields.next().is_some() || files > super::MOST_DESCRIPTORS {
            return None;
        }
        let mut extents = Vec::new();
        let mut total: u64 = 0;
        for text in list.split(',').filter(|_| !list.is_empty()) {
            let mut parts = text.split(':');
            let extent = Extent {
                file: usize::try_from(number(parts.next()?)?).ok()?,
                offset: number(parts.next()?)?,
                length: number(parts.next()?)?,
            };
            let fits = extent
                .offset
                .checked_add(extent.length)
                .is_some_and(|end| i64::try_from(end).is_ok());
            if parts.next().is_some() || extent.file >= files || extent.length == 0 || !fits {
                return None;
            }
            total = total.checked_add(extent.length)?;
            extents.push(extent);
        }
        (total <= size).then_some(Self {
            lease,
            files,
            size,
            extents,
        })
    }

    /// How many bytes are lent.
    pub fn length(&self) -> u64 {
        self.extents.iter().map(|extent| extent.length).sum()
    }
}

/// What [`super::HANDED`] says: `<offset>,<length>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// Where the body begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

impl fmt::Display for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.offset, self.length)
    }
}

impl Handed {
    /// Reads the header; `None` when it is not well-formed or ends beyond what files can hold.
    pub fn parse(text: &str) -> Option<Self> {
        let (offset, length) = text.split_once(',')?;
        let handed = Self {
            offset: number(offset)?,
            length: number(length)?,
        };
        let end = handed.offset.checked_add(handed.length)?;
        i64::try_from(end).is_ok().then_some(handed)
    }
}

/// Decimal digits alone: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = LentHeader {
            lease: u64::MAX,
            files: 2,
            size: 30,
            extents: vec![
                Extent {
                    file: 1,
                    offset: 5,
                    length: 10,
                },
                Extent {
                    file: 0,
                    offset: 0,
                    length: 20,
                },
            ],
        };
        assert_eq!(LentHeader::parse(&header.to_string()), Some(header.clone()));
        assert_eq!(header.length(), 30);
        let empty = LentHeader {
            lease: 1,
            files: 0,
            size: 0,
            extents: Vec::new(),
        };
        assert_eq!(LentHeader::parse(&empty.to_string()), Some(empty));
        let handed = Handed { offset: 3, length: 4 };
        assert_eq!(Handed::parse(&handed.to_string()), Some(handed));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for text in [
            "",
            "1",
            "1;1;5",
            "1;1;5;0:0:5;",
            "1;1;5;0:0",
            "1;1;5;0:0:5:6",
            "1;1;5;1:0:5",
            "1;1;4;0:0:5",
            "1;1;5;0:0:0",
            "1;1;5;0:+0:5",
            "-1;1;5;0:0:5",
            "1;254;5;0:0:5",
            "1;1;5;0:18446744073709551615:1",
            "1;1;5;0:9223372036854775807:1",
            "1;1;18446744073709551615;0:0:9223372036854775807,0:0:9223372036854775807,0:0:9223372036854775807",
            "1;1;5;0:0:5,",
        ] {
            assert_eq!(LentHeader::parse(text), None, "{text}");
        }
        for text in [
            "",
            "1",
            "1,",
            ",1",
            "1,2,3",
            "+1,2",
            "9223372036854775807,1",
            "18446744073709551615,1",
        ] {
            assert_eq!(Handed::parse(text), None, "{text}");
        }
    }
}
