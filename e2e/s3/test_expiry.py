"""What a bucket says is to go, goes, without anybody asking."""

import time

from node import Node


def test_objects_go_when_their_day_has_ended(tmp_path):
    node = Node("--lifecycle-every", "1", "--lifecycle-day", "1", data=tmp_path)
    try:
        s3 = node.client()
        s3.create_bucket(Bucket="bucket")
        for key in ("tmp/a", "tmp/b", "kept"):
            s3.put_object(Bucket="bucket", Key=key, Body=b"x")
        s3.put_bucket_lifecycle_configuration(Bucket="bucket", LifecycleConfiguration={"Rules": [
            {"ID": "tmp", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}]})
        keys = lambda: [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
        until = time.monotonic() + 30
        while len(keys()) > 1 and time.monotonic() < until:
            time.sleep(0.2)
        assert keys() == ["kept"]
    finally:
        node.close()
