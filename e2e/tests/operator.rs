//! The life of a StorageCluster under the real operator.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    coordination::v1::Lease,
    core::v1::{Pod, Secret},
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use penstock_e2e::{
    Context, Namespace, Result, Wait, bail, chart, client, ensure, eventually, in_namespace, object, storage,
};
use serde_json::{Value, json};
use std::time::Duration;

async fn generation_of_pod(ns: &Namespace, name: &str) -> Result<String> {
    ns.api::<Pod>()
        .get(name)
        .await?
        .metadata
        .uid
        .context("a pod without a uid")
}

async fn has_storage_class(ns: &Namespace, name: &str) -> Result<bool> {
    let classes = object::api(&ns.client, "storage.k8s.io/v1", "StorageClass", None);
    Ok(classes.get_opt(name).await?.is_some())
}

#[tokio::test]
async fn a_storage_cluster_becomes_ready_and_says_so_truthfully() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "demo").await?.created().await?;
        let status = &cluster.object["status"];
        ensure!(
            status["nodes"]["ready"] == 1 && status["nodes"]["desired"] == 1,
            "{status}"
        );
        for kind in ["CredentialsReady", "TlsReady", "StorageClassReady", "NodesReady"] {
            ensure!(
                storage::condition(&cluster.object, kind) == "True",
                "{kind}: {status}"
            );
        }
        ensure!(
            storage::condition(&cluster.object, "Progressing") == "False",
            "{status}"
        );
        ensure!(
            storage::condition(&cluster.object, "Degraded") == "False",
            "{status}"
        );
        ensure!(
            cluster.endpoint.starts_with("https://demo."),
            "TLS is on by default: {}",
            cluster.endpoint
        );
        ensure!(
            has_storage_class(&ns, &cluster.storage_class).await?,
            "no StorageClass {}",
            cluster.storage_class
        );

        let shown = penstock_e2e::command::kubectl(&["-n", &ns.name, "get", "storageclusters"]).await?;
        ensure!(shown.contains("READY") && shown.contains("True"), "{shown}");

        // An administrator needs nothing but the pod.
        let pod = format!("{}-0", cluster.name);
        let exec = ["-n", &ns.name, "exec", &pod, "--", "penstock-store"];
        let administer =
            async |words: &[&str]| penstock_e2e::command::kubectl(&[&exec[..], words].concat()).await;
        let made = administer(&[
            "key", "create", "--name", "ci", "--read", "models", "--output", "json",
        ])
        .await?;
        let made: serde_json::Value = serde_json::from_str(&made)?;
        let listed = administer(&["key", "list"]).await?;
        let id = made["accessKeyId"].as_str().unwrap_or("?");
        ensure!(listed.contains(id) && listed.contains("read models"), "{listed}");
        administer(&["key", "revoke", id]).await?;
        let stats = administer(&["stats"]).await?;
        ensure!(stats.contains("buckets:   0"), "{stats}");

        // The secret key is nowhere but in the Secret.
        let key = storage::secret_value(&ns, &cluster.credentials, "secretAccessKey").await?;
        ensure!(key.len() >= 32, "the secret key is short");
        for kind in [
            "statefulsets",
            "pods",
            "configmaps",
            "events",
            "storageclusters",
            "services",
        ] {
            let text = penstock_e2e::command::kubectl(&["-n", &ns.name, "get", kind, "-o", "yaml"]).await?;
            ensure!(!text.contains(&key), "the secret key is readable in {kind}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_status_that_nothing_changes_is_not_written_again() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "calm").await?.created().await?;
        // Probes and caches settle in the first seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let version = async || -> Result<Option<String>> {
            Ok(ns
                .penstock("StorageCluster")
                .get(&cluster.name)
                .await?
                .metadata
                .resource_version)
        };
        let before = version().await?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        ensure!(before == version().await?, "the operator writes without a cause");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_somebody_deletes_or_bends_is_made_right_again() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "healed").await?.created().await?;
        let key = storage::secret_value(&ns, &cluster.credentials, "secretAccessKey").await?;

        let services = ns.api::<k8s_openapi::api::core::v1::Service>();
        services.delete(&cluster.name, &DeleteParams::default()).await?;
        let sets = ns.api::<StatefulSet>();
        let bent = json!({"spec": {"replicas": 0}});
        sets.patch(&cluster.name, &PatchParams::default(), &Patch::Merge(&bent))
            .await?;
        eventually("the Service and the replicas are back", async || {
            let service = services.get_opt(&cluster.name).await?.is_some();
            let replicas = sets.get(&cluster.name).await?.spec.and_then(|spec| spec.replicas);
            Ok(if service && replicas == Some(1) {
                Wait::Done(())
            } else {
                Wait::NotYet(format!("service {service}, replicas {replicas:?}"))
            })
        })
        .await?;
        storage::ready(&ns, &cluster.name).await?;
        let now = storage::secret_value(&ns, &cluster.credentials, "secretAccessKey").await?;
        ensure!(key == now, "the credentials changed under their users");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn ready_goes_and_comes_back_with_the_storage_node() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "killed").await?.created().await?;
        let pod = format!("{}-0", cluster.name);
        let uid = generation_of_pod(&ns, &pod).await?;
        ns.api::<Pod>()
            .delete(&pod, &DeleteParams::default().grace_period(0))
            .await?;
        storage::replaced(&ns, &cluster.name, &uid).await?;
        storage::ready(&ns, &cluster.name).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_told_and_can_be_mended() -> Result<()> {
    in_namespace("operator", async |ns| {
        let wrong = storage::cluster(&ns, "mended")
            .await?
            .with(json!({"image": "localhost/penstock/no-such-image:1", "imagePullPolicy": "Never"}));
        wrong.applied().await?;
        let told = ns
            .until("StorageCluster", "mended", "tells of the image", |object| {
                storage::condition(object, "Ready") == "False"
                    && storage::message(object, "Ready").contains("no-such-image")
            })
            .await?;
        ensure!(
            storage::condition(&told, "Ready") != "True",
            "Ready with an image that does not exist"
        );
        wrong
            .with(json!({"image": null, "imagePullPolicy": null}))
            .applied()
            .await?;
        storage::ready(&ns, "mended").await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_changed_spec_rolls_out_before_ready_is_true_again() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "rolled").await?;
        cluster.applied().await?;
        let before = storage::ready(&ns, "rolled").await?;
        let uid = generation_of_pod(&ns, "rolled-0").await?;
        cluster
            .with(json!({"resources": {"requests": {"memory": "48Mi"}}}))
            .applied()
            .await?;
        let after = storage::ready(&ns, "rolled").await?;
        let now = generation_of_pod(&ns, "rolled-0").await?;
        ensure!(uid != now, "Ready is told of a pod with the old spec");
        let generation = |object: &Value| object["status"]["observedGeneration"].as_i64();
        ensure!(
            generation(&after.object) > generation(&before.object),
            "observedGeneration stands still"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deleting_retains_the_data_unless_told_otherwise() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "kept")
            .await?
            .with(json!({"deletionPolicy": "Retain"}));
        cluster.applied().await?;
        let ready = storage::ready(&ns, "kept").await?;
        let key = storage::secret_value(&ns, &ready.credentials, "secretAccessKey").await?;
        delete_and_wait(&ns, "kept").await?;
        ensure!(
            !has_storage_class(&ns, &ready.storage_class).await?,
            "the StorageClass stayed"
        );
        let claims = ns.names("v1", "PersistentVolumeClaim").await?;
        ensure!(claims.len() == 1, "the data did not survive: {claims:?}");

        cluster
            .with(json!({"deletionPolicy": "Delete"}))
            .applied()
            .await?;
        let again = storage::ready(&ns, "kept").await?;
        let key_now = storage::secret_value(&ns, &again.credentials, "secretAccessKey").await?;
        ensure!(key == key_now, "the same data came back under another key");
        delete_and_wait(&ns, "kept").await?;
        eventually("the data is gone with deletionPolicy Delete", async || {
            let claims = ns.names("v1", "PersistentVolumeClaim").await?;
            Ok(if claims.is_empty() {
                Wait::Done(())
            } else {
                Wait::NotYet(claims.join(", "))
            })
        })
        .await
    })
    .await
}

