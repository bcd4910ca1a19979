# shellcheck shell=bash # sourced
# Certificates and kubeconfigs, as kubeadm lays them out: one CA, a client certificate per component, a server one per kubelet.

certificate() { # NAME SUBJECT SANS
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(echo "subjectAltName=$3") 2>/dev/null
  rm "$1.csr"
}

kubeconfig() { # NAME FILE
  cat >"$2" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: penstock, cluster: {server: "https://$CONTROL_PLANE:6443", certificate-authority: $RUN/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $RUN/pki/$1.crt, client-key: $RUN/pki/$1.key}}]
contexts: [{name: penstock, context: {cluster: penstock, user: $1}}]
current-context: penstock
YAML
}

make_pki() (
  mkdir -p "$RUN/pki"
  cd "$RUN/pki" || exit 1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=penstock-ca 2>/dev/null
  openssl genrsa -out service-accounts.key 2048 2>/dev/null
  local dns=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
  certificate apiserver /CN=kube-apiserver "$dns,IP:127.0.0.1,IP:$CONTROL_PLANE,IP:$SERVICES.1"
  certificate admin /O=system:masters/CN=admin DNS:admin
  certificate controller-manager /CN=system:kube-controller-manager DNS:controller-manager
  certificate scheduler /CN=system:kube-scheduler DNS:scheduler
  certificate proxy /CN=system:kube-proxy DNS:proxy
  for component in admin controller-manager scheduler proxy; do kubeconfig $component "$RUN/$component.conf"; done
  local n
  for n in $(seq "$MAX_NODES"); do
    certificate "node$n" "/O=system:nodes/CN=system:node:node$n" "DNS:node$n,IP:$NET.$n"
    kubeconfig "node$n" "$RUN/node$n.conf"
  done
)
