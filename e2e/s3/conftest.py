import uuid

import pytest

from node import Node


@pytest.fixture(scope="session")
def node():
    node = Node()
    yield node
    log = node.log()
    gateway = node.gateway
    if gateway:
        # The suite went the way that it was to go: by lent files and the socket, or by neither.
        local = gateway.moved("read", "shm") > 0 and gateway.moved("write", "socket") > 0
        network = gateway.moved("read", "http") + gateway.moved("write", "http") > 0
        assert (local, network) == ((True, False) if node.sockets else (False, True)), gateway.metrics()
    node.close()
    assert "panicked" not in log, log
    assert "test-secret-key" not in log, "the secret key is in the log"


@pytest.fixture(scope="session")
def s3(node):
    return node.client()


def empty_and_delete(s3, name, **arguments):
    """Deletes every version, every delete marker and every unfinished upload, and then the bucket."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
        entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
        versions = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        if versions:
            # Quiet, because XML cannot carry back every character that a key may hold.
            answer = s3.delete_objects(Bucket=name, Delete={"Objects": versions, "Quiet": True}, **arguments)
            assert "Errors" not in answer, answer["Errors"]
    for upload in s3.list_multipart_uploads(Bucket=name).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    s3.delete_bucket(Bucket=name)


@pytest.fixture
def bucket(s3):
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    yield name
    empty_and_delete(s3, name)


@pytest.fixture
def versioned(s3, bucket):
    """A bucket that keeps every version."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


@pytest.fixture
def locked(s3):
    """A bucket with object lock. Whoever locks an object for compliance waits for its end before the test is over."""
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield name
    # The bypass is for buckets with object lock only: elsewhere AWS refuses it.
    empty_and_delete(s3, name, BypassGovernanceRetention=True)
