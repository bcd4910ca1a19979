//! Tokens: where a queue pair is, and where bytes go to or come from.

use super::{ParseError, SessionId, hex};
use crate::fabric::{Gid, QpAddress, Window};
use std::fmt;

const RELIABLE: u8 = 1;
const QPN_BITS: u32 = 24;

/// Where a queue pair is, in 88 hexadecimal digits: the token of connect. The layout is that of AMD's hipObject and of
/// elbencho: transport u8, qpn u32, gid 16 bytes, rkey u32, address u64, length u64, port u8, lid u16, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpToken(pub QpAddress);

impl QpToken {
    /// Bytes of it, before they are written as digits.
    const LENGTH: usize = 44;

    /// The token as it is sent.
    pub fn encode(&self) -> String {
        let Self(address) = self;
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = RELIABLE;
        bytes[1..5].copy_from_slice(&address.qpn.to_le_bytes());
        bytes[5..21].copy_from_slice(&address.gid.0);
        // No window belongs to a queue pair: rkey, address and length stay 0.
        bytes[41] = address.port;
        bytes[42..44].copy_from_slice(&address.lid.to_le_bytes());
        let mut text = String::with_capacity(2 * Self::LENGTH);
        hex::append(&mut text, &bytes);
        text
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with which field.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let wrong = |field, cause| Err(ParseError::new(field, cause));
        let bytes: [u8; Self::LENGTH] = hex::bytes("x-amz-rdma-token", text)?;
        if bytes[0] != RELIABLE {
            return wrong(
                "transport of x-amz-rdma-token",
                "is not 01, a reliable connection",
            );
        }
        let qpn = u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        if qpn == 0 || qpn >> QPN_BITS != 0 {
            return wrong("qpn of x-amz-rdma-token", "is not a queue pair number of 24 bits");
        }
        let mut gid = [0; 16];
        gid.copy_from_slice(&bytes[5..21]);
        let lid = u16::from_le_bytes([bytes[42], bytes[43]]);
        if gid == [0; 16] && lid == 0 {
            return wrong("gid of x-amz-rdma-token", "is zero, and so is the lid");
        }
        if bytes[21..41] != [0; 20] {
            return wrong(
                "window of x-amz-rdma-token",
                "is not zero; windows come with requests on objects",
            );
        }
        let port = bytes[41];
        if port == 0 {
            return wrong("port of x-amz-rdma-token", "is zero; ports count from 1");
        }
        Ok(Self(QpAddress {
            qpn,
            gid: Gid(gid),
            lid,
            port,
        }))
    }
}

/// Where the bytes of an object go to or come from: `rc:<session>:<address>:<size>:<rkey>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WindowToken {
    /// The session whose queue pair reaches it.
    pub session: SessionId,
    /// What it opens.
    pub window: Window,
}

impl WindowToken {
    /// The token as it is sent.
    pub fn encode(&self) -> String {
        let Window { address, size, rkey } = self.window;
        format!(
            "rc:{}:{address:016x}:{size:08x}:{rkey:08x}",
            self.session.encode()
        )
    }

    /// Parses it.
    ///
    /// # Errors
    /// What is wrong with which field.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut fields = text.split(':');
        let mut next = || fields.next().unwrap_or("");
        if next() != "rc" {
            return Err(ParseError::new(
                "x-amz-rdma-token",
                "does not begin with rc:, a token of this protocol",
            ));
        }
        let session = SessionId::parse_as("session of x-amz-rdma-token", next())?;
        let address = u64::from_be_bytes(hex::bytes("address of x-amz-rdma-token", next())?);
        let size = u32::from_be_bytes(hex::bytes("size of x-amz-rdma-token", next())?);
        let rkey = u32::from_be_bytes(hex::bytes("rkey of x-amz-rdma-token", next())?);
        if fields.next().is_some() {
            return Err(ParseError::new("x-amz-rdma-token", "has more fields than five"));
        }
        if size == 0 {
            return Err(ParseError::new("size of x-amz-rdma-token", "is zero"));
        }
        if address.checked_add(u64::from(size)).is_none() {
            return Err(ParseError::new(
                "size of x-amz-rdma-token",
                "reaches beyond the last address",
            ));
        }
        Ok(Self {
            session,
            window: Window { address, size, rkey },
        })
    }
}

