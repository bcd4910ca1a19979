//! The files that are imported: what is there, and what belongs together.

use penstock_rdma::{Client, ListingQuery};
use std::collections::BTreeMap;

/// Files that are imported together: one with rows, or a folder with a column each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it is known by: the file's key, or the folder's.
    pub name: String,
    /// The files' keys.
    pub files: Vec<String>,
    /// Their entity tags: another one is another content.
    pub etags: String,
    /// Their bytes.
    pub bytes: u64,
}

/// What is below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// By name.
    pub groups: Vec<Group>,
    /// Objects that are no files of vectors, for a message.
    pub others: usize,
}

impl Source {
    /// All files below `prefix`.
    pub async fn list(client: &Client, bucket: &str, prefix: &str) -> penstock_rdma::Result<Self> {
        let mut query = ListingQuery {
            prefix: prefix.into(),
            limit: 1000,
            ..ListingQuery::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = client.list(bucket, &query).await?;
            objects.extend(
                page.objects
                    .into_iter()
                    .map(|(key, head)| (key, head.etag, head.size)),
            );
            match page.next {
                None => return Ok(Self::of(objects)),
                next => query.continuation = next,
            }
        }
    }

    fn of(objects: Vec<(String, String, u64)>) -> Self {
        let mut groups = BTreeMap::<String, Group>::new();
        let mut others = 0;
        for (key, etag, bytes) in objects {
            let Some(name) = group_of(&key) else {
                others += 1;
                continue;
            };
            let group = groups.entry(name.clone()).or_insert_with(|| Group {
                name,
                files: Vec::new(),
                etags: String::new(),
                bytes: 0,
            });
            group.files.push(key);
            if !group.etags.is_empty() {
                group.etags.push(' ');
            }
            group.etags.push_str(&etag);
            group.bytes += bytes;
        }
        Self {
            groups: groups.into_values().collect(),
            others,
        }
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.bytes).sum()
    }
}

/// What a file is imported with; `None` of what is no file of vectors, as markers and checksums that other programs leave (`_SUCCESS`).
fn group_of(key: &str) -> Option<String> {
    let (folder, file) = key.rsplit_once('/').unwrap_or(("", key));
    if file.starts_with(['_', '.']) {
        return None;
    }
    match file.rsplit_once('.')?.1 {
        "parquet" | "json" => Some(key.to_owned()),
        "npy" => Some(format!("{folder}/")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_folder_belong_together_and_rows_do_not() {
        let object = |key: &str, etag: &str| (key.to_owned(), etag.to_owned(), 10);
        let source = Source::of(vec![
            object("v/_SUCCESS", "0"),
            object("v/a.parquet", "1"),
            object("v/b.parquet", "2"),
            object("v/n/id.npy", "3"),
            object("v/n/vector.npy", "4"),
            object("v/readme.txt", "5"),
        ]);
        let names: Vec<_> = source.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["v/a.parquet", "v/b.parquet", "v/n/"]);
        assert_eq!(source.groups[2].files, ["v/n/id.npy", "v/n/vector.npy"]);
        assert_eq!(source.groups[2].etags, "3 4");
        assert_eq!((source.others, source.bytes()), (2, 40));
    }
}
