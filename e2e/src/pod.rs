//! Pods that run a shell script over mounted volumes.

use crate::{Namespace, Wait, eventually};
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod as Resource;
use kube::{
    Api,
    api::{DeleteParams, LogParams},
};
use serde_json::{Value, json};

/// A small image with a shell; on clusters that can pull, any busybox does.
fn tools_image() -> String {
    std::env::var("PENSTOCK_TOOLS_IMAGE").unwrap_or_else(|_| "localhost/tools:1".into())
}

/// A pod to be run: described first, then started by [`Pod::succeeds`], [`Pod::fails`] or [`Pod::started`].
#[must_use]
pub struct Pod {
    ns: Namespace,
    name: String,
    node: Option<String>,
    claims: Vec<(String, bool)>,
    script: String,
    security: Value,
    limits: Value,
    /// ResourceClaims as the pod names them.
    devices: Vec<Value>,
    /// In place of a script: arguments of the program that uses the library, and whose client it is.
    transfers: Option<(String, Vec<String>)>,
}

impl Pod {
    pub(crate) fn new(ns: Namespace, name: &str) -> Self {
        // Restricted as a careful user's pod is: what works here needs no privilege.
        let security = json!({
            "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        Self {
            ns,
            name: name.into(),
            node: None,
            claims: Vec::new(),
            script: String::new(),
            security,
            limits: json!({}),
            devices: Vec::new(),
            transfers: None,
        }
    }

    /// Asks for so many of a resource.
    pub fn asking(mut self, resource: &str, count: u32) -> Self {
        self.limits[resource] = count.into();
        self
    }

    /// Has a ResourceClaim of its own, made from a template.
    pub fn claiming(mut self, template: &str) -> Self {
        self.devices
            .push(json!({"name": template, "resourceClaimTemplateName": template}));
        self
    }

    /// Uses a ResourceClaim that others may use as well.
    pub fn sharing(mut self, claim: &str) -> Self {
        self.devices
            .push(json!({"name": claim, "resourceClaimName": claim}));
        self
    }

    /// Binds it to a node, whatever the node's taints.
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Mounts a claim under `/<claim>`.
    pub fn mounting(mut self, claim: &str) -> Self {
        self.claims.push((claim.into(), false));
        self
    }

    /// Mounts a claim read-only under `/<claim>`.
    pub fn mounting_read_only(mut self, claim: &str) -> Self {
        self.claims.push((claim.into(), true));
        self
    }

    /// The shell script it runs, under `set -eu`.
    pub fn runs(mut self, script: &str) -> Self {
        self.script = format!("set -eu\n{script}");
        self
    }

    /// Runs the library's example `rdma_transfer` against a StorageCluster of the namespace, on the node's own network.
    pub fn transfers(mut self, cluster: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.transfers = Some((cluster.into(), arguments));
        self
    }

    /// Runs as this user and group, without an `fsGroup`.
    pub fn as_user(mut self, uid: u32) -> Self {
        self.security = json!({
            "runAsNonRoot": uid != 0, "runAsUser": uid, "runAsGroup": uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        self
    }

    fn manifest(&self) -> Value {
        let volume = |(claim, read_only): &(String, bool)| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}});
        let mount = |(claim, read_only): &(String, bool)| json!({"name": claim, "mountPath": format!("/{claim}"), "readOnly": read_only});
        let named = |claim: &Value| json!({"name": claim["name"]});
        let mut spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "securityContext": self.security,
            "containers": [{
                "name": "main", "image": tools_image(), "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", self.script],
                "resources": {"limits": self.limits, "claims": self.devices.iter().map(named).collect::<Vec<_>>()},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": self.claims.iter().map(mount).collect::<Vec<_>>(),
            }],
            "volumes": self.claims.iter().map(volume).collect::<Vec<_>>(),
            "resourceClaims": self.devices,
        });
        if let Some(node) = &self.node {
            spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        if let Some((cluster, arguments)) = &self.transfers {
            let secret = format!("{cluster}-credentials");
            let key = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}});
            let container = &mut spec["containers"][0];
            container["image"] = "localhost/client:1".into();
            // Kubernetes puts the variable's value in.
            container["command"] = json!(["/rdma_transfer", "$(ENDPOINT)"]);
            container["args"] = json!(arguments);
            container["env"] = json!([
                key("AWS_ACCESS_KEY_ID", "accessKeyId"), key("AWS_SECRET_ACCESS_KEY", "secretAccessKey"),
                key("ENDPOINT", "endpoint"), {"name": "AWS_CA_BUNDLE", "value": "/cluster/ca.crt"},
            ]);
            container["volumeMounts"] = json!([{"name": "cluster", "mountPath": "/cluster"}]);
            spec["volumes"] = json!([{"name": "cluster", "secret": {"secretName": secret, "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]);
            spec["hostNetwork"] = true.into();
            spec["dnsPolicy"] = "ClusterFirstWithHostNet".into();
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": spec})
    }

    /// Creates it and waits until its container runs.
    ///
    /// # Errors
    /// When it does not run in time, or ended already.
    pub async fn started(self) -> Result<Self> {
        self.ns.apply(&self.manifest()).await?;
        self.reached(&["Running"], &["Succeeded", "Failed"]).await?;
        Ok(self)
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// When the script fails or does not end in time; the message holds what it printed.
    pub async fn succeeds(self) -> Result<String> {
        self.ns.apply(&self.manifest()).await?;
        self.reached(&["Succeeded"], &["Failed"]).await?;
        self.log().await
    }

    /// Runs it to its end, which must be a failure, and returns what it printed.
    ///
    /// # Errors
    /// When the script succeeds or does not end in time.
    pub async fn fails(self) -> Result<String> {
        self.ns.apply(&self.manifest()).await?;
        self.reached(&["Failed"], &["Succeeded"]).await?;
        self.log().await
    }

    /// Creates it without waiting.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn created(self) -> Result<Self> {
        self.ns.apply(&self.manifest()).await?;
        Ok(self)
    }

    /// What it printed so far.
    ///
    /// # Errors
    /// When the kubelet does not answer.
    pub async fn log(&self) -> Result<String> {
        Ok(self.pods().logs(&self.name, &LogParams::default()).await?)
    }

    /// Deletes it, if it is there, and waits until it is gone, its volumes unmounted.
    ///
    /// # Errors
    /// When it does not go in time.
    pub async fn deleted(self) -> Result<()> {
        let pods = self.pods();
        if pods.get_opt(&self.name).await?.is_none() {
            return Ok(());
        }
        pods.delete(&self.name, &DeleteParams::default()).await?;
        eventually(&format!("pod {} is gone", self.name), async || {
            Ok(match pods.get_opt(&self.name).await? {
                None => Wait::Done(()),
                Some(_) => Wait::NotYet("still there".into()),
            })
        })
        .await
    }

    fn pods(&self) -> Api<Resource> {
        self.ns.api()
    }

    async fn reached(&self, wanted: &[&str], unwanted: &[&str]) -> Result<()> {
        let pods = self.pods();
        eventually(
            &format!("pod {} is {}", self.name, wanted.join(" or ")),
            async || {
                let pod = pods.get(&self.name).await?;
                let phase = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.clone())
                    .unwrap_or_default();
                if wanted.contains(&phase.as_str()) {
                    return Ok(Wait::Done(()));
                }
                if unwanted.contains(&phase.as_str()) {
                    let log = self.log().await.unwrap_or_default();
                    bail!("pod {} ended as {phase}; it printed:\n{log}", self.name);
                }
                Ok(Wait::NotYet(phase))
            },
        )
        .await
    }
}