impl fmt::Debug for WindowToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowToken")
            .field("session", &self.session)
            .field("window", &self.window)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = QpAddress> {
        (1u32..1 << 24, any::<[u8; 16]>(), any::<u16>(), 1u8..).prop_map(|(qpn, gid, lid, port)| QpAddress {
            qpn,
            gid: Gid(if gid == [0; 16] { [1; 16] } else { gid }),
            lid,
            port,
        })
    }

    fn window() -> impl Strategy<Value = WindowToken> {
        (any::<u128>(), any::<u64>(), 1u32.., any::<u32>()).prop_map(|(session, address, size, rkey)| {
            WindowToken {
                session: SessionId(session),
                window: Window {
                    address: address.min(u64::MAX - u64::from(size)),
                    size,
                    rkey,
                },
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(address in address(), window in window()) {
            prop_assert_eq!(QpToken::parse(&QpToken(address).encode()), Ok(QpToken(address)));
            prop_assert_eq!(WindowToken::parse(&window.encode()), Ok(window));
        }

        #[test]
        fn any_text_is_parsed_or_refused_and_has_one_spelling(text in ".{0,100}") {
            if let Ok(token) = QpToken::parse(&text) {
                prop_assert_eq!(token.encode(), text);
            } else if let Ok(token) = WindowToken::parse(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }

        #[test]
        fn one_changed_character_is_another_token_or_none(
            window in window(), at in any::<prop::sample::Index>(), with in any::<char>()
        ) {
            let text = window.encode();
            let mut changed: Vec<char> = text.chars().collect();
            let at = at.index(changed.len());
            changed[at] = with;
            let changed: String = changed.into_iter().collect();
            if let Ok(token) = WindowToken::parse(&changed) {
                prop_assert_eq!(token.encode(), changed.clone());
                prop_assert_eq!(token == window, changed == text);
            }
        }
    }

    #[test]
    fn the_layout_of_the_connect_token_is_that_of_others() {
        let token = QpToken(QpAddress {
            qpn: 0x0001_0203,
            gid: Gid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 9, 0, 1]),
            lid: 0x0405,
            port: 1,
        });
        let expected = concat!(
            "01",
            "03020100",
            "00000000000000000000ffff0a090001",
            "00000000",
            "0000000000000000",
            "0000000000000000",
            "01",
            "0504"
        );
        assert_eq!(token.encode(), expected);
    }

    #[test]
    fn a_refusal_names_the_field() {
        let good = QpToken(QpAddress {
            qpn: 1,
            gid: Gid([1; 16]),
            lid: 0,
            port: 1,
        })
        .encode();
        for (place, with, field) in [
            (0..2, "02", "transport"),
            (2..10, "00000000", "qpn"),
            (2..10, "00000001", "qpn"),
            (10..42, "00000000000000000000000000000000", "gid"),
            (42..50, "01000000", "window"),
            (50..52, "01", "window"),
            (82..84, "00", "port"),
            (0..2, "0X", "x-amz-rdma-token"),
        ] {
            let mut text = good.clone();
            text.replace_range(place, with);
            let error = QpToken::parse(&text).unwrap_err();
            assert!(error.field.starts_with(field), "{error}");
        }
        let session = "0123456789abcdef0123456789abcdef";
        for (text, field) in [
            (String::new(), "x-amz-rdma-token"),
            (
                format!("dc:{session}:0000000000000001:00000001:00000001"),
                "x-amz-rdma-token",
            ),
            (format!("rc:{session}:0000000000000001:00000001"), "rkey"),
            (
                format!("rc:{session}:0000000000000001:00000001:00000001:"),
                "x-amz-rdma-token",
            ),
            (
                format!("rc:{session}0:0000000000000001:00000001:00000001"),
                "session",
            ),
            (format!("rc:{session}:1:00000001:00000001"), "address"),
            (format!("rc:{session}:0000000000000001:00000000:00000001"), "size"),
            (format!("rc:{session}:ffffffffffffffff:00000001:00000001"), "size"),
            (format!("rc:{session}:0000000000000001:0000000A:00000001"), "size"),
        ] {
            let error = WindowToken::parse(&text).unwrap_err();
            assert!(error.field.starts_with(field), "{text}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_capability() {
        let token = WindowToken {
            session: SessionId(0x1111_1111_2222_2222_3333_3333_4444_4444),
            window: Window {
                address: 0xabcd_abcd_abcd,
                size: 9,
                rkey: 0x5555_5555,
            },
        };
        let shown = format!("{token:?}");
        for secret in ["4444", "abcd", "5555", "188900977659341", "1431655765"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
