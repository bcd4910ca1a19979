//! Reading what a ResourceClaim was given, and how its owner wants it.

use super::offered::{Offered, Parameters, api_version};
use k8s_openapi::api::resource::v1::{DeviceAllocationConfiguration, ResourceClaim};
use serde::{Deserialize, Serialize};

/// A device that was allocated to a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Allocated<P> {
    /// The request in the claim. A subrequest is `request/subrequest`.
    pub(super) request: String,
    /// The pool that it comes from.
    pub(super) pool: String,
    /// Its name in the pool.
    pub(super) device: String,
    /// Which share of a device that several claims have at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) share_id: Option<String>,
    /// How it is wanted.
    pub(super) parameters: P,
}

/// Why a claim cannot be prepared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ClaimError {
    /// Another claim has the name now.
    #[error(
        "claim {name} was replaced: its UID is {found}, and not {asked}; kubelet asks again for the new one"
    )]
    Replaced {
        /// Namespace and name.
        name: String,
        /// What it is now.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// It has nothing any more, or not yet.
    #[error("claim {0} has no device allocated; the scheduler allocates one for the pod that uses it")]
    NotAllocated(String),
    /// A device of another node.
    #[error("claim {name} was allocated device {device} of pool {pool}, which is not this node ({node})")]
    Elsewhere {
        /// Namespace and name.
        name: String,
        /// The device.
        device: String,
        /// Its pool.
        pool: String,
        /// This node.
        node: String,
    },
    /// The parameters of the claim or of its DeviceClass.
    #[error("the parameters for {driver} of claim {name} are not valid: {why}; they are {right}")]
    Parameters {
        /// Namespace and name.
        name: String,
        /// Whose they are.
        driver: &'static str,
        /// Why.
        why: String,
        /// What is valid.
        right: String,
    },
}

/// The devices of a kind that `claim` was given on `node`.
///
/// # Errors
/// See [`ClaimError`].
pub(super) fn allocated<K: Offered>(
    claim: &ResourceClaim,
    uid: &str,
    node: &str,
) -> Result<Vec<Allocated<K::Parameters>>, ClaimError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let name = format!(
        "{}/{}",
        text(&claim.metadata.namespace),
        text(&claim.metadata.name)
    );
    let found = text(&claim.metadata.uid);
    if found != uid {
        return Err(ClaimError::Replaced {
            name,
            found,
            asked: uid.to_owned(),
        });
    }
    let devices = claim
        .status
        .as_ref()
        .and_then(|status| status.allocation.as_ref())
        .and_then(|allocation| allocation.devices.as_ref())
        .ok_or_else(|| ClaimError::NotAllocated(name.clone()))?;
    let configs = devices.config.as_deref().unwrap_or_default();
    let mut own = Vec::new();
    for result in devices
        .results
        .iter()
        .flatten()
        .filter(|result| result.driver == K::DRIVER)
    {
        if result.pool != node {
            return Err(ClaimError::Elsewhere {
                name,
                device: result.device.clone(),
                pool: result.pool.clone(),
                node: node.to_owned(),
            });
        }
        let parameters = parameters::<K>(configs, &result.request).map_err(|why| ClaimError::Parameters {
            name: name.clone(),
            driver: K::DRIVER,
            why,
            right: right::<K>(),
        })?;
        own.push(Allocated {
            request: result.request.clone(),
            pool: result.pool.clone(),
            device: result.device.clone(),
            share_id: result.share_id.clone(),
            parameters,
        });
    }
    if own.is_empty() {
        return Err(ClaimError::NotAllocated(name));
    }
    Ok(own)
}

/// What holds for a request: the last of our entries that names it, or all requests. Those of the class come first in the list, and
/// those of the claim go before them.
fn parameters<K: Offered>(
    configs: &[DeviceAllocationConfiguration],
    request: &str,
) -> Result<K::Parameters, String> {
    let main = request.split('/').next().unwrap_or(request);
    let mut parameters = K::Parameters::default();
    for config in configs {
        let requests = config.requests.as_deref().unwrap_or_default();
        let meant = requests.is_empty() || requests.iter().any(|named| named == request || named == main);
        if let Some(opaque) = config
            .opaque
            .as_ref()
            .filter(|opaque| meant && opaque.driver == K::DRIVER)
        {
            parameters = parse::<K>(&opaque.parameters.0)?;
        }
    }
    Ok(parameters)
}

fn parse<K: Offered>(value: &serde_json::Value) -> Result<K::Parameters, String> {
    let mut fields = value.as_object().cloned().ok_or("they are no object")?;
    let version = api_version::<K>();
    for (field, wanted) in [("apiVersion", version.as_str()), ("kind", K::Parameters::KIND)] {
        match fields.remove(field) {
            Some(serde_json::Value::String(found)) if found == wanted => {}
            Some(other) => return Err(format!("{field} is {other}")),
            None => return Err(format!("{field} is missing")),
        }
    }
    serde_json::from_value(fields.into()).map_err(|error| error.to_string())
}