async fn delete_and_wait(ns: &Namespace, name: &str) -> Result<()> {
    let clusters = ns.penstock("StorageCluster");
    clusters.delete(name, &DeleteParams::default()).await?;
    eventually(&format!("StorageCluster {name} is gone"), async || {
        Ok(match clusters.get_opt(name).await? {
            None => Wait::Done(()),
            Some(left) => Wait::NotYet(format!("finalizers {:?}", left.metadata.finalizers)),
        })
    })
    .await
}

#[tokio::test]
async fn a_foreign_storage_class_is_never_overwritten() -> Result<()> {
    in_namespace("operator", async |ns| {
        let name = format!("foreign-{}", ns.name);
        let foreign = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "example.org/other", "volumeBindingMode": "WaitForFirstConsumer",
        });
        object::apply(&ns.client, None, &foreign).await?;
        let outcome = async {
            let cluster = storage::cluster(&ns, "polite")
                .await?
                .with(json!({"storageClass": {"name": name}}));
            cluster.applied().await?;
            ns.until(
                "StorageCluster",
                "polite",
                "tells that the name is taken",
                |object| {
                    storage::condition(object, "StorageClassReady") == "False"
                        && storage::reason(object, "StorageClassReady") == "NameTaken"
                },
            )
            .await?;
            delete_and_wait(&ns, "polite").await?;
            let classes = object::api(&ns.client, "storage.k8s.io/v1", "StorageClass", None);
            let left = classes
                .get_opt(&name)
                .await?
                .context("the foreign StorageClass was deleted")?;
            ensure!(
                left.data["provisioner"] == "example.org/other",
                "the foreign StorageClass was changed"
            );
            Ok(())
        }
        .await;
        let classes = object::api(&ns.client, "storage.k8s.io/v1", "StorageClass", None);
        classes.delete(&name, &DeleteParams::default()).await?;
        outcome
    })
    .await
}

