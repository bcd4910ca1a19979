import hashlib

import pytest

from helpers import code, headers, pattern, raw, refused, signed
from test_checksum_kept import COMPOSITE, FULL, PARTS, Upload, checksum, expected
from test_checksums import BODY, CHECKSUMS

ALL = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
THREE = [pattern(5 << 20, 1), pattern(5 << 20, 2), b"end"]


def attributes(s3, bucket, names=ALL, key="k", **arguments):
    return s3.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=names, **arguments)


@pytest.mark.parametrize("name", CHECKSUMS)
def test_an_object_has_its_attributes(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY, **{f"Checksum{name}": CHECKSUMS[name]})
    answer = attributes(s3, bucket)
    # Without the quotation marks that the header has.
    # AWS has it without quotes in this one document; SDKs pass on what they find.
    assert answer["ETag"].strip('"') == hashlib.md5(BODY).hexdigest()
    assert (answer["ObjectSize"], answer["StorageClass"]) == (len(BODY), "STANDARD")
    assert answer["Checksum"][f"Checksum{name}"] == CHECKSUMS[name]
    assert answer["Checksum"]["ChecksumType"] == "FULL_OBJECT"
    assert "ObjectParts" not in answer and "VersionId" not in answer and "DeleteMarker" not in answer
    assert answer["LastModified"] == s3.head_object(Bucket=bucket, Key="k")["LastModified"]


@pytest.mark.parametrize("name", ALL)
def test_only_what_was_asked_for_is_told(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    told = {found for found in attributes(s3, bucket, [name]) if found in ALL}
    assert told == ({name} if name != "ObjectParts" else set())


def test_an_empty_object_has_a_size(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert attributes(s3, bucket)["ObjectSize"] == 0


@pytest.mark.parametrize("name, kind", COMPOSITE + FULL)
def test_a_multipart_object_tells_its_parts(s3, bucket, name, kind):
    done = Upload(s3, bucket, name, kind).complete()
    answer = attributes(s3, bucket)
    assert (answer["ETag"].strip('"'), answer["ObjectSize"]) == (done["ETag"].strip('"'), sum(map(len, PARTS)))
    assert answer["Checksum"][f"Checksum{name}"] == expected(name, kind, PARTS)
    assert answer["Checksum"]["ChecksumType"] == kind
    parts = answer["ObjectParts"]
    assert (parts["TotalPartsCount"], parts["IsTruncated"]) == (2, False)
    assert [(part["PartNumber"], part["Size"]) for part in parts["Parts"]] == [(1, len(PARTS[0])), (2, len(PARTS[1]))]
    assert [part[f"Checksum{name}"] for part in parts["Parts"]] == [checksum(name, part) for part in PARTS]


@pytest.mark.parametrize("arguments, numbers, truncated", [
    ({"MaxParts": 1}, [1], True), ({"MaxParts": 2}, [1, 2], True), ({"MaxParts": 3}, [1, 2, 3], False),
    ({"MaxParts": 1, "PartNumberMarker": 1}, [2], True), ({"PartNumberMarker": 1}, [2, 3], False),
    ({"MaxParts": 1, "PartNumberMarker": 2}, [3], False), ({"PartNumberMarker": 3}, [], False)], ids=str)
def test_parts_are_told_in_pages(s3, bucket, arguments, numbers, truncated):
    Upload(s3, bucket, "SHA256", parts=THREE).complete()
    parts = attributes(s3, bucket, ["ObjectParts"], **arguments)["ObjectParts"]
    assert [part["PartNumber"] for part in parts.get("Parts", [])] == numbers
    assert (parts["IsTruncated"], parts["TotalPartsCount"]) == (truncated, 3)
    assert parts["PartNumberMarker"] == arguments.get("PartNumberMarker", 0)
    assert parts["MaxParts"] == arguments.get("MaxParts", 1000)
    if truncated:
        assert parts["NextPartNumberMarker"] == numbers[-1]


def test_each_version_has_its_attributes(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")["VersionId"]
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"22")["VersionId"]
    answer = attributes(s3, versioned, VersionId=first)
    assert (answer["ObjectSize"], answer["VersionId"]) == (1, first)
    answer = attributes(s3, versioned)
    assert (answer["ObjectSize"], answer["VersionId"]) == (2, second)


def test_what_is_not_there_has_no_attributes(s3, versioned):
    with refused("NoSuchKey", 404) as caught:
        attributes(s3, versioned)
    assert "x-amz-delete-marker" not in headers(caught.value.response)
    with refused("NoSuchBucket", 404):
        attributes(s3, "there-is-none")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    with refused("NoSuchKey", 404) as caught:
        attributes(s3, versioned)
    assert headers(caught.value.response)["x-amz-delete-marker"] == "true"
    with refused("MethodNotAllowed", 405):
        attributes(s3, versioned, VersionId=marker)


@pytest.mark.parametrize("asked", ["Colour", "ETag,Colour"])
def test_an_unknown_attribute_is_refused(node, s3, bucket, asked):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    path = f"/{bucket}/k?attributes="
    status, _, body = raw(node, "GET", path, signed(node, "GET", path, {"x-amz-object-attributes": asked}))
    assert (status, code(body)) == (400, "InvalidArgument")
