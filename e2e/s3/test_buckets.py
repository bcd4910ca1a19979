import uuid

import pytest

from helpers import refused


def name():
    return f"test-{uuid.uuid4().hex}"


def test_a_created_bucket_is_there_until_it_is_deleted(s3):
    bucket = name()
    assert s3.create_bucket(Bucket=bucket)["Location"] == f"/{bucket}"
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    s3.delete_bucket(Bucket=bucket)
    with refused("404", 404):
        s3.head_bucket(Bucket=bucket)
    assert bucket not in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]


def test_a_bucket_is_created_once(s3, bucket):
    with refused("BucketAlreadyOwnedByYou", 409):
        s3.create_bucket(Bucket=bucket)


def test_a_bucket_with_objects_is_not_deleted(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with refused("BucketNotEmpty", 409):
        s3.delete_bucket(Bucket=bucket)


def test_deleting_no_bucket_is_refused(s3):
    with refused("NoSuchBucket", 404):
        s3.delete_bucket(Bucket=name())


@pytest.mark.parametrize("bad", ["ab", "Upper-case", "under_score", "-dash", "192.168.10.1", "a" * 64])
def test_a_name_that_breaks_the_rules_is_refused(node, bad):
    from helpers import raw, signed
    path = f"/{bad}"
    status, _, body = raw(node, "PUT", path, signed(node, "PUT", path))
    assert status == 400 and b"<Code>InvalidBucketName</Code>" in body, body


def test_buckets_are_listed_by_prefix_and_page(s3):
    stem = f"page-{uuid.uuid4().hex[:8]}"
    names = [f"{stem}-{n}" for n in range(5)]
    for bucket in reversed(names):
        s3.create_bucket(Bucket=bucket)
    try:
        pages = s3.get_paginator("list_buckets").paginate(Prefix=stem, PaginationConfig={"PageSize": 2})
        pages = [[entry["Name"] for entry in page["Buckets"]] for page in pages]
        assert pages == [names[:2], names[2:4], names[4:]]
    finally:
        for bucket in names:
            s3.delete_bucket(Bucket=bucket)


def test_the_location_of_us_east_1_is_nothing(s3, bucket):
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


def test_public_acls_are_refused_instead_of_ignored(s3):
    with refused("NotImplemented", 501):
        s3.create_bucket(Bucket=name(), ACL="public-read")


@pytest.mark.parametrize("call", [
    lambda s3, bucket: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
], ids=["acl"])
def test_what_is_not_built_says_so(s3, bucket, call):
    with refused("NotImplemented", 501):
        call(s3, bucket)


def test_operations_on_no_bucket_name_the_bucket(s3):
    missing = name()
    for call in (
        lambda: s3.list_objects_v2(Bucket=missing),
        lambda: s3.list_objects(Bucket=missing),
        lambda: s3.get_object(Bucket=missing, Key="k"),
        lambda: s3.put_object(Bucket=missing, Key="k", Body=b""),
        lambda: s3.delete_object(Bucket=missing, Key="k"),
        lambda: s3.delete_objects(Bucket=missing, Delete={"Objects": [{"Key": "k"}]}),
        lambda: s3.create_multipart_upload(Bucket=missing, Key="k"),
        lambda: s3.list_multipart_uploads(Bucket=missing),
        lambda: s3.get_bucket_location(Bucket=missing),
    ):
        with refused("NoSuchBucket", 404) as caught:
            call()
        assert missing in caught.value.response["Error"]["Message"]
