# shellcheck shell=bash disable=SC2034 # sourced
# Every version that is not in ../tools/go.mod.
KUBERNETES_VERSION=v1.36.3 # also in ../tools/go.mod
CONTAINERD_VERSION=v2.4.2
PROVISIONER_VERSION=v6.3.0 # also in ../tools/go.mod; tag of the image
DEBIAN_SUITE=bookworm      # etcd, runc, CNI plugins and the base of the images
MILVUS_VERSION=2.3.5       # image only, so that the tools stay: the newest wheel on PyPI that is a whole Milvus; tag of the image
ETCD_VERSION=3.4           # image only: Debian's; tag of the image
