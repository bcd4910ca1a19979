# shellcheck shell=bash disable=SC2034 # sourced
# What all scripts of this folder share: where things are, and how to start and stop processes so that nothing stays.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
# shellcheck source=versions.sh
. "$HERE/versions.sh"

CACHE=${PENSTOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/penstock}
RUN=${PENSTOCK_RUN:-/var/tmp/penstock}
NODES=${NODES:-2}
GUESTS=${GUESTS:-0} # nodes in virtual machines, with RDMA
# Certificates and addresses exist for this many nodes, so that virtual machines can join later.
MAX_NODES=9

NET=10.99.0            # the switch between control plane and nodes
CONTROL_PLANE=$NET.254
SERVICES=10.96.0       # /16
PODS=10.244            # node N has .N.0/24
# Network namespace of the control plane (node N has $NS-nodeN) and name of the cgroup. With another name and another run
# folder a second cluster runs beside the first.
NS=${PENSTOCK_NAME:-penstock}

STARTED=$SECONDS
say() { printf '==> [%3d s] %s\n' $((SECONDS - STARTED)) "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# The key changes with anything that changes the tools.
tools_key() { { grep -v '# image only' "$HERE/versions.sh"; cat "$HERE/../tools/go.mod" "$HERE/../tools/go.sum" "$HERE"/../tools/coredns/*.go "$HERE/tools"; go env GOVERSION; } | sha256sum | cut -c1-12; }
tools_dir() { echo "$CACHE/tools/$(tools_key)/bin"; }

in_control_plane() { nsenter --net="/run/netns/$NS" "$@"; }
kubectl_admin() { in_control_plane "$BIN/kubectl" --kubeconfig "$RUN/admin.conf" --request-timeout=20s "$@"; }

# Every process of the harness carries its name in its environment, and so do its children: what is found by that mark is
# ours, whatever happened to the run that started it.
pids_of() { grep -lzsx "PENSTOCK_PROCESS=$RUN:$1" /proc/[0-9]*/environ | cut -d/ -f3; }
runs() { [ -n "$(pids_of "$1")" ]; }

# launch NAME COMMAND…: in the background, logged, marked, and without the lock files of this script: a daemon that inherits
# them would hold the lock as long as it lives.
launch() {
  local name=$1
  shift
  PENSTOCK_PROCESS="$RUN:$name" setsid "$@" >>"$RUN/log/$name.log" 2>&1 </dev/null 7>&- 8>&- 9>&- &
}

# stop NAME…: SIGTERM to all, then SIGKILL to those that stay 5 s.
stop() {
  local name
  for name in "$@"; do pids_of "$name" | xargs -r kill 2>/dev/null || true; done
  for name in "$@"; do
    for _ in $(seq 50); do
      runs "$name" || continue 2
      sleep 0.1
    done
    pids_of "$name" | xargs -r kill -9 2>/dev/null || true
  done
}

# until_true SECONDS WHAT COMMAND…: waits for a command to succeed.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "error: $what: not in time" >&2; return 1; }
    sleep 0.3
  done
}

# Owned by root, in a folder that only root enters: private keys lie here.
run_folder() { mkdir -p "$RUN"; chmod 700 "$RUN"; mkdir -p "$RUN/log"; }
