//! Listings of versions: two tables in step, the one of what is current and the one of all others.

use super::{
    index::{BUCKETS, Bytes, Index, OBJECTS, Outcome, VERSIONS, id_of},
    list::successor,
    rows::{ObjectRow, ObjectV2, VersionRow, decode, object_key, parse_version_key, prefix_of_versions},
};
use crate::engine::{Version, VersionInfo, VersionPage, VersionQuery, group_of};
use redb::{Range, ReadableTable};
use std::ops::Bound;

/// One page; `None` when there is no such bucket.
pub(super) fn page(index: &Index, bucket: &str, query: &VersionQuery) -> Outcome<Option<VersionPage>> {
    let read = index.read()?;
    if read.open_table(BUCKETS)?.get(bucket)?.is_none() {
        return Ok(None);
    }
    let mut page = VersionPage::default();
    if query.limit == 0 {
        return Ok(Some(page));
    }
    let (objects, versions) = (read.open_table(OBJECTS)?, read.open_table(VERSIONS)?);
    let delimiter = query
        .delimiter
        .as_deref()
        .filter(|delimiter| !delimiter.is_empty());
    let mut scan = match &query.after {
        None => Scan::from(&objects, &versions, bucket, &query.prefix)?,
        Some((key, version)) => {
            let group = delimiter.and_then(|delimiter| group_of(key, &query.prefix, delimiter));
            if group.as_deref() == Some(key.as_str()) && version.is_none() {
                Scan::behind(&objects, &versions, bucket, key)?
            } else {
                let from = key.as_str().max(&query.prefix);
                let mut scan = Scan::from(&objects, &versions, bucket, from)?;
                scan.skip(key, *version)?;
                scan
            }
        }
    };
    // Of the key that was seen last: whether its latest version was.
    let mut seen = query
        .after
        .as_ref()
        .and_then(|(key, version)| version.map(|_| key.clone()));
    let mut last = None;
    while let Some((found, _)) = scan.next()? {
        if !found.key.starts_with(&query.prefix) {
            break;
        }
        if page.versions.len() + page.common_prefixes.len() == query.limit {
            page.next = last;
            break;
        }
        if let Some(group) = delimiter.and_then(|delimiter| group_of(&found.key, &query.prefix, delimiter)) {
            scan = Scan::behind(&objects, &versions, bucket, &group)?;
            last = Some((group.clone(), None));
            page.common_prefixes.push(group);
            continue;
        }
        let is_latest = seen.as_ref() != Some(&found.key);
        seen = Some(found.key.clone());
        last = Some((found.key.clone(), Some(found.version)));
        page.versions.push(VersionInfo { is_latest, ..found });
    }
    Ok(Some(page))
}

/// A version, and the number that it has in the order of its key.
type Numbered = (VersionInfo, u128);

/// Versions in their order.
struct Scan<'t> {
    bucket: &'t str,
    objects: Option<Range<'t, Bytes, Bytes>>,
    versions: Option<Range<'t, Bytes, Bytes>>,
    current: Option<Numbered>,
    older: Option<Numbered>,
}

impl<'t> Scan<'t> {
    /// From the first key on that is not before `key`.
    fn from(
        objects: &'t impl ReadableTable<Bytes, Bytes>,
        versions: &'t impl ReadableTable<Bytes, Bytes>,
        bucket: &'t str,
        key: &str,
    ) -> Outcome<Self> {
        Self::start(
            (objects, versions),
            bucket,
            Some((object_key(bucket, key), prefix_of_versions(bucket, key))),
        )
    }

    /// From the first key on that comes after all that begin with `prefix`.
    fn behind(
        objects: &'t impl ReadableTable<Bytes, Bytes>,
        versions: &'t impl ReadableTable<Bytes, Bytes>,
        bucket: &'t str,
        prefix: &str,
    ) -> Outcome<Self> {
        let from = successor(object_key(bucket, prefix)).zip(successor(prefix_of_versions(bucket, prefix)));
        Self::start((objects, versions), bucket, from)
    }

    fn start(
        (objects, versions): (
            &'t impl ReadableTable<Bytes, Bytes>,
            &'t impl ReadableTable<Bytes, Bytes>,
        ),
        bucket: &'t str,
        from: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Outcome<Self> {
        let (objects, versions) = match from {
            None => (None, None),
            Some((current, older)) => (
                Some(objects.range::<&[u8]>((Bound::Included(current.as_slice()), Bound::Unbounded))?),
                Some(versions.range::<&[u8]>((Bound::Included(older.as_slice()), Bound::Unbounded))?),
            ),
        };
        let mut scan = Self {
            bucket,
            objects,
            versions,
            current: None,
            older: None,
        };
        scan.current = scan.next_object()?;
        scan.older = scan.next_version()?;
        Ok(scan)
    }

    /// Leaves out what comes before the version, and the version, which may have gone meanwhile: without one, all of the key.
    fn skip(&mut self, key: &str, version: Option<Version>) -> Outcome<()> {
        while let Some((found, number)) = self.peek() {
            let is_older = matches!(version, Some(Version::Id(marked)) if *number < marked);
            if found.key != key || is_older {
                break;
            }
            let is_it = Some(found.version) == version;
            self.next()?;
            if is_it {
                break;
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<&Numbered> {
        match (&self.current, &self.older) {
            (Some(current), Some(older)) if older.0.key < current.0.key => Some(older),
            (Some(current), _) => Some(current),
            (None, older) => older.as_ref(),
        }
    }

    fn next(&mut self) -> Outcome<Option<Numbered>> {
        let is_older = match (&self.current, &self.older) {
            (Some(current), Some(older)) => older.0.key < current.0.key,
            (current, _) => current.is_none(),
        };
        if is_older {
            let next = self.next_version()?;
            return Ok(std::mem::replace(&mut self.older, next));
        }
        let next = self.next_object()?;
        Ok(std::mem::replace(&mut self.current, next))
    }

    fn next_object(&mut self) -> Outcome<Option<Numbered>> {
        let Some(row) = self.objects.as_mut().and_then(Iterator::next) else {
            return Ok(None);
        };
        let (key, row) = row?;
        let Some(key) = key.value().strip_prefix(object_key(self.bucket, "").as_slice()) else {
            return Ok(None);
        };
        let key = String::from_utf8_lossy(key).into_owned();
        let row: ObjectV2 = decode::<ObjectRow>(row.value())?.into();
        let number = row.version.number;
        Ok(Some((info_of(key, row), number)))
    }

    fn next_version(&mut self) -> Outcome<Option<Numbered>> {
        let Some(row) = self.versions.as_mut().and_then(Iterator::next) else {
            return Ok(None);
        };
        let (key, row) = row?;
        if !key.value().starts_with(&object_key(self.bucket, "")) {
            return Ok(None);
        }
        let Some((key, number)) = parse_version_key(self.bucket, key.value()) else {
            return Ok(None);
        };
        let row = decode::<VersionRow>(row.value())?;
        let version = id_of(number, &row).to_version();
        let info = match row {
            VersionRow::Object(row) => VersionInfo {
                version,
                ..info_of(key, (*row).into())
            },
            VersionRow::Marker { modified, .. } => VersionInfo {
                key,
                version,
                is_latest: false,
                modified: modified.to_time(),
                object: None,
            },
        };
        Ok(Some((info, number)))
    }
}

fn info_of(key: String, row: ObjectV2) -> VersionInfo {
    VersionInfo {
        key,
        version: row.version.to_version(),
        is_latest: false,
        modified: row.modified.to_time(),
        object: Some(row.to_info()),
    }
}
