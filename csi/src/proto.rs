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
