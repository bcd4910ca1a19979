//! The generated gRPC types.

/// Container Storage Interface 1.12.
#[allow(clippy::all, missing_docs)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How kubelet learns of a plugin: `pluginregistration` v1.
#[allow(clippy::all, missing_docs)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// How kubelet takes devices from a device plugin: `deviceplugin` v1beta1, the only version.
#[allow(clippy::all, missing_docs)]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

/// How kubelet has the devices of a ResourceClaim prepared: `dra` v1 (Kubernetes 1.34).
#[allow(clippy::all, missing_docs)]
pub mod dra_v1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// The same as it was called before: `dra` v1beta1.
#[allow(clippy::all, missing_docs)]
pub mod dra_v1beta1 {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1beta1");
}

/// How kubelet learns of the health of a DRA driver's devices: `dra-health` v1alpha1.
#[allow(clippy::all, missing_docs)]
pub mod dra_health {
    tonic::include_proto!("v1alpha1");
}
