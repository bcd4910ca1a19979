//! What GPUs are to the scheduler, and what containers get of them.

use super::*;
use crate::devices::{
    dra::{
        device::{Unhealthy, devices},
        prepare::{
            PrepareError,
            tests::{Node, asked},
        },
    },
    gpu::{Mig, Recovery},
    kind::Kind as _,
    recorded::gpu,
    source::{GpuSource as _, Gpus},
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::{env::consts::ARCH, fs, os::unix::fs::symlink, sync::Arc};

const NAME: &str = "gpu-00000000-1111-2222-3333-444444444444";
const VERSION: &str = "580.159.04";

/// Installs a driver below a folder, as NVIDIA's installer does for Debian.
fn install(root: &Path, version: &str) -> PathBuf {
    let folder = root.join(format!("usr/lib/{ARCH}-linux-gnu"));
    fs::create_dir_all(&folder).unwrap();
    for library in ["libcuda", "libnvidia-ml", "libnvidia-gpucomp", "libnvidia-glcore"] {
        fs::write(folder.join(format!("{library}.so.{version}")), "").unwrap();
    }
    for (link, target) in [
        ("libcuda.so.1", format!("libcuda.so.{version}")),
        ("libcuda.so", "libcuda.so.1".to_owned()),
        ("libnvidia-ml.so.1", format!("libnvidia-ml.so.{version}")),
    ] {
        let _old = fs::remove_file(folder.join(link));
        symlink(target, folder.join(link)).unwrap();
    }
    folder
}

/// A host whose driver is below a folder of the node's, and NVIDIA's CDI files in another.
fn host(node: &Node<Gpu>) -> GpuHost {
    let here = node.folder.path().join("driver");
    GpuHost {
        dev: "/dev".into(),
        driver: Driver {
            host: "/run/driver".into(),
            here,
        },
        specs: vec![node.folder.path().join("nvidia"), node.folder.path().join("none")],
    }
}

fn with_driver() -> Node<Gpu> {
    let node = Node::with(vec![gpu()]);
    install(&node.folder.path().join("driver"), VERSION);
    node
}

#[test]
fn a_gpu_is_described_in_the_words_of_nvidias_driver() {
    let mut gpu = gpu();
    gpu.numa_node = Some(1);
    let [device] = &devices(&[gpu], Unhealthy::Tainted)[..] else {
        panic!("one GPU is one device");
    };
    assert_eq!(device.name, NAME);
    let attributes = serde_json::to_value(device.attributes.as_ref().unwrap()).unwrap();
    assert_eq!(
        attributes,
        json!({
            "architecture": {"string": "Hopper"},
            "cudaComputeCapability": {"version": "9.0.0"},
            "driverVersion": {"version": "580.159.4"},
            "productName": {"string": "NVIDIA H200"},
            "resource.kubernetes.io/numaNode": {"int": 1},
            "resource.kubernetes.io/pciBusID": {"string": "0000:00:06.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
            "type": {"string": "gpu"},
            "uuid": {"string": "GPU-00000000-1111-2222-3333-444444444444"},
        })
    );
    let memory = &device.capacity.as_ref().unwrap()["memory"];
    assert_eq!(memory.value, Quantity("143771Mi".to_owned()));
}

#[test]
fn a_gpu_that_is_unhealthy_is_tainted_until_it_recovers_and_a_divided_one_is_not_offered() {
    let mut gpu = gpu();
    gpu.health.recovery = Some(Recovery::Reset);
    let tainted = devices(std::slice::from_ref(&gpu), Unhealthy::Tainted);
    let taint = &tainted[0].taints.as_ref().unwrap()[0];
    assert_eq!(
        (taint.key.as_str(), taint.effect.as_str()),
        ("gpu.penstock.io/unhealthy", "NoSchedule")
    );
    gpu.health.recovery = Some(Recovery::None);
    assert_eq!(
        devices(std::slice::from_ref(&gpu), Unhealthy::Tainted)[0].taints,
        None
    );
    gpu.mig = Some(Mig {
        enabled: true,
        instances: Vec::new(),
    });
    assert_eq!(gpu.trouble(), None);
    assert!(devices(&[gpu], Unhealthy::Tainted).is_empty());
}

#[tokio::test]
async fn a_container_gets_the_device_nodes_and_the_drivers_libraries_by_all_their_names() {
    let node = with_driver();
    let answers = node.driver_on(host(&node)).prepare(&asked("u1")).await.unwrap();
    assert_eq!(answers[0].1, [format!("gpu.penstock.io/claim=u1-{NAME}")]);
    let device = |name: &str| json!({"path": format!("/dev/{name}"), "hostPath": format!("/dev/{name}"), "permissions": "rw"});
    let mut mounts = Vec::new();
    for folder in [format!("/usr/lib/{ARCH}-linux-gnu"), "/usr/lib64".to_owned()] {
        for (name, file) in [
            ("libcuda.so", "libcuda"),
            ("libcuda.so.1", "libcuda"),
            (format!("libcuda.so.{VERSION}").as_str(), "libcuda"),
            (
                format!("libnvidia-gpucomp.so.{VERSION}").as_str(),
                "libnvidia-gpucomp",
            ),
            ("libnvidia-ml.so.1", "libnvidia-ml"),
            (format!("libnvidia-ml.so.{VERSION}").as_str(), "libnvidia-ml"),
        ] {
            mounts.push(json!({
                "hostPath": format!("/run/driver/usr/lib/{ARCH}-linux-gnu/{file}.so.{VERSION}"),
                "containerPath": format!("{folder}/{name}"),
                "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
            }));
        }
    }
    assert_eq!(
        node.spec().unwrap(),
        json!({"cdiVersion": "0.5.0", "kind": "gpu.penstock.io/claim", "devices": [{
            "name": format!("u1-{NAME}"),
            "containerEdits": {
                "env": [
                    "PENSTOCK_GPU_DEVICE_GPU_00000000_1111_2222_3333_444444444444=GPU-00000000-1111-2222-3333-444444444444",
                    "NVIDIA_VISIBLE_DEVICES=void",
                    "TRITON_LIBCUDA_PATH=/usr/lib64",
                ],
                "deviceNodes": [device("nvidia0"), device("nvidiactl"), device("nvidia-uvm"), device("nvidia-uvm-tools")],
                "mounts": mounts,
            },
        }]})
    );
}

#[tokio::test]
async fn after_an_upgrade_of_the_driver_a_claim_has_the_new_libraries() {
    let node = with_driver();
    node.driver_on(host(&node)).prepare(&asked("u1")).await.unwrap();
    let folder = install(&node.folder.path().join("driver"), "590.1.1");
    fs::remove_file(folder.join(format!("libcuda.so.{VERSION}"))).unwrap();
    let mut upgraded = gpu();
    upgraded.driver = "590.1.1".to_owned();
    node.devices.send_replace(Arc::new(vec![upgraded]));
    node.driver_on(host(&node)).replay().await;
    let spec = node.spec().unwrap().to_string();
    assert!(
        spec.contains("libcuda.so.590.1.1") && !spec.contains(VERSION),
        "{spec}"
    );
}

/// dra-driver-nvidia-gpu#1144: containers started without anything of the driver.
#[tokio::test]
async fn without_the_drivers_libraries_nothing_is_prepared_unless_none_are_wanted() {
    let node = Node::with(vec![gpu()]);
    let driver = node.driver_on(host(&node));
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PrepareError::Edits { .. }), "{text}");
    assert!(
        text.contains("libcuda.so.580.159.04") && text.contains("driverLibraries"),
        "{text}"
    );
    driver.unprepare(&asked("u1")).await.unwrap();
    node.claim(&parameters(&json!({"driverLibraries": false})));
    driver.prepare(&asked("u1")).await.unwrap();
    let edits = &node.spec().unwrap()["devices"][0]["containerEdits"];
    assert_eq!(edits["mounts"], Value::Null);
    assert_eq!(node.nodes().len(), 4);
}

