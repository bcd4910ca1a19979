//! Header blocks (RFC 7541), understood just far enough to give `:authority` another value.
//!
//! A representation's length can be told without decoding it, and so a value can be replaced in place: no Huffman code, no
//! dynamic table. The client may refer later to the field that it has put into its dynamic table with the old value. Those
//! references stay right because the new value is no longer than the old one (RFC 7541, 4.1: a field's size is that of its
//! decoded octets): the server's table then holds every field that the client's still holds, at the same index, and at most
//! some older ones beyond them.

/// The new value. One octet, so that no old one is shorter.
const AUTHORITY: u8 = b'k';
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY_NAME: &[u8] = b":authority";

/// The header block with another `:authority`. `None` when the block is malformed.
///
/// A client that names the field in Huffman code or by an index of its dynamic table keeps its value; grpc-go does neither.
pub(super) fn with_valid_authority(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Cursor(block);
    let mut rewritten = Vec::with_capacity(block.len());
    while let Some(first) = rest.peek() {
        let start = rest.0;
        let name = match first {
            // Indexed field, or a new size of the dynamic table: no string follows.
            0x80.. => {
                rest.integer(7)?;
                None
            }
            0x20..0x40 => {
                rest.integer(5)?;
                None
            }
            // A literal: with incremental indexing (01), or without and never indexed (000).
            0x40..0x80 => Some(rest.integer(6)?),
            ..0x20 => Some(rest.integer(4)?),
        };
        let Some(name) = name else {
            rewritten.extend_from_slice(rest.since(start));
            continue;
        };
        let is_authority = match name {
            0 => rest.string()? == (false, AUTHORITY_NAME),
            index => index == AUTHORITY_INDEX,
        };
        rewritten.extend_from_slice(rest.since(start));
        let start = rest.0;
        let (_, value) = rest.string()?;
        if is_authority && !value.is_empty() {
            rewritten.extend_from_slice(&[1, AUTHORITY]);
        } else {
            rewritten.extend_from_slice(rest.since(start));
        }
    }
    Some(rewritten)
}

/// What of a block is still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The octets read since `start`.
    fn since(&self, start: &'a [u8]) -> &'a [u8] {
        &start[..start.len() - self.0.len()]
    }

    /// An integer in the low `bits` of the next octet and what follows (RFC 7541, 5.1). None beyond 2^28 is of any use here.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1usize << bits) - 1;
        let mut value = usize::from(self.octet()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = usize::from(self.octet()?);
            value += (octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A string (RFC 7541, 5.2): whether it is in Huffman code, and its octets.
    fn string(&mut self) -> Option<(bool, &'a [u8])> {
        let huffman = self.peek()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (octets, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((huffman, octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_replaced_and_nothing_else() {
        let block = [
            &[0x3f, 0xe1, 0x1f][..],               // new table size 4096
            &[0x83, 0x86],                         // :method POST, :scheme http
            &[0x44, 0x03, b'/', b'a', b'b'],       // :path, with incremental indexing
            &[0x41, 0x84, 0x1f, 0x1f, 0x1f, 0x1f], // :authority, incremental, Huffman
            &[0x0f, 0x2b, 0x01, b't'],             // name index 58 in two octets, without indexing
            &[0x10, 0x01, b'x', 0x01, b'y'],       // literal name, never indexed
            &[0xbe],                               // dynamic index 62
        ]
        .concat();
        let rewritten = with_valid_authority(&block).unwrap();
        let mut expected = block.clone();
        expected.splice(11..16, [1, b'k']);
        assert_eq!(rewritten, expected);
    }

    #[test]
    fn every_way_to_spell_the_authority_is_found() {
        for head in [
            &[0x41][..],
            &[0x01],
            &[0x11],
            b"\x40\x0a:authority",
            b"\x00\x0a:authority",
        ] {
            let block = [head, &[0x04], b"%2Fa"].concat();
            assert_eq!(with_valid_authority(&block).unwrap(), [head, &[1, b'k']].concat());
        }
    }

    #[test]
    fn an_empty_authority_stays_empty_so_that_no_field_grows() {
        assert_eq!(with_valid_authority(&[0x41, 0x00]).unwrap(), [0x41, 0x00]);
    }

    #[test]
    fn long_values_and_cut_blocks_are_told_apart() {
        let mut block = vec![0x41, 0x7f, 0x81, 0x01];
        block.extend(std::iter::repeat_n(b'p', 127 + 129));
        assert_eq!(with_valid_authority(&block).unwrap(), [0x41, 1, b'k']);
        for end in 1..block.len() {
            assert_eq!(with_valid_authority(&block[..end]), None, "{end}");
        }
        assert_eq!(
            with_valid_authority(&[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x01]),
            None
        );
    }
}
