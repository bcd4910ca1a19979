//! Telling kubelet of a plugin: the plugin registration service, in place of a node-driver-registrar sidecar.
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
    proto::registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server,
        registration_server::RegistrationServer,
    },
};
use authority::ValidAuthority;
use penstock_service::{CancellationToken, Flag};
use std::path::PathBuf;
use tonic::{Request, Response, Status, service::Routes};

/// What kubelet is told of a plugin (`PluginInfo` of `k8s.io/kubelet/pkg/apis/pluginregistration`).
#[derive(Debug, Clone)]
pub struct Plugin {
    /// `CSIPlugin`, `DevicePlugin` or `DRAPlugin`.
    pub kind: &'static str,
    /// The driver's name, or the resource's that a device plugin offers.
    pub name: String,
    /// Where it is served, by the path that kubelet sees.
    pub endpoint: PathBuf,
    /// What it speaks, in the words of its kind.
    pub versions: Vec<String>,
}

impl Plugin {
    /// A CSI driver. kubelet asks for a version of CSI 1.x; the minor one says nothing (`validateVersions` in
    /// `pkg/volume/csi/csi_plugin.go`).
    pub fn csi(driver: &str, endpoint: PathBuf) -> Self {
        Self {
            kind: "CSIPlugin",
            name: driver.to_owned(),
            endpoint,
            versions: vec!["1.0.0".to_owned()],
        }
    }
}

/// Serves the registration of `plugin` on `registry_socket`, in the kubelet's folder `plugins_registry`, until `shutdown` fires.
/// `flag` passes while kubelet says that the plugin is registered.
///
/// # Errors
/// When the socket cannot be bound or serving ends by itself.
pub async fn serve(
    registry_socket: PathBuf,
    plugin: Plugin,
    flag: Flag,
    calls: Calls,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let registration = Registration { plugin, flag };
    let socket = Socket::bind(&registry_socket)?;
    let routes = Routes::new(RegistrationServer::new(registration));
    grpc::serve_on(socket, routes, calls, shutdown, ValidAuthority::new).await
}

struct Registration {
    plugin: Plugin,
    flag: Flag,
}

#[tonic::async_trait]
impl registration_server::Registration for Registration {
    async fn get_info(&self, _request: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        let plugin = self.plugin.clone();
        Ok(Response::new(PluginInfo {
            r#type: plugin.kind.to_owned(),
            name: plugin.name,
            endpoint: plugin.endpoint.to_string_lossy().into_owned(),
            supported_versions: plugin.versions,
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
            tracing::info!(plugin = self.plugin.name, "kubelet has registered the plugin");
            self.flag.pass();
        } else {
            // kubelet tries again by itself, with growing pauses.
            let name = &self.plugin.name;
            tracing::error!(plugin = name, error, "kubelet could not register the plugin");
            self.flag
                .fail(format!("kubelet could not register {name}: {error}"));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests;
