//! An object's facts, for operations that tell of them or change them.

use super::{Front, convert, get};
use crate::engine::{Amendment, Error, ObjectInfo, Precondition};
use s3s::{S3Error, S3Result};

/// Bucket, key and version, as a request names them.
pub(super) type Named<'r> = (&'r str, &'r str, Option<&'r str>);

/// What is known of an object.
pub(super) async fn info(front: &Front, (bucket, key, version): Named<'_>) -> S3Result<ObjectInfo> {
    let object = convert::version(bucket, key, version)?;
    front.engine.head(&object).await.map_err(answer)
}

/// Changes what is beside an object's bytes.
pub(super) async fn amend(
    front: &Front,
    (bucket, key, version): Named<'_>,
    amendment: Amendment,
) -> S3Result<ObjectInfo> {
    let object = convert::version(bucket, key, version)?;
    front.engine.amend(&object, amendment).await.map_err(answer)
}

fn answer(error: Error) -> S3Error {
    get::read_error(error, &Precondition::default())
}

/// What a request names.
macro_rules! named {
    ($input:expr) => {
        (
            $input.bucket.as_str(),
            $input.key.as_str(),
            $input.version_id.as_deref(),
        )
    };
}
pub(super) use named;
