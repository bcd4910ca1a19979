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
    for disk in "$RUN/disks/node$n"/*; do local_volume "$n" "$disk"; done
  done
}

guest_disks() { # N
  local disk
  for disk in $(seq "$GUEST_DISKS"); do local_volume "$1" "/disks/disk0$disk" "penstock.io/test-guest: node$1"; done
}

local_volume() { # N PATH [LABEL]
  cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: node$1-$(basename "$2"), labels: {${3:-}}}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local-disks
  local: {path: $2}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node$1]}]}]
YAML
}

# Disks whose claim is gone: emptied, and offered again.
recycle_disks() {
  local class volume path guest node
  kubectl_admin get persistentvolumes \
    -o 'jsonpath={range .items[?(@.status.phase=="Released")]}{.spec.storageClassName} {.metadata.name} {.spec.local.path} {.metadata.labels.penstock\.io/test-guest}{"\n"}{end}' |
    while read -r class volume path guest; do
      [ "$class" = local-disks ] || continue
      kubectl_admin delete persistentvolume "$volume" >/dev/null
      node=${volume%%-*}
      if [ -z "$guest" ]; then find "$path" -mindepth 1 -delete; else in_guest "${node#node}" sh -c "rm -rf '$path' && mkdir '$path'" </dev/null; fi
      local_volume "${node#node}" "$path" "${guest:+penstock.io/test-guest: $guest}"
    done | { read -r first || return 0; { echo "$first"; cat; } | kubectl_admin apply --server-side -f - >/dev/null; }
}

install_addons() {
  kubectl_admin apply --server-side -f "$HERE/dns.yaml" >/dev/null
  disks | kubectl_admin apply --server-side -f - >/dev/null
}
