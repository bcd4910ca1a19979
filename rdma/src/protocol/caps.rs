//! What the ends of a session can do, and what they agree on.

use super::ParseError;
use std::time::Duration;

const FIELD: &str = "x-amz-rdma-caps";
/// Longer lists are nobody's.
const LONGEST: usize = 256;

/// What a client offers: `mtu=4096;rd=16;imm=1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Largest path MTU in bytes.
    pub mtu: u16,
    /// READs that it answers at the same time.
    pub read_depth: u8,
    /// Whether the last WRITE of a GET shall carry the low 32 bits of its sequence number.
    pub immediate: bool,
}

impl Default for Offer {
    /// What a client without the header gets: what every device can do.
    fn default() -> Self {
        Self {
            mtu: 1024,
            read_depth: 1,
            immediate: false,
        }
    }
}

impl Offer {
    /// The list as it is sent.
    pub fn encode(&self) -> String {
        let Self {
            mtu,
            read_depth,
            immediate,
        } = self;
        format!("mtu={mtu};rd={read_depth};imm={}", u8::from(*immediate))
    }

    /// Parses it. Names that are not known are passed over: later versions may have more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut offer = Self::default();
        each(text, |name, value| {
            match name {
                "mtu" => offer.mtu = mtu(value)?,
                "rd" => offer.read_depth = number(value, 1, u64::from(u8::MAX))?,
                "imm" => offer.immediate = number::<u8>(value, 0, 1)? == 1,
                _ => {}
            }
            Ok(())
        })?;
        Ok(offer)
    }
}

/// What a session is: the smaller of both ends' abilities, and the server's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Path MTU in bytes.
    pub mtu: u16,
    /// READs that may be under way at the same time.
    pub read_depth: u8,
    /// Whether the last WRITE of a GET carries an immediate.
    pub immediate: bool,
    /// Largest window that the server takes, in bytes.
    pub max: u32,
    /// Without a request for this long (whole seconds) the session ends.
    pub idle: Duration,
    /// An RDMA operation that does not end within this time (whole milliseconds) has failed.
    pub operation: Duration,
}

impl Grant {
    /// The list as it is sent.
    pub fn encode(&self) -> String {
        format!(
            "mtu={};rd={};imm={};max={};idle={};op={}",
            self.mtu,
            self.read_depth,
            u8::from(self.immediate),
            self.max,
            self.idle.as_secs(),
            self.operation.as_millis()
        )
    }

    /// Parses it. All of the known names must be there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        // A day: longer times than this are nonsense, and would overflow sums of times.
        const LONGEST_TIME: u64 = 86_400;
        let (mut path, mut read_depth, mut immediate) = (None, None, None);
        let (mut max, mut idle, mut operation) = (None, None, None);
        each(text, |name, value| {
            match name {
                "mtu" => path = Some(mtu(value)?),
                "rd" => read_depth = Some(number(value, 1, u64::from(u8::MAX))?),
                "imm" => immediate = Some(number::<u8>(value, 0, 1)? == 1),
                "max" => max = Some(number(value, 1, u64::from(u32::MAX))?),
                "idle" => idle = Some(Duration::from_secs(number(value, 1, LONGEST_TIME)?)),
                "op" => operation = Some(Duration::from_millis(number(value, 1, LONGEST_TIME * 1000)?)),
                _ => {}
            }
            Ok(())
        })?;
        let missing = ParseError::new(FIELD, "lacks one of mtu, rd, imm, max, idle, op");
        Ok(Self {
            mtu: path.ok_or(missing)?,
            read_depth: read_depth.ok_or(missing)?,
            immediate: immediate.ok_or(missing)?,
            max: max.ok_or(missing)?,
            idle: idle.ok_or(missing)?,
            operation: operation.ok_or(missing)?,
        })
    }
}

fn each(text: &str, mut take: impl FnMut(&str, &str) -> Result<(), ParseError>) -> Result<(), ParseError> {
    if text.len() > LONGEST {
        return Err(ParseError::new(FIELD, "is too long"));
    }
    let mut seen = Vec::new();
    for pair in text.split(';') {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or(ParseError::new(FIELD, "is not a list of name=value;name=value"))?;
        if seen.contains(&name) {
            return Err(ParseError::new(FIELD, "says something twice"));
        }
        seen.push(name);
        take(name, value)?;
    }
    Ok(())
}

fn mtu(value: &str) -> Result<u16, ParseError> {
    let mtu: u16 = number(value, 256, 4096)?;
    if mtu.is_power_of_two() {
        Ok(mtu)
    } else {
        Err(ParseError::new(
            FIELD,
            "holds an mtu other than 256, 512, 1024, 2048 or 4096",
        ))
    }
}

/// Decimal digits without sign or leading zeros.
fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, ParseError> {
    let plain = value.bytes().all(|byte| byte.is_ascii_digit()) && (value == "0" || !value.starts_with('0'));
    value
        .parse::<u64>()
        .ok()
        .filter(|number| plain && (least..=most).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or(ParseError::new(FIELD, "holds a number out of its bounds"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(
            power in 8u32..=12, read_depth in 1u8.., immediate: bool, max in 1u32.., idle in 1u64..86_400, op in 1u64..86_400_000
        ) {
            let offer = Offer { mtu: 1 << power, read_depth, immediate };
            prop_assert_eq!(Offer::parse(&offer.encode()), Ok(offer));
            let grant = Grant {
                mtu: 1 << power, read_depth, immediate, max,
                idle: Duration::from_secs(idle), operation: Duration::from_millis(op),
            };
            prop_assert_eq!(Grant::parse(&grant.encode()), Ok(grant));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z0-9=;+-]{0,60}") {
            let (_offer, _grant) = (Offer::parse(&text), Grant::parse(&text));
        }
    }

    #[test]
    fn what_is_not_said_is_the_least_and_what_is_not_known_is_passed_over() {
        let offer = Offer::parse("rd=4;later=x").unwrap();
        assert_eq!(
            offer,
            Offer {
                read_depth: 4,
                ..Offer::default()
            }
        );
    }

    #[test]
    fn lists_that_are_not_well_formed_are_refused() {
        for wrong in [
            "",
            ";",
            "mtu",
            "=1",
            "mtu=1000",
            "mtu=8192",
            "mtu=+512",
            "mtu=0512",
            "rd=0",
            "rd=256",
            "imm=2",
            "rd=1;rd=1",
            "rd=1;",
            "rd=-1",
            "rd= 1",
        ] {
            assert!(Offer::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Offer::parse(&format!("x={}", "1".repeat(300))).is_err());
        assert!(Grant::parse("mtu=1024;rd=1;imm=0;max=1;idle=1").is_err());
        assert!(Grant::parse("mtu=1024;rd=1;imm=0;max=0;idle=1;op=1").is_err());
        assert!(Grant::parse("mtu=1024;rd=1;imm=0;max=4294967296;idle=1;op=1").is_err());
    }
}
