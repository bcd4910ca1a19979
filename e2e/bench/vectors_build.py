"""One way of `vectors-build`: starts Milvus and what it keeps its files in, and builds the index again and again. Prints the seconds of each build.

usage: vectors_build.py gateway|direct|local MILVUS BINARIES FOLDER, in a network namespace of its own with pymilvus
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

import boto3
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vectors"))
from vectors import vectors_of  # noqa: E402

ROWS, DIMENSION, RUNS = 200_000, 128, 3
KEY, SECRET, BUCKET = "bench-access-key", "bench-secret-key", "vectors"
STORE, GATEWAY, METRICS = 9000, 9100, 9091


@contextlib.contextmanager
def running(command, log, ready, **options):
    """A process that is ready when `ready()` does not fail, ended afterwards."""
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                ready()
                break
            except Exception:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} is not ready: {pathlib.Path(log).read_text(encoding='utf-8')[-2000:]}") from None
                time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return answer.read().decode()


def storage(way, binaries, path, stack):
    """Starts what Milvus keeps its files in; returns Milvus' settings for it."""
    if way == "local":
        return {"COMMON_STORAGETYPE": "local"}
    environment = {**os.environ, "PENSTOCK_ROOT_ACCESS_KEY": KEY, "PENSTOCK_ROOT_SECRET_KEY": SECRET, "RUST_LOG": "warn"}
    stack.enter_context(running(
        [binaries / "penstock-store", "serve", "--data", path / "store", "--listen", f"127.0.0.1:{STORE}", "--admin-listen", "127.0.0.1:9001",
         "--local-socket", path / "s"], path / "store.log", lambda: answers("http://127.0.0.1:9001/readyz"), env=environment))
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{STORE}", aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    port = STORE
    if way == "gateway":
        port = GATEWAY
        stack.enter_context(running(
            [binaries / "penstock-csi", "gateway", "--endpoint", f"http://127.0.0.1:{STORE}", "--listen", f"127.0.0.1:{GATEWAY}",
             "--local-socket", path / "s", "--admin-listen", "127.0.0.1:9101"], path / "gateway.log",
            lambda: answers("http://127.0.0.1:9101/readyz"), env={**os.environ, "RUST_LOG": "warn"}))
    return {
        "COMMON_STORAGETYPE": "remote", "MINIO_ADDRESS": f"127.0.0.1:{port}", "MINIO_USE_SSL": "false", "MINIO_REGION": "us-east-1",
        "MINIO_CLOUD_PROVIDER": "aws", "MINIO_ACCESS_KEY_ID": KEY, "MINIO_SECRET_ACCESS_KEY": SECRET, "MINIO_BUCKET_NAME": BUCKET,
        "MINIO_ROOT_PATH": "milvus", "MINIO_USE_IAM": "false"}


def settings(milvus, path):
    ports = {"PROXY_PORT": 19530, "PROXY_INTERNALPORT": 19529, "ROOTCOORD_PORT": 53100, "DATACOORD_PORT": 13333, "QUERYCOORD_PORT": 19531,
             "QUERYNODE_PORT": 21123, "INDEXNODE_PORT": 21121, "DATANODE_PORT": 21124, "METRICS_PORT": METRICS}
    return {
        "PATH": f"{milvus}/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": f"{milvus}/lib", "MILVUSCONF": f"{milvus}/configs", "DEPLOY_MODE": "STANDALONE",
        "ETCD_USE_EMBED": "true", "ETCD_DATA_DIR": f"{path}/etcd", "MQ_TYPE": "rocksmq", "ROCKSMQ_PATH": f"{path}/messages/rocksmq",
        "LOCALSTORAGE_PATH": f"{path}/local", "QUOTAANDLIMITS_ENABLED": "true", "COMMON_GRACEFULSTOPTIMEOUT": "2",
        "DATACOORD_SEGMENT_MAXSIZE": "24", "DATACOORD_SEGMENT_SEALPROPORTION": "1.0", "DATACOORD_ENABLECOMPACTION": "false",
        **{name: str(port) for name, port in ports.items()}}


def spent(metric):
    """Milliseconds that Milvus counts."""
    lines = answers(f"http://127.0.0.1:{METRICS}/metrics").splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"milvus_indexnode_{metric}_index_latency_sum"))


def builds():
    """Seconds of each build, from the order to the last row."""
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)]
    collection = Collection("bench", CollectionSchema(fields))
    stored = vectors_of(0, ROWS, DIMENSION)
    for first in range(0, ROWS, 20_000):
        collection.insert([list(range(first, first + 20_000)), stored[first:first + 20_000]])
    collection.flush()
    for _ in range(RUNS):
        start = time.monotonic()
        collection.create_index("vector", {"index_type": "IVF_FLAT", "metric_type": "L2", "params": {"nlist": 128}}, index_name="i", timeout=None)
        while True:
            progress = utility.index_building_progress("bench", "i")
            if progress["indexed_rows"] == progress["total_rows"] == ROWS and not progress["pending_index_rows"]:
                break
            time.sleep(0.05)
        yield round(time.monotonic() - start, 2)
        collection.drop_index(index_name="i")
        # Milvus deletes the files of a dropped index in its own time.
        time.sleep(3)


def main():
    way, milvus, binaries, path = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])
    with contextlib.ExitStack() as stack:
        environment = {**settings(milvus, path), **storage(way, binaries, path, stack)}
        stack.enter_context(running([f"{milvus}/bin/milvus", "run", "standalone"], path / "milvus.log",
                                    lambda: connections.connect(host="127.0.0.1", port="19530", timeout=5), env=environment, cwd=path))
        seconds = list(builds())
        computing = spent("knowhere_build") / max(spent("build"), 1)
    print(json.dumps({"builds": seconds, "computing": computing}))


if __name__ == "__main__":
    main()
