//! Compiles the vendored protos in pure Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protos = [
        "proto/csi.proto",
        "proto/deviceplugin.proto",
        "proto/dra_health.proto",
        "proto/dra_v1.proto",
        "proto/dra_v1beta1.proto",
        "proto/pluginregistration.proto",
    ];
    let descriptors = protox::compile(protos, ["proto"])?;
    // Calls that a service does not have answer UNIMPLEMENTED, as the CSI specification asks.
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .compile_fds(descriptors)?;
    Ok(())
}
