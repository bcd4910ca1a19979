//! What fuzzers call: each target parses bytes of a peer, and panics where a promise of the parser is broken.

use crate::{
    local::{Handed, LentHeader},
    protocol::{
        Checksum, GatewaySignature, Grant, Offer, ParseError, Psn, QpToken, ReadingId, SessionId,
        WindowToken, length, reply_code, sequence_number,
    },
    xml,
};

/// Tokens and the other values of one spelling. What is taken is written again as it came; what is refused is not repeated.
pub fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let said = |parsed: Result<String, ParseError>| match parsed {
        Ok(spelled) => assert_eq!(spelled, text),
        Err(error) => assert!(text.len() < 32 || !error.to_string().contains(text), "{error}"),
    };
    said(QpToken::parse(text).map(|token| token.encode()));
    said(QpToken::parse_reply(text).map(|token| token.encode_reply()));
    said(Psn::parse(text).map(Psn::encode));
    said(SessionId::parse(text).map(|session| session.encode()));
    said(ReadingId::parse(text).map(ReadingId::encode));
    said(GatewaySignature::parse(text).map(|signature| signature.encode()));
    said(length("x-amz-rdma-offset", text).map(|length| length.to_string()));
    said(sequence_number(text).map(|number| number.to_string()));
    said(reply_code(text).map(|code| code.to_string()));
    said(Checksum::parse("x-amz-rdma-checksum", text).map(Checksum::encode));
    let window = WindowToken::parse(text);
    if let Ok(token) = &window {
        let window = token.window;
        assert!(window.size > 0 && window.address.checked_add(window.size.into()).is_some());
        assert!(
            !format!("{token:?}").contains(&token.session.encode()),
            "a log could hold a session's id"
        );
    }
    said(window.map(|token| token.encode()));
}

/// Capabilities: what is taken lies in its bounds and means the same when it is written again.
pub fn capabilities(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(offer) = Offer::parse(text) {
        assert!([256, 512, 1024, 2048, 4096].contains(&offer.mtu) && offer.read_depth > 0);
        assert_eq!(Offer::parse(&offer.encode()), Ok(offer));
    }
    if let Ok(grant) = Grant::parse(text) {
        assert!([256, 512, 1024, 2048, 4096].contains(&grant.mtu) && grant.read_depth > 0 && grant.max > 0);
        assert_eq!(Grant::parse(&grant.encode()), Ok(grant));
    }
}

/// Headers of the local path, which name places in files.
pub fn local_messages(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(lent) = LentHeader::parse(text) {
        assert!(lent.length() <= lent.size);
        for extent in &lent.extents {
            assert!(extent.file < lent.files && extent.length > 0);
            assert!(i64::try_from(extent.offset + extent.length).is_ok());
        }
        assert_eq!(LentHeader::parse(&lent.to_string()), Some(lent));
    }
    if let Some(handed) = Handed::parse(text) {
        assert!(i64::try_from(handed.offset + handed.length).is_ok());
        assert_eq!(Handed::parse(&handed.to_string()), Some(handed));
    }
}

/// The documents of a server: understood or refused.
pub fn answers(data: &[u8]) {
    let _all = (
        xml::error(data),
        xml::buckets(data).is_ok(),
        xml::listing(data).is_ok(),
        xml::copied(data).is_ok(),
        xml::upload_id(data).is_ok(),
        xml::completed(data).is_ok(),
        xml::parts(data).is_ok(),
        xml::uploads(data).is_ok(),
    );
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tokens_keep_their_promises() {
        replay::run("tokens", tokens);
    }

    #[test]
    fn capabilities_keep_their_promises() {
        replay::run("capabilities", capabilities);
    }

    #[test]
    fn local_messages_keep_their_promises() {
        replay::run("local-messages", local_messages);
    }

    #[test]
    fn answers_keep_their_promises() {
        replay::run("answers", answers);
    }

    #[test]
    #[should_panic(expected = "found")]
    fn what_is_near_the_corpus_is_found() {
        let hidden =
            |data: &[u8]| assert!(data.len() < 5 || data[4] != 0xff || data[..3] != *b"abc", "found");
        replay::mutate(&[b"abcdef".to_vec()], Duration::from_secs(20), hidden);
    }
}
