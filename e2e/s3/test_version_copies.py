import pytest

from helpers import headers, pattern, refused
from test_multipart import Upload
from test_versioning import gone, listed, put, read, turn


def source(bucket, version=None, key="k"):
    return {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}


def test_a_version_can_be_copied(s3, versioned):
    bodies = [pattern(600_000, seed) for seed in range(3)]
    versions = [put(s3, versioned, body, Metadata={"n": str(n)}) for n, body in enumerate(bodies)]
    for n, version in enumerate(versions):
        copied = s3.copy_object(Bucket=versioned, Key="copy", CopySource=source(versioned, version))
        assert copied["CopySourceVersionId"] == version
        assert headers(copied)["x-amz-copy-source-version-id"] == version
        answer = s3.get_object(Bucket=versioned, Key="copy")
        assert answer["Body"].read() == bodies[n]
        assert (answer["VersionId"], answer["Metadata"]) == (copied["VersionId"], {"n": str(n)})
    assert len(set(listed(s3, versioned))) == 6


def test_a_copy_without_a_version_is_of_the_current_one(s3, versioned):
    put(s3, versioned, b"old")
    current = put(s3, versioned, b"new")
    copied = s3.copy_object(Bucket=versioned, Key="copy", CopySource=source(versioned))
    assert copied["CopySourceVersionId"] == current
    assert read(s3, versioned, key="copy") == b"new"


def test_an_old_version_is_restored_by_copying_it_onto_its_key(s3, versioned):
    old = put(s3, versioned, b"old")
    newer = put(s3, versioned, b"new")
    restored = s3.copy_object(Bucket=versioned, Key="k", CopySource=source(versioned, old))["VersionId"]
    assert read(s3, versioned) == b"old"
    assert listed(s3, versioned) == [restored, newer, old]


def test_a_deleted_object_is_restored_by_copying_a_version(s3, versioned):
    version = put(s3, versioned, b"x")
    s3.delete_object(Bucket=versioned, Key="k")
    s3.copy_object(Bucket=versioned, Key="k", CopySource=source(versioned, version))
    assert read(s3, versioned) == b"x"


def test_a_copy_outlives_the_version_that_it_was_made_of(s3, versioned):
    version = put(s3, versioned, pattern(700_000))
    s3.copy_object(Bucket=versioned, Key="copy", CopySource=source(versioned, version))
    s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    assert read(s3, versioned, key="copy") == pattern(700_000)


def test_under_a_marker_there_is_nothing_to_copy(s3, versioned):
    put(s3, versioned, b"x")
    s3.delete_object(Bucket=versioned, Key="k")
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=versioned, Key="copy", CopySource=source(versioned))


def test_a_marker_cannot_be_copied(s3, versioned):
    put(s3, versioned, b"x")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=versioned, Key="copy", CopySource=source(versioned, marker))
    with refused("NoSuchKey", 404):
        read(s3, versioned, key="copy")


def test_copies_between_buckets_with_and_without_versions(s3, bucket):
    other = f"{bucket}-2"[-63:]
    s3.create_bucket(Bucket=other)
    try:
        turn(s3, bucket, "Enabled")
        version = put(s3, bucket, b"x")
        copied = s3.copy_object(Bucket=other, Key="k", CopySource=source(bucket, version))
        assert copied["CopySourceVersionId"] == version and "VersionId" not in copied
        back = s3.copy_object(Bucket=bucket, Key="back", CopySource=source(other))
        assert "CopySourceVersionId" not in back and read(s3, bucket, back["VersionId"], "back") == b"x"
    finally:
        s3.delete_object(Bucket=other, Key="k")
        s3.delete_bucket(Bucket=other)


def test_the_null_version_can_be_copied(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    turn(s3, bucket, "Enabled")
    put(s3, bucket, b"newer")
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket, "null"))
    assert copied["CopySourceVersionId"] == "null"
    assert read(s3, bucket, key="copy") == b"null"


def test_a_part_can_be_copied_from_a_version(s3, versioned):
    versions = [put(s3, versioned, pattern(5 << 20, seed), "source") for seed in range(2)]
    upload = Upload(s3, versioned)
    parts = []
    for number, version, arguments in [(1, versions[0], {}), (2, versions[1], {"CopySourceRange": "bytes=100-199"})]:
        answer = s3.upload_part_copy(**upload.where, PartNumber=number, CopySource=source(versioned, version, "source"), **arguments)
        assert answer["CopySourceVersionId"] == version
        parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    upload.complete(parts)
    assert read(s3, versioned) == pattern(5 << 20, 0) + pattern(5 << 20, 1)[100:200]


@pytest.mark.parametrize("what, error, status", [
    ("marker", "InvalidRequest", 400), ("gone", "NoSuchVersion", 404), ("malformed", "InvalidArgument", 400), (None, "NoSuchKey", 404)])
def test_a_part_is_copied_only_from_what_is_there(s3, versioned, what, error, status):
    put(s3, versioned, b"x", "source")
    unknown = gone(s3, versioned, "source")
    marker = s3.delete_object(Bucket=versioned, Key="source")["VersionId"]
    version = {"marker": marker, "gone": unknown, "malformed": "not a version", None: None}[what]
    upload = Upload(s3, versioned)
    with refused(error, status):
        s3.upload_part_copy(**upload.where, PartNumber=1, CopySource=source(versioned, version, "source"))
    assert "Parts" not in s3.list_parts(**upload.where)
