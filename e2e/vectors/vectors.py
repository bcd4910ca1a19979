#!/usr/bin/env python3
"""Vectors for tests: into a bucket as embedding pipelines write them (PyArrow, NumPy), and searched for as applications do (pymilvus).

S3 is where AWS_ENDPOINT_URL_S3 and the other AWS_ variables say; MILVUS_PASSWORD is that of Milvus' user root. Vectors are blocks FIRST:ROWS of random numbers that are the same in every call; a
row's key is its number. Prints one JSON object.
"""

import argparse
import io
import json
import os
import select
import sys
import time

import numpy

FIELD = "vector"


def block(text):
    first, rows = text.split(":")
    return int(first), int(rows)


def vectors_of(first, rows, dimension):
    """Numbers that hang together, as those of embeddings do: of vectors that do not, no index finds the nearest."""
    latent = numpy.random.default_rng(first).standard_normal((rows, 8), dtype=numpy.float32)
    return latent @ numpy.random.default_rng(1).standard_normal((8, dimension), dtype=numpy.float32)


def s3():
    import boto3
    return boto3.client("s3")


def put(arguments):
    """Writes a block into one object (or a folder of columns)."""
    first, rows = arguments.block
    ids = numpy.arange(first, first + rows)
    vectors = vectors_of(first, rows, arguments.dimension)
    client = s3()
    existing = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    if arguments.bucket not in existing:
        client.create_bucket(Bucket=arguments.bucket)
    files = {}
    if arguments.key.endswith("/"):
        for name, column in (("id", ids), (FIELD, vectors)):
            out = io.BytesIO()
            numpy.save(out, column)
            files[f"{arguments.key}{name}.npy"] = out.getvalue()
    elif arguments.key.endswith(".json"):
        lines = [{"id": int(key), FIELD: vector.tolist()} for key, vector in zip(ids, vectors)]
        files[arguments.key] = json.dumps({"rows": lines}).encode()
    else:
        import pyarrow
        import pyarrow.parquet
        flat = pyarrow.array(vectors.reshape(-1), type=pyarrow.float32())
        offsets = pyarrow.array(range(0, rows * arguments.dimension + 1, arguments.dimension), type=pyarrow.int32())
        table = pyarrow.table({"id": ids, FIELD: pyarrow.ListArray.from_arrays(offsets, flat)})
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out)
        files[arguments.key] = out.getvalue()
    for key, body in files.items():
        client.put_object(Bucket=arguments.bucket, Key=key, Body=body)
    return {"bytes": sum(map(len, files.values())), "files": list(files)}


def put_bytes(arguments):
    """An object that is no file of vectors, whatever its name says."""
    s3().put_object(Bucket=arguments.bucket, Key=arguments.key, Body=b"no vectors at all")
    return {}


def remove(arguments):
    s3().delete_object(Bucket=arguments.bucket, Key=arguments.key)
    return {}


def count(arguments):
    """How many objects there are below a prefix."""
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=arguments.bucket, Prefix=arguments.prefix)
    return {"objects": sum(page["KeyCount"] for page in pages)}


def collection_of(arguments):
    from pymilvus import Collection, connections
    host, port = arguments.address.rsplit(":", 1)
    connections.connect(host=host, port=port, user="root", password=os.environ["MILVUS_PASSWORD"])
    return Collection(arguments.collection)


# What the kinds of indexes are asked with.
SEARCH = {"metric_type": "L2", "params": {"ef": 64, "nprobe": 16}}


def search(arguments):
    """Compares what Milvus finds for vectors near stored ones with what an exact search over all blocks finds."""
    stored = numpy.concatenate([vectors_of(first, rows, arguments.dimension) for first, rows in arguments.block])
    keys = numpy.concatenate([numpy.arange(first, first + rows) for first, rows in arguments.block])
    chosen = numpy.random.default_rng(7).choice(len(stored), arguments.queries, replace=False)
    queries = stored[chosen] + numpy.float32(0.01)
    squares = (stored * stored).sum(axis=1)
    hits = 0
    found = collection_of(arguments).search(queries, FIELD, SEARCH, limit=10)
    for query, result in zip(queries, found):
        distances = squares - 2 * (stored @ query)
        exact = set(keys[numpy.argpartition(distances, 10)[:10]].tolist())
        hits += len(exact & set(result.ids))
    return {"recall": hits / (10 * arguments.queries)}


def hammer(arguments):
    """Searches without a pause until standard input ends; every one must be answered with ten hits."""
    collection = collection_of(arguments)
    queries = vectors_of(3, 50, arguments.dimension)
    failures, answered, slowest, number = [], 0, 0.0, 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        number += 1
        start = time.monotonic()
        try:
            found = collection.search(queries[number % 50:number % 50 + 1], FIELD, SEARCH, limit=10)
            if len(found[0]) != 10:
                failures.append(f"{len(found[0])} hits")
            answered += 1
        except Exception as error:  # Whatever it is, a user would have seen it.
            failures.append(repr(error)[:300])
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(0.02)
    return {"answered": answered, "failures": failures[:5], "failed": len(failures), "slowest": slowest}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function, *names):
        added = commands.add_parser(function.__name__.replace("_", "-"), help=function.__doc__)
        added.set_defaults(function=function)
        for name in names:
            added.add_argument(f"--{name}", required=True)
        added.add_argument("--dimension", type=int, default=128)
        return added

    command(put, "bucket", "key").add_argument("--block", type=block, required=True)
    command(put_bytes, "bucket", "key")
    command(remove, "bucket", "key")
    command(count, "bucket", "prefix")
    searching = command(search, "address", "collection")
    searching.add_argument("--block", type=block, action="append", required=True)
    searching.add_argument("--queries", type=int, default=100)
    command(hammer, "address", "collection")
    arguments = parser.parse_args()
    print(json.dumps(arguments.function(arguments)))


if __name__ == "__main__":
    main()
