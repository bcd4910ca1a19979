//! The Identity service: who the driver is, and whether it is ready.

use crate::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse, identity_server,
    plugin_capability::{Service, Type, service},
};
use penstock_service::Health;
use tonic::{Request, Response, Status};

/// The driver's name: what a StorageClass names as its provisioner.
pub const DRIVER: &str = "csi.penstock.io";

/// The Identity service.
#[derive(Clone)]
pub struct Identity {
    readiness: Health,
}

impl Identity {
    /// Answers probes from `readiness`, the checks that `/readyz` shows as well.
    pub fn new(readiness: Health) -> Self {
        Self { readiness }
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        // The node says it too: the capability speaks of the plugin as a whole, which has a controller.
        let controller = PluginCapability {
            r#type: Some(Type::Service(Service {
                r#type: service::Type::ControllerService.into(),
            })),
        };
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: vec![controller],
        }))
    }

    async fn probe(&self, _request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let report = self.readiness.report().await;
        if let Err(checks) = &report {
            tracing::info!(
                checks = checks.trim_end(),
                "asked whether the driver is ready; it is not"
            );
        }
        Ok(Response::new(ProbeResponse {
            ready: Some(report.is_ok()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{identity_server::Identity as _, *};

    #[tokio::test]
    async fn the_driver_says_its_name_and_version() {
        let identity = Identity::new(Health::default());
        let info = identity
            .get_plugin_info(Request::new(GetPluginInfoRequest {}))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.name, "csi.penstock.io");
        assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
        let can = identity
            .get_plugin_capabilities(Request::new(GetPluginCapabilitiesRequest {}))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(can.capabilities.len(), 1);
    }

    #[tokio::test]
    async fn a_probe_tells_whether_the_driver_is_ready() {
        let health = Health::default();
        let agent = health.flag("agent");
        let identity = Identity::new(health);
        let ready = async || {
            identity
                .probe(Request::new(ProbeRequest {}))
                .await
                .unwrap()
                .into_inner()
                .ready
        };
        assert_eq!(ready().await, Some(false));
        agent.pass();
        assert_eq!(ready().await, Some(true));
    }
}
