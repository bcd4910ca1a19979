# shellcheck shell=bash # sourced
# A node of another kind: a virtual machine on the switch, with a soft-RoCE device on its interface. Node numbers count down
# from MAX_NODES, so that they never meet those of the other nodes.
# shellcheck source=../guest/lib.sh
. "$HERE/../guest/lib.sh"
# shellcheck source=guest-disk.sh
. "$HERE/guest-disk.sh"

# What its label and its taint are called: only who asks for RDMA lands there.
GUEST_MARK=penstock.io/test-rdma
GUEST_MEMORY=${GUEST_MEMORY:-2560} # MiB
GUEST_DISKS=8

guest_numbers() { local i; for i in $(seq "$1"); do echo $((MAX_NODES + 1 - i)); done; } # COUNT
known_guests() { local n; for n in $(seq "$MAX_NODES"); do if is_guest "$n"; then echo "$n"; fi; done; }

guest_ready() { # N
  runs "node$1" && [ "$(kubectl_admin get node "node$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}
# It ends itself when its kubelet does.
guest_settled() { guest_ready "$1" || ! runs "node$1"; } # N

# in_guest N COMMAND…: runs it there as root.
in_guest() {
  local n=$1
  shift
  # The guest makes its host key at every start, on a network that nobody else is on.
  in_control_plane ssh -q -i "$RUN/guest-key" -o BatchMode=yes -o ConnectTimeout=20 -o LogLevel=ERROR \
    -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "root@$NET.$n" "PATH=/opt/node:/usr/sbin:/usr/bin:/sbin:/bin $(printf '%q ' "$@")"
}

connect_guest() { # N: its end of the switch, and the route to its pods
  in_control_plane ip link show "node$1" >/dev/null 2>&1 || in_control_plane ip tuntap add "node$1" mode tap
  in_control_plane ip link set "node$1" master br0 up
  in_control_plane ip route replace "$PODS.$1.0/24" via "$NET.$1" onlink dev br0
}

# guest_config N: what the guest's root file system gets over that of all guests, in the places that nodes on this machine have it.
guest_config() {
  local n=$1 dir=$RUN/node$1 root=$RUN/node$1/root
  write_node_config "$n"
  cat >>"$dir/kubelet.yaml" <<YAML
registerWithTaints: [{key: $GUEST_MARK, value: "true", effect: NoSchedule}]
YAML
  # An emulated processor is busy with looking alone.
  sed -i 's/^syncFrequency: .*/syncFrequency: 30s/; s/^nodeStatusUpdateFrequency: .*/nodeStatusUpdateFrequency: 20s/' "$dir/kubelet.yaml"
  rm -rf "$root"
  mkdir -p "$root/config/$RUN/pki" "$root/config/$dir" "$root/config/root/.ssh"
  cp "$RUN"/pki/{ca.crt,"node$n.crt","node$n.key",proxy.crt,proxy.key} "$root/config/$RUN/pki/"
  cp "$RUN/node$n.conf" "$RUN/proxy.conf" "$root/config/$RUN/"
  cp -r "$dir"/{kubelet.yaml,containerd.toml,resolv.conf,cni-conf} "$root/config/$dir/"
  [ -f "$RUN/guest-key" ] || ssh-keygen -q -t ed25519 -N '' -C penstock-guest -f "$RUN/guest-key"
  cp "$RUN/guest-key.pub" "$root/config/root/.ssh/authorized_keys"
  chmod 700 "$root/config/root" "$root/config/root/.ssh"
  cat >"$root/config/settings" <<SH
n=$n RUN=$RUN NS=$NS ADDRESS=$NET.$n GATEWAY=$CONTROL_PLANE PODS=$PODS MARK=$GUEST_MARK DISKS=$GUEST_DISKS
SH
  pack "$root"
  rm -rf "$root"
}

start_guest() { # N KERNEL DISK IMAGES: the folders of a kernel and of its disk, and the disk with images
  local n=$1 kernel=$2 disk=$3 images=$4 dir=$RUN/node$1
  mkdir -p "$dir"
  echo "$disk $images" >"$dir/guest"
  connect_guest "$n"
  { cat "$disk/initrd"; guest_config "$n"; } >"$dir/initrd"
  # What it writes goes to files that qemu has deleted already. KVM is absent or broken in many a container.
  TMPDIR=$dir launch "node$n" nsenter --net="/run/netns/$NS" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 1 \
    -m "$GUEST_MEMORY" -kernel "$kernel"/boot/vmlinuz-* -initrd "$dir/initrd" -append 'console=ttyS0 quiet panic=-1' \
    -display none -monitor none -nodefaults -no-reboot -serial "file:$RUN/log/console$n.log" \
    -drive "file=$disk/root.img,if=virtio,format=raw,snapshot=on,cache=unsafe" \
    -drive "file=$images,if=virtio,format=raw,snapshot=on,cache=unsafe" \
    -netdev "tap,id=net,ifname=node$n,script=no,downscript=no" -device "virtio-net-pci,netdev=net,mac=52:54:00:00:00:0$n" \
    -device virtio-rng-pci -device virtio-serial-pci \
    -chardev "file,id=kubelet,append=on,path=$RUN/log/kubelet$n.log" -device virtserialport,chardev=kubelet,name=kubelet \
    -chardev "file,id=containerd,append=on,path=$RUN/log/containerd$n.log" -device virtserialport,chardev=containerd,name=containerd \
    -chardev "file,id=proxy,append=on,path=$RUN/log/kube-proxy$n.log" -device virtserialport,chardev=proxy,name=kube-proxy
}

stop_guest() { # N: the machine, its end of the switch, and what the cluster knows of it
  stop "node$1"
  if [ -e "/run/netns/$NS" ]; then
    in_control_plane ip route del "$PODS.$1.0/24" 2>/dev/null || true
    in_control_plane ip link del "node$1" 2>/dev/null || true
  fi
  if runs apiserver; then
    kubectl_admin delete node "node$1" --ignore-not-found >/dev/null || true
    kubectl_admin delete persistentvolume --selector "penstock.io/test-guest=node$1" --wait=false >/dev/null || true
  fi
  rm -rf "${RUN:?}/node$1"
}