#[tokio::test]
async fn events_tell_the_story() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "told").await?.created().await?;
        eventually("an Event says that the cluster is Ready", async || {
            let events = ns.api::<Event>().list(&ListParams::default()).await?;
            let told: Vec<String> = events
                .into_iter()
                .filter(|event| {
                    event.regarding.as_ref().and_then(|object| object.name.as_ref()) == Some(&cluster.name)
                })
                .map(|event| {
                    format!(
                        "{}: {}",
                        event.reason.unwrap_or_default(),
                        event.note.unwrap_or_default()
                    )
                })
                .collect();
            Ok(if told.iter().any(|line| line.contains("Ready")) {
                Wait::Done(())
            } else {
                Wait::NotYet(told.join("; "))
            })
        })
        .await
    })
    .await
}

#[tokio::test]
async fn the_other_replica_takes_over_when_the_leader_dies() -> Result<()> {
    in_namespace("operator", async |ns| {
        let system = chart::NAMESPACE;
        let leases = Api::<Lease>::namespaced(client().await?, system);
        let pods = Api::<Pod>::namespaced(client().await?, system);
        let holder = async || -> Result<String> {
            let all = leases.list(&ListParams::default()).await?;
            all.into_iter()
                .filter(|lease| {
                    lease
                        .metadata
                        .name
                        .as_deref()
                        .is_some_and(|name| name.contains("operator"))
                })
                .find_map(|lease| lease.spec.and_then(|spec| spec.holder_identity))
                .context("no operator holds a lease")
        };
        let leader = holder().await?;
        let Some(pod) = pods
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .find(|name| leader.contains(name.as_str()))
        else {
            bail!("the lease is held by {leader:?}, which is no pod of {system}");
        };
        pods.delete(&pod, &DeleteParams::default().grace_period(0))
            .await?;
        eventually("another replica leads", async || {
            let now = holder().await.unwrap_or_default();
            Ok(if now.is_empty() || now == leader {
                Wait::NotYet(now)
            } else {
                Wait::Done(())
            })
        })
        .await?;
        storage::cluster(&ns, "after").await?.created().await.map(drop)
    })
    .await
}

