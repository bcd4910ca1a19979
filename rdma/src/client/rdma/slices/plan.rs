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
    fabric,
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_RANGE, ETAG, RANGE},
};
use std::{iter, ops::Range};

/// Bytes of the largest slice. So many, and fewer, are not worth a second request.
const SLICE: u64 = 8 << 20;
/// Bytes of the first slice. It is asked for alone, so the fewer the better; and so many that a small object comes with it.
const FIRST: u64 = 2 << 20;
/// Slices are multiples of what a storage node moves in one operation.
const UNIT: u64 = 1 << 20;
/// Slices of one object that are under way.
pub(super) const DEPTH: usize = 4;

/// A read that is worth several requests.
pub(in super::super) struct Plan {
    /// What is open for all of it.
    pub window: fabric::Window,
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
    /// Of a request whose bytes go to `window`; `None` where it stays one request.
    pub fn of(request: &Request, window: fabric::Window) -> Option<Self> {
        // What somebody else signed cannot be asked for in another way.
        let ours = request.method == Method::GET && request.foreign.is_none();
        let range = request.headers.get(RANGE);
        let bytes = match range {
            None => 0..u64::MAX,
            Some(range) => parsed(range.to_str().ok()?)?,
        };
        let large = u64::from(window.size).min(bytes.end - bytes.start) > SLICE;
        (ours && large).then_some(Self {
            window,
            ranged: range.is_some(),
            bytes,
        })
    }

    /// What is asked for first.
    pub fn first(&self) -> Range<u64> {
        self.bytes.start..self.bytes.end.min(self.bytes.start + FIRST)
    }

    /// The part of the window for a slice.
    pub fn part(&self, slice: &Range<u64>) -> Option<fabric::Window> {
        let offset = slice.start.checked_sub(self.bytes.start)?;
        let size = slice.end.checked_sub(slice.start)?;
        let fits = offset.checked_add(size)? <= u64::from(self.window.size);
        Some(fabric::Window {
            address: self.window.address + offset,
            size: u32::try_from(size).ok().filter(|_| fits)?,
            rkey: self.window.rkey,
        })
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

/// As equal as can be, so that all end at about the same time.
fn slices(bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let all = bytes.end.saturating_sub(bytes.start);
    let length = all.div_ceil(DEPTH as u64).next_multiple_of(UNIT).min(SLICE);
    let mut next = bytes.start;
    iter::from_fn(move || {
        let slice = next..bytes.end.min(next + length);
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

    fn window(size: u64) -> fabric::Window {
        fabric::Window {
            address: 1000,
            size: u32::try_from(size).unwrap(),
            rkey: 7,
        }
    }

    fn get(range: Option<crate::Range>) -> Request {
        Request::new(Method::GET, "bucket", Some("key"))
            .range(range)
            .unwrap()
    }

    #[test]
    fn slices_cover_all_bytes_once_and_keep_four_requests_at_work() {
        for (bytes, lengths) in [
            (0..0, vec![]),
            (5..6, vec![1]),
            (0..7 * MIB, vec![2 * MIB, 2 * MIB, 2 * MIB, MIB]),
            (MIB..9 * MIB + 1, vec![3 * MIB, 3 * MIB, 2 * MIB + 1]),
            (
                2 * MIB..40 * MIB,
                vec![8 * MIB, 8 * MIB, 8 * MIB, 8 * MIB, 6 * MIB],
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
        let large = window(9 * MIB);
        assert!(Plan::of(&get(None), large).is_some());
        assert!(Plan::of(&get(None), window(SLICE)).is_none());
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
    fn no_part_reaches_beyond_its_window() {
        let plan = Plan::of(
            &get(Some(crate::Range::From {
                first: 100,
                last: None,
            })),
            window(9 * MIB),
        );
        let plan = plan.unwrap();
        let part = |slice: Range<u64>| plan.part(&slice).map(|part| (part.address, part.size, part.rkey));
        assert_eq!(part(100..110), Some((1000, 10, 7)));
        let end = 100 + 9 * MIB;
        assert_eq!(part(end - 1..end), Some((1000 + 9 * MIB - 1, 1, 7)));
        assert_eq!(part(end - 1..end + 1), None);
        assert_eq!(part(99..110), None);
    }
}
