//! The keys of rows.

/// The key of an object's row. Bucket names hold no NUL, so the first one ends the name, and keys keep their byte order.
pub(in crate::local) fn object_key(bucket: &str, key: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0], key.as_bytes()].concat()
}

/// What all versions of a key have in common in the keys of their rows. NUL in a key is made to differ from the end of the key,
/// in a way that keeps the order of keys.
pub(in crate::local) fn versions_key(bucket: &str, key: &str) -> Vec<u8> {
    let mut row = prefix_of_versions(bucket, key);
    row.extend([0, 1]);
    row
}

/// What the rows of versions begin with whose keys begin with `prefix`.
pub(in crate::local) fn prefix_of_versions(bucket: &str, prefix: &str) -> Vec<u8> {
    let mut row = object_key(bucket, "");
    for byte in prefix.bytes() {
        row.push(byte);
        if byte == 0 {
            row.push(u8::MAX);
        }
    }
    row
}

/// The key of a version's row: the newest of a key comes first.
pub(in crate::local) fn version_key(bucket: &str, key: &str, number: u128) -> Vec<u8> {
    let mut row = versions_key(bucket, key);
    row.extend((!number).to_be_bytes());
    row
}

/// Key and number of a version's row, whose own key this is.
pub(in crate::local) fn parse_version_key(bucket: &str, row: &[u8]) -> Option<(String, u128)> {
    let (rest, number) = row.get(bucket.len() + 1..)?.split_last_chunk::<16>()?;
    let mut key = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        if *byte != 0 {
            key.push(*byte);
        } else if *bytes.next()? == u8::MAX {
            key.push(0);
        }
    }
    Some((String::from_utf8(key).ok()?, !u128::from_be_bytes(*number)))
}

/// The key of a document's row.
pub(in crate::local) fn document_key(bucket: &str, name: &str) -> Vec<u8> {
    object_key(bucket, name)
}

/// The key of an upload's row; ids all have [`UPLOAD_ID`] bytes, so the key is what lies between.
pub(in crate::local) fn upload_key(bucket: &str, key: &str, id: &str) -> Vec<u8> {
    [bucket.as_bytes(), &[0], key.as_bytes(), &[0], id.as_bytes()].concat()
}

/// Length of an upload id.
pub(in crate::local) const UPLOAD_ID: usize = 32;

/// The key of a part's row.
pub(in crate::local) fn part_key(upload: &str, number: u16) -> Vec<u8> {
    [upload.as_bytes(), &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_key_and_the_newest_comes_first() {
        let keys = ["a", "a\0", "a\0b", "a\u{1}", "a\u{1}b", "ab", "b"];
        let rows: Vec<Vec<u8>> = keys
            .iter()
            .flat_map(|key| [9, 8, 1].map(|number| version_key("bucket", key, number)))
            .collect();
        assert!(rows.is_sorted());
        for (row, key) in rows.iter().zip(keys.iter().flat_map(|key| [key; 3])) {
            let (parsed, _) = parse_version_key("bucket", row).unwrap();
            assert_eq!(parsed, **key);
            assert!(row.starts_with(&versions_key("bucket", key)));
        }
        assert_eq!(parse_version_key("bucket", &rows[0]).unwrap().1, 9);
    }
}
