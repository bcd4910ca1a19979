# A program that uses the library, as a user's own would.
ARG BASE
FROM ${BASE}
COPY rdma_transfer /rdma_transfer
USER 65532:65532
ENTRYPOINT ["/rdma_transfer"]
