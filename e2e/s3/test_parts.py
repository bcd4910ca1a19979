import pytest

from helpers import headers, pattern, refused, status
from test_checksum_kept import PARTS, Upload as Checked, checksum
from test_multipart import Upload

BODIES = [pattern(5 << 20, 1), pattern(5 * (1 << 20) + 7, 2), b"the end"]


@pytest.fixture
def parted(s3, bucket):
    upload = Upload(s3, bucket)
    for number, body in enumerate(BODIES, 1):
        upload.part(number, body)
    upload.complete()
    return bucket


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_a_part_of_an_object_can_be_read(s3, parted, operation, number):
    answer = getattr(s3, operation)(Bucket=parted, Key="k", PartNumber=number)
    assert status(answer) == 206
    first = sum(len(body) for body in BODIES[:number - 1])
    body = BODIES[number - 1]
    assert headers(answer)["content-range"] == f"bytes {first}-{first + len(body) - 1}/{sum(map(len, BODIES))}"
    assert (answer["ContentLength"], answer["PartsCount"]) == (len(body), 3)
    assert headers(answer)["x-amz-mp-parts-count"] == "3"
    assert answer["ETag"] == s3.head_object(Bucket=parted, Key="k")["ETag"]
    if operation == "get_object":
        assert answer["Body"].read() == body


def test_the_whole_object_does_not_count_its_parts(s3, parted):
    answer = s3.get_object(Bucket=parted, Key="k")
    assert status(answer) == 200 and "PartsCount" not in answer
    assert "PartsCount" not in s3.head_object(Bucket=parted, Key="k")


@pytest.mark.parametrize("number", [4, 10_000])
def test_a_part_beyond_the_last_is_refused(s3, parted, number):
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=parted, Key="k", PartNumber=number)
    with refused("416", 416):
        s3.head_object(Bucket=parted, Key="k", PartNumber=number)


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_what_is_no_part_number_is_refused(s3, parted, number):
    with refused("InvalidArgument", 400):
        s3.get_object(Bucket=parted, Key="k", PartNumber=number)
    with refused("400", 400):
        s3.head_object(Bucket=parted, Key="k", PartNumber=number)


def test_a_part_and_a_range_are_not_both_read(s3, parted):
    with refused("InvalidRequest", 400):
        s3.get_object(Bucket=parted, Key="k", PartNumber=1, Range="bytes=0-1")
    with refused("400", 400):
        s3.head_object(Bucket=parted, Key="k", PartNumber=1, Range="bytes=0-1")


@pytest.mark.parametrize("body", [b"plain", b""])
def test_an_object_that_is_no_multipart_upload_is_its_own_first_part(s3, bucket, body):
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    for read in (s3.get_object, s3.head_object):
        answer = read(Bucket=bucket, Key="k", PartNumber=1)
        assert answer["ContentLength"] == len(body) and "PartsCount" not in answer
        if body:
            assert (status(answer), headers(answer)["content-range"]) == (206, "bytes 0-4/5")
        else:
            # There is no range of nothing.
            assert status(answer) in (200, 206)
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=1)["Body"].read() == body
    with refused("InvalidPartNumber", 416):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    with refused("416", 416):
        s3.head_object(Bucket=bucket, Key="k", PartNumber=2)


def test_a_multipart_upload_of_one_part_counts_it(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"alone")
    upload.complete()
    answer = s3.get_object(Bucket=bucket, Key="k", PartNumber=1)
    assert (status(answer), answer["PartsCount"], answer["Body"].read()) == (206, 1, b"alone")
    assert headers(answer)["content-range"] == "bytes 0-4/5"


def test_conditions_hold_for_parts_too(s3, parted):
    etag = s3.head_object(Bucket=parted, Key="k")["ETag"]
    assert s3.get_object(Bucket=parted, Key="k", PartNumber=3, IfMatch=etag)["Body"].read() == BODIES[2]
    with refused("304", 304):
        s3.get_object(Bucket=parted, Key="k", PartNumber=3, IfNoneMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.get_object(Bucket=parted, Key="k", PartNumber=3, IfMatch='"' + "0" * 32 + '"')


def test_a_part_tells_its_own_checksum(s3, bucket):
    Checked(s3, bucket, "SHA256").complete()
    for number, part in enumerate(PARTS, 1):
        for read in (s3.head_object, s3.get_object):
            answer = read(Bucket=bucket, Key="k", PartNumber=number, ChecksumMode="ENABLED")
            assert answer["ChecksumSHA256"] == checksum("SHA256", part)
        assert s3.get_object(Bucket=bucket, Key="k", PartNumber=number)["Body"].read() == part


def test_parts_of_a_version_can_be_read(s3, versioned):
    versions = []
    for end in (b"first", b"second"):
        upload = Upload(s3, versioned)
        upload.part(1, BODIES[0])
        upload.part(2, end)
        versions.append(upload.complete()["VersionId"])
    answer = s3.get_object(Bucket=versioned, Key="k", VersionId=versions[0], PartNumber=2)
    assert (answer["Body"].read(), answer["VersionId"], answer["PartsCount"]) == (b"first", versions[0], 2)
    assert s3.get_object(Bucket=versioned, Key="k", PartNumber=2)["Body"].read() == b"second"


def test_parts_of_no_object_are_not_read(s3, bucket):
    upload = Upload(s3, bucket)
    upload.part(1, b"x")
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k", PartNumber=1)


@pytest.mark.parametrize("asked, first, end", [
    ("bytes=0-0", 0, 1), ("bytes=5242870-5242889", 5_242_870, 5_242_890), ("bytes=0-5242879", 0, 5 << 20),
    ("bytes=10485767-10485773", 10_485_767, 10_485_774)])
def test_a_part_can_be_copied_from_a_range_across_parts(s3, parted, asked, first, end):
    upload = Upload(s3, parted, "copy")
    copied = s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": parted, "Key": "k"}, CopySourceRange=asked)
    assert copied["CopyPartResult"]["LastModified"]
    upload.complete([{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}])
    assert s3.get_object(Bucket=parted, Key="copy")["Body"].read() == b"".join(BODIES)[first:end]


@pytest.mark.parametrize("asked", ["0-1", "bytes=-5", "bytes=5-1", "bytes=a-b", "bytes=0-1,3-4", "octets=0-1"])
def test_what_is_no_range_is_not_copied(s3, bucket, asked):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload = Upload(s3, bucket)
    with refused("InvalidArgument", 400):
        s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange=asked)
    assert "Parts" not in s3.list_parts(**upload.where)


def test_a_copy_of_a_multipart_object_has_all_its_bytes(s3, parted):
    copied = s3.copy_object(Bucket=parted, Key="copy", CopySource={"Bucket": parted, "Key": "k"})
    answer = s3.get_object(Bucket=parted, Key="copy")
    assert answer["Body"].read() == b"".join(BODIES)
    assert answer["ETag"] == copied["CopyObjectResult"]["ETag"]


def test_deleting_the_source_of_a_copied_part_changes_nothing(s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=BODIES[0])
    upload = Upload(s3, bucket)
    copied = s3.upload_part_copy(**upload.where, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"})
    s3.delete_object(Bucket=bucket, Key="source")
    upload.complete([{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == BODIES[0]