#[tokio::test]
async fn credentials_made_by_the_user_are_adopted_and_incomplete_ones_told() -> Result<()> {
    in_namespace("operator", async |ns| {
        let secret = |data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own-credentials"}, "stringData": data})
        };
        ns.apply(&secret(json!({"accessKeyId": "AKIAOWNKEY"}))).await?;
        let cluster = storage::cluster(&ns, "own").await?;
        cluster.applied().await?;
        ns.until("StorageCluster", "own", "tells what the Secret lacks", |object| {
            storage::condition(object, "CredentialsReady") == "False"
                && storage::message(object, "CredentialsReady").contains("secretAccessKey")
        })
        .await?;
        let whole = json!({"accessKeyId": "AKIAOWNKEY", "secretAccessKey": "0123456789abcdef0123456789abcdef01234567"});
        ns.apply(&secret(whole)).await?;
        let ready = storage::ready(&ns, "own").await?;
        let key = storage::secret_value(&ns, &ready.credentials, "accessKeyId").await?;
        ensure!(key == "AKIAOWNKEY", "the user's key was replaced by {key}");
        // What the user made, the user deletes.
        delete_and_wait(&ns, "own").await?;
        ensure!(ns.api::<Secret>().get_opt("own-credentials").await?.is_some(), "the user's Secret was deleted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_master_key_and_backups_are_the_users_and_what_is_missing_is_told() -> Result<()> {
    in_namespace("operator", async |ns| {
        let cluster = storage::cluster(&ns, "kept").await?;
        let disk = &cluster.manifest()["spec"]["storage"]["volumeClaimTemplate"];
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "other-disk"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": disk["storageClassName"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        let key = |key: &str| {
            let metadata = json!({"name": "sealing"});
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"master-key": key.repeat(32)}})
        };
        let spec = json!({"masterKey": {"secretName": "sealing"}, "backups": {"claimName": "other-disk"}});
        cluster.with(spec).applied().await?;
        let told = async |what: &'static str| {
            let is_so = move |object: &Value| {
                storage::condition(object, "NodesReady") == "False"
                    && storage::message(object, "NodesReady").contains(what)
            };
            ns.until("StorageCluster", "kept", what, is_so).await
        };
        told("there is no Secret sealing").await?;
        ns.apply(&key("a7")).await?;
        told("there is no PersistentVolumeClaim other-disk").await?;
        ns.apply(&claim).await?;
        storage::ready(&ns, "kept").await?;

        let administer = async |words: &[&str]| {
            let exec = ["-n", &ns.name, "exec", "kept-0", "--", "penstock-store", "backup"];
            penstock_e2e::command::kubectl(&[&exec[..], words].concat()).await
        };
        // The first is made by itself.
        eventually("a backup is there", async || {
            let list: Value = serde_json::from_str(&administer(&["list", "--output", "json"]).await?)?;
            Ok(match list["backups"].as_array().is_some_and(|backups| !backups.is_empty()) {
                true => Wait::Done(()),
                false => Wait::NotYet(list.to_string()),
            })
        })
        .await?;
        let made = administer(&["create", "now"]).await?;
        ensure!(made.starts_with("now: 0 objects"), "{made}");

        // Another key is refused, and said so, before anything is sealed with it.
        ns.apply(&key("b8")).await?;
        ns.api::<Pod>().delete("kept-0", &DeleteParams::default()).await?;
        told("sealed with another master key").await?;
        ns.apply(&key("a7")).await?;
        ns.api::<Pod>().delete("kept-0", &DeleteParams::default()).await?;
        storage::ready(&ns, "kept").await?;
        let listed = administer(&["list"]).await?;
        ensure!(listed.contains("now: 0 objects"), "{listed}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_checks_of_this_suite_can_fail() -> Result<()> {
    in_namespace("operator", async |ns| {
        let broken = storage::cluster(&ns, "broken")
            .await?
            .with(json!({"image": "localhost/penstock/no-such-image:1", "imagePullPolicy": "Never"}));
        broken.applied().await?;
        let waited = penstock_e2e::within(Duration::from_secs(15), "Ready", async || {
            let object = serde_json::to_value(ns.penstock("StorageCluster").get("broken").await?)?;
            Ok(if storage::condition(&object, "Ready") == "True" {
                Wait::Done(())
            } else {
                Wait::NotYet(storage::message(&object, "Ready").to_owned())
            })
        })
        .await;
        ensure!(waited.is_err(), "a cluster without an image counted as Ready");
        Ok(())
    })
    .await
}

/// The throwaway cluster's nodes have no RDMA device, and neither does a pod that asked for none elsewhere.
#[tokio::test]
async fn without_a_device_a_storage_cluster_says_so_and_is_ready_unless_rdma_is_required() -> Result<()> {
    in_namespace("operator", async |ns| {
        let mild = storage::cluster(&ns, "mild").await?.created().await?;
        let told = |object: &Value| {
            let reason = storage::reason(object, "RdmaReady").to_owned();
            ["NoLibrary", "KernelModuleMissing", "NoDevice"].contains(&reason.as_str())
        };
        ns.until("StorageCluster", &mild.name, "says why it has no RDMA", told)
            .await?;

        let strict = storage::cluster(&ns, "strict")
            .await?
            .with(json!({"rdma": {"policy": "Require", "extendedResource": "example.org/no-such-nic"}}));
        strict.applied().await?;
        // The device that the spec asks for is on no node.
        ns.until(
            "StorageCluster",
            "strict",
            "says that its pod cannot be scheduled",
            |object| {
                storage::condition(object, "Ready") == "False"
                    && storage::message(object, "NodesReady").contains("example.org/no-such-nic")
            },
        )
        .await?;

        let off = storage::cluster(&ns, "off")
            .await?
            .with(json!({"rdma": {"policy": "Disabled"}}))
            .created()
            .await?;
        ensure!(
            storage::reason(&off.object, "RdmaReady") == "Disabled",
            "{}",
            off.object["status"]
        );
        Ok(())
    })
    .await
}
