//! Which slices a read is cut into, and how their answers are one.

use crate::{
    Error, Result,
    client::{
        Client,
        rdma::{
            judge::{Answer, Piece, Verdict},
            read::object_checksum,
            sum::combined,
        },
        request::Request,
    },
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_RANGE, ETAG, RANGE},
};
use std::{iter, ops::Range};

/// Bytes of the largest slice. So many, and fewer, are not worth a second request.
const SLICE: u64 = 8 << 20;
/// Bytes of the smallest one but the last.
const SMALLEST: u64 = 2 << 20;
/// Slices are multiples of what a storage node moves in one operation.
const UNIT: u64 = 1 << 20;
/// Bytes of the first slice. It is asked for alone, so the fewer the better.
const FIRST: u64 = UNIT;
/// Slices of one object that are under way.
pub(super) const DEPTH: usize = 4;

/// A read that is worth several requests.
pub(in super::super) struct Plan {
    /// How many bytes fit.
    pub room: usize,
    /// Whether a range was asked for.
    pub ranged: bool,
    /// The object's bytes that are asked for, which may be more than there are.
    bytes: Range<u64>,
}

/// What the first slice says of the object.
pub(in super::super) struct Facts {
    pub version: HeaderValue,
    size: u64,
    /// Those of the object's bytes that are asked for.
    bytes: Range<u64>,
    /// Those that have come.
    first: Range<u64>,
}

impl Plan {
    /// Of a request for no more bytes than `room`; `None` where it stays one request.
    pub fn of(request: &Request, room: usize) -> Option<Self> {
        // What somebody else signed cannot be asked for in another way.
        let ours = request.method == Method::GET && request.foreign.is_none();
        let range = request.headers.get(RANGE);
        let bytes = match range {
            None => 0..u64::MAX,
            Some(range) => parsed(range.to_str().ok()?)?,
        };
        let large = (room as u64).min(bytes.end - bytes.start) > SLICE;
        (ours && large).then_some(Self {
            room,
            ranged: range.is_some(),
            bytes,
        })
    }

    /// What is asked for first.
    pub fn first(&self) -> Range<u64> {
        self.bytes.start..self.bytes.end.min(self.bytes.start + FIRST)
    }

    /// Where the bytes of a slice go, counted from where the first one goes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bytes that were not asked for.
    pub fn place(&self, slice: &Range<u64>) -> Result<Range<usize>> {
        let at = |byte: u64| usize::try_from(byte.checked_sub(self.bytes.start)?).ok();
        let place = at(slice.start).zip(at(slice.end));
        place
            .map(|(start, end)| start..end)
            .filter(|place| place.start <= place.end && place.end <= self.room)
            .ok_or_else(|| Error::Invalid("a slice lies outside of what was asked for".to_owned()))
    }

    /// What the answer to the first slice says.
    ///
    /// # Errors
    /// [`Error::Malformed`], when it is not one to what was asked for.
    pub fn facts(&self, plain: &Client, answer: &Answer) -> Result<Facts> {
        let (first, size) = range_of(plain, answer)?;
        let asked = self.first();
        if first != (asked.start..asked.end.min(size)) {
            return Err(plain.malformed(OTHER_RANGE));
        }
        let version = answer.headers.get(ETAG).cloned();
        Ok(Facts {
            version: version.ok_or_else(|| plain.malformed("it has no ETag"))?,
            size,
            bytes: self.bytes.start..self.bytes.end.min(size),
            first,
        })
    }

    /// The answers of all slices, as if one request had got them.
    pub fn joined<B>(&self, facts: &Facts, first: Answer, slices: Vec<Piece>) -> Verdict<B> {
        let said: Option<Vec<_>> = slices
            .iter()
            .map(|slice| Some((slice.checksum?, slice.bytes)))
            .collect();
        let (checksum, mut headers) = (said.map(combined), first.headers);
        // A storage node compares only what it reads in one go.
        let stored = object_checksum(&headers).filter(|_| facts.needed() == facts.size);
        if checksum.zip(stored).is_some_and(|(sent, stored)| sent != stored) {
            return Verdict::Final(Error::Damaged);
        }
        headers.remove(CONTENT_RANGE);
        let Range { start, end } = facts.bytes;
        if self.ranged
            && let Ok(range) = HeaderValue::try_from(format!("bytes {start}-{}/{}", end - 1, facts.size))
        {
            headers.insert(CONTENT_RANGE, range);
        }
        let status = match self.ranged {
            true => StatusCode::PARTIAL_CONTENT,
            false => StatusCode::OK,
        };
        Verdict::Moved(Answer {
            status,
            headers,
            bytes: facts.needed(),
            checksum,
            slices,
        })
    }
}

