"""The operator: from apply to Ready against a bare StatefulSet of the same image, and its memory against a Go sidecar's."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import time

from measure import row, shell

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = ROOT / "e2e/cluster/run"
NAMESPACE = "penstock-bench"
RUNS = 3


def kubectl(*args, text=None):
    return shell([RUN, "kubectl", *args], input=text)


def apply(manifest):
    kubectl("apply", "-n", NAMESPACE, "-f", "-", text=json.dumps(manifest))


def seconds_until(kind, name, condition):
    start = time.monotonic()
    kubectl("-n", NAMESPACE, "wait", f"{kind}/{name}", f"--for={condition}", "--timeout=120s")
    return time.monotonic() - start


def cluster(number):
    template = {"size": "1Gi"}
    if "local-disks" in kubectl("get", "storageclasses", "-o", "name"):
        template["storageClassName"] = "local-disks"
    return {
        "apiVersion": "penstock.io/v1alpha1", "kind": "StorageCluster", "metadata": {"name": f"bench-{number}"},
        "spec": {"storage": {"volumeClaimTemplate": template}, "deletionPolicy": "Delete"},
    }


def bare(number, image):
    """The same program without an operator: what Kubernetes itself needs."""
    labels = {"app": f"bare-{number}"}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": f"bare-{number}"},
        "spec": {
            "serviceName": f"bare-{number}", "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [{
                    "name": "store", "image": image, "imagePullPolicy": "IfNotPresent",
                    "args": ["serve", "--data=/data", "--listen=0.0.0.0:9000", "--admin-listen=0.0.0.0:9001"],
                    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9001}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }],
                "securityContext": {"runAsUser": 65532, "fsGroup": 65532},
                "volumes": [{"name": "data", "emptyDir": {}}],
            }},
        },
    }


def prepare():
    """A cluster with the chart installed. What is installed already is measured as it is."""
    up = os.environ.get("KUBECONFIG") or subprocess.run([ROOT / "e2e/cluster/up", "--check"], check=False).returncode == 0
    if not up:
        subprocess.run([ROOT / "e2e/cluster/up"], check=True, env={**os.environ, "PROFILE": "dev"})
    if not json.loads(shell([RUN, "helm", "list", "--all-namespaces", "--filter", "^penstock$", "--output", "json"])):
        shell([RUN, ROOT / "e2e/install-chart"])
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")


def ready_time(name):
    prepare()
    kubectl("create", "namespace", NAMESPACE)
    try:
        ours, peer = [], []
        for number in range(RUNS):
            apply(cluster(number))
            ours.append(seconds_until("storagecluster", f"bench-{number}", "condition=Ready"))
            image = kubectl("-n", NAMESPACE, "get", f"statefulset/bench-{number}", "-o",
                            "jsonpath={.spec.template.spec.containers[0].image}")
            apply(bare(number, image))
            peer.append(seconds_until("statefulset", f"bare-{number}", "jsonpath={.status.readyReplicas}=1"))
        yield row(name, "s", round(statistics.median(ours), 2), "bare StatefulSet", round(statistics.median(peer), 2),
                  runs=RUNS, less=True, note="apply to Ready; the bare one has no claim, TLS, keys or StorageClass")
    finally:
        kubectl("-n", NAMESPACE, "delete", "storageclusters", "--all", "--wait")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def resident_mib(pattern):
    """Resident memory in MiB of the largest process whose command line matches."""
    sizes = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if re.search(pattern, command):
                sizes += re.findall(r"^VmRSS:\s+(\d+) kB$", (process / "status").read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
    if not sizes:
        raise RuntimeError(f"no process matches {pattern}")
    return max(map(int, sizes)) / 1024


def memory(name):
    prepare()
    ours, peer = resident_mib("^[^ ]*/penstock-operator "), resident_mib("^/program .*--volume-name-prefix=")
    yield row(name, "MiB", round(ours, 1), "csi-provisioner", round(peer, 1), less=True,
              note="resident, at rest; the Go sidecar watches fewer kinds")


ROWS = [("operator-ready", ready_time), ("operator-memory", memory)]
