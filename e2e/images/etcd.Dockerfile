# Debian's etcd, for Milvus.
ARG BASE
FROM ${BASE}
COPY etcd /usr/bin/etcd
USER 65532:65532
CMD ["etcd"]
