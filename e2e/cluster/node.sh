# shellcheck shell=bash # sourced
# A node: network, mount and UTS namespace, with a containerd, kubelet and kube-proxy of its own.
# guest.sh has nodes of another kind, virtual machines, which share the configuration and nothing else.

CGROUPS=/sys/fs/cgroup

connect_node() { # N: a veth pair from the switch into the node, and the routes between pods, Services and nodes
  local n=$1 ns=$NS-node$1 other
  ip netns add "$ns"
  ip netns exec "$ns" ip link set lo up
  ip link add "pk$n" netns "$ns" type veth peer name "node$n" netns "$NS"
  ip netns exec "$ns" ip link set "pk$n" name eth0
  ip netns exec "$ns" ip addr add "$NET.$n/24" dev eth0
  ip netns exec "$ns" ip link set eth0 up
  ip netns exec "$ns" ip route add default via "$CONTROL_PLANE"
  ip netns exec "$ns" sysctl -qw net.ipv4.ip_forward=1
  # Services between pods of one bridge need this; the module may be built in, loaded, or absent.
  ip netns exec "$ns" sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  in_control_plane ip link set "node$n" master br0 up
  in_control_plane ip route add "$PODS.$n.0/24" via "$NET.$n"
  for other in $(seq "$NODES"); do
    [ "$other" = "$n" ] || ip netns exec "$ns" ip route add "$PODS.$other.0/24" via "$NET.$other"
  done
  # The control plane reaches Services through the first node's kube-proxy.
  [ "$n" != 1 ] || in_control_plane ip route add "$SERVICES.0/16" via "$NET.1"
}

cgroup_hierarchies() { # the folders in which a cgroup must be made: one on cgroup v2, one per controller on v1
  if [ -f $CGROUPS/cgroup.controllers ]; then echo $CGROUPS; else find $CGROUPS -mindepth 1 -maxdepth 1 -type d; fi
}

make_cgroup() { # N
  local hierarchy group file
  for hierarchy in $(cgroup_hierarchies); do
    for group in "$hierarchy/$NS" "$hierarchy/$NS/node$1"; do
      mkdir -p "$group"
      # A v1 cpuset takes no process before it names processors and memory.
      for file in cpuset.cpus cpuset.mems; do
        if [ -f "$group/$file" ] && [ ! -f $CGROUPS/cgroup.controllers ]; then cat "$(dirname "$group")/$file" >"$group/$file"; fi
      done
    done
    if [ -f $CGROUPS/cgroup.controllers ]; then
      sed 's/\</+/g' $CGROUPS/cgroup.controllers | tee "$hierarchy/cgroup.subtree_control" >"$hierarchy/$NS/cgroup.subtree_control"
    fi
  done
}

remove_cgroups() {
  local hierarchy
  for hierarchy in $(cgroup_hierarchies); do
    [ -d "$hierarchy/$NS" ] || continue
    for _ in 1 2 3; do
      # shellcheck disable=SC2038 # pids
      find "$hierarchy/$NS" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null || true
      find "$hierarchy/$NS" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.3
    done
  done
}

write_node_config() { # N
  local n=$1 dir=$RUN/node$1
  mkdir -p "$dir/cni-conf"
  cat >"$dir/cni-conf/10-penstock.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "penstock", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/var/lib/cni", "ranges": [[{"subnet": "$PODS.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # restrict_oom_score_adj: on machines without CAP_SYS_RESOURCE every sandbox fails otherwise.
  cat >"$dir/containerd.toml" <<TOML
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  cdi_spec_dirs = ["/etc/cdi", "/run/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
# Its socket in /var/run is one for all nodes of this machine, and the second to start would not.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
TOML
  cat >"$dir/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NET.$n
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $RUN/pki/node$n.crt
tlsPrivateKeyFile: $RUN/pki/node$n.key
cgroupDriver: cgroupfs
cgroupRoot: /$NS/node$n
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: [$SERVICES.10]
clusterDomain: cluster.local
resolvConf: $dir/resolv.conf
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
imageGCHighThresholdPercent: 100
evictionHard: {imagefs.available: "1%", nodefs.available: "1%", memory.available: 200Mi}
# A cluster of this size can afford to look often, and tests wait less.
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
YAML
  # Names outside the cluster do not exist; nothing may leave the machine.
  echo "nameserver 127.0.0.1" >"$dir/resolv.conf"
}

start_node() { # N
  local n=$1
  mkdir -p "$RUN/node$n"/{kubelet,containerd,cni,pods-log,cdi,penstock,penstock-sockets} "$RUN/disks/node$n"/disk{01..24}
  make_cgroup "$n"
  write_node_config "$n"
  launch "node$n" nsenter --net="/run/netns/$NS-node$n" unshare --mount --uts "$HERE/node-main" "$n" "$BIN"
}

# A virtual machine; guest.sh, which makes it so, must be sourced.
is_guest() { [ -e "$RUN/node$1/guest" ]; }

node_pid() { # N [PROGRAM]: the process of a node's containerd, or of its kubelet or kube-proxy
  local pid
  for pid in $(pids_of "node$1"); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${2:-containerd}" ]; then
      echo "$pid"
      return
    fi
  done
}
in_node() { # N COMMAND…
  local pid
  if is_guest "$1"; then
    in_guest "$@"
    return
  fi
  pid=$(node_pid "$1")
  shift
  [ -n "$pid" ] && nsenter -t "$pid" -m -n -u env PATH="$BIN:$PATH" "$@"
}

restart_kubelet() { # N: ends it as a crash would, and starts the same command in the same place
  local pid command
  pid=$(node_pid "$1" kubelet)
  [ -n "$pid" ] || die "node$1 runs no kubelet"
  mapfile -d '' command <"/proc/$pid/cmdline"
  kill -9 "$pid"
  while [ -e "/proc/$pid" ]; do sleep 0.1; done
  # shellcheck disable=SC2016 # the inner shell expands it
  launch "node$1" nsenter -t "$(node_pid "$1")" -m -n -u env PATH="$BIN:$PATH" sh -c 'log=$1; shift; exec "$@" >>"$log" 2>&1' sh \
    "$RUN/log/kubelet$1.log" "${command[@]}"
}

stop_node() { # N: containers first, by their containerd; then the daemons; what is left dies with its cgroup
  if is_guest "$1"; then
    stop "node$1"
    return
  fi
  # The kubelet first, or it starts them anew.
  node_pid "$1" kubelet | xargs -r kill 2>/dev/null || true
  in_node "$1" timeout 20 bash -c '
    ctr -n k8s.io tasks ls -q | xargs -r -P8 -n1 timeout 5 ctr -n k8s.io tasks kill -s KILL -a
    sleep 0.5
    ctr -n k8s.io tasks ls -q | xargs -r -P8 -n1 timeout 5 ctr -n k8s.io tasks rm -f' >/dev/null 2>&1 || true
  stop "node$1"
}
