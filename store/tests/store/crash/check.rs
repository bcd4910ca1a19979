//! What must hold once the storage node serves again: every object is one that its key may hold, nothing else is listed, and no space
//! is lost.

use crate::{
    crash::load::{Fates, holds, read},
    node::files,
};
use penstock_rdma::{Client, ListingQuery};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Looks at everything; or what is wrong. What the keys hold is noted.
pub async fn check(client: &Client, fates: &mut [Fates], data: &Path) -> Result<(), String> {
    let shown = |error| format!("the storage node cannot be asked: {error}");
    // Uploads that were cut hold their parts until somebody aborts them.
    for upload in client.uploads("bucket").await.map_err(shown)? {
        let aborted = client.abort_upload("bucket", &upload.key, &upload.id);
        aborted.await.map_err(shown)?;
    }
    let mut expected = Vec::new();
    for (key, fate) in fates.iter_mut().flatten() {
        let found = read(client, "bucket", key).await;
        let found = found.map_err(|error| format!("{key} cannot be read: {error}"))?;
        let held = holds(fate, found.as_deref()).map_err(|cause| format!("{key}: {cause}"))?;
        fate.settle(held);
        expected.extend(held.map(|_| key.clone()));
    }
    expected.sort();
    let mut listed = Vec::new();
    let mut query = ListingQuery {
        limit: 1000,
        ..ListingQuery::default()
    };
    loop {
        let page = client.list("bucket", &query).await.map_err(shown)?;
        listed.extend(page.objects.into_iter().map(|(key, _)| key));
        query.continuation = page.next;
        if query.continuation.is_none() {
            break;
        }
    }
    if listed != expected {
        return Err(format!("{listed:?} is listed, {expected:?} is there"));
    }
    no_space_is_lost(data).await
}

/// The files in `data` are those that the index refers to, and `tmp` is empty, within a while.
async fn no_space_is_lost(data: &Path) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let referred = referred(data);
        let there: BTreeSet<String> = names(&data.join("data"));
        let temporary = names(&data.join("tmp"));
        if referred == there && temporary.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(5) {
            let (lost, missing): (Vec<_>, Vec<_>) = (
                there.difference(&referred).collect(),
                referred.difference(&there).collect(),
            );
            return Err(format!(
                "nothing refers to the data files {lost:?}; there are no files {missing:?}, which the index refers to; in tmp: {temporary:?}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let name = |path: std::path::PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files(folder).into_iter().map(name).collect()
}

/// The data files that the index refers to, by a copy of it: the storage node holds the index itself.
fn referred(data: &Path) -> BTreeSet<String> {
    const FILES: redb::TableDefinition<'_, u128, u32> = redb::TableDefinition::new("files");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("index.redb");
    fs::copy(data.join("index.redb"), &copy).unwrap();
    let database = redb::Database::open(&copy).unwrap();
    let read = redb::ReadableDatabase::begin_read(&database).unwrap();
    let rows = read.open_table(FILES).unwrap();
    let rows = redb::ReadableTable::iter(&rows).unwrap();
    rows.map(|row| format!("{:032x}", row.unwrap().0.value()))
        .collect()
}