impl Facts {
    /// How many bytes there are of those that are asked for.
    pub fn needed(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// The slices behind the first one.
    pub fn rest(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        slices(self.first.end..self.bytes.end)
    }

    /// That an answer is of this slice.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn check(&self, plain: &Client, slice: &Range<u64>, answer: &Answer) -> Result<()> {
        if range_of(plain, answer)? == (slice.clone(), self.size) {
            return Ok(());
        }
        Err(plain.malformed(OTHER_RANGE))
    }
}

const OTHER_RANGE: &str = "it sent another range than asked for";

/// The range that an answer is of, and the size of the object.
fn range_of(plain: &Client, answer: &Answer) -> Result<(Range<u64>, u64)> {
    if answer.status != StatusCode::PARTIAL_CONTENT {
        return Err(plain.malformed("it sent no range where one was asked for"));
    }
    plain.content_range(&answer.headers, answer.bytes)
}

/// Ever smaller ones, so that the last ones to move are soon summed too, and there is always another one to begin.
fn slices(bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut next = bytes.start;
    iter::from_fn(move || {
        let left = bytes.end.saturating_sub(next);
        let length = left.div_ceil(DEPTH as u64).next_multiple_of(UNIT);
        let slice = next..next + length.clamp(SMALLEST, SLICE).min(left);
        next = slice.end;
        (slice.start < slice.end).then_some(slice)
    })
}

/// What a `Range` asks for; `None` where that is known only after its answer, or is nothing.
fn parsed(range: &str) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = match last {
        "" => u64::MAX,
        last => last.parse::<u64>().ok()?.checked_add(1)?,
    };
    // Servers refuse numbers beyond i64.
    i64::try_from(first.checked_add(FIRST)?).ok()?;
    (first < end).then_some(first..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    fn get(range: Option<crate::Range>) -> Request {
        Request::new(Method::GET, "bucket", Some("key"))
            .range(range)
            .unwrap()
    }

    #[test]
    fn slices_cover_all_bytes_once_and_grow_small_to_the_end() {
        for (bytes, lengths) in [
            (0..0, vec![]),
            (5..6, vec![1]),
            (0..7 * MIB, vec![2 * MIB, 2 * MIB, 2 * MIB, MIB]),
            (MIB..9 * MIB + 1, vec![3 * MIB, 2 * MIB, 2 * MIB, MIB + 1]),
            (
                MIB..40 * MIB,
                [8, 8, 6, 5, 3, 3, 2, 2, 2].map(|length| length * MIB).to_vec(),
            ),
        ] {
            let cut: Vec<_> = slices(bytes.clone()).collect();
            let of_each: Vec<_> = cut.iter().map(|slice| slice.end - slice.start).collect();
            assert_eq!(of_each, lengths, "{bytes:?}");
            let mut next = bytes.start;
            for slice in cut {
                assert_eq!(slice.start, next);
                next = slice.end;
            }
            assert_eq!(next, bytes.end);
        }
    }

    #[test]
    fn small_reads_and_those_of_others_stay_one_request() {
        let from = |first, last| crate::Range::From { first, last };
        let large = 9 << 20;
        assert!(Plan::of(&get(None), large).is_some());
        assert!(Plan::of(&get(None), SLICE as usize).is_none());
        assert!(Plan::of(&get(Some(from(5, None))), large).is_some());
        assert!(Plan::of(&get(Some(from(5, Some(SLICE + 5)))), large).is_some());
        assert!(Plan::of(&get(Some(from(5, Some(SLICE + 4)))), large).is_none());
        assert!(Plan::of(&get(Some(from(i64::MAX as u64, None))), large).is_none());
        let suffix = crate::Range::Suffix { length: 9 * MIB };
        assert!(Plan::of(&get(Some(suffix)), large).is_none());
        let foreign = Request {
            foreign: Some(Arc::default()),
            ..get(None)
        };
        assert!(Plan::of(&foreign, large).is_none());
    }

    #[test]
    fn no_slice_reaches_beyond_what_was_asked_for() {
        let range = crate::Range::From {
            first: 100,
            last: None,
        };
        let plan = Plan::of(&get(Some(range)), 9 << 20).unwrap();
        assert_eq!(plan.place(&(100..110)).unwrap(), 0..10);
        let end = 100 + 9 * MIB;
        assert_eq!(plan.place(&(end - 1..end)).unwrap(), (9 << 20) - 1..9 << 20);
        assert!(plan.place(&(end - 1..end + 1)).is_err());
        assert!(plan.place(&(99..110)).is_err());
        assert!(plan.place(&Range { start: 110, end: 109 }).is_err());
    }
}
