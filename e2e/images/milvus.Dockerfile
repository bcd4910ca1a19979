# Milvus out of the wheel on PyPI, laid out as in the official image. CPU only, x86_64 only.
ARG BASE
FROM ${BASE}
COPY . /milvus/
ENV PATH=/milvus/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/milvus/lib
# It looks for configs/glog.conf here, and ends when there is none.
WORKDIR /milvus
USER 65532:65532
CMD ["milvus", "run", "standalone"]