#[tokio::test]
async fn a_gpu_without_its_device_node_is_not_prepared() {
    let mut gpu = gpu();
    gpu.nodes.remove(0);
    let node = Node::with(vec![gpu]);
    install(&node.folder.path().join("driver"), VERSION);
    let error = node
        .driver_on(host(&node))
        .prepare(&asked("u1"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nvidia-smi"), "{error}");
}

#[tokio::test]
async fn a_gpu_that_is_unhealthy_or_divided_is_not_prepared_and_who_has_it_keeps_it() {
    let node = with_driver();
    let driver = node.driver_on(host(&node));
    driver.prepare(&asked("u1")).await.unwrap();
    let mut lost = gpu();
    lost.health.lost = true;
    node.devices.send_replace(Arc::new(vec![lost]));
    driver.prepare(&asked("u1")).await.unwrap();
    driver.unprepare(&asked("u1")).await.unwrap();
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    let mut divided = gpu();
    divided.mig.as_mut().unwrap().enabled = true;
    node.devices.send_replace(Arc::new(vec![divided]));
    let error = driver.prepare(&asked("u1")).await.unwrap_err();
    assert!(error.to_string().contains("MIG"), "{error}");
    node.devices.send_replace(Arc::new(vec![gpu()]));
    driver.prepare(&asked("u1")).await.unwrap();
}

/// `fields` as parameters of a claim.
fn parameters(fields: &Value) -> Value {
    let mut parameters = fields.clone();
    parameters["apiVersion"] = "gpu.penstock.io/v1alpha1".into();
    parameters["kind"] = "GpuParameters".into();
    json!([{"source": "FromClaim", "opaque": {"driver": "gpu.penstock.io", "parameters": parameters}}])
}

#[tokio::test]
async fn parameters_that_mean_nothing_are_refused_with_those_that_do() {
    let node = with_driver();
    let driver = node.driver_on(host(&node));
    for fields in [
        json!({"sharing": {"strategy": "TimeSlicing"}}),
        json!({"driverLibraries": "yes"}),
    ] {
        node.claim(&parameters(&fields));
        let error = driver.prepare(&asked("u1")).await.unwrap_err().to_string();
        assert!(
            error.contains("GpuParameters, driverLibraries: true|false"),
            "{error}"
        );
    }
    assert!(node.spec().is_none());
}

/// What `nvidia-ctk cdi generate` writes, shortened.
fn theirs(name: &str, version: &str, node: &str) -> String {
    format!(
        "---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: \"{name}\"
  containerEdits:
    deviceNodes:
    - path: /dev/{node}
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/{node}
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  mounts:
  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{version}
    containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{version}
    options: [ro, nosuid, nodev, rbind, rprivate]
"
    )
}

#[tokio::test]
async fn where_nvidias_own_specification_describes_the_gpu_containers_get_it_by_that() {
    let node = with_driver();
    let specs = node.folder.path().join("nvidia");
    fs::create_dir_all(&specs).unwrap();
    fs::write(specs.join("broken.yaml"), "kind: nvidia.com/gpu\ndevices: 7").unwrap();
    fs::write(
        specs.join("other.json"),
        r#"{"kind": "example.org/nvidia.com/gpu"}"#,
    )
    .unwrap();
    let driver = node.driver_on(host(&node));
    let uuid = gpu().uuid;
    for name in [uuid.as_str(), "0"] {
        fs::write(specs.join("nvidia.yaml"), theirs(name, VERSION, "nvidia0")).unwrap();
        let answers = driver.prepare(&asked("u1")).await.unwrap();
        let own = format!("gpu.penstock.io/claim=u1-{NAME}");
        assert_eq!(answers[0].1, [own, format!("nvidia.com/gpu={name}")]);
        let edits = &node.spec().unwrap()["devices"][0]["containerEdits"];
        assert_eq!(
            (&edits["deviceNodes"], &edits["mounts"]),
            (&Value::Null, &Value::Null)
        );
        assert!(edits["env"].to_string().contains(&uuid), "{edits}");
    }
    // Made for another version of the driver, for other numbers, or for other GPUs: it describes what is not there.
    for (name, version, number) in [
        (uuid.as_str(), "570.1.1", "nvidia0"),
        (uuid.as_str(), VERSION, "nvidia1"),
        ("1", VERSION, "nvidia0"),
    ] {
        fs::write(specs.join("nvidia.yaml"), theirs(name, version, number)).unwrap();
        let answers = driver.prepare(&asked("u1")).await.unwrap();
        assert_eq!(answers[0].1.len(), 1, "{name} {version} {number}");
        assert_eq!(node.nodes()[0], "/dev/nvidia0");
    }
}

/// On a machine with a GPU, whose driver is below `/` or `PENSTOCK_TEST_DRIVER_ROOT`: prints what a container would get.
#[test]
#[ignore = "needs a GPU"]
fn what_containers_get_of_a_real_gpu_is_there() {
    let root = std::env::var_os("PENSTOCK_TEST_DRIVER_ROOT").map_or("/".into(), PathBuf::from);
    let driver = Driver {
        host: root.clone(),
        here: root,
    };
    let sysfs = crate::devices::sysfs::Sysfs::new("/sys".into());
    let places = driver.places(crate::devices::nvml::LIBRARY);
    let nvidia = crate::devices::nvml::Nvidia::new(sysfs, "/dev".into(), places);
    let Gpus::Found(gpus) = nvidia.gpus().unwrap() else {
        panic!("this machine has no GPU");
    };
    let host = GpuHost {
        dev: "/dev".into(),
        driver,
        specs: Vec::new(),
    };
    for gpu in &gpus {
        let edits = gpu.edits(&GpuParameters::default(), &host).unwrap();
        println!("{}", serde_json::to_string_pretty(&edits).unwrap());
        let edits = serde_json::to_value(&edits).unwrap();
        let listed = |list: &str| edits[list].as_array().unwrap().clone();
        for file in [listed("deviceNodes"), listed("mounts")].concat() {
            let path = file["hostPath"].as_str().unwrap();
            assert!(Path::new(path).exists(), "{path}");
        }
        let inside: Vec<_> = listed("mounts")
            .iter()
            .map(|mount| mount["containerPath"].to_string())
            .collect();
        for library in [
            "libcuda.so.1",
            "libnvidia-ml.so.1",
            "libnvidia-ptxjitcompiler.so.1",
        ] {
            let names = inside
                .iter()
                .filter(|path| path.ends_with(&format!("/{library}\"")));
            assert_eq!(names.count(), 2, "{library}: {inside:?}");
        }
        println!(
            "{}",
            serde_json::to_string_pretty(&devices(&gpus, Unhealthy::Tainted)).unwrap()
        );
    }
}
