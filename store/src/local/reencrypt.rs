//! Copies whose bytes are encrypted in another way than those of their source: they are read and written anew.

use super::{
    Inner, internal, lock,
    object::{admit, check_source, dress, info_of},
    read,
    rows::{Instant, ObjectV2, VersionId},
    write,
};
use crate::engine::{
    Attributes, Copied, CopyOptions, Encrypted, Error, ObjectRef, PartOptions, Precondition, Result,
};
use std::sync::Arc;

pub(super) async fn copy(
    inner: &Arc<Inner>,
    from: &ObjectRef,
    to: &ObjectRef,
    options: CopyOptions,
) -> Result<Copied> {
    let key = Precondition {
        key: options.source.key.clone(),
        ..Precondition::default()
    };
    let source = read::get(inner, from, None, &key).await?;
    let info = source.info;
    check_source(from, &options, &info.etag, info.modified)?;
    let (cipher, encryption) = inner.begin(options.encryption.as_ref())?;
    let part = PartOptions {
        size: Some(info.size),
        crc64nvme: info.crc64nvme,
        ..PartOptions::default()
    };
    let stored = write::store(&inner.data, to, part, cipher, source.body).await;
    let mut stored = stored.map_err(|error| match error {
        // It is the store's own.
        Error::Body(error) => internal("read the source of a copy")(error),
        error => error,
    })?;
    // That of what a customer has encrypted is no MD5, and tells nothing of what is not his.
    let is_customers =
        |encrypted: &Option<Encrypted>| encrypted.as_ref().is_some_and(Encrypted::is_customers);
    let etag = match is_customers(&info.attributes.encryption) || is_customers(&encryption) {
        true => stored.etag(),
        false => info.etag,
    };
    let mut row = ObjectV2 {
        size: stored.size,
        etag,
        modified: Instant::now(),
        crc64: stored.crc64,
        headers: info.headers.into(),
        extents: stored.extents(),
        version: VersionId::new(true),
        more: Vec::new(),
    };
    row.set(&Attributes {
        encryption,
        ..info.attributes
    });
    let (to, source) = (to.clone(), info.version);
    let change = inner.committer.change(stored.file.take(), move |change| {
        let bucket = match admit(change, &to, &options.precondition, row.size)? {
            Ok(bucket) => bucket,
            Err(error) => return Ok(Err(error)),
        };
        dress(&mut row, options);
        if let Err(error) = lock::apply(&bucket, &mut row) {
            return Ok(Err(error));
        }
        change.refer(&row.extents)?;
        change.put_object(&bucket, &to, &mut row)?;
        let info = info_of(&bucket, &row);
        Ok(Ok(Copied { info, source }))
    });
    change.await
}
