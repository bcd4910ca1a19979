# shellcheck shell=bash # sourced
# What a fresh cluster gets: cluster DNS, and disks as pre-made local volumes.

disks() {
  cat <<YAML
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local-disks}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
YAML
  local n disk
  for n in $(seq "$NODES"); do
    for disk in "$RUN/disks/node$n"/*; do
      cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: node$n-$(basename "$disk")}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local-disks
  local: {path: $disk}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node$n]}]}]
YAML
    done
  done
}

# Disks whose claim is gone: emptied, and offered again.
recycle_disks() {
  local class volume path
  kubectl_admin get persistentvolumes \
    -o 'jsonpath={range .items[?(@.status.phase=="Released")]}{.spec.storageClassName} {.metadata.name} {.spec.local.path}{"\n"}{end}' |
    while read -r class volume path; do
      [ "$class" = local-disks ] || continue
      kubectl_admin delete persistentvolume "$volume" >/dev/null
      find "$path" -mindepth 1 -delete
    done
  disks | kubectl_admin apply --server-side -f - >/dev/null
}

install_addons() {
  kubectl_admin apply --server-side -f "$HERE/dns.yaml" >/dev/null
  disks | kubectl_admin apply --server-side -f - >/dev/null
}
