# shellcheck shell=bash # sourced
# etcd, API server, controller manager and scheduler, in one network namespace that is also the switch between the nodes.

make_switch() {
  ip netns add "$NS"
  in_control_plane ip link set lo up
  in_control_plane ip link add br0 type bridge
  in_control_plane ip addr add "$CONTROL_PLANE/24" dev br0
  in_control_plane ip link set br0 up
  in_control_plane sysctl -qw net.ipv4.ip_forward=1
}

start_control_plane() {
  launch etcd nsenter --net="/run/netns/$NS" etcd --data-dir "$RUN/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --log-level warn
  # Node names do not resolve, so kubelets are reached by address.
  launch apiserver nsenter --net="/run/netns/$NS" "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --advertise-address="$CONTROL_PLANE" --secure-port=6443 \
    --tls-cert-file="$RUN/pki/apiserver.crt" --tls-private-key-file="$RUN/pki/apiserver.key" --client-ca-file="$RUN/pki/ca.crt" \
    --kubelet-client-certificate="$RUN/pki/admin.crt" --kubelet-client-key="$RUN/pki/admin.key" \
    --kubelet-certificate-authority="$RUN/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-key-file="$RUN/pki/service-accounts.key" --service-account-signing-key-file="$RUN/pki/service-accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range="$SERVICES.0/16" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --endpoint-reconciler-type=lease \
    --requestheader-client-ca-file="$RUN/pki/ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
  until_true 120 "the API server is ready" kubectl_admin get --raw /readyz
  launch controller-manager nsenter --net="/run/netns/$NS" "$BIN/kube-controller-manager" --bind-address=127.0.0.1 \
    --kubeconfig "$RUN/controller-manager.conf" --authentication-kubeconfig "$RUN/controller-manager.conf" \
    --authorization-kubeconfig "$RUN/controller-manager.conf" --service-account-private-key-file="$RUN/pki/service-accounts.key" \
    --root-ca-file="$RUN/pki/ca.crt" --cluster-signing-cert-file="$RUN/pki/ca.crt" --cluster-signing-key-file="$RUN/pki/ca.key" \
    --use-service-account-credentials --leader-elect=false
  launch scheduler nsenter --net="/run/netns/$NS" "$BIN/kube-scheduler" --bind-address=127.0.0.1 --leader-elect=false \
    --kubeconfig "$RUN/scheduler.conf" --authentication-kubeconfig "$RUN/scheduler.conf" --authorization-kubeconfig "$RUN/scheduler.conf"
}
