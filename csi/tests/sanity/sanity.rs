//! csi-sanity: the conformance tests of the CSI specification.

use crate::driver::Driver;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the driver does not claim, so that csi-sanity skips its tests. Anything else that it skips is a hole in this test.
const NOT_CLAIMED: [&str; 16] = [
    // Any node reaches any storage node, so there is nothing to attach.
    "Controller Publish, UnpublishVolume not supported",
    "ControllerPublishVolume not supported",
    "ControllerUnpublishVolume not supported",
    // A size is remembered and not enforced; nothing grows by expanding it.
    "ControllerExpandVolume not supported",
    "NodeExpandVolume not supported",
    // A storage node is not asked how much room it has: it may have many claims, and none is promised any.
    "GetCapacity not supported",
    // Secrets come with a volume, and without them no storage node can be asked for its volumes.
    "ListVolumes not supported",
    // Not there: snapshots, clones, changes.
    "CreateSnapshot not supported",
    "DeleteSnapshot not supported",
    "ListSnapshots not supported",
    "Snapshot not supported",
    "Volume Cloning not supported",
    "GroupControllerService not supported",
    "ControllerModifyVolume not supported",
    "Modify Volume not supported",
    "Modify volume not supported",
];
/// A bucket has no count of its bytes to tell.
const NO_STATISTICS: &str = "NodeGetVolume not supported";
/// Tests that csi-test 5.4.0 has for what is claimed.
const LEAST_PASSED: usize = 33;

/// Where `e2e/cluster/tools` puts csi-sanity; `CSI_SANITY` names another.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("CSI_SANITY") {
        return path.into();
    }
    let harness = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster");
    let tools = Command::new("bash")
        .args(["-c", ". ./lib.sh; tools_dir"])
        .current_dir(&harness)
        .output()
        .unwrap();
    let path = Path::new(String::from_utf8(tools.stdout).unwrap().trim()).join("csi-sanity");
    assert!(
        path.exists(),
        "csi-sanity is not built: run e2e/cluster/tools, or set CSI_SANITY"
    );
    path
}

/// Runs csi-sanity with these StorageClass parameters, and gives the storage node's objects afterwards.
async fn run(parameters: &str) -> Vec<String> {
    let mut driver = Driver::start();
    let access = driver.access();
    let secret = format!(
        "{{accessKeyId: {:?}, secretAccessKey: {:?}, endpoint: {:?}}}",
        access.access_key_id, access.secret_access_key, access.endpoint
    );
    // Those that the operator's StorageClass names a Secret for.
    let calls = [
        "CreateVolume",
        "DeleteVolume",
        "ControllerValidateVolumeCapabilities",
        "NodeStageVolume",
    ];
    let secrets: String = calls
        .iter()
        .map(|call| format!("{call}Secret: {secret}\n"))
        .collect();
    let file = |name: &str, content: &str| {
        fs::write(driver.at(name), content).unwrap();
        driver.at(name)
    };
    let report = driver.at("report.json");
    let output = Command::new(program())
        .args(["--csi.endpoint", &driver.node_endpoint()])
        .args(["--csi.controllerendpoint", &driver.controller_endpoint()])
        .arg("--csi.secrets")
        .arg(file("secrets.yaml", &secrets))
        .arg("--csi.testvolumeparameters")
        .arg(file("parameters.yaml", parameters))
        .arg("--csi.mountdir")
        .arg(driver.at("target"))
        .arg("--csi.stagingdir")
        .arg(driver.at("staging"))
        .arg("--ginkgo.json-report")
        .arg(&report)
        .args(["--ginkgo.no-color", "--ginkgo.timeout=5m"])
        // It waits for its connection to become ready (`utils.Connect`), for a minute and in vain where it is ready already.
        // On one processor it begins to wait before that can be.
        .env("GOMAXPROCS", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    must_cover_what_is_claimed(&report[0]["SpecReports"]);
    assert_eq!(driver.mounts(), Vec::<PathBuf>::new(), "left mounted");
    driver.must_be_sound();
    driver.stored().await
}

fn must_cover_what_is_claimed(specs: &Value) {
    let specs = specs.as_array().unwrap();
    let in_state = |state: &'static str| specs.iter().filter(move |spec| spec["State"] == state);
    let passed = in_state("passed")
        .filter(|spec| spec["LeafNodeType"] == "It")
        .count();
    assert!(passed >= LEAST_PASSED, "only {passed} tests ran");
    let reasons = in_state("skipped").map(|spec| spec["Failure"]["Message"].as_str().unwrap());
    let skipped: BTreeSet<_> = reasons.collect();
    let expected: BTreeSet<_> = NOT_CLAIMED.into_iter().chain([NO_STATISTICS]).collect();
    assert_eq!(
        skipped, expected,
        "what is skipped and what is not claimed differ"
    );
}

#[tokio::test]
async fn csi_sanity_passes_with_a_bucket_per_volume_and_leaves_nothing() {
    assert_eq!(run("{}").await, ["penstock-volumes/"]);
}

#[tokio::test]
async fn csi_sanity_passes_with_folders_in_a_shared_bucket_and_leaves_only_that() {
    let parameters = "{bucket: shared, prefix: team/a, uid: \"1000\", fileMode: \"0600\"}";
    assert_eq!(run(parameters).await, ["penstock-volumes/", "shared/"]);
}
