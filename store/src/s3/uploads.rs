//! ListMultipartUploads.

use super::{Front, convert, error, multipart::told};
use crate::engine::{UploadInfo, group_of};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CommonPrefix, EncodingType, ListMultipartUploadsInput, ListMultipartUploadsOutput, MultipartUpload,
        StorageClass,
    },
};

pub(super) async fn list_multipart_uploads(
    front: &Front,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    convert::check_owner(input.expected_bucket_owner.as_deref())?;
    convert::check_encoding(input.encoding_type.as_ref())?;
    let limit = convert::limit(input.max_uploads, "max-uploads")?;
    let encoding = input.encoding_type.as_ref();
    let uploads = front.engine.uploads(&input.bucket).await.map_err(error::answer)?;
    let query = Query {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input
            .delimiter
            .as_deref()
            .filter(|delimiter| !delimiter.is_empty()),
        key_marker: input.key_marker.as_deref().unwrap_or(""),
        id_marker: input.upload_id_marker.as_deref().unwrap_or(""),
        limit,
    };
    let page = query.page(uploads);
    let (next_key, next_id) = page.next.unzip();
    let prefixes = page.prefixes.iter().map(|prefix| CommonPrefix {
        prefix: Some(convert::encode(prefix, encoding)),
    });
    Ok(S3Response::new(ListMultipartUploadsOutput {
        common_prefixes: Some(prefixes.collect()),
        delimiter: query
            .delimiter
            .map(|delimiter| convert::encode(delimiter, encoding)),
        encoding_type: input.encoding_type.clone(),
        is_truncated: Some(next_key.is_some()),
        key_marker: Some(convert::encode(query.key_marker, encoding)),
        upload_id_marker: Some(query.id_marker.to_owned()),
        max_uploads: Some(i32::try_from(limit).unwrap_or(i32::MAX)),
        next_key_marker: next_key.map(|key| convert::encode(&key, encoding)),
        next_upload_id_marker: next_id.flatten(),
        prefix: Some(convert::encode(query.prefix, encoding)),
        uploads: Some(
            page.uploads
                .into_iter()
                .map(|upload| entry(upload, encoding))
                .collect(),
        ),
        bucket: Some(input.bucket),
        ..Default::default()
    }))
}

fn entry(upload: UploadInfo, encoding: Option<&EncodingType>) -> MultipartUpload {
    let (checksum_algorithm, checksum_type) = told(upload.checksum);
    MultipartUpload {
        checksum_algorithm,
        checksum_type,
        key: Some(convert::encode(&upload.key, encoding)),
        upload_id: Some(upload.id),
        initiated: Some(convert::timestamp(upload.started)),
        owner: Some(convert::owner()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        ..Default::default()
    }
}

/// What is asked for. Texts that are empty say nothing.
struct Query<'a> {
    prefix: &'a str,
    delimiter: Option<&'a str>,
    key_marker: &'a str,
    id_marker: &'a str,
    limit: usize,
}

#[derive(Default)]
struct Page {
    uploads: Vec<UploadInfo>,
    prefixes: Vec<String>,
    /// The last entry, where more follow: its key and id, or its common prefix.
    next: Option<(String, Option<String>)>,
}

impl Query<'_> {
    /// One page of uploads that are in order of key and time.
    fn page(&self, mut uploads: Vec<UploadInfo>) -> Page {
        uploads.retain(|upload| upload.key.starts_with(self.prefix));
        self.skip_to_marker(&mut uploads);
        let mut page = Page::default();
        let mut last = None;
        if self.limit == 0 {
            return page;
        }
        for upload in uploads {
            let group = self
                .delimiter
                .and_then(|delimiter| group_of(&upload.key, self.prefix, delimiter));
            if group.is_some() && group.as_ref() == page.prefixes.last() {
                continue;
            }
            if page.uploads.len() + page.prefixes.len() == self.limit {
                page.next = last;
                break;
            }
            match group {
                Some(group) => {
                    last = Some((group.clone(), None));
                    page.prefixes.push(group);
                }
                None => {
                    last = Some((upload.key.clone(), Some(upload.id.clone())));
                    page.uploads.push(upload);
                }
            }
        }
        page
    }

    fn skip_to_marker(&self, uploads: &mut Vec<UploadInfo>) {
        let marker = self.key_marker;
        if marker.is_empty() {
            return;
        }
        // A common prefix stands for all that is rolled up in it.
        let is_group = self
            .delimiter
            .is_some_and(|delimiter| group_of(marker, self.prefix, delimiter).as_deref() == Some(marker));
        let marked = uploads
            .iter()
            .position(|upload| upload.key == marker && upload.id == self.id_marker);
        match marked {
            Some(marked) if !is_group => drop(uploads.drain(..=marked)),
            // The marked one has ended since. Its key's others are told again rather than left out.
            None if !is_group && !self.id_marker.is_empty() => {
                uploads.retain(|upload| *upload.key >= *marker);
            }
            _ => uploads
                .retain(|upload| *upload.key > *marker && !(is_group && upload.key.starts_with(marker))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn uploads(keys: &[&str]) -> Vec<UploadInfo> {
        let numbered = keys.iter().enumerate();
        let uploads = numbered.map(|(number, key)| UploadInfo {
            key: (*key).to_owned(),
            id: format!("{number}"),
            started: SystemTime::UNIX_EPOCH,
            checksum: None,
        });
        uploads.collect()
    }

    /// All pages, each entry by its key or common prefix.
    fn listed(keys: &[&str], prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
        let (mut listed, mut marker) = (Vec::new(), (String::new(), None));
        loop {
            let query = Query {
                prefix,
                delimiter,
                key_marker: &marker.0,
                id_marker: marker.1.as_deref().unwrap_or(""),
                limit,
            };
            let page = query.page(uploads(keys));
            assert!(page.uploads.len() + page.prefixes.len() <= limit);
            let mut entries: Vec<_> = page.uploads.into_iter().map(|upload| upload.key).collect();
            entries.extend(page.prefixes);
            entries.sort();
            listed.extend(entries);
            match page.next {
                Some(next) => marker = next,
                None => return listed,
            }
        }
    }

    #[test]
    fn pages_of_any_length_tell_each_entry_once() {
        let keys = ["a", "a", "b/", "b/c", "b/c/d", "b0", "c//x", "c//y"];
        for limit in 1..=9 {
            assert_eq!(listed(&keys, "", None, limit), keys);
            assert_eq!(listed(&keys, "", Some("/"), limit), ["a", "a", "b/", "b0", "c/"]);
            assert_eq!(listed(&keys, "b/", Some("/"), limit), ["b/", "b/c", "b/c/"]);
            assert_eq!(
                listed(&keys, "", Some("//"), limit),
                ["a", "a", "b/", "b/c", "b/c/d", "b0", "c//"]
            );
        }
    }

    #[test]
    fn a_marked_upload_that_has_ended_hides_none_of_its_key() {
        let query = Query {
            prefix: "",
            delimiter: None,
            key_marker: "b",
            id_marker: "gone",
            limit: 9,
        };
        let keys: Vec<_> = query.page(uploads(&["a", "b", "b", "c"])).uploads;
        assert_eq!(
            keys.iter().map(|upload| &*upload.key).collect::<Vec<_>>(),
            ["b", "b", "c"]
        );
    }

    #[test]
    fn a_page_of_nothing_is_the_last_one() {
        let query = Query {
            prefix: "",
            delimiter: None,
            key_marker: "",
            id_marker: "",
            limit: 0,
        };
        assert!(query.page(uploads(&["a"])).next.is_none());
    }
}
