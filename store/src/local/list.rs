//! Listings: a range scan that jumps over what is rolled up.

use super::{
    index::{BUCKETS, Index, OBJECTS, Outcome},
    rows::{ObjectRow, ObjectV2, decode, object_key},
};
use crate::engine::{ListPage, ListQuery, group_of};
use std::ops::Bound;

/// One page; `None` when there is no such bucket.
pub(super) fn page(index: &Index, bucket: &str, query: &ListQuery) -> Outcome<Option<ListPage>> {
    let read = index.read()?;
    if read.open_table(BUCKETS)?.get(bucket)?.is_none() {
        return Ok(None);
    }
    let mut page = ListPage::default();
    if query.limit == 0 {
        return Ok(Some(page));
    }
    let table = read.open_table(OBJECTS)?;
    let prefix = object_key(bucket, &query.prefix);
    let key_at = bucket.len() + 1;
    let delimiter = query
        .delimiter
        .as_deref()
        .filter(|delimiter| !delimiter.is_empty());
    let mut from = start(bucket, query, delimiter);
    let mut last = None;
    'jump: loop {
        for row in table.range::<&[u8]>((as_slice(&from), Bound::Unbounded))? {
            let (row_key, row) = row?;
            let row_key = row_key.value();
            if !row_key.starts_with(&prefix) {
                break 'jump;
            }
            if page.objects.len() + page.common_prefixes.len() == query.limit {
                page.next = last;
                break 'jump;
            }
            let key = String::from_utf8_lossy(&row_key[key_at..]).into_owned();
            if let Some(group) = delimiter.and_then(|delimiter| group_of(&key, &query.prefix, delimiter)) {
                last = Some(group.clone());
                // Whatever else begins with it belongs to it.
                match successor(object_key(bucket, &group)) {
                    Some(after) => from = Bound::Included(after),
                    None => from = Bound::Excluded(row_key.to_vec()),
                }
                page.common_prefixes.push(group);
                continue 'jump;
            }
            let row: ObjectV2 = decode::<ObjectRow>(row.value())?.into();
            let mut info = row.to_info();
            info.headers = Default::default();
            last = Some(key.clone());
            page.objects.push((key, info));
        }
        break;
    }
    Ok(Some(page))
}

/// Where the scan begins. A `start_after` that is itself a common prefix stands for all that is rolled up in it.
fn start(bucket: &str, query: &ListQuery, delimiter: Option<&str>) -> Bound<Vec<u8>> {
    let Some(after) = query
        .start_after
        .as_deref()
        .filter(|after| *after >= query.prefix.as_str())
    else {
        return Bound::Included(object_key(bucket, &query.prefix));
    };
    let group = delimiter.and_then(|delimiter| group_of(after, &query.prefix, delimiter));
    if group.as_deref() == Some(after)
        && let Some(behind) = successor(object_key(bucket, after))
    {
        return Bound::Included(behind);
    }
    Bound::Excluded(object_key(bucket, after))
}

/// The first byte string after all that begin with `bytes`.
pub(super) fn successor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = bytes.pop() {
        if last < u8::MAX {
            bytes.push(last + 1);
            return Some(bytes);
        }
    }
    None
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(bytes) => Bound::Included(bytes),
        Bound::Excluded(bytes) => Bound::Excluded(bytes),
        Bound::Unbounded => Bound::Unbounded,
    }
}
