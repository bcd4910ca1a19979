# shellcheck shell=bash # sourced
# The disks of nodes in virtual machines, the same for all of them, and changed by none: the root file system, and images.

# Kubernetes nodes need runc, CNI plugins, nft and conntrack; the rest is for RDMA, and for looking inside.
GUEST_PACKAGES=runc,containernetworking-plugins,nftables,conntrack,kmod,mount,util-linux,iproute2,bash,coreutils,libibverbs1,ibverbs-providers,ibverbs-utils,perftest,dropbear-bin,busybox-static,base-files
# Folders and files of modules in the kernel, everything that a node may load.
GUEST_MODULES="arch crypto lib net fs/overlayfs fs/fuse fs/ext4 fs/jbd2 fs/mbcache.ko
  drivers/infiniband drivers/virtio drivers/block/virtio_blk.ko drivers/block/loop.ko drivers/char/hw_random drivers/char/virtio_console.ko
  drivers/net/veth.ko drivers/net/dummy.ko drivers/net/virtio_net.ko drivers/net/net_failover.ko"
# Those that find and mount the disk.
DISK_MODULES="virtio_pci virtio_blk ext4"

# guest_disk KERNEL BIN: prints a folder with root.img and initrd, made anew when something in them changes.
guest_disk() {
  local kernel=$1 bin=$2 key folder
  # shellcheck disable=SC2086
  key=$({ echo "$kernel" "$bin" $DEBIAN_SUITE; cat "$HERE/guest-disk.sh" "$HERE/guest-init"; } | sha256sum | cut -c1-12)
  folder=$GUEST_CACHE/node-$key
  if [ ! -e "$folder" ]; then
    say "making the disk of nodes in virtual machines"
    local work
    work=$(mktemp -d "$GUEST_CACHE/new.XXXXXX")
    make_guest_disk "$kernel" "$bin" "$work" >&2 || { rm -rf "$work"; die "the disk of nodes in virtual machines could not be made"; }
    find "$GUEST_CACHE" -maxdepth 1 -name 'node-*' -exec rm -rf {} +
    mkdir "$work/done"
    mv "$work/root.img" "$work/initrd" "$work/done/"
    mv "$work/done" "$folder"
    rm -rf "$work"
  fi
  echo "$folder"
}

make_guest_disk() ( # KERNEL BIN WORK
  set -e
  kernel=$1 bin=$2 work=$3
  root=$work/root initrd=$work/initrd-root
  release=$(basename "$kernel"/lib/modules/*)
  mmdebstrap --quiet --variant=extract --include="$GUEST_PACKAGES" "$DEBIAN_SUITE" "$work/root.tar"
  mkdir "$root"
  tar -xf "$work/root.tar" -C "$root" --exclude='./usr/share/doc' --exclude='./usr/share/locale' --exclude='./usr/share/man'
  rm "$work/root.tar"
  # Packages are unpacked only, so what their scripts would make is missing.
  printf 'root:x:0:0:root:/root:/bin/bash\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
  printf '/bin/bash\n' >"$root/etc/shells"
  printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
  [ -e "$root/bin/sh" ] || ln -s bash "$root/bin/sh"
  mkdir -p "$root"/{dev,proc,sys,run,tmp,root,etc/cni/net.d,etc/dropbear,opt/node,var/lib/kubelet,var/lib/containerd,var/log/pods,var/log/containers}
  cp "$bin"/{containerd,containerd-shim-runc-v2,ctr,kubelet,kube-proxy} "$root/opt/node/"
  cp "$HERE/guest-init" "$root/opt/node/init"
  for part in $GUEST_MODULES; do
    [ -e "$kernel/lib/modules/$release/kernel/$part" ] || continue
    mkdir -p "$root/lib/modules/$release/kernel/$(dirname "$part")"
    cp -r "$kernel/lib/modules/$release/kernel/$part" "$root/lib/modules/$release/kernel/$part"
  done
  cp "$kernel/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$release/"
  depmod -b "$root" "$release"

  mkdir -p "$initrd"/{bin,dev,proc,sys,newroot,lib/modules}
  cp "$(command -v busybox)" "$initrd/bin/busybox"
  for module in $DISK_MODULES; do modprobe -d "$root" -S "$release" --show-depends "$module" || exit 1; done |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
  while read -r module; do
    cp "$module" "$initrd/lib/modules/"
    basename "$module" >>"$initrd/lib/modules/order"
  done <"$work/modules"
  cat >"$initrd/init" <<'SH'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/modules/$module"; done </lib/modules/order
for _ in $(seq 100); do [ -e /dev/vda ] && break; sleep 0.1; done
mount -t ext4 -o noatime /dev/vda /newroot
cp -a /config/. /newroot/
exec switch_root /newroot /opt/node/init
SH
  chmod +x "$initrd/init" "$root/opt/node/init"
  pack "$initrd" >"$work/initrd"
  # Sparse: it takes what is in it. Debian's e2fsprogs fills it without mounting anything.
  mke2fs -q -t ext4 -m 0 -E lazy_itable_init=1,root_owner=0:0 -d "$root" "$work/root.img" 8G >/dev/null
)

# Images that the pods there have. Only who tolerates the nodes' taint lands there.
GUEST_IMAGES="pause tools client penstock-csi penstock-store"

# guest_images BIN: prints the disk that is /var/lib/containerd there, made anew when an image changes. An emulated processor
# takes minutes to import what this one does in seconds.
guest_images() {
  local bin=$1 archives=() name key disk
  for name in $GUEST_IMAGES; do archives+=("$(readlink -f "$CACHE/images/current/localhost-$name"-*.tar)"); done
  key=$({ echo "$bin" "${archives[@]}"; cat "$HERE/guest-disk.sh"; } | sha256sum | cut -c1-12)
  disk=$GUEST_CACHE/images-$key.img
  if [ ! -e "$disk" ]; then
    say "making the disk with their images"
    local work
    work=$(mktemp -d "$GUEST_CACHE/new.XXXXXX")
    make_guest_images "$bin" "$work" "${archives[@]}" >&2 || { rm -rf "$work"; die "the images could not be imported"; }
    find "$GUEST_CACHE" -maxdepth 1 -name 'images-*' -delete
    mv "$work/images.img" "$disk"
    rm -rf "$work"
  fi
  echo "$disk"
}

make_guest_images() ( # BIN WORK ARCHIVE…
  set -e
  bin=$1 work=$2
  shift 2
  ctr() { "$bin/ctr" --address "$work/containerd.sock" --namespace k8s.io "$@"; }
  printf 'version = 3\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]\n' >"$work/config.toml"
  PATH=$bin:$PATH containerd --config "$work/config.toml" --root "$work/root" --state "$work/state" --address "$work/containerd.sock" \
    --log-level error >"$work/log" 2>&1 &
  containerd=$!
  trap 'kill "$containerd" 2>/dev/null || true' EXIT
  until_true 60 "containerd answers" ctr version || { cat "$work/log"; exit 1; }
  for archive in "$@"; do ctr images import "$archive" >/dev/null; done
  kill "$containerd"
  wait "$containerd" || true
  mke2fs -q -t ext4 -m 0 -E lazy_itable_init=1,root_owner=0:0 -d "$work/root" "$work/images.img" 8G >/dev/null
)
