//! Backups, for the administrator.

use super::{answer, document};
use crate::{
    backups::{BackupError, Backups},
    s3::{note_operation, refusal, to_its_end},
};
use http::{Method, StatusCode};
use penstock_rdma::admin::BackupRequest;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result, s3_error};

/// Answers a request below `backups`.
pub(super) async fn call(
    backups: &Backups,
    name: &str,
    request: S3Request<Body>,
) -> S3Result<S3Response<Body>> {
    match (&request.method, name) {
        (&Method::POST, "") => {
            note_operation("AdminCreateBackup");
            let wanted: BackupRequest = document(request).await?;
            let started = backups.start(wanted).await.map_err(refused)?;
            answer(StatusCode::ACCEPTED, &started)
        }
        (&Method::GET, "") => {
            note_operation("AdminListBackups");
            let list = backups.list().await.map_err(refused)?;
            answer(StatusCode::OK, &list)
        }
        (&Method::DELETE, name) if !name.is_empty() => {
            note_operation("AdminDeleteBackup");
            let (backups, named) = (backups.clone(), name.to_owned());
            let deleted = to_its_end(async move { backups.delete(&named).await }).await?;
            deleted.map_err(refused)?;
            tracing::info!(backup = %name, "a backup was deleted");
            Ok(S3Response::with_status(Body::empty(), StatusCode::NO_CONTENT))
        }
        _ => Err(s3_error!(MethodNotAllowed)),
    }
}

fn refused(error: BackupError) -> S3Error {
    let (code, status) = match error {
        BackupError::Name | BackupError::Keep => ("InvalidRequest", StatusCode::BAD_REQUEST),
        BackupError::Exists(_) => ("BackupAlreadyExists", StatusCode::CONFLICT),
        BackupError::InProgress => ("BackupInProgress", StatusCode::CONFLICT),
        BackupError::NotThere(_) => ("NoSuchBackup", StatusCode::NOT_FOUND),
        BackupError::Folder { .. } => {
            let cause = penstock_service::chain(&error);
            tracing::error!(cause, "the folder of backups cannot be used");
            return s3_error!(error, InternalError);
        }
    };
    refusal(code, status, format!("{error}."))
}
