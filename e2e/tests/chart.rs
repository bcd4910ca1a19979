//! The chart's life: what it renders, and install, test, upgrade, uninstall on a real cluster.
//!
//! The tests of this file change the one installation that all suites share, so they are steps of one test.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use penstock_e2e::{
    Context, Namespace, Result, Wait, chart, client, command, ensure, eventually, in_namespace, object,
    storage,
};
use serde_json::Value;

const CRD: &str = "storageclusters.penstock.io";
/// What is off by default, in each of its forms.
const FORMS: [&[&str]; 4] = [
    &[],
    &["--set", "devices.enabled=true"],
    &["--set", "devices.enabled=true", "--set", "devices.mode=DRA"],
    &[
        "--set",
        "devices.enabled=true,devices.mode=DRA,devices.gpu.enabled=true",
    ],
];

#[tokio::test]
async fn the_chart_lints_and_its_manifests_fit_the_schema() -> Result<()> {
    command::helm(&[
        "lint",
        "--strict",
        "charts/penstock",
        "--values",
        "e2e/values.yaml",
    ])
    .await?;
    for form in FORMS {
        server_accepts(&rendered(form).await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn wrong_values_are_refused_by_name() -> Result<()> {
    for (setting, named) in [
        ("operator.replicas=many", "replicas"),
        ("noSuchValue=1", "noSuchValue"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("csi.agent.gateway.upstreams[0].name=x", "upstreams"),
        ("devices.mode=Both", "mode"),
        (
            "devices.enabled=true,devices.gpu.enabled=true",
            "devices.mode=DRA",
        ),
    ] {
        let Err(error) = rendered(&["--set", setting]).await else {
            penstock_e2e::bail!("{setting} was accepted");
        };
        ensure!(format!("{error:#}").contains(named), "{setting}: {error:#}");
    }
    Ok(())
}

#[tokio::test]
async fn the_gateway_is_a_capability_that_storage_clusters_switch_on() -> Result<()> {
    let from = r#"csi.agent.gateway.from=[{"podSelector":{}}]"#;
    let manifests = rendered(&["--set-json", from]).await?;
    server_accepts(&manifests).await?;
    let all = documents(&manifests)?;
    let named = |kind: &str, name: &str| {
        let found = all
            .iter()
            .find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
        found.with_context(|| format!("no {kind} {name}"))
    };
    let nodes = named("DaemonSet", "penstock-node")?;
    let mounted = &nodes["spec"]["template"]["spec"]["volumes"];
    let secret = mounted
        .as_array()
        .and_then(|volumes| volumes.iter().find(|volume| volume["name"] == "gateway"));
    // There is none before the first StorageCluster that wants a gateway.
    ensure!(
        secret.is_some_and(|volume| volume["secret"]["optional"] == true),
        "{mounted}"
    );
    let operator = named("Deployment", "penstock-operator")?;
    let environment = &operator["spec"]["template"]["spec"]["containers"][0]["env"];
    let selector = environment
        .as_array()
        .and_then(|all| {
            all.iter()
                .find(|variable| variable["name"] == "PENSTOCK_GATEWAY_SELECTOR")
        })
        .and_then(|variable| variable["value"].as_str())
        .context("the operator does not know the agents")?;
    let labels = &nodes["spec"]["template"]["metadata"]["labels"];
    for pair in selector.split(',') {
        let (key, value) = pair.split_once('=').context("no label")?;
        ensure!(labels[key] == value, "{pair} is not among {labels}");
    }
    ensure!(
        named("Role", "penstock-operator")?["rules"]
            .to_string()
            .contains("services"),
        "the operator cannot take a gateway's Service away"
    );
    named("NetworkPolicy", "penstock-gateway")?;
    let off = rendered(&["--set", "csi.agent.gateway.enabled=false"]).await?;
    for document in documents(&off)? {
        ensure!(
            document["kind"] == "CustomResourceDefinition" || !document.to_string().contains("gateway"),
            "there is something of the gateway where it is off: {document}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn only_containers_that_mount_or_open_gpus_are_privileged() -> Result<()> {
    for form in FORMS {
        privileges_are_few(&rendered(form).await?)?;
    }
    Ok(())
}

fn privileges_are_few(manifests: &str) -> Result<()> {
    for document in documents(manifests)? {
        let pod = &document["spec"]["template"]["spec"];
        for list in ["containers", "initContainers"] {
            for container in pod[list].as_array().unwrap_or(&Vec::new()) {
                let name = container["name"].as_str().unwrap_or_default();
                let security = &container["securityContext"];
                if security["privileged"] == true {
                    ensure!(["node", "gpus"].contains(&name), "container {name} is privileged");
                } else {
                    ensure!(
                        security["allowPrivilegeEscalation"] == false,
                        "{name} may gain privileges"
                    );
                    ensure!(
                        security["capabilities"]["drop"][0] == "ALL",
                        "{name} keeps capabilities"
                    );
                    ensure!(
                        security["readOnlyRootFilesystem"] == true,
                        "{name} may write to its root"
                    );
                }
            }
        }
        if document["kind"] == "Deployment" {
            ensure!(
                pod["securityContext"]["runAsNonRoot"] == true,
                "a Deployment may run as root"
            );
            ensure!(
                !pod.to_string().contains("hostPath"),
                "a Deployment mounts the host"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn install_test_upgrade_uninstall_and_the_data_survives() -> Result<()> {
    let outcome = lifecycle().await;
    // Whatever happened, the other suites and a second run find the chart installed.
    chart::install(&[]).await?;
    outcome
}

async fn lifecycle() -> Result<()> {
    chart::install(&[]).await?;
    let told = command::helm(&["test", chart::RELEASE, "-n", chart::NAMESPACE, "--logs"]).await?;
    ensure!(told.contains("Succeeded"), "{told}");
    let notes = command::helm(&["get", "notes", chart::RELEASE, "-n", chart::NAMESPACE]).await?;
    ensure!(
        notes.contains("kubectl"),
        "the notes do not say what to do next: {notes}"
    );

    in_namespace("chart", async |ns| {
        let cluster = storage::cluster(&ns, "survivor").await?.created().await?;
        ns.claim("data", &cluster.storage_class).await?;
        ns.pod("writer")
            .mounting("data")
            .runs("echo precious > /data/f")
            .succeeds()
            .await?;
        let node_pod = ns.api::<Pod>().get("survivor-0").await?.metadata.uid;
        let worker = ns
            .pod("worker")
            .mounting("data")
            .runs("while [ ! -e /data/upgraded ]; do date > /data/alive; sleep 0.2; done; echo still mounted; sleep 600")
            .started()
            .await?;

        // An upgrade brings the CRD with it, even (with --force-conflicts) over one that somebody damaged, and restarts no
        // storage node. Nor does it end a mount, though the node pods change.
        command::kubectl(&[
            "patch",
            "crd",
            CRD,
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/spec/versions/0/additionalPrinterColumns"}]"#,
        ])
        .await?;
        chart::install(&["--set", "operator.logLevel=debug", "--set", "csi.logLevel=debug"]).await?;
        let crd = command::kubectl(&[
            "get",
            "crd",
            CRD,
            "-o",
            "jsonpath={.spec.versions[0].additionalPrinterColumns}",
        ]);
        ensure!(
            crd.await?.contains("Ready"),
            "the upgrade did not bring the CRD back"
        );
        storage::ready(&ns, "survivor").await?;
        let now = ns.api::<Pod>().get("survivor-0").await?.metadata.uid;
        ensure!(node_pod == now, "upgrading the operator restarted a storage node");
        ns.pod("signal").mounting("data").runs("echo > /data/upgraded").succeeds().await?;
        eventually("the volume that was mounted before the upgrade still is", async || {
            let log = worker.log().await?;
            Ok(if log.contains("still mounted") { Wait::Done(()) } else { Wait::NotYet(log) })
        })
        .await?;
        worker.deleted().await?;
        node_pods_can_be_replaced(&ns).await?;

        // Uninstalling leaves the CRDs, the StorageCluster, its node and its data.
        command::helm(&["uninstall", chart::RELEASE, "-n", chart::NAMESPACE, "--wait"]).await?;
        let left = ns.penstock("StorageCluster").get("survivor").await?;
        ensure!(
            left.metadata.deletion_timestamp.is_none(),
            "uninstalling deletes the StorageCluster"
        );
        ensure!(
            ns.api::<Pod>().get("survivor-0").await?.metadata.uid == node_pod,
            "the storage node went"
        );
        let pods = Api::<Pod>::namespaced(client().await?, chart::NAMESPACE);
        // The pod of `helm test` is no part of the release, and kept for its log.
        let of_release = ListParams::default().labels("app.kubernetes.io/component");
        eventually("all pods of the release are gone", async || {
            let left = pods.list(&of_release).await?.items.len();
            Ok(if left == 0 {
                Wait::Done(())
            } else {
                Wait::NotYet(format!("{left} pods"))
            })
        })
        .await?;
        let roles = object::api(&ns.client, "rbac.authorization.k8s.io/v1", "ClusterRole", None);
        let label = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", chart::RELEASE));
        ensure!(roles.list(&label).await?.items.is_empty(), "ClusterRoles stayed");

        chart::install(&[]).await?;
        storage::ready(&ns, "survivor").await?;
        let read = ns
            .pod("reader")
            .mounting("data")
            .runs("cat /data/f")
            .succeeds()
            .await?;
        ensure!(read == "precious\n", "{read}");
        Ok(())
    })
    .await
}

/// Replacing a node pod ends the mounts it served, but loses nothing that was written, and the next pod finds a living mount.
async fn node_pods_can_be_replaced(ns: &Namespace) -> Result<()> {
    let nodes = penstock_e2e::nodes(&client().await?).await?;
    let node = nodes.first().context("the cluster has no node")?;
    let left = ns
        .pod("left")
        .on(node)
        .mounting("data")
        .runs("exec 3> /data/open; echo kept >&3; echo written; sleep 600")
        .started()
        .await?;
    eventually("the pod has written into an open file", async || {
        let log = left.log().await?;
        Ok(if log.contains("written") {
            Wait::Done(())
        } else {
            Wait::NotYet(log)
        })
    })
    .await?;
    let pods = Api::<Pod>::namespaced(client().await?, chart::NAMESPACE);
    let on_node = ListParams::default()
        .labels("app.kubernetes.io/component=node")
        .fields(&format!("spec.nodeName={node}"));
    let before: Vec<_> = pods
        .list(&on_node)
        .await?
        .into_iter()
        .filter_map(|pod| pod.metadata.uid)
        .collect();
    pods.delete_collection(&DeleteParams::default(), &on_node).await?;
    eventually("the node pod is replaced and ready", async || {
        let now = pods.list(&on_node).await?.items;
        let is_new = |pod: &Pod| pod.metadata.uid.as_ref().is_some_and(|uid| !before.contains(uid));
        let ready = now.len() == 1 && now.iter().all(|pod| is_new(pod) && penstock_e2e::is_ready(pod));
        Ok(if ready {
            Wait::Done(())
        } else {
            Wait::NotYet(format!("{} node pods there", now.len()))
        })
    })
    .await?;
    let read = ns
        .pod("next")
        .on(node)
        .mounting("data")
        .runs("cat /data/open; echo again > /data/again; cat /data/again")
        .succeeds()
        .await?;
    ensure!(read == "kept\nagain\n", "{read}");
    left.deleted().await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    let broken = rendered(&[]).await?.replace("volumeMounts:", "volumeMuonts:");
    let Err(error) = server_accepts(&broken).await else {
        penstock_e2e::bail!("a misspelt field passed the schema check");
    };
    ensure!(format!("{error:#}").contains("volumeMuonts"), "{error:#}");
    Ok(())
}

async fn rendered(more: &[&str]) -> Result<String> {
    let mut args = vec![
        "template",
        chart::RELEASE,
        "charts/penstock",
        "--namespace",
        chart::NAMESPACE,
    ];
    args.extend(["--values", "e2e/values.yaml"]);
    args.extend(more);
    command::helm(&args).await
}

/// The API server's own schema is the judge of the manifests.
async fn server_accepts(manifests: &str) -> Result<()> {
    let args = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--server-side",
        "--force-conflicts",
        "-f",
        "-",
    ];
    // A dry run makes no ServiceAccounts, and a pod is refused without its own; and the pod of the last `helm test` may be there.
    let manifests = manifests
        .replace(
            "serviceAccountName: penstock-check",
            "serviceAccountName: default",
        )
        .replace("name: penstock-check", "name: penstock-check-dry-run");
    command::run_with_input("kubectl", &args, &manifests)
        .await
        .map(drop)
        .context("the API server refuses the chart")
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    use serde::Deserialize as _;
    serde_norway::Deserializer::from_str(yaml)
        .map(|document| Ok(Value::deserialize(document)?))
        .collect()
}
