# Penstock's images: one stage per part, from binaries that `cargo build --release` made on a system with the C library of BASE.
#   docker build --target store -t penstock/store:0.1.0 .
# For RDMA, BASE holds libibverbs1 and ibverbs-providers (Debian), which are loaded at run time.
# `make images` does it for all three, without a container engine.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS store
ARG BINARIES=target/release
COPY ${BINARIES}/penstock-store /usr/local/bin/penstock-store
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/penstock-store"]

FROM ${BASE} AS operator
ARG BINARIES=target/release
COPY ${BINARIES}/penstock-operator /usr/local/bin/penstock-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/penstock-operator"]

FROM ${BASE} AS csi
ARG BINARIES=target/release
COPY ${BINARIES}/penstock-csi /usr/local/bin/penstock-csi
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/penstock-csi"]