/// Parameters as they should be, for people.
fn right<K: Offered>() -> String {
    let (version, kind) = (api_version::<K>(), K::Parameters::KIND);
    format!(
        "{{apiVersion: {version}, kind: {kind}, {}}}",
        K::Parameters::FIELDS
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::devices::{dra::nic::NicParameters, gpu::Gpu, nic::Nic};
    use serde_json::json;

    const DRIVER: &str = Nic::DRIVER;
    const API_VERSION: &str = "rdma.penstock.io/v1alpha1";
    const KIND: &str = NicParameters::KIND;

    fn allocated(
        claim: &ResourceClaim,
        uid: &str,
        node: &str,
    ) -> Result<Vec<Allocated<NicParameters>>, ClaimError> {
        super::allocated::<Nic>(claim, uid, node)
    }

    pub(in crate::devices::dra) fn claim(status: serde_json::Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "nic", "uid": "u1"}, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn given(config: serde_json::Value) -> ResourceClaim {
        claim(json!({"allocation": {"devices": {
            "results": [
                {"driver": "gpu.example.org", "pool": "node1", "device": "gpu-0", "request": "gpu"},
                {"driver": DRIVER, "pool": "node1", "device": "mlx5-0", "request": "nic/fast"},
            ],
            "config": config,
        }}}))
    }

    #[test]
    fn a_claim_has_our_devices_and_those_of_others() {
        let own = allocated(&given(json!([])), "u1", "node1").unwrap();
        let [device] = &own[..] else { panic!("{own:?}") };
        assert_eq!(
            (device.device.as_str(), device.request.as_str()),
            ("mlx5-0", "nic/fast")
        );
        assert_eq!(device.parameters, NicParameters::default());
        let theirs = super::allocated::<Gpu>(&given(json!([])), "u1", "node1");
        assert!(matches!(theirs, Err(ClaimError::NotAllocated(_))));
    }

    #[test]
    fn a_claim_that_is_another_by_now_or_has_nothing_is_refused() {
        let replaced = allocated(&given(json!([])), "u0", "node1").unwrap_err();
        assert!(matches!(replaced, ClaimError::Replaced { .. }));
        for status in [json!({}), json!({"allocation": {"devices": {"results": []}}})] {
            assert!(matches!(
                allocated(&claim(status), "u1", "node1"),
                Err(ClaimError::NotAllocated(_))
            ));
        }
        assert!(matches!(
            allocated(&given(json!([])), "u1", "node2"),
            Err(ClaimError::Elsewhere { .. })
        ));
    }

    #[test]
    fn parameters_of_the_claim_go_before_those_of_the_class() {
        let ours = |requests: &[&str], on: bool| {
            let parameters = json!({"apiVersion": API_VERSION, "kind": KIND, "connectionManager": on});
            json!({"source": "FromClaim", "requests": requests, "opaque": {"driver": DRIVER, "parameters": parameters}})
        };
        let other =
            json!({"source": "FromClass", "opaque": {"driver": "gpu.example.org", "parameters": {"x": 1}}});
        for (config, expected) in [
            (json!([other]), true),
            (json!([ours(&[], false)]), false),
            (json!([ours(&[], true), ours(&["nic"], false)]), false),
            (json!([ours(&["nic/fast"], false)]), false),
            (json!([ours(&["gpu"], false)]), true),
        ] {
            let own = allocated(&given(config.clone()), "u1", "node1").unwrap();
            let expected: NicParameters =
                serde_json::from_value(json!({"connectionManager": expected})).unwrap();
            assert_eq!(own[0].parameters, expected, "{config}");
        }
    }

    #[test]
    fn wrong_parameters_are_refused_with_what_is_right() {
        for (parameters, named) in [
            (json!({}), "apiVersion is missing"),
            (json!({"apiVersion": "v1", "kind": KIND}), "apiVersion is \"v1\""),
            (
                json!({"apiVersion": API_VERSION, "kind": "Nic"}),
                "kind is \"Nic\"",
            ),
            (
                json!({"apiVersion": API_VERSION, "kind": KIND, "connectionManger": true}),
                "connectionManger",
            ),
            (
                json!({"apiVersion": API_VERSION, "kind": KIND, "connectionManager": "yes"}),
                "boolean",
            ),
            (json!("text"), "no object"),
        ] {
            let config =
                json!([{"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": parameters}}]);
            let error = allocated(&given(config), "u1", "node1").unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("claim ns/nic") && error.contains(KIND),
                "{error}"
            );
        }
    }
}
