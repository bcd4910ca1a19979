# shellcheck shell=bash disable=SC2034 # sourced
# What the scripts of this folder share: the guest's kernel and the part of its root file system that never changes.

GUEST=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../cluster/lib.sh
. "$GUEST/../cluster/lib.sh"

GUEST_CACHE=$CACHE/guest
LIBRARIES=/usr/lib/x86_64-linux-gnu

# Modules in the order in which they are loaded.
MODULES="crypto/crc32_generic drivers/infiniband/core/ib_core drivers/infiniband/core/ib_uverbs net/ipv4/udp_tunnel
  net/ipv6/ip6_udp_tunnel drivers/infiniband/sw/rxe/rdma_rxe drivers/net/dummy"
# Programs of every guest, beside busybox.
PROGRAMS="ip rdma"

# The full kernel: the flavour for clouds has no InfiniBand.
KERNEL_PACKAGE=linux-image-amd64

# kernel: prints a folder with boot/vmlinuz-VERSION and lib/modules/VERSION, after getting it if need be. Nothing is
# installed; it is unpacked into the cache.
kernel() {
  if [ -n "${PENSTOCK_GUEST_KERNEL:-}" ]; then echo "$PENSTOCK_GUEST_KERNEL"; return; fi
  local package version folder
  package=$(apt-cache depends --important "$KERNEL_PACKAGE" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  version=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^ *Candidate: //p')
  if [ -z "$package" ] || [ -z "$version" ]; then
    # Without package lists an earlier kernel serves.
    folder=$(find "$GUEST_CACHE" -maxdepth 1 -name 'kernel-*' 2>/dev/null | sort | tail -n 1)
    [ -n "$folder" ] || die "apt knows no $KERNEL_PACKAGE; run apt-get update, or set PENSTOCK_GUEST_KERNEL to a folder with boot/vmlinuz-* and lib/modules"
    echo "$folder"
    return
  fi
  folder=$GUEST_CACHE/kernel-$package-${version//[^A-Za-z0-9.+~-]/_}
  if [ ! -e "$folder" ]; then
    say "getting the guest's kernel: $package $version"
    local work
    work=$(mktemp -d "$GUEST_CACHE/new.XXXXXX")
    # As root, apt would fetch as a user that cannot write here.
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package=$version" && dpkg -x ./*.deb root) >&2 ||
      { rm -rf "$work"; die "apt-get could not get $package $version"; }
    find "$GUEST_CACHE" -maxdepth 1 -name 'kernel-*' -exec rm -rf {} +
    mv "$work/root" "$folder"
    rm -rf "$work"
  fi
  echo "$folder"
}

# carry ROOT FILE…: puts files with the libraries they need into a root file system.
carry() {
  local root=$1 file
  shift
  for file in "$@"; do
    [ -f "$file" ] || die "there is no program $file"
    install -D "$(readlink -f "$file")" "$root/usr/bin/$(basename "$file")"
    libraries "$root" "$file"
  done
}

# libraries ROOT FILE: the shared libraries of a program or library, and the loader, where it looks for them.
libraries() {
  local library
  while read -r library; do
    [ -e "$1$library" ] || install -D "$(readlink -f "$library")" "$1$library"
  done < <(ldd "$2" 2>/dev/null | grep -o '/[^ )]*')
}

# tree ROOT PATH [TAR OPTION…]: a file or folder at the path that it has here, with the shared libraries that its files need.
tree() {
  local root=$1 path file
  path=$(realpath --no-symlinks "$2")
  shift 2
  [ -e "$path" ] || die "there is no $path"
  tar --create --directory / "$@" -- "${path#/}" | tar --extract --directory "$root" --no-same-owner
  while IFS= read -r file; do libraries "$root" "$file"; done < <(find "$path" -name '*.so*' -type f)
}

# python ROOT: Debian's Python with its standard library, without what is for making and testing programs.
python() {
  local folder
  [ -x /usr/bin/python3 ] || die "there is no /usr/bin/python3; on Debian: apt-get install python3"
  folder=$(/usr/bin/python3 -I -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  carry "$1" /usr/bin/python3
  tree "$1" "$folder" --exclude='config-*' --exclude=test --exclude=idlelib --exclude=lib2to3 --exclude=pydoc_data \
    --exclude=ensurepip --exclude=tkinter --exclude=distutils
}

pack() { (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet --create --format newc --owner 0:0); }

# base KERNEL: prints the initramfs that every guest has, made anew when a version in it changes.
base() {
  local kernel=$1 release key file root module program library
  release=$(basename "$kernel"/lib/modules/*)
  # shellcheck disable=SC2086
  key=$({ echo "$kernel" $MODULES $PROGRAMS; cat "$GUEST/lib.sh" "$GUEST/init"
    dpkg-query -W libibverbs1 ibverbs-providers busybox-static iproute2 libc6; } | sha256sum | cut -c1-12)
  file=$GUEST_CACHE/base-$key.cpio
  if [ ! -e "$file" ]; then
    say "making the guest's root file system"
    root=$(mktemp -d "$GUEST_CACHE/new.XXXXXX")
    mkdir -p "$root"/{bin,dev,etc/libibverbs.d,proc,run,sys,tmp,lib/modules,usr/lib}
    cp "$GUEST/init" "$root/init"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for program in sh cat chmod dmesg echo insmod ls mkdir mount poweroff sleep stty; do ln -s busybox "$root/bin/$program"; done
    for module in $MODULES; do
      cp "$kernel/lib/modules/$release/kernel/$module.ko" "$root/lib/modules/" 2>/dev/null ||
        die "the kernel in $kernel has no module $module; it must be one with soft-RoCE, as Debian's $KERNEL_PACKAGE"
      echo "${module##*/}" >>"$root/lib/modules/order"
    done
    for program in $PROGRAMS; do carry "$root" "$(PATH=$PATH:/usr/sbin:/sbin command -v "$program")"; done
    # Loaded at run time, so that no program names them.
    for library in "$LIBRARIES"/libibverbs.so.1 "$LIBRARIES"/libibverbs/librxe-rdmav*.so; do
      install -D "$(readlink -f "$library")" "$root$library"
      libraries "$root" "$library"
    done
    cp /etc/libibverbs.d/rxe.driver "$root/etc/libibverbs.d/"
    printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
    rm -f "$GUEST_CACHE"/base-*.cpio
    pack "$root" >"$file.new"
    mv "$file.new" "$file"
    rm -rf "$root"
  fi
  echo "$file"
}
