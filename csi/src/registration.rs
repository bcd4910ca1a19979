//! Telling kubelet of the driver: the plugin registration service, in place of a node-driver-registrar sidecar.
//!
//! ```text
//!  kubelet sees a socket in plugins_registry ──GetInfo──▶ "CSIPlugin csi.penstock.io at …/csi.sock"
//!          calls NodeGetInfo there, writes CSINode ──NotifyRegistrationStatus──▶ Flag
//! ```
//! # Why the bytes of this socket are rewritten
//!
//! kubelet dials it by its bare path (`pkg/kubelet/pluginmanager/operationexecutor/operation_generator.go`, `dial`), so
//! grpc-go sends the percent-encoded path as `:authority`. That is no authority (RFC 3986, 3.2), and the `h2` crate answers
//! every such request with `RST_STREAM PROTOCOL_ERROR`, without a way to be lenient:
//! [h2#487](https://github.com/hyperium/h2/pull/487), [grpc-rust#243](https://github.com/grpc/grpc-rust/issues/243). kubelet's
//! other clients name `localhost` since [kubernetes#112597](https://github.com/kubernetes/kubernetes/pull/112597), this one does
//! not. Other drivers patch `h2`; here [`authority`] gives each request a valid authority before `h2` sees it.

mod authority;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod headers;
mod hpack;

use crate::{
    grpc::{self, Calls, ServeError, Socket},
    identity::DRIVER,
    proto::registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server,
        registration_server::RegistrationServer,
    },
};
use authority::ValidAuthority;
use penstock_service::{CancellationToken, Flag};
use std::path::PathBuf;
use tonic::{Request, Response, Status, service::Routes};

/// `CSIPlugin` of `k8s.io/kubelet/pkg/apis/pluginregistration`.
const PLUGIN_TYPE: &str = "CSIPlugin";
/// kubelet asks for a version of CSI 1.x; the minor one says nothing (`validateVersions` in `pkg/volume/csi/csi_plugin.go`).
const CSI_VERSION: &str = "1.0.0";

/// Serves the registration on `registry_socket` until `shutdown` fires: the driver is served on `csi_socket`, under the path
/// that kubelet sees. `flag` passes while kubelet says that the driver is registered.
///
/// # Errors
/// When the socket cannot be bound or serving ends by itself.
pub async fn serve(
    registry_socket: PathBuf,
    csi_socket: PathBuf,
    flag: Flag,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let registration = Registration { csi_socket, flag };
    let socket = Socket::bind(&registry_socket)?;
    let routes = Routes::new(RegistrationServer::new(registration));
    grpc::serve_on(socket, routes, calls, shutdown, ValidAuthority::new).await
}

struct Registration {
    csi_socket: PathBuf,
    flag: Flag,
}

#[tonic::async_trait]
impl registration_server::Registration for Registration {
    async fn get_info(&self, _request: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: PLUGIN_TYPE.to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.csi_socket.to_string_lossy().into_owned(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus {
            plugin_registered,
            error,
        } = request.into_inner();
        if plugin_registered {
            tracing::info!("kubelet has registered the driver");
            self.flag.pass();
        } else {
            // kubelet tries again by itself, with growing pauses.
            tracing::error!(error, "kubelet could not register the driver");
            self.flag
                .fail(format!("kubelet could not register the driver: {error}"));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
