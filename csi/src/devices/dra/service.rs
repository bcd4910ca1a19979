//! The kubelet's DRA plugin service, in both versions that there are (`k8s.io/kubelet/pkg/apis/dra`): v1 since Kubernetes 1.34, v1beta1
//! before. They differ by a field.

use super::{
    offered::Offered,
    prepare::{Asked, Claims, Preparer},
};
use crate::proto::{dra_v1, dra_v1beta1};
use penstock_service::chain;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Names of the services, as the registration says them.
pub(super) const SERVICES: [&str; 2] = ["v1.DRAPlugin", "v1beta1.DRAPlugin"];

/// Either version's service.
pub(super) struct Service<C, K: Offered>(pub(super) Arc<Preparer<C, K>>);

macro_rules! service {
    ($version:ident { $($share:ident)? }) => {
        #[tonic::async_trait]
        impl<C: Claims + 'static, K: Offered> $version::dra_plugin_server::DraPlugin for Service<C, K> {
            async fn node_prepare_resources(
                &self,
                request: Request<$version::NodePrepareResourcesRequest>,
            ) -> Result<Response<$version::NodePrepareResourcesResponse>, Status> {
                let mut answer = $version::NodePrepareResourcesResponse::default();
                for claim in request.into_inner().claims {
                    let uid = claim.uid.clone();
                    let asked = Asked { namespace: claim.namespace, name: claim.name, uid: claim.uid };
                    let mut said = $version::NodePrepareResourceResponse::default();
                    match self.0.prepare(&asked).await {
                        Ok(devices) => said.devices = devices.into_iter().map(|(allocated, cdi_device_ids)| $version::Device {
                            cdi_device_ids,
                            request_names: vec![allocated.request],
                            pool_name: allocated.pool,
                            device_name: allocated.device,
                            $($share: allocated.share_id,)?
                        }).collect(),
                        // It becomes an Event of the pod; the log has it with the others' of the node.
                        Err(error) => said.error = failed("prepared", &asked, &error),
                    }
                    answer.claims.insert(uid, said);
                }
                Ok(Response::new(answer))
            }

            async fn node_unprepare_resources(
                &self,
                request: Request<$version::NodeUnprepareResourcesRequest>,
            ) -> Result<Response<$version::NodeUnprepareResourcesResponse>, Status> {
                let mut answer = $version::NodeUnprepareResourcesResponse::default();
                for claim in request.into_inner().claims {
                    let asked = Asked { namespace: claim.namespace, name: claim.name, uid: claim.uid };
                    let mut said = $version::NodeUnprepareResourceResponse::default();
                    if let Err(error) = self.0.unprepare(&asked).await {
                        said.error = failed("given back", &asked, &error);
                    }
                    answer.claims.insert(asked.uid, said);
                }
                Ok(Response::new(answer))
            }
        }
    };
}

service!(dra_v1 { share_id });
service!(dra_v1beta1 {});

fn failed(what: &str, asked: &Asked, error: &dyn std::error::Error) -> String {
    let text = chain(error);
    let claim = format!("{}/{}", asked.namespace, asked.name);
    tracing::warn!(claim, uid = asked.uid, "the claim is not {what}: {text}");
    text
}
