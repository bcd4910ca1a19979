//! The role `controller`: the CSI Controller service (CSI 1.12). It makes and deletes volumes, that is buckets and folders in
//! buckets.
//!
//! ```text
//!  CreateVolume  record ──▶ bucket, or marker of a folder      a crash in between is mended by the next call
//!  DeleteVolume  objects, unfinished uploads ──▶ bucket ──▶ record
//! ```
//! The [`registry`] on the storage node remembers what was made and for whom. It is what makes calls repeatable, and the
//! proof at deletion that the bucket was made here: what has no record is somebody's data and is never deleted.

mod error;
mod name;
mod registry;
mod request;
mod storage;

use crate::{
    access::Access,
    attributes::Attributes,
    grpc::{self, Calls, ServeError, Socket},
    guard::InFlight,
    identity::Identity,
    proto::csi::{
        ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, ControllerServiceCapability,
        CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
        ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
        controller_server::{self, ControllerServer},
        controller_service_capability::{Rpc, Type, rpc},
        identity_server::IdentityServer,
        validate_volume_capabilities_response::Confirmed,
    },
};
use error::Error;
use penstock_service::{Admin, CancellationToken, admin};
use penstock_store::engine::Engine;
use registry::{Record, Registry};
use request::Wanted;
use std::{collections::HashMap, sync::Arc};
use storage::Storage;
use tonic::{Request, Response, Status, service::Routes};

/// Options of the role.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Socket on which csi-provisioner calls.
    #[arg(long, default_value = "unix:///csi/csi.sock", value_name = "URL")]
    pub csi_endpoint: String,
}

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The CSI socket.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The admin endpoint.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
}

/// Serves csi-provisioner until the token fires.
///
/// # Errors
/// When it cannot start, or serving ends by itself.
pub async fn run(
    service: &penstock_service::Args,
    args: Args,
    shutdown: CancellationToken,
) -> Result<(), ControllerError> {
    let socket = Socket::bind(&grpc::socket_path(&args.csi_endpoint)?).map_err(ServeError::from)?;
    let mut admin = Admin::default();
    let calls = Calls::register(&mut admin.metrics);
    let identity = Identity::new(admin.readiness.clone());
    admin.serve(service, shutdown.clone()).await?;
    let connect = |access: &Access| Ok(Arc::new(access.engine()?) as Arc<dyn Engine>);
    let routes = Routes::new(IdentityServer::new(identity))
        .add_service(ControllerServer::new(Controller::new(connect)));
    Ok(grpc::serve_on(socket, routes, calls, shutdown, |stream| stream).await?)
}

type Connect = dyn Fn(&Access) -> Result<Arc<dyn Engine>, penstock_rdma::Error> + Send + Sync;

/// The Controller service.
struct Controller {
    connect: Box<Connect>,
    in_flight: InFlight,
}

impl Controller {
    /// A service that reaches storage nodes by `connect`.
    fn new(
        connect: impl Fn(&Access) -> Result<Arc<dyn Engine>, penstock_rdma::Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connect: Box::new(connect),
            in_flight: InFlight::default(),
        }
    }

    fn storage(&self, secrets: &HashMap<String, String>) -> Result<Storage, Error> {
        let access = Access::parse(secrets)?;
        Ok(Storage::new((self.connect)(&access).map_err(Error::Connect)?))
    }

    async fn create(&self, wanted: &Wanted, storage: &Storage) -> Result<Record, Error> {
        let registry = Registry::new(storage);
        let record = match registry.find(&wanted.key).await? {
            Some(found) => {
                wanted.must_match(&found)?;
                found
            }
            None => {
                let record = wanted.record();
                let place = &record.attributes;
                if !place.prefix.is_empty() {
                    // First, so that a bucket that cannot be leaves no record.
                    storage.create_bucket(&place.bucket).await?;
                }
                // Without a record it is somebody else's, and a record would give it into our hands to delete.
                if storage.is_taken(&place.bucket, &place.prefix).await? {
                    return Err(Error::Taken(record.id()));
                }
                registry.insert(&wanted.key, &record).await?;
                record
            }
        };
        // With a record that was there already, too: a call may have ended between record and bucket.
        storage.create_bucket(&record.attributes.bucket).await?;
        if !record.attributes.prefix.is_empty() {
            storage
                .create_folder(&record.attributes.bucket, &record.attributes.prefix)
                .await?;
        }
        Ok(record)
    }

    async fn delete(&self, id: &str, key: &str, storage: &Storage) -> Result<(), Error> {
        let registry = Registry::new(storage);
        let Some(record) = registry.find(key).await?.filter(|record| record.id() == id) else {
            tracing::info!(
                volume = id,
                "not made by this driver, or deleted already: nothing is deleted"
            );
            return Ok(());
        };
        let Attributes { bucket, prefix, .. } = &record.attributes;
        let deleted = storage.delete_all(bucket, prefix).await?;
        if prefix.is_empty() {
            storage.delete_bucket(bucket).await?;
        }
        // Last, so that a deletion that breaks off can be taken up again.
        registry.remove(key).await?;
        tracing::info!(volume = id, objects = deleted, "deleted");
        Ok(())
    }

    /// Whether a volume is there: one made here, or a static one, whose context says where it is.
    async fn must_exist(
        &self,
        id: &str,
        context: &HashMap<String, String>,
        storage: &Storage,
    ) -> Result<(), Error> {
        let missing = || Error::NoSuchVolume(id.to_owned());
        let record = match name::key(id) {
            Some(key) => Registry::new(storage).find(key).await?,
            None => None,
        };
        let place = match record.filter(|record| record.id() == id) {
            Some(record) => record.attributes,
            None if context.is_empty() => return Err(missing()),
            None => Attributes::parse(context)?,
        };
        if storage.has_bucket(&place.bucket).await? {
            Ok(())
        } else {
            Err(missing())
        }
    }
}

#[tonic::async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        let wanted = Wanted::parse(&request)?;
        let storage = self.storage(&request.secrets)?;
        let _guard = self.in_flight.begin(&wanted.key)?;
        let record = self.create(&wanted, &storage).await?;
        Ok(Response::new(CreateVolumeResponse {
            volume: Some(Volume {
                volume_id: record.id(),
                capacity_bytes: record.capacity_bytes,
                volume_context: record.attributes.to_map(),
                ..Volume::default()
            }),
        }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let DeleteVolumeRequest { volume_id, secrets } = request.into_inner();
        request::must_be_given("volume_id", &volume_id)?;
        if let Some(key) = name::key(&volume_id) {
            let storage = self.storage(&secrets)?;
            let _guard = self.in_flight.begin(key)?;
            self.delete(&volume_id, key, &storage).await?;
        } else {
            tracing::info!(
                volume = volume_id,
                "no id that this driver gives: nothing is deleted"
            );
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        request::must_be_given("volume_id", &request.volume_id)?;
        request::must_be_some(&request.volume_capabilities)?;
        let storage = self.storage(&request.secrets)?;
        self.must_exist(&request.volume_id, &request.volume_context, &storage)
            .await?;
        let answer = match request::capabilities(&request.volume_capabilities) {
            Ok(()) => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    ..Confirmed::default()
                }),
                message: String::new(),
            },
            Err(error) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: error.to_string(),
            },
        };
        Ok(Response::new(answer))
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })),
        };
        Ok(Response::new(ControllerGetCapabilitiesResponse {
            capabilities: vec![
                capability(rpc::Type::CreateDeleteVolume),
                capability(rpc::Type::SingleNodeMultiWriter),
            ],
        }))
    }
}

#[cfg(test)]
mod tests;
